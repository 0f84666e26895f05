"""Threads of the command: settings by hand, and the environment of the real command."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from masa_lightning.cli.threads import thread_settings

PASSIVE = {"OMP_WAIT_POLICY": "passive"}


@pytest.mark.parametrize(
    ("environ", "usable", "quota", "expected"),
    [
        ({}, 2, None, PASSIVE),
        ({}, 2, 2.0, PASSIVE),
        ({}, 2, 8.0, PASSIVE),
        ({}, 64, 2.0, PASSIVE | {"OMP_NUM_THREADS": "2"}),
        ({}, 64, 3.9, PASSIVE | {"OMP_NUM_THREADS": "3"}),
        ({}, 2, 0.5, PASSIVE | {"OMP_NUM_THREADS": "1"}),
        ({"OMP_NUM_THREADS": "8"}, 64, 2.0, PASSIVE),
        ({"OMP_WAIT_POLICY": "active"}, 64, 2.0, {"OMP_NUM_THREADS": "2"}),
        ({"GOMP_SPINCOUNT": "1000"}, 2, None, {}),
        ({"KMP_BLOCKTIME": "1"}, 2, None, {}),
    ],
)
def test_settings(environ: dict[str, str], usable: int, quota: float | None, expected: dict[str, str]) -> None:
    assert thread_settings(environ, usable, quota) == expected


@pytest.mark.parametrize(
    ("before", "call", "waiting"),
    [
        ("", "main()", "passive"),  # the command
        ("os.environ['OMP_WAIT_POLICY'] = 'active'", "main()", "active"),  # the user's
        ("", "main(['--version'])", None),  # a program that calls it
        ("sys.modules['torch'] = sys", "main()", None),  # too late: OpenMP has read it
    ],
)
def test_command(before: str, call: str, waiting: str | None) -> None:
    script = f"""
import json, os, sys
sys.argv = ["masa", "--version"]
{before}
from masa_lightning.cli import main
{call}
print(json.dumps(os.environ.get("OMP_WAIT_POLICY")))
"""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == waiting
