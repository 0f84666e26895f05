"""Settings: what a surrogate brings along, and what is refused when a module is made."""

import math
from dataclasses import fields, replace

import pytest
import torch
from jsonargparse import ArgumentParser

from masa_lightning.callbacks.cutoff import EarlyCutoff
from masa_lightning.callbacks.expert_sft import ExpertSFT
from masa_lightning.callbacks.gating import PredictiveGating
from masa_lightning.callbacks.hinting import NotionHinting
from masa_lightning.callbacks.history import HistoryGating
from masa_lightning.checks import check_choice, check_number
from masa_lightning.models.lora import LoRA
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.modules.masa import MASALightningModule
from masa_lightning.modules.meta import MetaSettings
from masa_lightning.modules.optimization import Optimization
from masa_lightning.sampling.transformers import TransformersSampler
from masa_lightning.settings import Algorithm, Evaluation, SamplingSettings

# -- the surrogate's own ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss_type", "own"),
    [
        ("ppo_clip", ("token-mean", 0.2, 0.28)),
        ("gspo", ("seq-mean-token-mean", 3e-4, 4e-4)),  # arXiv 2507.18071, section 5.1
        ("cispo", ("token-mean", 1.0, 0.28)),  # arXiv 2506.13585: no lower bound
    ],
)
def test_the_surrogates_own(loss_type, own):
    made = Algorithm(loss_type=loss_type)
    assert (made.aggregation, made.clip_low, made.clip_high) == own
    assert f"clip_high={own[2]}" in repr(made)
    given = Algorithm(loss_type=loss_type, clip_low=0.1, clip_high=0.5, aggregation="seq-mean-token-sum")
    assert (given.aggregation, given.clip_low, given.clip_high) == ("seq-mean-token-sum", 0.1, 0.5)
    assert replace(given, kl_coef=0.1).clip_low == 0.1


@pytest.mark.parametrize("kind", [GRPOLightningModule, MASALightningModule])
@pytest.mark.parametrize("words", [["--module.algorithm.loss_type=gspo"], ["--module.algorithm={loss_type: gspo}"]])
def test_from_the_command_line_too(kind, words):
    """A default instance in the module's signature would put the other surrogate's numbers in their places."""
    parser = ArgumentParser()
    parser.add_class_arguments(kind, "module", skip={"sampler", "grader", "reward_functions"})
    given = parser.parse_args(["--module.model=tiny", *words]).module.algorithm
    made = Algorithm(**vars(given))
    assert (made.loss_type, made.aggregation, made.clip_high) == ("gspo", "seq-mean-token-mean", 4e-4)


def test_without_settings_a_module_has_the_papers(loop):
    assert loop.module().algorithm == loop.module(GRPOLightningModule).algorithm == Algorithm()


def test_each_kind_is_divided_by_its_own_longest(loop, monkeypatch):
    """seq-mean-token-sum-norm: Dr.GRPO's constant is the limit of that kind of rollout."""
    from masa_lightning.update import policy_update as update

    seen = []
    plain = update.policy_loss

    def policy_loss(logp, old_logp, advantages, mask, **settings):
        seen.append((settings["norm_length"], float(settings["denominator"]), int(mask.any(1).sum())))
        return plain(logp, old_logp, advantages, mask, **settings)

    monkeypatch.setattr(update, "policy_loss", policy_loss)
    answers = {"solution": ["\\boxed{2}", "\\boxed{3}", "x"], "meta": ['{"pass_rate": 1}', '{"pass_rate": 8}']}
    module = loop.scripted(
        lambda kind, text, index, call: answers[kind][index],
        max_completion_length=60,
        max_meta_length=20,
        algorithm=Algorithm(aggregation="seq-mean-token-sum-norm"),
    )
    loop.fit(module, loop.Problems([loop.problem("1+1")], batch_size=1))
    assert [(norm, whole) for norm, whole, _ in seen] == [(60, 3 * 60), (20, 2 * 20)]


# -- what is refused ----------------------------------------------------------------------------------------------------

NO_NUMBERS = [math.nan, math.inf, -math.inf, True, "1", None, [1]]


