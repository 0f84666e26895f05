"""A few training steps of a configuration through Lightning, with a stop-watch on their parts, for scripts/benchmark.py."""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmark_turns import Turn


def stop_at(module: Any, token_ids: Sequence[int]) -> None:
    """Lets these tokens and the limit, and nothing else, end what the sampler of a module draws; it has its engine."""
    from masa_lightning.models.loading import model_path

    module.sampler.setup(
        module.policy.model,
        model_path(module.model_name),
        max_model_length=module.loader.max_length,
        stop_token_ids=token_ids,
    )


class Run:
    """A few training steps of the configuration through Lightning, with a stop-watch on their parts.

    Args:
        args: Of the command.
        steps: How many.
        extra: Words for the command line of `masa fit`, after those of `args`.
        at_limit: Whether completions go on to their limit.
        all_trained: Whether rollouts without advantage get one, so that all are trained on.
        grpo_in_turn: Whether every other step, from the first one on, is without meta rollouts.
        begin: Called before the first step, with the engine made.
        turn: Waits before each step, and is told the mean length behind it.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        steps: int,
        extra: list[str] | None = None,
        at_limit: bool = False,
        all_trained: bool = False,
        grpo_in_turn: bool = False,
        begin: Callable[[Run], None] | None = None,
        turn: Turn | None = None,
    ) -> None:
        from lightning.pytorch import LightningDataModule
        from lightning.pytorch.callbacks import Callback
        from lightning.pytorch.cli import LightningCLI

        from masa_lightning.modules.masa import MASALightningModule

        self.marks = {"imported": time.time()}
        words = ["--config", args.config, *args.words, *(extra or [])]
        words += ["--trainer.logger=false", "--trainer.callbacks=null", "--trainer.limit_val_batches=0"]
        words += [
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            "--trainer.barebones=false",
        ]
        words += [f"--trainer.limit_train_batches={steps}", "--trainer.max_steps=-1", "--trainer.max_epochs=1"]
        words += ["--trainer.val_check_interval=null", "--trainer.enable_checkpointing=false"]
        self.cli = LightningCLI(
            MASALightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_callback=None,
            run=False,
            args=words,
        )
        self.module = module = self.cli.model
        self.steps: list[dict[str, float]] = []
        self.seen: list[Any] = []
        self.groups: list[Any] = []
        self.lengths: list[float] = []
        self.marks["built"] = time.time()
        parts: dict[str, float] = {}
        this = self

        def watched(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def go(*a: Any, **k: Any) -> Any:
                begin = time.perf_counter()
                try:
                    return function(*a, **k)
                finally:
                    parts[part] = parts.get(part, 0.0) + time.perf_counter() - begin

            return go

        def train_all(module: Any, groups: list[Any], **others: Any) -> Any:
            for rollout in (r for g in groups for r in g.rollouts):
                rollout.advantage = rollout.advantage or 1.0
            return update(module, groups, **others)

        update = module.learner.update
        if all_trained:
            module.learner.update = train_all
        n_metas = module.num_meta_generations

        class Watch(Callback):
            def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # the engine is made before
                this.marks["engine"] = time.time()
                if at_limit:
                    stop_at(module, ())
                engine = module.sampler.llm.llm_engine
                engine.step = watched("engine", engine.step)
                engine.add_request = watched("engine", engine.add_request)
                module.policy.forward = watched("forward", module.policy.forward)
                module.manual_backward = watched("backward", module.manual_backward)
                module.learner.step = watched("optimizer", module.learner.step)
                module.scorer.grader.grade = watched("grade", module.scorer.grader.grade)
                if begin:
                    begin(this)

            def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
                if grpo_in_turn:
                    module.num_meta_generations = n_metas if batch_idx % 2 else 0
                parts.clear()
                parts.update(dict.fromkeys(("engine", "forward", "backward", "optimizer", "grade"), 0.0))
                if turn:
                    turn.begin()
                this.begin = time.perf_counter()

            def on_train_batch_end(
                self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
            ) -> None:
                this.marks["stepped"] = time.time()
                groups = outputs["groups"]
                tokens = {
                    kind: sum(r.length for g in groups for r in g.rollouts if r.kind == kind)
                    for kind in ("solution", "meta")
                }
                this.steps.append({"step": time.perf_counter() - this.begin, **parts, **tokens})
                this.seen.append(batch)
                this.groups = groups
                this.lengths = lengths([r for g in groups for r in g.solutions])
                if turn:
                    turn.end(this.lengths[0])

        self.cli.trainer.callbacks.append(Watch())
        module.sampler.close = lambda: None  # what is measured afterwards needs the engine
        self.cli.trainer.fit(self.module, self.cli.datamodule)

    @property
    def requests(self) -> list[Any]:
        """The sampling requests of the last step's solutions, again."""
        from masa_lightning.types import SamplingRequest

        return [
            SamplingRequest(prompt_ids=r.prompt_ids, max_tokens=self.module.max_completion_length, seed=1000 * i + j)
            for i, g in enumerate(self.groups)
            for j, r in enumerate(g.solutions)
        ]

    def prompts(self, problems: Any) -> list[str]:
        """Chat prompts of problems, as text."""
        from masa_lightning.types import RolloutGroup

        ids = self.module.parts.rollouter.prompts.make("solution", [RolloutGroup(problem=p) for p in problems])
        return [self.module.tokenizer.decode(i) for i in ids]

    def close(self) -> None:
        """Frees engine, policy and optimiser, which are held in cycles; the next run would come on top of them."""
        del self.module.sampler.close
        self.module.sampler.close()
        del self.module, self.cli
        self.groups = []
        gc.collect()


def lengths(rollouts: list[Any]) -> list[float]:
    """Mean and longest completion."""
    return [statistics.fmean(r.length for r in rollouts), max(r.length for r in rollouts)]
