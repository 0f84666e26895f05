"""Controls that learn from outcomes decide the same in two trainer processes as in one, and on both of them."""

import random
import warnings

import pytest
import torch
import two_processes
from lightning.pytorch import Callback
from training_loop import Loop, Problems, ScriptedSampler

from masa_lightning import EarlyCutoff, HistoryGating, PredictiveGating
from masa_lightning.functional.prompts import PromptTemplates
from masa_lightning.types import Problem

PROMPTS = PromptTemplates(solution="S:{problem}", meta="M:{problem}", hint="{problem}+{notions}")
RATES = {"lost": 0, "easy": 8, "open": 4, "half": 6}
PROBLEMS = [Problem(id=f"{kind}{i}", problem=f"{kind}{i}", answer="2") for i in range(4) for kind in RATES]
LOOSE = {"max_lost_signal": 0.3, "max_lost_correct": 0.3, "confidence": 0.5}  # begins soon
CONTROLS = {
    "history": (lambda: HistoryGating(**LOOSE), {"num_meta_generations": 0}),
    "gating": (lambda: PredictiveGating(rule="risk", **LOOSE), {}),
    "cutoff": (lambda: EarlyCutoff(rule="risk", max_lost_correct=0.3, confidence=0.5), {}),
}


class Seeded(ScriptedSampler):
    """Answers as the seed of each request says, whichever process asks."""

    def __init__(self):
        super().__init__(self.answer)

    def answer(self, kind, text, index, call):
        rate = RATES[text.rstrip("0123456789")]
        if kind == "meta":
            return f'<meta>?</meta>{{"math_notion":["sum"],"pass_rate":{rate},"solution_length":10}}'
        right = self.dice.randrange(8) < rate
        return ("x" * 40 if not right else "") + f"\\boxed{{{2 if right else 0}}}"  # 50 tokens with the end, or 10

    def generate(self, requests, settings, on_progress=None):
        completions = []
        for request in requests:
            self.dice = random.Random(str(request))
            completions += super().generate([request], settings)
        return completions


class Decisions(Callback):
    """Notes of each step what was decided on each problem."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append([(g.problem.id, g.gated, g.token_limit, g.weight) for g in outputs["groups"]])


def train(checkpoint, name, processes, **trainer):
    """Trains 14 epochs of one batch each; returns what was decided, the state that a checkpoint has, and figures."""
    warnings.filterwarnings("ignore")
    loop = Loop(checkpoint)
    make, settings = CONTROLS[name]
    control, decisions = make(), Decisions()
    settings = {"num_generations": 4, "prompts": PROMPTS, "max_prompt_length": 40, "sampler": Seeded()} | settings
    module = loop.module(max_completion_length=120, **settings)
    data = Problems(PROBLEMS, batch_size=len(PROBLEMS) // processes)
    recorder = loop.fit(module, data, control, decisions, max_epochs=14, devices=processes, **trainer)
    figures = [{n: v for n, v in step.items() if n.startswith("controls/")} for step in recorder.metrics]
    return decisions.seen, control.state_dict(), figures


def _work(rank, folder, checkpoint):
    got = {name: train(checkpoint, name, 2, strategy=two_processes.strategy("ddp")) for name in CONTROLS}
    torch.save(got, folder / f"got-{rank}.pt")


@pytest.mark.slow
def test_two_processes_decide_as_one(tiny_checkpoint, tmp_path):
    two_processes.run(_work, tmp_path, tiny_checkpoint)
    first, second = (torch.load(tmp_path / f"got-{rank}.pt") for rank in range(2))
    for name, (seen, state, figures) in first.items():
        with warnings.catch_warnings():
            expected, one_state, one_figures = train(tiny_checkpoint, name, 1)
        assert seen == second[name][0], name
        assert repr(state) == repr(second[name][1]), name  # NaN equals nothing
        assert [sorted(step) for step in seen] == [sorted(step) for step in expected], name
        assert len({problem for step in seen for problem, gated, limit, _ in step if gated or limit}) >= 8, name
        if name == "history":
            assert sorted(state["past"]) == sorted(one_state["past"]) != []
        for ours, theirs in zip(figures, one_figures, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-6, nan_ok=True), name