def test_check_number():
    for value, least, most in [
        (0, ">= 0", ""),
        (0.5, "> 0", "< 1"),
        (1, "> 0", "<= 1"),
        (-3, "", ""),
        (10**30, ">= 1", ""),
    ]:
        check_number("x", value, least, most)
    for value, least, most in [(0, "> 0", ""), (1.0, "> 0", "< 1"), (-1e-9, ">= 0", "<= 1"), (1.1, ">= 0", "<= 1")]:
        with pytest.raises(ValueError, match=r"x is .*; expected"):
            check_number("x", value, least, most)
    for value in [*NO_NUMBERS, 1.0, 2.5, torch.tensor(3)]:
        with pytest.raises(ValueError, match=r"x is .*; expected .*\(1 is off\)"):
            check_number("x", value, ">= 1", whole=True, note="(1 is off)")
    with pytest.raises(ValueError, match=r"x is '1'; expected a number >= 1"):
        check_number("x", "1", ">= 1")
    with pytest.raises(ValueError, match=r"x is 2\.5; expected an integer >= 1"):
        check_number("x", 2.5, ">= 1", whole=True)
    with pytest.raises(ValueError, match="x is 'c'; expected 'a' or 'b'"):
        check_choice("x", "c", ("a", "b"))


def test_sapo_clips_nothing():
    assert (Algorithm(loss_type="sapo").clip_low, Algorithm(loss_type="sapo").aggregation) == (
        None,
        "seq-mean-token-mean",
    )
    with pytest.raises(
        ValueError, match=r"clip_high is 0\.3 with loss_type 'sapo', which clips nothing; expected None"
    ):
        Algorithm(loss_type="sapo", clip_high=0.3)


@pytest.mark.parametrize("name", ["sapo_temperature_pos", "sapo_temperature_neg"])
def test_a_temperature_without_sapo_is_refused(name):
    with pytest.raises(
        ValueError, match=rf"{name} is 2\.0 with loss_type 'gspo', which has no temperatures; expected loss"
    ):
        Algorithm(loss_type="gspo", **{name: 2.0})
    assert getattr(Algorithm(loss_type="sapo", **{name: 2.0}), name) == 2.0


def test_a_bound_of_no_correction_is_refused():
    with pytest.raises(ValueError, match=r"importance_sampling_clip_min is 0\.5 with importance_sampling 'off', which"):
        Algorithm(importance_sampling="off", importance_sampling_clip_min=0.5)


BAD = {
    Algorithm: {
        "loss_type": ["ppo", None], "aggregation": ["mean"], "clip_low": [-0.1, 1.1], "clip_high": [-0.1],
        "dual_clip": [1.0, 1.28, 0.0], "scale_rewards": ["std"], "baseline": ["median"], "kl_coef": [-0.1],
        "multi_objective_aggregation": ["sum", None],
        "kl_kind": ["k4"], "importance_sampling": ["on", True, "token"], "importance_sampling_clip_max": [0.0, -1.0],
        "importance_sampling_clip_min": [-0.1, 2.1], "off_policy_mask_threshold": [-0.1, "1"],
        "entropy_coef": [-0.1], "top_entropy_quantile": [0.0, 1.1],
        "sapo_temperature_pos": [0.0, -1], "sapo_temperature_neg": [0.0, None],
        "dynamic_sampling": ["no"], "mask_truncated_completions": ["no"], "max_refills": [-1, 1.5],
        "overlong_buffer": [-1, 1.5],
    },
    Evaluation: {
        "num_generations": [0, 1.5], "num_meta_generations": [-1, 1.5], "temperature": [-1], "top_p": [0, 1.1],
        "top_k": [-1, 1.5],
        "pass_at": [(0,), (9,), (1.5,), (True,), 3, "14"], "solve": ["yes"], "compare": ["yes"],
    },
    SamplingSettings: {
        "temperature": [-1], "top_p": [0, 1.1], "top_k": [-1, 0.5], "min_p": [-0.1, 1.1], "stop": [("",), (7,), "###", 7],
        "stop_token_ids": [(-1,), (True,), (1.5,), ("<eos>",), 7],
    },
    Optimization: {
        "num_iterations": [0, 1.5], "num_mini_batches": [0, 1.5], "max_tokens_per_micro_batch": [0, 1.5],
        "max_grad_norm": [0, -1], "max_skipped_steps": [-1, 1.5],
    },
    MetaSettings: {"loss_weight": [-1], "solution_loss_weight": [-1]},
    LoRA: {"rank": [0, 1.5], "alpha": [0, 1.5]},
    ExpertSFT: {
        "batch_size": [0, 1.5], "every_n_steps": [0, 1.5], "learning_rate": [0, -1], "weight_decay": [-0.1],
        "max_grad_norm": [0, -1],
        "max_skipped_steps": [-1, 1.5], "max_tokens_per_micro_batch": [0, 1.5],
    },
    PredictiveGating: {
        "mode": ["on", True], "start_step": [-1, 1.5], "max_std": [0], "margin": [-0.1, 0.5],
        "min_predictions": [0, 1.5],
        "audit_share": [0, 1], "max_lost_correct": [-0.1, 1.1], "window": [0, 1.5], "min_evidence": [0, 1.5],
        "skip": ["trivial"], "rule": ["safe"],
    },
    EarlyCutoff: {"factor": [0, -1], "rule": ["safe"]},
    HistoryGating: {"discount": [-0.1, 1.1], "max_problems": [0, 1.5], "max_lost_signal": [-0.1, 1], "confidence": [0, 1]},
    NotionHinting: {"probability": [0, 1], "max_notions": [0, 1.5]},
    TransformersSampler: {"batch_size": [0, 1.5]},
}  # fmt: skip
OF_MODULES = {
    "num_generations": [0, 1, 2.5], "max_prompt_length": [0, 1.5], "max_completion_length": [0, 1.5],
    "dtype": ["fp32", torch.float32],
    "gradient_checkpointing": ["no"], "float32_head": ["no"], "trust_remote_code": ["no"], "seed": [1.5],
}  # fmt: skip
OF_MASA = {
    "num_meta_generations": [-1, 1, 2.5], "num_acting_meta_generations": [0, 1, 2.5],
    "max_meta_length": [0, 9, 1.5], "pass_rate_scale": [0, 1.5],
    "difficulty_base": [0, 1],
    "difficulty_scoring": ["log"], "notion_counting": ["share"], "min_expert_reward": [-0.1, 1.1],
}  # fmt: skip
MAY_BE_NONE = {"pass_rate_scale",
    "importance_sampling_clip_min", "off_policy_mask_threshold",
    "start_step", "max_std", "margin", "min_predictions", "audit_share", "min_evidence", "factor",  # of a fixed rule
    "dual_clip", "aggregation", "clip_low", "clip_high", "cutoff_factor", "every_n_steps", "max_grad_norm", "seed",
    "max_prompt_length", "max_completion_length", "max_meta_length", "num_acting_meta_generations",
}  # fmt: skip


