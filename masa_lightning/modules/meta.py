"""Settings of meta rollouts: what a prediction is worth, and how much it counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from masa_lightning.checks import check_choice, check_number
from masa_lightning.functional.rewards import Counting, Scoring
from masa_lightning.protocols import Sampler
from masa_lightning.quantities import Quantities, Quantity, StatedConfidence, chosen_quantities
from masa_lightning.sampling.structured import Structured, check_xgrammar
from masa_lightning.types import Kind, Structure

if TYPE_CHECKING:
    from masa_lightning.modules.base import PolicyLightningModule

_MARK = "</meta>"


@dataclass(kw_only=True, frozen=True)
class MetaSettings:
    """How predictions are rewarded, and how much either kind of rollout counts in the loss.

    The first five are of the paper's three quantities; others have theirs as their own arguments.

    Args:
        pass_rate_scale: Predicted pass rates are integers in 0..scale; in the prompt, the parser and the reward alike. By
            default that of the model's training, if its folder says so, as those of `masa export` do, else 8.
        difficulty_scoring: "exponential" rewards a predicted pass rate with ``b ** |predicted - actual|`` (the paper),
            "brier" with ``1 - (predicted - actual) ** 2``, under which the expected pass rate is the best prediction.
        difficulty_base: Base b of the exponential difficulty reward, in (0, 1).
        notion_counting: "count" compares how many right and wrong solutions contain a notion (the paper), "rate" which
            share of them.
        min_expert_reward: Least notion reward of a prediction that `ExpertSFT` may clone, in [0, 1].
        reward_weights: Weight of "length", "difficulty" and "notion", the rewards of the quantities, in the meta reward; 1
            each by default, 0 removes a part.
        loss_weight: Weight of the meta rollouts' loss, >= 0.
        solution_loss_weight: Weight of the solution rollouts' loss, >= 0.
        structured_outputs: Draw predictions under a JSON schema made from the quantities, in training and evaluation: each
            ends with an object that can be read. Their log-probabilities, and all that the update makes of them, are then
            those of the constrained distribution ([structured outputs](structured_outputs.md)).
    """

    pass_rate_scale: int | None = None
    difficulty_scoring: Scoring = "exponential"
    difficulty_base: float = 0.01
    notion_counting: Counting = "count"
    min_expert_reward: float = 0.2
    reward_weights: dict[str, float] | None = None
    loss_weight: float = 1.0
    solution_loss_weight: float = 1.0
    structured_outputs: bool = False

    def __post_init__(self) -> None:
        check_choice("structured_outputs", self.structured_outputs, (False, True))
        for name in ("loss_weight", "solution_loss_weight"):
            check_number(name, getattr(self, name), ">= 0")

    def quantities(
        self,
        given: list[Quantity] | None,
        budget: int,
        sampler: Sampler,
        confidence: StatedConfidence | None = None,
    ) -> Quantities:
        """Puts what is predicted together.

        Args:
            given: By the user; None for the paper's three.
            budget: Most tokens of a solution, >= 1.
            sampler: Draws them.
            confidence: What solutions state of themselves, beside them.

        Raises:
            ImportError: If they are to be structured, and xgrammar is not installed.
            ValueError: If they cannot be asked together, a setting is out of range, or they are to be structured and a
                quantity has no schema, or the sampler knows none.
        """
        chosen = chosen_quantities(
            given,
            **({} if self.pass_rate_scale is None else {"pass_rate_scale": self.pass_rate_scale}),
            difficulty_scoring=self.difficulty_scoring,
            difficulty_base=self.difficulty_base,
            notion_counting=self.notion_counting,
            min_expert_reward=self.min_expert_reward,
        )
        quantities = Quantities(chosen, budget=budget, confidence=confidence)
        if self.structured_outputs:
            _check_structured(quantities, sampler)
        return quantities

    def check_counts(self, num_meta_generations: int, num_acting_meta_generations: int | None, evaluated: int) -> None:
        """Compares the settings with how many meta rollouts a problem gets.

        Args:
            num_meta_generations: In training.
            num_acting_meta_generations: In training steps in which a control may act; None for as many.
            evaluated: In evaluation.

        Raises:
            ValueError: If nothing would be trained, a prediction that is trained has no others to be compared with, or
                there are none that could be structured.
        """
        check_number("num_meta_generations", num_meta_generations, ">= 0", whole=True, note="(0 is GRPO)")
        if not self.solution_loss_weight and not (self.loss_weight and num_meta_generations):
            raise ValueError(
                f"meta.solution_loss_weight is {self.solution_loss_weight}, meta.loss_weight {self.loss_weight} and "
                f"num_meta_generations {num_meta_generations}, so that nothing is trained; expected a kind of rollouts with "
                "a weight > 0"
            )
        if num_meta_generations == 1 and self.loss_weight:
            raise ValueError(
                "num_meta_generations is 1; expected >= 2, because a prediction's advantage is what it earns more than the "
                "others of its problem, 0 for no predictions, or meta.loss_weight = 0 for predictions that are not trained"
            )
        if self.structured_outputs and not num_meta_generations and not evaluated:
            raise ValueError(
                "meta.structured_outputs is true, and num_meta_generations and evaluation.num_meta_generations are 0, so "
                "that nothing is drawn under it; expected meta rollouts, or structured_outputs: false"
            )
        if num_acting_meta_generations is not None:
            least = ">= 2" if self.loss_weight else ">= 1"
            check_number("num_acting_meta_generations", num_acting_meta_generations, least, whole=True)


def _check_structured(quantities: Quantities, sampler: Sampler) -> None:
    check_xgrammar()
    quantities.check_schemas()
    if getattr(sampler, "structured_outputs", False) is not True:
        raise ValueError(
            f"meta.structured_outputs is true and the sampler a {type(sampler).__name__}, which does not say that it "
            "heeds `SamplingRequest.structure`; expected one that has structured_outputs = True: use VLLMSampler or "
            "TransformersSampler, or set meta.structured_outputs to false"
        )


def structured_kinds(module: PolicyLightningModule, known: Mapping[Kind, Structured]) -> dict[Kind, Structured]:
    """What completions of a module are drawn under, by kind, once its policy is loaded; nothing of those that are free.

    Args:
        module: With tokenizer and policy.
        known: Of an earlier call; what is the same is not compiled again.

    Raises:
        ValueError: If a text ends completions, or predictions have too few tokens for an object.
    """
    settings, policy = getattr(module, "meta", None), module.policy
    quantities: Any = getattr(module, "quantities", None)
    if not isinstance(settings, MetaSettings) or not settings.structured_outputs or policy is None:
        return {}
    stops = module.stops
    ends = [i for i, token in enumerate(stops.closing, start=1) if token in stops.token_ids][:1]
    if stops.texts or not ends:
        raise ValueError(
            f"meta.structured_outputs is true and completions are ended by {stops.described(module.tokenizer)}; expected "
            "tokens alone, as a text could end a prediction before its object: leave sampling.stop empty and use a chat "
            "template whose turns end with a token of their own, or set meta.structured_outputs to false"
        )
    structure = Structure(
        mark=_MARK,
        schema=quantities.schema(),
        ending=stops.closing[: ends[0]],
        stop_token_ids=stops.token_ids,
    )
    if "meta" in known and known["meta"].structure == structure:
        return dict(known)
    model: Any = policy.model
    made = Structured(structure, module.tokenizer, len(model.get_output_embeddings().weight))
    limits: Any = module.completion_limits
    if (most := limits["meta"]) < made.reserve:
        raise ValueError(
            f"max_meta_length is {most} with meta.structured_outputs; expected at least {made.reserve} tokens, which are "
            f"kept for {_MARK} and the JSON object of {', '.join(quantities.names)}: raise max_meta_length"
        )
    return {"meta": made}
