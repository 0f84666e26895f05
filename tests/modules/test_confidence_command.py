"""RLCR by the real command: a layer over a configuration asks, reads, rewards, logs and draws; bad settings are answered."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from masa_lightning import cli

OWN = '''
from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from masa_lightning import SamplingSettings, TransformersSampler
from masa_lightning.models.loading import load_tokenizer
from masa_lightning.protocols import ProgressFn
from masa_lightning.types import Completion, SamplingRequest

SAID = ["1 <confidence>75%</confidence>", "2 <confidence>0.5</confidence>", "3"]


class Sure(TransformersSampler):
    """Draws as ever, and puts prepared texts in the place of what was drawn."""

    def setup(
        self, policy: nn.Module, model_path: str, *, max_model_length: int, stop_token_ids: Sequence[int]
    ) -> None:
        super().setup(policy, model_path, max_model_length=max_model_length, stop_token_ids=stop_token_ids)
        self.words = load_tokenizer(model_path)

    def generate(
        self, requests: Sequence[SamplingRequest], settings: SamplingSettings, on_progress: ProgressFn | None = None
    ) -> list[Completion]:
        completions, seen = super().generate(requests, settings, on_progress), {}
        for request, completion in zip(requests, completions):
            prompt = self.words.decode(request.prompt_ids, skip_special_tokens=True)
            index = seen[prompt] = seen.get(prompt, -1) + 1
            text = '</meta>{"math_notion": ["x"], "pass_rate": 4, "solution_length": 9}'
            if prompt.startswith("S:"):
                text = "\\\\boxed " + SAID[index % 3]
                with open("asked.txt", "a") as file:
                    print(prompt, file=file)
            completion.token_ids = [*self.words(text, add_special_tokens=False).input_ids, self.words.eos_token_id]
            completion.logprobs = [-1.0] * len(completion.token_ids) if completion.logprobs else []
            completion.finish_reason = "stop"
        return completions
'''


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["masa"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    rows = [{"problem": f"{i}+1", "answer": "1"} for i in range(8)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    yield
    sys.modules.pop("own", None)


def config(checkpoint: Path) -> list[str]:
    settings = {
        "seed_everything": 3,
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 2,
            "val_check_interval": 1,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "runs", "name": "x", "version": ""}},
            "callbacks": [{"class_path": "masa_lightning.CalibrationPlots"}],
        },
        "model": {
            "class_path": "masa_lightning.MASALightningModule",
            "init_args": {
                "model": str(checkpoint),
                "sampler": {"class_path": "own.Sure"},
                "prompts": {"solution": "S:{problem}", "meta": "M:{problem}"},
                "num_generations": 3,
                "num_meta_generations": 2,
                "max_prompt_length": 176,
                "max_completion_length": 80,
                "max_logp_difference": ".inf",
                "evaluation": {"num_generations": 3, "num_meta_generations": 2},
            },
        },
        "data": {
            "class_path": "masa_lightning.MathDataModule",
            "init_args": {"train": "train.jsonl", "validation_size": 2, "batch_size": 2, "val_batch_size": 2},
        },
    }
    Path("run.yaml").write_text(yaml.safe_dump(settings))
    return ["--config", "run.yaml"]


def logged(name: str) -> list[float]:
    """The values of a metric, in the order in which they were logged."""
    with Path("runs/rlcr/metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def test_a_layer_turns_it_on(tiny_checkpoint: Path) -> None:
    fitted = cli.main(["fit", *config(tiny_checkpoint), "--config", "with/rlcr"])
    assert fitted.model.scorer.parts == ["correct", "confidence"]
    asked = Path("asked.txt").read_text()
    assert asked.count("end with a number from 0 to 1 between <confidence> and </confidence>") == len(
        asked.splitlines()
    )
    # Right and .75 sure, wrong and .5 sure, wrong without a word; bare boxes are read in spite of the tags.
    for stage in ("", "val/"):
        assert logged(f"{stage}pass_rate") == pytest.approx([1 / 3] * len(logged(f"{stage}pass_rate")))
        count = len(logged(f"{stage}rewards/confidence/mean"))
        assert count >= 2
        assert logged(f"{stage}rewards/confidence/mean") == pytest.approx([-(0.0625 + 0.25 + 1) / 3] * count)
        assert logged(f"{stage}confidence/parse_rate") == pytest.approx([2 / 3] * count)
        assert logged(f"{stage}calibration/confidence/brier") == pytest.approx([(0.0625 + 0.25) / 2] * count)
        assert logged(f"{stage}calibration/pass_rate/brier") == pytest.approx([0.25] * count)
    assert logged("reward") == pytest.approx([1 / 3 - (0.0625 + 0.25 + 1) / 3] * 2)
    drawn = {path.name for path in Path("runs/rlcr/pictures").iterdir()}
    assert {f"validate_{name}_step000002.png" for name in ("confidence_reliability", "self_knowledge")} <= drawn


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model.confidence", "yes"], "confidence"),
        (["--model.confidence", "masa_lightning.PassRate"], "confidence"),
        (["--model.confidence", "masa_lightning.StatedConfidence", "--model.confidence.weight", "2"], "weight"),
    ],
)
def test_what_is_refused(
    tiny_checkpoint: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((SystemExit, TypeError, ValueError)) as raised:
        cli.main(["fit", *config(tiny_checkpoint), *words])
    assert said in capsys.readouterr().err + str(raised.value)
