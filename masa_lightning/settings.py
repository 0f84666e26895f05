"""The update's settings: an algorithm is a point in this space, not a trainer of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from masa_lightning.checks import check_choice, check_number
from masa_lightning.functional.advantages import Baseline, MultiObjective, Scale
from masa_lightning.functional.losses import Aggregation, Correction, KLKind, LossType

_OWN: dict[
    str, tuple[Aggregation, float | None, float | None]
] = {  # of a surrogate's paper: aggregation, clip_low, clip_high
    "ppo_clip": ("token-mean", 0.2, 0.28),
    "gspo": ("seq-mean-token-mean", 3e-4, 4e-4),
    "cispo": ("token-mean", 1.0, 0.28),
    "sapo": ("seq-mean-token-mean", None, None),
}


@dataclass(kw_only=True, frozen=True)  # no slots: jsonargparse reads default instances with vars()
class SamplingSettings:
    """How tokens are drawn. The defaults draw from the policy itself, as on-policy training needs.

    Args:
        temperature: Softmax temperature, >= 0; 0 is greedy.
        top_p: Nucleus mass in (0, 1]; 1 is off.
        top_k: Number of most likely tokens kept; 0 is off (TRL's convention).
        min_p: Least probability relative to the most likely token, in [0, 1]; 0 is off.
        stop_token_ids: Tokens that end a completion, besides the model's own end of sequence and its chat template's end of
            turn. As with these, the token is part of the completion and trained, and not of its text.
        stop: Texts that end a completion once they stand in it. The tokens up to the one that completes the text are part
            of the completion and trained; its text ends before the stop, as in vLLM.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop_token_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, ">= 0", note="(0 is greedy)")
        check_number("top_p", self.top_p, "> 0", "<= 1", note="(1 is off)")
        check_number("top_k", self.top_k, ">= 0", whole=True, note="(0 is off)")
        check_number("min_p", self.min_p, ">= 0", "<= 1", note="(0 is off)")
        for name in ("stop_token_ids", "stop"):
            if not isinstance(given := getattr(self, name), (list, tuple)):
                raise ValueError(f"{name} is {given!r}; expected a list")
            object.__setattr__(self, name, tuple(given))
        for token in self.stop_token_ids:
            check_number("a token of stop_token_ids", token, ">= 0", whole=True)
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise ValueError(f"a text of stop is {text!r}; expected a text that is not empty")


