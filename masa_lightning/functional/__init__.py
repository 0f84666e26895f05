"""Pure functions: torch and the standard library (grading also mpmath, the risk rule numpy and scipy).

from masa_lightning.functional import group_advantages, parse_meta_prediction
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from masa_lightning.functional.advantages import advantage_terms as advantage_terms
    from masa_lightning.functional.advantages import decoupled_advantages as decoupled_advantages
    from masa_lightning.functional.advantages import group_advantages as group_advantages
    from masa_lightning.functional.calibration import auroc as auroc
    from masa_lightning.functional.calibration import brier_score as brier_score
    from masa_lightning.functional.calibration import expected_calibration_error as expected_calibration_error
    from masa_lightning.functional.calibration import length_calibration as length_calibration
    from masa_lightning.functional.calibration import pass_at_k as pass_at_k
    from masa_lightning.functional.calibration import pass_rate_calibration as pass_rate_calibration
    from masa_lightning.functional.calibration import pearson as pearson
    from masa_lightning.functional.calibration import rate_interval as rate_interval
    from masa_lightning.functional.calibration import reliability_bins as reliability_bins
    from masa_lightning.functional.calibration import spearman as spearman
    from masa_lightning.functional.calibration import value_calibration as value_calibration
    from masa_lightning.functional.choices import chosen_letter as chosen_letter
    from masa_lightning.functional.choices import grade_choice as grade_choice
    from masa_lightning.functional.choices import grade_number as grade_number
    from masa_lightning.functional.confidence import confidence_reward as confidence_reward
    from masa_lightning.functional.confidence import parse_confidence as parse_confidence
    from masa_lightning.functional.controls import cutoff_tokens as cutoff_tokens
    from masa_lightning.functional.controls import gate as gate
    from masa_lightning.functional.controls import hint_notions as hint_notions
    from masa_lightning.functional.controls import sample_count as sample_count
    from masa_lightning.functional.experts import choose_expert as choose_expert
    from masa_lightning.functional.experts import expert_target as expert_target
    from masa_lightning.functional.grading import grade as grade
    from masa_lightning.functional.logprobs import token_logprobs as token_logprobs
    from masa_lightning.functional.losses import aggregate_loss as aggregate_loss
    from masa_lightning.functional.losses import importance_weights as importance_weights
    from masa_lightning.functional.losses import kl_loss as kl_loss
    from masa_lightning.functional.losses import kl_penalty as kl_penalty
    from masa_lightning.functional.losses import loss_denominator as loss_denominator
    from masa_lightning.functional.losses import off_policy_mask as off_policy_mask
    from masa_lightning.functional.losses import policy_loss as policy_loss
    from masa_lightning.functional.losses import sft_loss as sft_loss
    from masa_lightning.functional.parsing import Unreadable as Unreadable
    from masa_lightning.functional.parsing import parse_meta_prediction as parse_meta_prediction
    from masa_lightning.functional.parsing import read_integer as read_integer
    from masa_lightning.functional.parsing import render_prediction as render_prediction
    from masa_lightning.functional.prompts import PromptTemplates as PromptTemplates
    from masa_lightning.functional.prompts import Question as Question
    from masa_lightning.functional.prompts import meta_messages as meta_messages
    from masa_lightning.functional.prompts import solution_messages as solution_messages
    from masa_lightning.functional.rewards import difficulty_reward as difficulty_reward
    from masa_lightning.functional.rewards import length_reward as length_reward
    from masa_lightning.functional.rewards import meta_reward as meta_reward
    from masa_lightning.functional.rewards import notion_reward as notion_reward
    from masa_lightning.functional.rewards import soft_overlong_penalty as soft_overlong_penalty
    from masa_lightning.functional.voting import majority_vote as majority_vote
    from masa_lightning.functional.voting import most_common_answer as most_common_answer
    from masa_lightning.functional.voting import predicted_vote as predicted_vote

# Lazy: a name loads its own file alone.
_HOMES = {
    "PromptTemplates": "prompts",
    "Question": "prompts",
    "Unreadable": "parsing",
    "advantage_terms": "advantages",
    "aggregate_loss": "losses",
    "auroc": "calibration",
    "brier_score": "calibration",
    "choose_expert": "experts",
    "chosen_letter": "choices",
    "confidence_reward": "confidence",
    "cutoff_tokens": "controls",
    "decoupled_advantages": "advantages",
    "difficulty_reward": "rewards",
    "expected_calibration_error": "calibration",
    "expert_target": "experts",
    "gate": "controls",
    "grade": "grading",
    "grade_choice": "choices",
    "grade_number": "choices",
    "group_advantages": "advantages",
    "hint_notions": "controls",
    "importance_weights": "losses",
    "kl_loss": "losses",
    "kl_penalty": "losses",
    "length_calibration": "calibration",
    "value_calibration": "calibration",
    "length_reward": "rewards",
    "loss_denominator": "losses",
    "off_policy_mask": "losses",
    "majority_vote": "voting",
    "meta_messages": "prompts",
    "meta_reward": "rewards",
    "most_common_answer": "voting",
    "notion_reward": "rewards",
    "parse_confidence": "confidence",
    "parse_meta_prediction": "parsing",
    "pass_at_k": "calibration",
    "pass_rate_calibration": "calibration",
    "pearson": "calibration",
    "policy_loss": "losses",
    "predicted_vote": "voting",
    "rate_interval": "calibration",
    "read_integer": "parsing",
    "reliability_bins": "calibration",
    "render_prediction": "parsing",
    "sample_count": "controls",
    "sft_loss": "losses",
    "soft_overlong_penalty": "rewards",
    "solution_messages": "prompts",
    "spearman": "calibration",
    "token_logprobs": "logprobs",
}
__all__ = [*_HOMES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
