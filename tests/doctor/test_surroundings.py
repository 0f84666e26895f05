"""The sandbox and the hub, where they are and where they are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from masa_lightning.doctor.check import Check
from masa_lightning.doctor.runner import run
from masa_lightning.doctor.surroundings import hub, sandbox


def test_the_sandbox_holds(tmp_path: Path) -> None:
    [line] = run(Check("sandbox", sandbox, seconds=250), tmp_path)
    assert (line.state, line.found) == ("ok", "it holds: time, memory, files, no network")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'bwrap: No permissions to create new namespace' >&2; exit 1", "No permissions to create new namespace"),
        ('while [ "$1" != -- ]; do shift; done; shift; echo \'["read files"]\'', "a program in it can read files"),
    ],
)
def test_a_machine_without_a_sandbox(script: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bwrap = tmp_path / "bwrap"
    bwrap.write_text(f"#!/bin/sh\n{script}\n")
    bwrap.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    [line] = run(Check("sandbox", sandbox, seconds=250), tmp_path / "out")
    assert line.state == "note"  # CodeGrader will not start; all else may train
    assert line.found.startswith("only CodeGrader needs it: the sandbox for programs does not ")
    assert said in line.found
    assert line.remedy.startswith("Expected is Linux on x86_64 or aarch64; bubblewrap")
    assert line.remedy not in line.found


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}, "not reached (ConnectError)"),
        ({"HF_HUB_OFFLINE": "1"}, "offline by HF_HUB_OFFLINE"),
    ],
)
def test_no_hub_is_no_failure(
    variables: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    [line] = run(Check("hub", hub, seconds=100), tmp_path)
    assert line.state == "note"
    assert line.found.startswith(said)
    assert line.facts == {"reached": False}