@dataclass(kw_only=True, frozen=True)
class Algorithm:
    """What is optimised. The defaults are the paper's GRPO.

    ==========  =======================================================================================
    GRPO        the defaults
    Dr.GRPO     scale_rewards="none", aggregation="seq-mean-token-sum-norm"
    RLOO        baseline="leave-one-out", scale_rewards="none", aggregation="seq-mean-token-sum"
    GSPO        loss_type="gspo"
    CISPO       loss_type="cispo"
    SAPO        loss_type="sapo"
    DAPO        dynamic_sampling=True, overlong_buffer=(a quarter of the limit), or mask_truncated_completions=True
    ==========  =======================================================================================

    What depends on the surrogate is None for that of its paper, and holds it once these settings are made:

    =========  ===================  ========  =========
    loss_type  aggregation          clip_low  clip_high
    =========  ===================  ========  =========
    ppo_clip   token-mean           0.2       0.28
    gspo       seq-mean-token-mean  3e-4      4e-4
    cispo      token-mean           1         0.28
    sapo       seq-mean-token-mean  unused    unused
    =========  ===================  ========  =========

    Args:
        loss_type: Surrogate; see `functional.losses.policy_loss`.
        aggregation: How token losses become one number; each kind of rollout is aggregated on its own.
        clip_low: Ratios are clipped below at 1 - clip_low, in [0, 1].
        clip_high: Ratios are clipped above at 1 + clip_high, >= 0.
        dual_clip: Bound on the ratio of tokens with a negative advantage, > 1 + clip_high; None is off. Unused by "cispo"
            and "sapo".
        sapo_temperature_pos: How fast "sapo" lets go of a token of advantage >= 0 whose ratio leaves 1, > 0; refused with
            another surrogate.
        sapo_temperature_neg: SAPO's temperature for negative advantages, > 0.
        scale_rewards: Rewards of a group are divided by the group's deviation, by the batch's, or not.
        multi_objective_aggregation: How several rewards (correctness and `reward_functions`; what a prediction earns for
            each quantity) become one advantage. "sum_then_normalize" compares their weighted sum in its group;
            "normalize_then_sum" compares each apart and takes the weighted sum of that (GDPO), so that weights alone say how
            much a reward counts, and not how much it varies. See `functional.advantages.decoupled_advantages`.
            "normalize_per_value" does that too, and gives the tokens of a predicted value what its own part adds alone; all
            other tokens, and solutions, have the sum.
        baseline: Subtracted from rewards: the group's mean, or the mean of the others (RLOO).
        kl_coef: Weight of the KL term to the reference, >= 0; 0 loads no reference.
        kl_kind: Estimator of the KL term. "k1", "k2" and "k3+" have the gradient of KL(policy || reference), "k3" that of
            KL(reference || policy); see `functional.losses.kl_loss`.
        entropy_coef: Weight of the entropy bonus, nats a token, which the loss is lowered by, >= 0; 0 is off.
        top_entropy_quantile: Share of the tokens, those of the highest entropy, that the surrogate trains, in (0, 1]: 0.2 in
            "Beyond the 80/20 rule" (arXiv 2506.01939); 1 is all. It is taken over an optimiser step, of each kind of rollout
            apart, with the entropies before the update, which take a pass through the policy more.
        importance_sampling: Correct for the sampler's log-probabilities differing from the trainer's, by token or by
            sequence, with factors that are held within the bounds ("..._truncate") or 0 beyond them ("..._mask"); or not.
        importance_sampling_clip_max: Largest correction factor, > 0.
        importance_sampling_clip_min: Smallest one, in [0, importance_sampling_clip_max]; None is none.
        off_policy_mask_threshold: Rollouts of a negative advantage leave the loss once their tokens have become less likely
            than when they were drawn by more than so many nats on average, >= 0; None is off. See
            `functional.losses.off_policy_mask`.
        dynamic_sampling: Groups whose solutions all earn the same in sum (the overlong penalty aside) leave the loss; their
            places, like those of gated problems, are refilled with other training problems (DAPO).
        max_refills: Most times a step draws more problems for that, >= 0; what is still missing then stays away.
        overlong_buffer: Tokens before `max_completion_length` over which a penalty grows from 0 to 1, which is taken off
            the reward of a solution (DAPO's soft overlong punishment); 0 is off.
        mask_truncated_completions: Solutions that were cut short leave the loss; they stay in their group's statistics.
    """

    loss_type: LossType = "ppo_clip"
    aggregation: Aggregation | None = None
    clip_low: float | None = None
    clip_high: float | None = None
    dual_clip: float | None = 10.0
    sapo_temperature_pos: float = 1.0
    sapo_temperature_neg: float = 1.05
    scale_rewards: Scale = "group"
    multi_objective_aggregation: MultiObjective = "sum_then_normalize"
    baseline: Baseline = "mean"
    kl_coef: float = 0.0
    kl_kind: KLKind = "k3"
    entropy_coef: float = 0.0
    top_entropy_quantile: float = 1.0
    importance_sampling: Literal["off", Correction] = "token_truncate"
    importance_sampling_clip_max: float = 2.0
    importance_sampling_clip_min: float | None = None
    off_policy_mask_threshold: float | None = None
    dynamic_sampling: bool = False
    max_refills: int = 4
    overlong_buffer: int = 0
    mask_truncated_completions: bool = False

    def __post_init__(self) -> None:
        check_choice("loss_type", self.loss_type, get_args(LossType))
        for name, own in zip(("aggregation", "clip_low", "clip_high"), _OWN[self.loss_type], strict=True):
            if getattr(self, name) is None:
                object.__setattr__(self, name, own)
        for name, known in (
            ("aggregation", Aggregation),
            ("scale_rewards", Scale),
            ("multi_objective_aggregation", MultiObjective),
            ("baseline", Baseline),
            ("kl_kind", KLKind),
        ):
            check_choice(name, getattr(self, name), get_args(known))
        check_choice("importance_sampling", self.importance_sampling, ("off", *get_args(Correction)))
        for name in ("dynamic_sampling", "mask_truncated_completions"):
            check_choice(name, getattr(self, name), (False, True))
        if self.loss_type == "sapo":
            for name in ("clip_low", "clip_high"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name} is {getattr(self, name)!r} with loss_type 'sapo', which clips nothing; expected None"
                    )
        else:
            check_number("clip_low", self.clip_low, ">= 0", "<= 1")
            check_number("clip_high", self.clip_high, ">= 0")
        for name in ("sapo_temperature_pos", "sapo_temperature_neg"):
            check_number(name, value := getattr(self, name), "> 0")
            if self.loss_type != "sapo" and value != getattr(type(self), name):
                raise ValueError(
                    f"{name} is {value!r} with loss_type {self.loss_type!r}, which has no temperatures; expected loss_type "
                    "'sapo', or to leave it out"
                )
        if self.dual_clip is not None and self.loss_type not in ("cispo", "sapo"):
            least = f"> {1 + (self.clip_high or 0.0):g}"
            check_number("dual_clip", self.dual_clip, least, note="(1 + clip_high), or None to turn it off")
        check_number("kl_coef", self.kl_coef, ">= 0", note="(0 is off)")
        check_number("entropy_coef", self.entropy_coef, ">= 0", note="(0 is off)")
        check_number("top_entropy_quantile", self.top_entropy_quantile, "> 0", "<= 1", note="(1 is all tokens)")
        check_number("importance_sampling_clip_max", self.importance_sampling_clip_max, "> 0")
        if self.importance_sampling_clip_min is not None:
            most = f"<= {self.importance_sampling_clip_max!r}"
            check_number("importance_sampling_clip_min", self.importance_sampling_clip_min, ">= 0", most)
            if self.importance_sampling == "off":
                raise ValueError(
                    f"importance_sampling_clip_min is {self.importance_sampling_clip_min!r} with importance_sampling 'off', "
                    "which corrects nothing; expected None, or a correction"
                )
        if self.off_policy_mask_threshold is not None:
            check_number("off_policy_mask_threshold", self.off_policy_mask_threshold, ">= 0", note="(None is off)")
        check_number("max_refills", self.max_refills, ">= 0", whole=True, note="(0 is off)")
        check_number("overlong_buffer", self.overlong_buffer, ">= 0", whole=True, note="(0 is off)")


