"""What tests that train share, in the fixture `loop`: problems, a logger, a sampler with prepared answers."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger

from masa_lightning.data.base import ProblemDataModule, Split
from masa_lightning.functional.prompts import PromptTemplates
from masa_lightning.models import loading
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.modules.masa import MASALightningModule
from masa_lightning.modules.meta import MetaSettings
from masa_lightning.modules.moved import MOVED
from masa_lightning.modules.optimization import AdamW, ConstantWithWarmup, Optimization
from masa_lightning.sampling.transformers import TransformersSampler
from masa_lightning.settings import SamplingSettings
from masa_lightning.types import Completion, Kind, Problem, RolloutGroup, SamplingRequest

Answer = str | tuple[str, str]  # text, or text and finish reason


class Problems(ProblemDataModule):
    """Sums, as many as wanted."""

    def __init__(
        self, train: int | Sequence[Any] = 8, validation: int | Sequence[Any] = 0, batch_size: int = 2
    ) -> None:
        super().__init__(batch_size=batch_size, val_batch_size=2)
        self.given = {"train": train, "validation": validation, "test": validation}

    def load_split(self, split: Split) -> list[Problem]:
        given = self.given[split]
        if not isinstance(given, int):
            return list(given)
        return [Problem(id=f"{split}-{i}", problem=f"{i}+{i}", answer=str(2 * i)) for i in range(given)]


class Recorder(Callback, DummyLogger):
    """Keeps what is logged, the groups of training steps and tests, and the learning rate of every optimiser step."""

    def __init__(self) -> None:
        super().__init__()
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.groups: list[list[RolloutGroup]] = []
        self.tested: list[RolloutGroup] = []
        self.rates: list[float] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.logged.append((step, dict(metrics)))

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, *_: Any) -> None:
        self.groups.append(outputs["groups"])

    def on_test_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, *_: Any) -> None:
        self.tested += outputs["groups"]

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])

    @property
    def metrics(self) -> list[dict[str, float]]:
        """Those of the training steps."""
        return [metrics for _, metrics in self.logged if "reward" in metrics]


class SpySampler(TransformersSampler):
    """The real one; keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[list[SamplingRequest], SamplingSettings]] = []
        self.order: list[str] = []

    def sync_weights(self) -> None:
        self.order.append("sync")

    def sleep(self) -> None:
        self.order.append("sleep")

    def wake(self) -> None:
        self.order.append("wake")

    def generate(self, requests: Any, settings: Any, on_progress: Any = None) -> list[Completion]:
        self.order.append("generate")
        self.calls.append((list(requests), settings))
        return super().generate(requests, settings, on_progress)


class ScriptedSampler:
    """Answers with prepared texts, and log-probability -4 a token.

    Args:
        script: (kind, problem text, number of the rollout in its group, number of the call) -> answer.
        logprob: Of every token, by the number of the call.
    """

    def __init__(
        self, script: Callable[[Kind, str, int, int], Answer], logprob: Callable[[int], float] = lambda call: -4.0
    ) -> None:
        self.script, self.logprob = script, logprob
        self.calls = 0

    def setup(self, policy: Any, model_path: str, *, max_model_length: int, stop_token_ids: Sequence[int]) -> None:
        self.tokenizer = loading.load_tokenizer(model_path)
        self.max_model_length = max_model_length
        assert list(stop_token_ids) == [self.tokenizer.eos_token_id]

    def generate(self, requests: Sequence[SamplingRequest], settings: Any, on_progress: Any = None) -> list[Completion]:
        seen: Counter[str] = Counter()
        completions = []
        for request in requests:
            prompt = self.tokenizer.decode(request.prompt_ids, skip_special_tokens=True)
            kind: Kind = "solution" if prompt[:2] == "S:" else "meta"
            answer = self.script(kind, prompt[2:], seen[prompt], self.calls)
            seen[prompt] += 1
            text, reason = (answer, "stop") if isinstance(answer, str) else answer
            ids = self.tokenizer(text, add_special_tokens=False).input_ids
            ids += [self.tokenizer.eos_token_id] * (reason == "stop")
            if len(ids) > request.max_tokens:
                ids, reason = ids[: request.max_tokens], "length"
            logprobs = [self.logprob(self.calls)] * len(ids)
            completions.append(Completion(token_ids=ids, logprobs=logprobs, finish_reason=reason))
        self.calls += 1
        return completions

    def sync_weights(self) -> None: ...

    def sleep(self) -> None: ...

    def wake(self) -> None: ...


class Grades:
    """A grader whose verdict is written in the text: "right", "wrong", or neither."""

    def __init__(self) -> None:
        self.closed = 0

    def grade(self, problems: Any, completions: Any, on_progress: Any = None) -> list[bool | None]:
        return [True if "right" in c else False if "wrong" in c else None for c in completions]

    def close(self) -> None:
        self.closed += 1


