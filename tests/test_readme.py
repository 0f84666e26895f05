"""The README keeps its word: its script trains on the real engine, and what it names exists."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pytest
import torch
import yaml

import masa_lightning
from masa_lightning import cli
from masa_lightning.cli import configs
from masa_lightning.models.loading import load_model

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def script() -> str:
    (block,) = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    return str(block)


def test_script_is_short() -> None:
    assert len(script().splitlines()) < 30


@pytest.mark.filterwarnings("ignore")  # Lightning's advice for loaders and loggers
def test_script_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vllm")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(script())
    with torch.random.fork_rng(devices=[]):
        runpy.run_path("train.py", run_name="__main__")

    checkpoint = torch.load(tmp_path / "remainders.ckpt", map_location="cpu", weights_only=True)
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


def test_it_is_read_in_one_go() -> None:
    assert len(README.splitlines()) <= 120
    assert max(map(len, README.splitlines())) <= 160


def test_it_opens_with_a_picture() -> None:
    (picture,) = re.findall(r"^!\[[^\]]{40,}\]\(([^)]+)\)$", README, flags=re.MULTILINE)
    assert README.index(picture) < 700
    assert 10_000 < (ROOT / picture).stat().st_size < 200_000


def test_both_names_of_the_method_are_there() -> None:
    opening = README[:700]
    assert "MASA (Meta-Awareness via Self-Alignment, arXiv 2510.03259" in opening and "MAPR" in opening


@pytest.mark.parametrize("name", sorted(set(re.findall(r"--config ([\w/]+)", README))))
def test_configuration_is_shipped(name: str) -> None:
    assert name in configs.names()


@pytest.mark.parametrize("command", sorted(set(re.findall(r"\bmasa ([a-z]+) *(?=--|[`\n#]|  )", README))))
def test_command_exists(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--help"])
    assert re.search(rf"^  {command} ", capsys.readouterr().out, flags=re.MULTILINE)


def test_it_says_how_to_cite_the_software_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == masa_lightning.__version__
    (paper,) = citation["references"]
    assert paper["identifiers"] == [{"type": "other", "value": "arXiv:2510.03259"}]
    assert paper["title"] in (ROOT / "masa_lightning/model_card/card.md.jinja").read_text()
    assert "MAPR" in citation["abstract"]


@pytest.mark.parametrize("setting", ["metadata", "extras"])
def test_package_can_be_found(setting: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    if setting == "metadata":
        assert {"MASA", "MAPR", "GRPO"} <= {*project["keywords"]}
        assert project["authors"] and project["urls"] and len(project["classifiers"]) > 5
    else:
        named = set(re.findall(r"\.\[([\w,]+)\]", README + (ROOT / "docs/first_steps.md").read_text()))
        assert {extra for names in named for extra in names.split(",")} <= project["optional-dependencies"].keys()