@dataclass(kw_only=True, frozen=True)
class Evaluation:
    """How validation, test and predict draw their rollouts.

    Args:
        num_generations: Solution rollouts a problem, >= 1.
        num_meta_generations: Meta rollouts a problem, >= 0; used by `MASALightningModule`.
        temperature: As `SamplingSettings`.
        top_p: As `SamplingSettings`.
        top_k: As `SamplingSettings`.
        pass_at: Values of k for pass@k besides 1, each <= num_generations.
        solve: `predict` also solves the problems, under the controls among the Trainer's callbacks (`MASALightningModule`).
        compare: And once more without controls and with the same seeds, to know what they save.
    """

    num_generations: int = 8
    num_meta_generations: int = 4
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    pass_at: tuple[int, ...] = ()
    solve: bool = False
    compare: bool = True

    def __post_init__(self) -> None:
        for name in ("num_generations", "num_meta_generations"):
            check_number(name, getattr(self, name), "", whole=True)
        if self.num_generations < 1 or self.num_meta_generations < 0:
            raise ValueError(
                f"num_generations is {self.num_generations} and num_meta_generations {self.num_meta_generations}; "
                "expected >= 1 and >= 0"
            )
        for name in ("solve", "compare"):
            check_choice(name, getattr(self, name), (False, True))
        SamplingSettings(temperature=self.temperature, top_p=self.top_p, top_k=self.top_k)
        if isinstance(self.pass_at, str) or not isinstance(self.pass_at, Sequence):
            raise ValueError(f"pass_at is {self.pass_at!r}; expected a list, such as [1, 4]")
        for k in self.pass_at:
            check_number("a value of pass_at", k, "", whole=True)
        if any(not 1 <= k <= self.num_generations for k in self.pass_at):
            raise ValueError(
                f"pass_at is {self.pass_at}; expected values in 1..num_generations = {self.num_generations}"
            )