class SGD(GRPOLightningModule):
    """Not Adam, which makes rounding errors of small gradients large; and no schedule."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.optimization.optimizer.keywords["lr"])


class Diverging(GRPOLightningModule):
    """The gradient is NaN in the training steps of which `bad` says so, given how many were taken before."""

    bad: Callable[[int], bool] = staticmethod(lambda steps: True)

    def extra_loss(self, logp: torch.Tensor, batch: Any) -> torch.Tensor:
        return logp * (math.nan if self.bad(self.run_state.rollout_steps) else 0.0)


def grouped(settings: dict[str, Any]) -> dict[str, Any]:
    """Puts what is of `Optimization` and of `MetaSettings` there, by the names that an earlier version had."""
    metas = {
        new.partition(".")[2]: settings[old]
        for old, new in MOVED.items()
        if new.startswith("meta.") and old in settings
    }
    if metas:
        others = {name: value for name, value in settings.items() if not MOVED.get(name, "").startswith("meta.")}
        settings = others | {"meta": MetaSettings(**metas)}
    own = {field.name for field in fields(Optimization)}
    given = {name: settings[name] for name in settings.keys() & own}
    for name, kind, short in (
        ("optimizer", AdamW, {"learning_rate": "lr", "weight_decay": "weight_decay"}),
        ("lr_scheduler", ConstantWithWarmup, {"warmup_steps": "num_warmup_steps"}),
    ):
        parts = {key: settings[name] for name, key in short.items() if name in settings}
        if name not in given and parts:
            given[name] = partial(kind, **parts)
    left = own | {"learning_rate", "weight_decay", "warmup_steps"}
    others = {name: value for name, value in settings.items() if name not in left}
    return {"optimization": Optimization(**given), **others} if given else others


class Loop:
    """Small modules and trainers."""

    Problems, Recorder, Spy, Scripted, Grades, SGD = Problems, Recorder, SpySampler, ScriptedSampler, Grades, SGD
    Diverging = Diverging

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint

    def module(self, kind: type[GRPOLightningModule] = MASALightningModule, **settings: Any) -> Any:
        """MASA, unless asked otherwise, with 3 solutions and 2 meta rollouts of at most 8 tokens; settings as `grouped`."""
        defaults: dict[str, Any] = {
            "model": str(self.checkpoint),
            "prompts": PromptTemplates(solution="S:{problem}", meta="M:{problem}"),
            "num_generations": 3,
            "max_prompt_length": 16,
            "max_completion_length": 8,
            "learning_rate": 1e-2,
            "seed": 0,
        }
        if issubclass(kind, MASALightningModule):
            defaults["num_meta_generations"] = 2
        if type(settings.get("sampler")).__name__ not in ("VLLMSampler", "TransformersSampler"):
            defaults["max_logp_difference"] = math.inf  # a spy counts what is drawn, and a script is no policy
        if "sampler" not in settings:
            defaults["sampler"] = SpySampler()
        return kind(**grouped(defaults | settings))

    @staticmethod
    def problem(text: str, answer: str = "2", name: str | None = None) -> Problem:
        """A problem."""
        return Problem(id=name or text, problem=text, answer=answer)

    @staticmethod
    def boxes(*values: int) -> Callable[..., str]:
        """A script in which rollout i of every group answers values[i]."""
        return lambda kind, text, index, call: f"\\boxed{{{values[index]}}}"

    @staticmethod
    def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
        """The names of weights that differ."""
        return {name for name in before if not torch.equal(before[name], after[name])}

    def scripted(self, script: Callable[..., Answer], kind: Any = MASALightningModule, **settings: Any) -> Any:
        """A module whose sampler follows a script."""
        return self.module(kind, **({"sampler": ScriptedSampler(script), "max_completion_length": 120} | settings))

    @staticmethod
    def trainer(*callbacks: Callback, **settings: Any) -> Trainer:
        """A quiet trainer on the CPU; a `Recorder` among the callbacks is its logger too."""
        loggers = [c for c in callbacks if isinstance(c, Recorder)]
        defaults: dict[str, Any] = {
            "accelerator": "cpu",
            "logger": loggers or False,
            "callbacks": list(callbacks),
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 0,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "max_epochs": 1,
        }
        return Trainer(**(defaults | settings))

    def fit(self, module: Any, data: Any, *callbacks: Callback, **settings: Any) -> Recorder:
        """Trains, and returns what was recorded."""
        recorder = Recorder()
        if not getattr(data, "given", {}).get("validation"):
            settings.setdefault("limit_val_batches", 0)  # or Lightning warns of a loader of length 0
        recorder.trainer = self.trainer(recorder, *callbacks, **settings)
        recorder.trainer.fit(module, data)
        return recorder

    def weights(self, module: Any = None) -> dict[str, torch.Tensor]:
        """A copy of a module's weights, or of the checkpoint's."""
        policy = loading.load_model(str(self.checkpoint), "float32") if module is None else module.policy.model
        return {name: p.detach().clone() for name, p in policy.named_parameters()}


@pytest.fixture
def loop(tiny_checkpoint: Path) -> Loop:
    return Loop(tiny_checkpoint)
