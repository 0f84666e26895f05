"""The examples run as they are shown: scripts on the real engine, and the notebook cell by cell."""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from judge import Answer, JudgeServer

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
ON_THE_ENGINE = {path.stem for path in SCRIPTS if "VLLMSampler" in path.read_text()}
# What a script prints; README's is run by test_readme.py.
PRINTED = {
    "own_reward": r"rewards/boxed/mean (1\.000|0\.\d+)\nrewards/Brief/mean 0\.[1-9]\d*\nreward \d\.\d+\n",
    "llm_judge": r"rewards/clarity/mean 0\.[1-9]\d*\nrewards/clarity/failed_ratio 0\.[1-9]\d*\n",
    "own_grader": r"pass_rate 0\.\d+\ncompletions/ungraded_ratio 0\.\d+\n",
    "own_prompts": r"meta/parse_rate (1\.000|0\.[89]\d+)\n",
    "own_optimizer": r"learning_rate 1\.0e-05, after it fell from 2\.0e-05\n",
    "ema": r"val/pass@1 0\.\d+ of the averaged weights\n",
    "expert_sft_foreign": r"sft/loss \d\.\d+\ntokens_total/sft \d+\.000\n",
    "extra_loss": r"extra_loss 0\.0*[1-9]\d*\nagree 0\.\d+\n",
    "vllm_sampler": r"(.* \| log-probability -?\d+\.\d\d\n){4}.+\n",
    "calibration_metrics": r"mae 0\.\d+\nbias 0\.\d+\npearson 0\.\d+\nece 0\.\d+\n",
}


def moody(question: str, before: int) -> Answer:
    """A judge that is broken for some questions, talks nonsense at first about some, and is slow about some."""
    kind = len(question) % 4
    if kind == 0:
        return 0.0, 503, ""
    if kind == 1 and not before:
        return 0.0, 200, "I would rather not say"
    return 0.2 * (kind == 2), 200, "I give it a 7."


@pytest.fixture
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder, and the draws of torch as they were."""
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield tmp_path


def test_every_example_is_short_shown_and_run() -> None:
    page = (ROOT / "docs/examples.md").read_text()
    for path in SCRIPTS:
        assert len(path.read_text().splitlines()) < 40, path.name
        assert f'--8<-- "examples/{path.name}"' in page, path.name
    assert {path.stem for path in SCRIPTS} == PRINTED.keys() | {"own_data", "own_quantity"}


def test_own_data_is_the_script_of_the_readme() -> None:
    (shown,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    _docstring, *rest = ast.parse((ROOT / "examples/own_data.py").read_text()).body
    assert [ast.dump(node) for node in rest] == [ast.dump(node) for node in ast.parse(shown).body]


@pytest.mark.filterwarnings("ignore")  # Lightning's advice for loaders and loggers
@pytest.mark.parametrize("name", sorted(PRINTED))
def test_example_runs(
    name: str, apart: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in ON_THE_ENGINE:
        pytest.importorskip("vllm")
    with JudgeServer(moody) as server:
        monkeypatch.setenv("JUDGE", server.url)
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert re.search(PRINTED[name] + r"\Z", printed), printed


@pytest.mark.filterwarnings("ignore")  # of the kernel's own libraries
def test_notebook_runs(apart: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(ROOT / "examples/functional.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "a notebook is kept without its output"
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    shown = [" ".join(cell.outputs[-1]["data"]["text/plain"].split()) for cell in notebook.cells if cell.get("outputs")]
    assert shown[0].startswith("(0.75, 40, {'math_notion': 'no_json'")
    assert shown[1] == "([True, True, False, True], 1.0, 1.0)"
