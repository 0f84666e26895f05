"""The README keeps its word: its script trains on the real engine, and what it names exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import masa_lightning
from masa_lightning.models.loading import load_model

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def script() -> str:
    (block,) = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    return str(block)


def test_script_is_short() -> None:
    assert len(script().splitlines()) < 30


def test_script_trains(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    (tmp_path / "train.py").write_text(script())
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]

    checkpoint = torch.load(tmp_path / "sums.ckpt", map_location="cpu", weights_only=True)
    assert checkpoint["global_step"] == 3
    before = load_model("tiny", "float32").state_dict()
    after = {k.removeprefix("policy.model."): v for k, v in checkpoint["state_dict"].items() if k.startswith("policy.")}
    assert before.keys() == after.keys()
    assert any(not torch.equal(weight, after[name]) for name, weight in before.items())
    assert all(weight.isfinite().all() for weight in after.values())
    assert [*tmp_path.glob("lightning_logs/version_0/events.out.tfevents.*")]


@pytest.mark.parametrize("name", sorted(set(re.findall(r"(?:configs|scripts|tests)/[\w/]+\.(?:yaml|sh|py)", README))))
def test_file_exists(name: str) -> None:
    assert (ROOT / name).is_file()


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`([A-Z]\w*(?:Module|Sampler|Grader|Plots|Table|Bar))`", README)))
)
def test_class_is_public(name: str) -> None:
    assert name in masa_lightning.__all__
