"""Shipped configurations by name, in a checkout and from a wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from masa_lightning import cli
from masa_lightning.cli import configs, main, trainer

ROOT = Path(configs.__file__).parents[2]


def test_names_are_the_files_of_the_folder() -> None:
    files = (ROOT / "configs").rglob("*.yaml")
    assert set(configs.names()) == {str(path.relative_to(ROOT / "configs"))[: -len(".yaml")] for path in files}
    assert {"tiny", "eval/math", "with/grpo"} <= set(configs.names())


def test_a_path_wins_over_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert configs.config_path("tiny") == str(configs.FOLDER / "tiny.yaml")
    Path("tiny").write_text("own: true\n")
    assert configs.config_path("tiny") == "tiny"


def test_a_folder_of_that_name_does_not_stand_in_the_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny").mkdir()
    assert configs.config_path("tiny") == str(configs.FOLDER / "tiny.yaml")


def test_options_are_written_in_one_way() -> None:
    """`--model.x`, as in messages; `init_args` stands in a YAML, where it has to."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "configs").rglob("*.yaml")]
    lines = [f"{page.name}: {line}" for page in pages for line in page.read_text().splitlines()]
    assert [line for line in lines if re.search(r"--[\w.]+\.init_args\b", line)] == []


@pytest.mark.parametrize(
    ("words", "finds"),
    [
        (["fit", "--config", "own.yaml"], True),
        (["fit", "--config", "tiny", "--config=own.yaml"], True),
        (["fit", "--config", "tiny"], False),
        (["predict", "--ckpt_path", ".", "--problem", "1+1"], False),  # a stranger's folder may have a tensorflow.py
        (["configs"], False),
    ],
)
def test_modules_of_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: list[str], finds: bool
) -> None:
    """Of an own configuration; behind all packages, so that a file that is called like one hides none."""
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text("model: masa_lightning.MASALightningModule\n")
    monkeypatch.setattr(cli, "set_threads", lambda environ: None)
    monkeypatch.setattr(cli, "arguments", lambda words: words)
    monkeypatch.setattr(trainer, "main", lambda args: None)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.setattr(sys, "argv", ["masa", *words])
    main()
    assert (os.getcwd() in sys.path) == (sys.path[-1] == os.getcwd()) == finds


def test_a_module_of_the_current_folder_is_found_for_a_configuration_of_another(tmp_path: Path) -> None:
    """As for the config.yaml of a run, which the closing panel names: jsonargparse reads it from its own folder."""
    (tmp_path / "my_rewards.py").write_text(
        "from collections.abc import Sequence\nfrom masa_lightning.types import Problem\n"
        "def brief(problem: Problem, completions: Sequence[str]) -> Sequence[float]:\n    return [0.0] * len(completions)\n"
    )
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(
        "model: {class_path: masa_lightning.MASALightningModule, init_args: {model: tiny, reward_functions: "
        "[my_rewards.brief]}}\ndata: {class_path: masa_lightning.ArithmeticDataModule}\n"
    )
    command = [
        str(Path(sys.executable).with_name("masa")),
        "test",
        "--config",
        "runs/mine/config.yaml",
        "--print_config",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "my_rewards.brief" in done.stdout


@pytest.mark.parametrize("wrong", ["tiyn", "configs/tiny.yaml", "tiny.yaml"])
def test_a_wrong_name_is_answered_with_the_right_one(
    wrong: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", wrong])
    assert stopped.value.code == 2
    assert (
        f"no file {wrong!r}, and no shipped configuration of that name. Did you mean tiny?" in capsys.readouterr().err
    )


def test_they_are_listed_with_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    main(["configs"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == configs.names()
    assert all(40 < len(line) <= 125 for line in lines)


def test_one_is_shown_and_copied_but_never_over_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (configs.FOLDER / "eval" / "math.yaml").read_text()
    main(["configs", "show", "eval/math"])
    assert capsys.readouterr().out == text
    main(["configs", "copy", "eval/math"])
    assert Path("math.yaml").read_text() == text
    assert "masa test --config math.yaml" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["configs", "copy", "tiny", "math.yaml"])
    assert "math.yaml is there already" in capsys.readouterr().err
    assert Path("math.yaml").read_text() == text
    main(["configs", "copy", "tiny", "own.yaml"])
    assert Path("own.yaml").read_text() == (configs.FOLDER / "tiny.yaml").read_text()


def test_they_are_listed_within_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    main(["configs"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if line[0] != " "] == configs.names()
    main(["--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("eval/math", "masa test --config math.yaml"),
        ("with/grpo", "masa fit --config masa --config grpo.yaml"),
        ("paper/grpo", "masa fit --config masa --config grpo.yaml"),
        ("with/lora", "masa fit --config masa_1gpu --config lora.yaml"),
        ("predict", "masa predict --config predict.yaml"),
        ("masa_1gpu", "masa fit --config masa_1gpu.yaml"),
    ],
)
def test_a_copy_comes_with_the_command_that_it_is_for(
    name: str, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["configs", "copy", name])
    assert f"`{command}`" in capsys.readouterr().out


def test_a_copy_goes_into_a_folder_and_not_into_one_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    main(["configs", "copy", "tiny", "mine"])
    assert Path("mine/tiny.yaml").is_file()
    with pytest.raises(SystemExit) as stopped:
        main(["configs", "copy", "tiny", "nowhere/tiny.yaml"])
    assert stopped.value.code == 2
    assert "nowhere/tiny.yaml cannot be written (No such file or directory)" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["show", "copy"])
def test_an_unknown_one_is_refused(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["configs", command, "nothing"])
    assert stopped.value.code == 2
    assert "expected one of masa, " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["configs", command, "eval/maths"])
    assert "Did you mean eval/math?" in capsys.readouterr().err


def test_a_wheel_has_them(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("configs", "masa_lightning"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    build = f"from setuptools import build_meta; print(build_meta.build_wheel({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    wheel = tmp_path / done.stdout.split()[-1]
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    pages = tmp_path / "installed" / "masa_lightning" / "report" / "page"
    assert {path.name for path in pages.iterdir()} == {"page.html", "page.css", "page.js"}
    assert (tmp_path / "installed" / "masa_lightning" / "model_card" / "card.md.jinja").is_file()
    command = [sys.executable, "-c", "from masa_lightning.cli import main; main(['configs'])"]
    listed = subprocess.run(command, cwd=tmp_path / "installed", capture_output=True, text=True, timeout=120)
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[0] for line in listed.stdout.splitlines()] == configs.names()
