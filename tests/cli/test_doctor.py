"""`masa doctor`, from its command line to its exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import broken_checks
import pytest

from masa_lightning.cli import main
from masa_lightning.doctor import examination
from masa_lightning.doctor.check import Check


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Puts others in the place of those there are, and of the temporary folder one that is empty."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def put(*gpus: str, how: str = "") -> None:
        devices = Check("devices", broken_checks.devices, arguments={"gpus": gpus})
        broken = Check("broken", broken_checks.ends, ("first", "second"), {"how": how})
        monkeypatch.setattr(examination, "DEVICES", devices)
        monkeypatch.setattr(examination, "MACHINE", (broken, devices))
        for name in ("trials", "trials_of_two"):
            monkeypatch.setattr(
                examination,
                name,
                lambda device, name=name: [Check(name, broken_checks.named, arguments={"name": device})],
            )

    return put


def test_all_that_holds_is_status_0_and_leaves_nothing(
    checks: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    checks()
    main(["doctor"])
    printed = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in printed[2:9]] == [
        "broken: first",
        "broken: second",
        "devices",
        "trials",
        "engine: sleep and wake",
        "training, DDP",
        "training, FSDP2",
    ]
    assert printed[-1].startswith("This machine is ready for what was run; ")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("how", ["segfault", "failed"])
def test_one_that_fails_hides_none_and_is_status_1(
    how: str, checks: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    checks(how=how)
    with pytest.raises(SystemExit) as stopped:
        main(["doctor"])
    assert stopped.value.code == 1
    printed = capsys.readouterr().out
    assert "| trials " in printed
    assert "* **broken: second** failed: " in printed
    assert "  Remedy: " in printed
    assert printed.splitlines()[-1] == "1 of 8 lines failed."
    [folder] = tmp_path.iterdir()
    assert "on the way" in (folder / "broken" / "0.log").read_text()
    if how == "segfault":
        assert str(folder / "broken") in printed


@pytest.mark.parametrize(
    ("gpus", "device", "names"),
    [
        (
            (),
            "cpu",
            ["trials", "engine: sleep and wake", "training, DDP", "training, FSDP2", "training, tensor parallel 2"],
        ),
        (("A100",), "cuda", ["trials", "training, DDP", "training, FSDP2", "training, tensor parallel 2"]),
        (("A100", "A100"), "cuda", ["trials", "trials_of_two"]),
    ],
)
def test_the_devices_decide_what_is_tried(
    gpus: tuple[str, ...],
    device: str,
    names: list[str],
    checks: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    checks(*gpus)
    main(["doctor", "--json"])
    told = json.loads(capsys.readouterr().out)
    lines = told["lines"][3:]
    assert told["ready"] is True
    assert [line["name"] for line in lines] == names
    assert lines[0]["found"] == device
    assert all(line["state"] == ("ok" if line["name"].startswith("trials") else "not run") for line in lines)


def test_no_temporary_folder_is_a_failed_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(SystemExit) as stopped:
        main(["doctor"])
    assert stopped.value.code == 1
    assert "  Remedy: make room, or set TMPDIR to a folder" in capsys.readouterr().out


_HANGING = """
import signal, sys, broken_checks
signal.signal(signal.SIGINT, signal.default_int_handler)  # which tests that run in the background inherit as ignored
from masa_lightning.cli import main
from masa_lightning.doctor import examination
from masa_lightning.doctor.check import Check
first = Check("first", broken_checks.named, arguments={"name": "here"})
examination.MACHINE = (first, Check("second", broken_checks.hangs, arguments={"pids": sys.argv[1]}, seconds=200))
main(["doctor"])
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interruption_ends_all_and_tells_what_there_is(how: signal.Signals, tmp_path: Path) -> None:
    pids = tmp_path / "pid"
    path = os.pathsep.join([str(Path(broken_checks.__file__).parent), *filter(None, sys.path)])
    process = subprocess.Popen(
        [sys.executable, "-c", _HANGING, str(pids)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path)},
    )
    while not pids.exists() and process.poll() is None:
        time.sleep(0.05)
    with process:
        os.kill(process.pid, how)
        try:
            printed, errors = process.communicate(timeout=100)
        finally:
            process.kill()
    assert "| first " in printed
    if how is not signal.SIGKILL:
        assert (process.returncode, errors) == (1, "")
        assert printed.endswith("Interrupted: 0 of 1 lines failed so far.\n")
        assert [*tmp_path.glob("masa-doctor-*")] == []
    assert broken_checks.ended(int(pids.read_text()))


def test_names_fit_their_column() -> None:
    checks = [*examination.MACHINE, *examination.trials("cuda"), *examination.trials_of_two("cuda")]
    names = [check.line(step) for check in checks for step in check.steps]
    assert len({*names}) == len(names)
    assert examination.width() == max(map(len, names)) < 40


def examined(python: str, **variables: str) -> tuple[int, dict[str, Any]]:
    """Runs the real command in a process of its own."""
    environment = {**os.environ, **variables}
    command = [python, "-m", "masa_lightning.cli", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1500)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def by_name(told: Mapping[str, Any]) -> dict[str, Any]:
    return {line["name"]: line for line in told["lines"]}


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_this_machine_is_ready() -> None:
    pytest.importorskip("vllm")
    status, told = examined(sys.executable)
    assert (status, told["ready"]) == (0, True), [line for line in told["lines"] if line["state"] == "failed"]
    lines = by_name(told)
    for precision in ("32-true", "bf16-mixed", "bf16-true"):
        for step in ("start", "parity", "hand-over", "generation"):
            assert lines[f"engine, {precision}: {step}"]["state"] == "ok"
    assert lines["training step"]["facts"]["sampler"] == "VLLMSampler"


@pytest.fixture
def without_vllm(tmp_path: Path) -> Iterator[str]:
    """A Python with all packages of this one but vLLM."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    packages = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith("vllm") and not (packages / entry.name).exists():
            (packages / entry.name).symlink_to(entry)
    yield str(python)


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_without_vllm_the_lines_of_the_engine_fail_with_the_remedy(without_vllm: str) -> None:
    root = str(Path(examination.__file__).parents[2])
    status, told = examined(without_vllm, PYTHONPATH=root)
    lines = by_name(told)
    assert (status, told["ready"]) == (1, False)
    assert "no vLLM" in lines["packages"]["found"]
    start = lines["engine, 32-true: start"]
    assert start["state"] == "failed"
    assert "VLLMSampler found no vLLM; expected one that runs on CPU" in start["found"]
    assert "pip install 'masa_lightning[cpu]'" in start["found"] + start["remedy"]
    assert lines["engine, 32-true: parity"]["state"] == "not run"
    assert lines["training step"]["state"] == "ok"
    assert lines["training step"]["facts"]["sampler"] == "TransformersSampler"


def test_the_page_shows_its_lines() -> None:
    page = (Path(examination.__file__).parents[2] / "docs" / "troubleshooting.md").read_text()
    rows = [row.split("|")[1].strip() for row in page.splitlines() if row.startswith("| ")]
    checks = [*examination.MACHINE, *examination.trials("cpu")]
    assert rows[: rows.index("training step") + 1] == ["check", *(c.line(step) for c in checks for step in c.steps)]
