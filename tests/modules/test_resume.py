"""A run that is killed or stopped anywhere, any number of times, and resumed each time, is the undisturbed one."""

from __future__ import annotations

import copy
import tempfile
import warnings
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, event, example, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers.logger import DummyLogger
from training_loop import Loop, Problems

from masa_lightning.data.loader import ProblemLoader
from masa_lightning.models import loading
from masa_lightning.models.policy import Policy
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.settings import Evaluation
from masa_lightning.types import Completion

CLOCKS = ("timing_s/", "tokens_per_second")
QUIET = (
    *("Checkpoint directory .* exists", "The number of training batches", r"Found \d+ module", "Using ModelCheckpoint"),
    *("You have overridden", "It is recommended to use"),
)
HOOKS = (
    *("on_fit_start", "on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_before_optimizer_step"),
    *("on_train_batch_end", "on_validation_start", "on_validation_batch_start", "on_validation_batch_end"),
    *("on_validation_epoch_end", "on_validation_end", "on_save_checkpoint", "on_train_epoch_end", "on_train_end"),
)


class Killed(BaseException):
    """What stands for SIGKILL: nothing of ours catches it, and nothing of the process is used afterwards."""


class FastSampler:
    """Draws short completions that depend on the seed and on every bit of the weights."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.seeds: list[int] = []

    def setup(self, policy: Any, model_path: str, **_: Any) -> None:
        self.policy = policy

    def generate(self, requests: Any, settings: Any, on_progress: Any = None) -> list[Completion]:
        self._process.tick("generate")
        weights, completions = checksum(self.policy), []
        self.seeds += [request.seed for request in requests]
        for request in requests:
            drawn = torch.Generator().manual_seed(request.seed + weights)
            ids = torch.randint(40, 90, (1 + request.seed % 3,), generator=drawn).tolist()
            completions.append(Completion(token_ids=ids, logprobs=[-4.0] * len(ids), finish_reason="stop"))
        return completions

    def sync_weights(self) -> None: ...
    def sleep(self) -> None: ...
    def wake(self) -> None: ...


class Grades:
    def __init__(self, process: Process) -> None:
        self._process = process

    def grade(self, problems: Any, completions: Any, on_progress: Any = None) -> list[bool | None]:
        self._process.tick("grade")
        return [zlib.crc32(c.encode()) % 2 == 0 for c in completions]

    def close(self) -> None: ...


class Module(GRPOLightningModule):
    """The real one, but for the optimiser, and without reading the policy from the disk."""

    model_at_start: Any = None

    def configure_model(self) -> None:
        if self.policy is None:
            self.policy = Policy(copy.deepcopy(self.model_at_start))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)


class Process(Callback, DummyLogger):
    """One process of a run: what it did, and the kill or stop that awaits it. It is callback and logger at once."""

    def __init__(self, run: Run, kill_at: int = 0, stop_at: int = 0, stop_hook: str = "") -> None:
        super().__init__()
        self._run, self._awaited = run, (kill_at, stop_at, stop_hook)
        self.ticks = 0
        self.waiting: list[tuple[int, dict[str, float]]] = []
        self.counts = dict.fromkeys(("steps", "validations", "epochs"), 0)
        for hook in HOOKS:
            setattr(self, hook, self._hook(hook))

    def tick(self, name: str) -> None:
        self.ticks += 1
        if self.ticks == self._awaited[0]:
            event(f"killed at {name}")
            raise Killed(name)

    def _hook(self, hook: str) -> Any:
        def call(trainer: Trainer, module: Module, *_: Any) -> None:
            if trainer.sanity_checking:
                return
            self.tick(hook)
            if hook == "on_train_batch_end":
                weights = checksum(module.policy)
                ids = [g.problem.id for g in _[0]["groups"]]
                self._run.take(trainer.global_step, (ids, module.sampler.seeds, weights))
                module.sampler.seeds = []
            if hook == "on_validation_end":
                module.sampler.seeds = []
            for name, counted in COUNTED.items():
                self.counts[name] += hook == counted
            if hook == self._awaited[2] and trainer.global_step >= self._awaited[1]:
                self._run.stops.add(trainer.global_step)
                trainer.should_stop = True

        return call

    def state_dict(self) -> dict[str, Any]:
        return dict(self.counts)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.counts = dict(state_dict)

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.tick("log_metrics")
        self.waiting.append((step, dict(metrics)))

    def save(self) -> None:
        for step, metrics in self.waiting:
            for name, value in metrics.items():
                if not name.startswith(CLOCKS):
                    self._run.log(step, name, value)
        self.waiting = []


COUNTED = {"steps": "on_train_batch_end", "validations": "on_validation_end", "epochs": "on_train_epoch_end"}


@dataclass
class Run:
    """A run over one or more processes.

    Args:
        folder: Of the checkpoints.
        plan: How it is set up.
    """

    folder: Path
    plan: dict[str, Any]
    steps: dict[int, Any] = field(default_factory=dict)
    logged: dict[tuple[int, str], float] = field(default_factory=dict)
    stops: set[int] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)
    ticks: int = 0

    def take(self, step: int, what: Any) -> None:
        assert self.steps.setdefault(step, what) == what, f"step {step} was taken again, and otherwise"

    def log(self, step: int, name: str, value: float) -> None:
        value = "NaN" if value != value else value
        assert self.logged.setdefault((step, name), value) == value, (
            f"{name} of step {step} was logged again, otherwise"
        )

    def process(self, loop: Loop, disturbance: tuple[Any, ...] = ()) -> bool:
        """Goes on from the newest checkpoint; False if it was killed."""
        kind = disturbance[0] if disturbance else ""
        kill_at = disturbance[1] if kind == "kill" else 0
        hook = {"timer": "on_train_batch_end", "early": "on_validation_end"}.get(kind, "")
        process = Process(self, kill_at, disturbance[1] if hook else 0, hook)
        plan, limits = self.plan, dict(self.plan["limits"])
        if kind == "steps":
            limits = {
                "max_steps": min(disturbance[1], limits.get("max_steps", 10**6)),
                "max_epochs": limits["max_epochs"],
            }
        module = loop.module(
            Module, sampler=FastSampler(process), grader=Grades(process), num_generations=2,
            evaluation=Evaluation(num_generations=1), num_mini_batches=plan["mini_batches"],
        )  # fmt: skip
        module.tokenizer = loading.load_tokenizer(str(loop.checkpoint))
        data: Any = Problems(plan["problems"], plan["validation"], plan["batch"])
        loaders = {"datamodule": data}
        if plan["bare"]:
            problems = data.load_split("train")
            loaders = {"train_dataloaders": ProblemLoader(problems, plan["batch"], shuffle=True),
                       "val_dataloaders": ProblemLoader(data.load_split("validation"), 2)}  # fmt: skip
        savers = [ModelCheckpoint(self.folder / str(i), **{"save_last": True, "save_top_k": 0} | s) for i, s in
                  enumerate(plan["savers"])]  # fmt: skip
        trainer = loop.trainer(
            process, *savers, logger=[process], enable_checkpointing=True, **limits,
            **plan["trainer"] | ({} if plan["validation"] else {"limit_val_batches": 0}),
        )  # fmt: skip
        saved = sorted(self.folder.glob("**/*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
        try:
            trainer.fit(module, **loaders, ckpt_path=saved[-1] if saved else None, weights_only=bool(saved) or None)
        except Killed:
            return False
        if kind == "steps" and disturbance[2]:
            trainer.save_checkpoint(self.folder / "end.ckpt")
        self.counts, self.ticks = process.counts, process.ticks
        return True


def checksum(model: Any) -> int:
    return zlib.crc32(b"".join(p.detach().numpy().tobytes() for p in model.parameters()))


@pytest.fixture(scope="module")
def start(tiny_checkpoint: Path) -> Loop:
    Module.model_at_start = loading.load_model(str(tiny_checkpoint), "float32")
    return Loop(tiny_checkpoint)


@st.composite
def plans(draw: Any) -> dict[str, Any]:
    batch = draw(st.integers(1, 3))
    bare = draw(st.booleans())
    problems = draw(st.integers(batch, 4 * batch))
    length = -(-problems // batch) if bare else problems // batch
    by_steps = draw(st.booleans())
    limits = {"max_epochs": -1, "max_steps": draw(st.integers(1, 9))} if by_steps else {
        "max_epochs": draw(st.integers(1, 3))}  # fmt: skip
    each = draw(st.sampled_from(["epoch", "share", "steps", "all steps"]))
    validation = {
        "epoch": {"check_val_every_n_epoch": draw(st.integers(1, 2))},
        "share": {"val_check_interval": 0.5},
        "steps": {"val_check_interval": draw(st.integers(1, length))},
        "all steps": {"val_check_interval": draw(st.integers(1, 4)), "check_val_every_n_epoch": None},
    }[each]
    saver = st.sampled_from([
        {"every_n_train_steps": 1}, {"every_n_train_steps": 2}, {"every_n_train_steps": 3},
        # These two write last.ckpt only with another one.
        {"save_on_train_epoch_end": False, "save_top_k": 1}, {"save_on_train_epoch_end": True, "save_top_k": 1},
    ])  # fmt: skip
    return {
        "batch": batch, "bare": bare, "problems": problems, "limits": limits,
        "validation": draw(st.sampled_from([0, 1, 3])),
        "mini_batches": draw(st.integers(1, 2)),
        "trainer": validation | {"log_every_n_steps": draw(st.integers(1, 2))},
        "savers": draw(st.lists(saver, min_size=1, max_size=2, unique_by=lambda s: s.get("every_n_train_steps"))),
    }  # fmt: skip


kills = st.tuples(st.just("kill"), st.integers(0, 9999))
stops = st.one_of(
    st.tuples(st.sampled_from(["timer", "early"]), st.integers(1, 9)),
    st.tuples(st.just("steps"), st.integers(1, 9), st.booleans()),
)


def check(loop: Loop, plan: dict[str, Any], disturbances: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        for message in QUIET:
            warnings.filterwarnings("ignore", message=message)
        whole, run = Run(Path(folder) / "whole", plan), Run(Path(folder) / "parts", plan)
        whole.process(loop)
        for kind, at, *more in disturbances:
            if kind == "kill":
                at = 1 + (at + 1) * 7919 % whole.ticks  # anywhere in the run: small numbers are drawn more often
            run.process(loop, (kind, at, *more))
        run.process(loop)
        assert list(whole.steps) == list(range(1, len(whole.steps) + 1))
        assert run.steps == whole.steps
        extra = {key for key in run.logged if key[0] in run.stops and key not in whole.logged}
        assert {key: v for key, v in run.logged.items() if key not in extra} == whole.logged
        if not run.stops and all(kind == "kill" for kind, *_ in disturbances):
            assert run.counts == whole.counts


EXAMPLES = {"plan": plans(), "disturbances": st.lists(st.one_of(kills, stops), min_size=1, max_size=4)}
PHASES = (Phase.explicit, Phase.generate)
PROFILE: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck), "phases": PHASES}
VALIDATED = {  # killed in the second epoch, behind a checkpoint that was written when a validation was done
    "batch": 1, "bare": False, "problems": 2, "limits": {"max_epochs": 2}, "validation": 1, "mini_batches": 1,
    "trainer": {"check_val_every_n_epoch": 1, "log_every_n_steps": 1},
    "savers": [{"save_on_train_epoch_end": False, "save_top_k": 1}],
}  # fmt: skip


@settings(max_examples=12, derandomize=True, **PROFILE)
@given(**EXAMPLES)
@example(plan=VALIDATED, disturbances=[("kill", 1)])
def test_any_run_killed_or_stopped_anywhere(start: Loop, plan: Any, disturbances: Any) -> None:
    check(start, plan, disturbances)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=1000, **PROFILE)
@given(**EXAMPLES)
def test_any_run_killed_or_stopped_anywhere_at_length(start: Loop, plan: Any, disturbances: Any) -> None:
    check(start, plan, disturbances)
