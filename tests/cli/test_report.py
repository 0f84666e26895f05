"""`masa report`: what it writes where, what it refuses, and what it does not load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from masa_lightning.cli import main


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "metrics.csv").write_text("step,reward,val/pass@1\n1,0.5,\n2,0.75,0.5\n")
    return Path("runs/a")


def test_the_page_of_one_run_is_in_its_folder_and_is_written_anew(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        main(["report", str(run)])
        assert capsys.readouterr().out.startswith("runs/a/report.html: 0.0 MB of 1 run; open")
    assert "0.75" in (run / "report.html").read_text()


def test_the_page_of_several_is_here(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run.parent / "b").mkdir()
    (run.parent / "b" / "metrics.csv").write_text("step,reward\n1,0.5\n")
    main(["report", "runs"])
    assert capsys.readouterr().out.startswith("report.html: 0.0 MB of 2 runs")


def test_an_option_is_written_out(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(run), "--out", "mine.html"])
    assert "unrecognized arguments: --out" in capsys.readouterr().err


def test_another_page_is_not_written_over(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.html").write_text("mine")
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(run), "-o", "mine.html"])
    assert stopped.value.code == 2
    assert "mine.html is there and no page of `masa report`; give another file" in capsys.readouterr().err
    assert Path("mine.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("output", "said"), [(".", ". is a folder"), ("no/page.html", "no/page.html is in no folder that exists")]
)
def test_where_no_page_can_be(run: Path, output: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(run), "-o", output])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"error: {said}; expected -o FILE, such as -o report.html\n"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("none", "none is not there; expected"),
        ("empty", "empty holds no run; expected"),
        ("any", "any has config.yaml and nothing that a run measured; expected"),
    ],
)
def test_where_there_is_no_run(run: Path, path: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    Path("any").mkdir()
    Path("any/config.yaml").write_text("site: mine\n")
    with pytest.raises(SystemExit) as stopped:
        main(["report", path])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_it_loads_no_training_stack(run: Path) -> None:
    code = (
        "import sys; from masa_lightning.cli import main; main(['report', 'runs/a']); "
        "print(*{'torch', 'lightning', 'transformers', 'vllm', 'matplotlib', 'tensorflow'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=True)
    assert done.stdout.splitlines()[1:] == [""]
    assert done.stderr == ""
