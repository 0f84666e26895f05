"""A check that dies, hangs or raises is a failed line with what is known of it, and nothing of it lives on."""

from __future__ import annotations

from pathlib import Path

import broken_checks
import pytest

from masa_lightning.doctor.check import Check
from masa_lightning.doctor.runner import run

STEPS = ("first", "second", "third")


@pytest.mark.parametrize(
    ("how", "found", "remedy"),
    [
        ("segfault", "its process died of SIGSEGV", "read the last lines of the logs in"),
        ("killed", "its process was killed (SIGKILL): memory ran out, most likely", "free memory of this machine"),
        ("exit", "its process ended with status 7: the last word", "read the last lines of the logs in"),
        ("error", "ValueError: weights | are\nnone", "read the last lines of the logs in"),
        ("failed", "no weights", "give some"),
    ],
)
def test_what_ends_is_a_failed_line(how: str, found: str, remedy: str, tmp_path: Path) -> None:
    lines = run(Check("a check", broken_checks.ends, STEPS, {"how": how}), tmp_path)
    assert [(line.name, line.state) for line in lines] == [
        ("a check: first", "ok"),
        ("a check: second", "failed"),
        ("a check: third", "not run"),
    ]
    assert (lines[0].found, lines[0].facts) == ("begun", {"number": 1})
    assert lines[1].found == found
    assert lines[1].remedy.startswith(remedy)
    assert lines[2].found == "after a check: second"
    assert "on the way" in (tmp_path / "a-check" / "0.log").read_text()


def test_what_hangs_is_ended(tmp_path: Path) -> None:
    check = Check("a check", broken_checks.ends, ("first", "second"), {"how": "hangs"}, seconds=4)
    lines = run(check, tmp_path)
    assert [line.state for line in lines] == ["ok", "failed"]
    assert lines[1].found == "no end within 4 s"


def test_what_dies_after_its_last_step_is_a_line_of_its_own(tmp_path: Path) -> None:
    lines = run(Check("a check", broken_checks.ends, ("first", "second"), {"how": "dies late"}), tmp_path)
    assert [(line.name, line.state) for line in lines][-2:] == [("a check: second", "ok"), ("a check: end", "failed")]
    assert lines[-1].found == "its process died of SIGSEGV"


def test_a_check_that_tells_of_another_number_of_steps_is_wrong(tmp_path: Path) -> None:
    lines = run(Check("a check", broken_checks.ends, STEPS, {"how": ""}), tmp_path)
    assert [line.state for line in lines] == ["ok", "ok", "failed"]
    assert "zip()" in lines[2].found


def test_a_disk_that_takes_no_files_is_a_failed_line(tmp_path: Path) -> None:
    (tmp_path / "full").write_text("")
    [line] = run(Check("a check", broken_checks.launched), tmp_path / "full")
    assert (line.state, line.name) == ("failed", "a check")
    assert line.found.startswith("it could not be started: ")


def test_one_of_two_that_fails_ends_the_other(tmp_path: Path) -> None:
    [line] = run(Check("both", broken_checks.alone, seconds=200, processes=2), tmp_path)
    assert (line.state, line.found) == ("failed", "RuntimeError: the second one has no GPU")
    assert line.seconds < 100


def test_both_are_launched(tmp_path: Path) -> None:
    [line] = run(Check("both", broken_checks.launched, processes=2), tmp_path)
    assert (line.state, line.found) == ("ok", "0 0 2 127.0.0.1")
    assert '"1 1 2 127.0.0.1"' in (tmp_path / "both" / "1.jsonl").read_text()


def test_nothing_that_a_check_started_lives_on(tmp_path: Path) -> None:
    pids = tmp_path / "pid"
    [line] = run(Check("a check", broken_checks.children, arguments={"pids": str(pids)}), tmp_path)
    assert line.state == "ok"
    assert broken_checks.ended(int(pids.read_text()))