def cases(bad):
    """Each value, and for numbers all that is no number."""
    for name, values in bad.items():
        number = not isinstance(values[0], (str, bool, tuple))
        extra = [v for v in NO_NUMBERS if v is not None or name not in MAY_BE_NONE] if number else []
        yield from ((name, value) for value in [*values, *extra])


@pytest.mark.parametrize(("made", "name", "value"), [(k, n, v) for k, bad in BAD.items() for n, v in cases(bad)])
def test_refused(made, name, value):
    with pytest.raises(ValueError, match=rf"{name}.* is .*; expected|the .*{name}|expected one of|{name}.*expected"):
        made(**{name: value})


@pytest.mark.parametrize("kind", [GRPOLightningModule, MASALightningModule])
def test_refused_when_the_module_is_made(loop, kind):
    bad = OF_MODULES | (OF_MASA if kind is MASALightningModule else {})
    for name, value in cases(bad):
        with pytest.raises(ValueError, match=rf"{name} (\(.*\) )?is .*; expected"):
            loop.module(kind, **{name: value})


def test_every_setting_is_looked_at():
    """A new one needs a line above."""
    for made in (Algorithm, Evaluation, SamplingSettings):
        assert {field.name for field in fields(made)} == set(BAD[made])
    assert {field.name for field in fields(Optimization)} == {*BAD[Optimization], "optimizer", "lr_scheduler"}


@pytest.mark.parametrize(
    "weights", [{"length": -1.0}, {"length": math.nan}, {"length": True}, {"length": "1"}, {}, {"length": 0}]
)
def test_meta_reward_weights(loop, weights):
    with pytest.raises(ValueError, match=r"the weight of 'length' is|no reward part has a positive weight"):
        loop.module(meta_reward_weights=weights)


def test_nothing_to_train(loop):
    for settings in ({"solution_weight": 0, "meta_weight": 0}, {"solution_weight": 0, "num_meta_generations": 0}):
        with pytest.raises(
            ValueError, match="so that nothing is trained; expected a kind of rollouts with a weight > 0"
        ):
            loop.module(**settings)
    loop.module(meta_weight=0, num_meta_generations=1)  # predictions for controls and ExpertSFT, which are not trained
    loop.module(solution_weight=0)
    loop.module(num_meta_generations=0)


@pytest.mark.parametrize(("high", "clip"), [(0.28, 1.28), (3.0, 4.0), (10.0, 10.0)])
def test_dual_clip_lies_above_the_clip_range(high, clip):
    with pytest.raises(ValueError, match=r"dual_clip is .*; expected > .* \(1 \+ clip_high\), or None to turn it off"):
        Algorithm(clip_high=high, dual_clip=clip)
    assert Algorithm(clip_high=high, dual_clip=None).dual_clip is None
    assert Algorithm(loss_type="cispo", clip_high=high, dual_clip=clip).clip_high == high  # unused there
