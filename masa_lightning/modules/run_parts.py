"""What the batches of a run go through; made when the run begins, of what is known then."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from masa_lightning.modules.listeners import phase_progress
from masa_lightning.rollouts.prompts import Prompts
from masa_lightning.rollouts.refill import ProblemReserve, training_problems
from masa_lightning.rollouts.rollouter import Rollouter
from masa_lightning.rollouts.scorers import Scorers
from masa_lightning.rollouts.training import TrainingRollouts

if TYPE_CHECKING:
    from masa_lightning.modules.grpo import GRPOLightningModule

T = TypeVar("T")


class RunParts:
    """Draws, scores, and makes the groups of training steps.

    Args:
        module: In a trainer, with its policy and a sampler that is ready.
    """

    def __init__(self, module: GRPOLightningModule) -> None:
        assert module.policy is not None
        progress, seed = phase_progress(module.trainer), module.run_seed()
        self.rollouter = Rollouter(
            sampler=module.sampler,
            tokenizer=module.tokenizer,
            stops=module.stops,
            prompts=Prompts(
                module.chats(),
                tokenizer=module.tokenizer,
                template_kwargs=module.chat_template_kwargs,
                model=module.model_name,
                config=module.policy.model.config,
            ),
            limits=module.completion_limits,
            max_prompt_length=module.max_prompt_length,
            seed=seed,
            processes=module.processes,
            progress=progress,
            watch=module.watch,
            expected=module.run_state.expected_lengths,
            structures={kind: each.structure for kind, each in module.session.structured.items()},
            listener=module.scorer if module.scorer.hears else None,
        )
        self.scorers = Scorers(
            module.all_scorers(self.rollouter), processes=module.processes, progress=progress, watch=module.watch
        )
        self.rollouts = module.controlled_rollouts(self.rollouter, self.scorers)
        self.training = TrainingRollouts(
            rollouts=self.rollouts,
            sampling=module.sampling,
            algorithm=module.algorithm,
            reserve=ProblemReserve(
                lambda: training_problems(module.trainer.train_dataloader),
                seed=seed,
                taken=module.run_state.reserve_taken,
            ),
        )


def begun(part: T | None) -> T:
    """A part that there is once a run has begun.

    Raises:
        RuntimeError: If none has.
    """
    if part is None:
        raise RuntimeError(
            "no run has begun, so there is nothing to draw and score with; expected this inside of fit, validate, test or "
            "predict of a Trainer"
        )
    return part
