"""The loop on a tiny random model, through `Trainer.fit` on the CPU."""

import math

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from masa_lightning.data.loader import ProblemLoader
from masa_lightning.models import loading
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.settings import Algorithm, Evaluation, SamplingSettings

# -- rollouts ----------------------------------------------------------------------------------------------------------


def test_requests_of_a_step(loop):
    module = loop.module(GRPOLightningModule, sampling=SamplingSettings(temperature=0.7))
    recorder = loop.fit(module, loop.Problems(2), max_steps=1)
    (requests, settings), *others = module.sampler.calls
    assert not others
    assert settings == SamplingSettings(temperature=0.7)
    assert len(requests) == 6
    assert {r.max_tokens for r in requests} == {8}
    assert len({r.seed for r in requests}) == 6
    assert all(0 <= r.seed < 2**63 for r in requests)
    groups = recorder.groups[0]
    for i, group in enumerate(groups):
        prompt = module.tokenizer(f"<user>S:{group.problem.problem}<assistant>").input_ids
        assert [r.prompt_ids for r in requests[3 * i : 3 * i + 3]] == [prompt] * 3
        assert [r.prompt_ids for r in group.solutions] == [prompt] * 3
        assert group.metas == []


def test_weights_are_handed_over_before_every_step(loop):
    module = loop.module(GRPOLightningModule, evaluation=Evaluation(num_generations=1))
    loop.fit(module, loop.Problems(4, validation=1), max_steps=2)
    assert module.sampler.order == ["wake", "sync", "generate", "sleep"] * 3  # two steps and a validation


def test_rollouts_are_a_function_of_seed_and_step(loop):
    def tokens(**settings):
        recorder = loop.fit(
            loop.module(GRPOLightningModule, learning_rate=0.0, **settings), loop.Problems(2, batch_size=2)
        )
        return [r.completion.token_ids for groups in recorder.groups for g in groups for r in g.solutions]

    first = tokens()
    torch.rand(7)
    assert tokens() == first
    assert tokens(seed=1) != first
    assert len({tuple(t) for t in first}) == 6


def test_the_seed_of_the_run_is_the_default(loop, monkeypatch):
    def seeds(global_seed, **settings):
        monkeypatch.setenv("PL_GLOBAL_SEED", str(global_seed))
        module = loop.module(GRPOLightningModule, **settings)
        loop.fit(module, loop.Problems(2))
        return [r.seed for r in module.sampler.calls[0][0]]

    assert seeds(5, seed=None) == seeds(6, seed=5) != seeds(6, seed=None)


def test_steps_draw_anew(loop):
    module = loop.module(GRPOLightningModule)
    loop.fit(module, loop.Problems([loop.problem("1+1")], batch_size=1), max_epochs=2)
    first, second = ([r.seed for r in requests] for requests, _ in module.sampler.calls)
    assert not set(first) & set(second)


def test_an_overlong_prompt_is_left_out_and_named(loop):
    data = [loop.problem("1+1"), loop.problem("1+1+1+1+1+1+1+1+1", name="long one")]

    def fit(limit):
        module = loop.module(GRPOLightningModule, max_prompt_length=limit)
        recorder = loop.fit(module, loop.Problems(data))
        return recorder, {tuple(r.prompt_ids): r.seed for r in module.sampler.calls[0][0]}

    with pytest.warns(
        UserWarning, match="problem 'long one' is left out: its prompt has 21 tokens, max_prompt_length is 20"
    ):
        recorder, seeds = fit(20)
    assert [g.problem.id for g in recorder.groups[0]] == ["1+1"]
    assert recorder.metrics[0]["prompts/overlong"] == 1
    recorder, all_seeds = fit(21)
    assert recorder.metrics[0]["prompts/overlong"] == 0
    assert len(all_seeds) == 2
    assert seeds.items() < all_seeds.items()  # the others draw what they would have drawn


@pytest.mark.filterwarnings("ignore:problem .* is left out")
def test_only_overlong_prompts(loop):
    with pytest.raises(
        ValueError, match="none of the 2 problems of the batch has a prompt of at most 4 tokens; raise max_p"
    ):
        loop.fit(loop.module(GRPOLightningModule, max_prompt_length=4), loop.Problems(2))


def test_tokens_of_a_validation_are_no_training_steps(loop):
    """They would count for the speed of the step behind it."""
    module = loop.module(GRPOLightningModule)
    loop.trainer().validate(module, datamodule=loop.Problems(validation=2))
    assert module.parts.rollouter.take_generated() == []


@pytest.mark.filterwarnings("ignore:problem .* is left out")
def test_an_evaluation_of_only_overlong_prompts_is_an_error_and_no_best(loop, tmp_path):
    long = [loop.problem("+".join("1" * 9), name=f"long {i}") for i in range(3)]
    saver = ModelCheckpoint(tmp_path, monitor="val/pass@1", mode="max")
    message = (
        "none of the 3 problems has a prompt of at most 16 tokens, so that nothing can be measured under {}/; expected"
    )
    with pytest.raises(ValueError, match=message.format("val")):
        loop.fit(loop.module(GRPOLightningModule), loop.Problems(2, long), saver, enable_checkpointing=True)
    assert saver.best_model_path == ""
    for stage, prefix in (("validate", "val"), ("test", "test")):
        with pytest.raises(ValueError, match=message.format(prefix)):
            getattr(loop.trainer(), stage)(loop.module(GRPOLightningModule), datamodule=loop.Problems(2, long))
    trainer = loop.trainer()
    trainer.validate(loop.module(GRPOLightningModule), datamodule=loop.Problems(2, [*long, loop.problem("1+1")]))
    assert trainer.callback_metrics["val/prompts/overlong"] == 3
    trainer = loop.trainer(num_sanity_val_steps=1, limit_val_batches=2)  # whose first batch is long alone
    trainer.fit(loop.module(GRPOLightningModule), loop.Problems(2, [*long[:2], loop.problem("1+1")]))
    assert trainer.callback_metrics["val/prompts/overlong"] == 2


@pytest.mark.filterwarnings("ignore:.* does not have many workers")
@pytest.mark.parametrize("batch", [[{"problem": "1+1"}], {"problem": ["1+1"]}, torch.zeros(2)])
def test_a_batch_of_the_wrong_type(loop, batch):
    data = loop.Problems(2)
    data.train_dataloader = lambda: torch.utils.data.DataLoader([0], collate_fn=lambda _: batch)
    with pytest.raises(
        TypeError, match=rf"list of masa_lightning\.types\.Problem; got {type(batch).__name__}.*collate_fn="
    ):
        loop.fit(loop.module(GRPOLightningModule), data)


# -- rewards -----------------------------------------------------------------------------------------------------------


def test_rewards_and_advantages_by_hand(loop):
    """Group a: right, wrong, wrong; group b: all wrong; mean 1/3, deviation sqrt(1/3)."""
    module = loop.scripted(loop.boxes(2, 3, 4), GRPOLightningModule, num_generations=3)
    data = loop.Problems([loop.problem("a", "2"), loop.problem("b", "7")])
    recorder = loop.fit(module, data)
    groups = {g.problem.id: g.solutions for g in recorder.groups[0]}
    assert [r.correct for r in groups["a"]] == [True, False, False]
    assert [r.reward for r in groups["a"]] == [1.0, 0.0, 0.0]
    assert [r.text for r in groups["a"]] == ["\\boxed{2}", "\\boxed{3}", "\\boxed{4}"]
    deviation = math.sqrt(1 / 3)
    expected = [2 / 3 / deviation, -1 / 3 / deviation, -1 / 3 / deviation]
    assert [r.advantage for r in groups["a"]] == pytest.approx(expected, rel=1e-5)
    assert [r.advantage for r in groups["b"]] == [0.0, 0.0, 0.0]
    metrics = recorder.metrics[0]
    assert metrics["reward"] == metrics["pass_rate"] == metrics["rewards/correct/mean"] == pytest.approx(1 / 6)
    assert metrics["reward_std"] == pytest.approx(deviation / 2)
    assert metrics["frac_reward_zero_std"] == 0.5


def test_no_gradient_where_all_rewards_are_equal(loop):
    module = loop.scripted(loop.boxes(0, 0, 0), GRPOLightningModule)
    before = loop.weights()
    recorder = loop.fit(module, loop.Problems([loop.problem("a"), loop.problem("b")]))
    assert not loop.changed(before, loop.weights(module))
    assert recorder.metrics[0]["grad_norm"] == 0
    assert recorder.metrics[0]["frac_reward_zero_std"] == 1


def brevity(problem, completions):
    return [len(c) / 10 for c in completions]


class MentionsProblem:
    def __call__(self, problem, completions):
        return [problem.problem in c for c in completions]


def test_reward_functions_are_added_with_their_weights(loop):
    texts = ("\\boxed{2}", "q\\boxed{2}", "\\boxed{3}")
    settings = {"reward_functions": [brevity, MentionsProblem()], "reward_weights": [0.5, -2.0]}
    module = loop.scripted(lambda kind, text, index, call: texts[index], GRPOLightningModule, **settings)
    recorder = loop.fit(module, loop.Problems([loop.problem("q"), loop.problem("y")]))
    by_problem = {g.problem.id: [r.reward for r in g.solutions] for g in recorder.groups[0]}
    assert by_problem["q"] == pytest.approx([1 + 0.45, 1 + 0.5 - 2, 0.45])
    assert by_problem["y"] == pytest.approx([1 + 0.45, 1 + 0.5, 0.45])
    metrics = recorder.metrics[0]
    assert metrics["rewards/brevity/mean"] == pytest.approx((0.9 + 1.0 + 0.9) / 3)
    assert metrics["rewards/MentionsProblem/mean"] == pytest.approx(1 / 6)
    assert metrics["rewards/correct/mean"] == pytest.approx(2 / 3)
    assert metrics["pass_rate"] == pytest.approx(2 / 3)


def test_reward_functions_weigh_one_by_default(loop):
    module = loop.scripted(loop.boxes(2, 3, 4), GRPOLightningModule, reward_functions=[brevity])
    recorder = loop.fit(module, loop.Problems([loop.problem("x"), loop.problem("y")]))
    assert [r.reward for r in recorder.groups[0][0].solutions] == pytest.approx([1.9, 0.9, 0.9])


def test_an_ungraded_answer_is_wrong_and_counted(loop):
    texts, grader = ("right", "dubious", "wrong"), loop.Grades()
    module = loop.scripted(lambda kind, text, index, call: texts[index], GRPOLightningModule, grader=grader)
    recorder = loop.fit(module, loop.Problems(2))
    rollouts = recorder.groups[0][0].solutions
    assert [(r.correct, r.ungraded, r.reward) for r in rollouts] == [
        (True, False, 1.0),
        (False, True, 0),
        (False, False, 0),
    ]
    assert recorder.metrics[0]["completions/ungraded_ratio"] == pytest.approx(1 / 3)
    assert grader.closed == 1


def test_lengths_and_token_counts(loop):
    """Lengths 10 (with the end token), 13 cut off, and 4."""
    answers = ("\\boxed{2}", ("thinking long", "length"), "two")
    module = loop.scripted(lambda kind, text, index, call: answers[index], GRPOLightningModule)
    metrics = loop.fit(module, loop.Problems([loop.problem("a"), loop.problem("bcd")] * 2), max_epochs=1).metrics
    assert (
        metrics[0].items()
        >= {
            "completions/mean_length": 9.0,
            "completions/min_length": 4.0,
            "completions/max_length": 13.0,
            "completions/mean_terminated_length": 7.0,
            "completions/min_terminated_length": 4.0,
            "completions/max_terminated_length": 10.0,
            "tokens/solution": 54.0,
        }.items()
    )
    assert metrics[0]["completions/clipped_ratio"] == pytest.approx(1 / 3)
    # Prompts: <user>S: and <assistant> are four tokens.
    prompts = [m["tokens/prompt"] for m in metrics]
    assert sum(prompts) == 2 * 3 * (5 + 7)
    assert [m["prompts/mean_length"] for m in metrics] == pytest.approx([p / 6 for p in prompts])
    assert [m["num_tokens"] for m in metrics] == [54 + prompts[0], 108 + sum(prompts)]


# -- updates -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("iterations", "mini_batches"), [(1, 1), (2, 1), (1, 3), (2, 2)])
def test_optimizer_steps(loop, iterations, mini_batches):
    module = loop.module(GRPOLightningModule, num_iterations=iterations, num_mini_batches=mini_batches)
    recorder = loop.fit(module, loop.Problems(4))
    assert len(recorder.rates) == 2 * iterations * mini_batches
    assert recorder.trainer.global_step == module.run_state.rollout_steps == len(module.sampler.calls) == 2


def test_all_that_a_user_sees_counts_training_steps(loop, tmp_path):
    """Also a step without anything to learn from, and one whose gradient is not finite."""
    module = loop.module(GRPOLightningModule, num_iterations=2, num_mini_batches=2)
    seen = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, module, *_):
            seen.append(trainer.global_step)

    saver = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=2, save_top_k=-1, filename="{step}")
    data = loop.Problems(20, validation=1)
    settings = {"max_steps": 5, "val_check_interval": 3, "enable_checkpointing": True, "log_every_n_steps": 2}
    recorder = loop.fit(module, data, Watch(), saver, **settings)
    assert seen == [1, 2, 3, 4, 5]
    assert sorted(path.stem for path in tmp_path.glob("*.ckpt")) == ["step=2", "step=4", "step=5"]
    assert [step for step, m in recorder.logged if "reward" in m] == [2, 4]
    assert [step for step, m in recorder.logged if "val/pass@1" in m] == [3]
    assert {m["epoch"] for _, m in recorder.logged} == {0.0}
    assert module.run_state.rollout_steps == recorder.trainer.global_step == 5


def test_the_token_budget_does_not_change_the_update(loop):
    def fit(budget):
        module = loop.scripted(
            loop.boxes(2, 345, 678910), loop.SGD, max_tokens_per_micro_batch=budget, algorithm=Algorithm(kl_coef=0.1)
        )
        loop.fit(module, loop.Problems([loop.problem("a"), loop.problem("b")]))
        return loop.weights(module)

    before, expected = loop.weights(), fit(10_000)
    assert loop.changed(before, expected)
    for name, value in fit(1).items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=0, msg=name)


def test_the_gradient_by_hand(loop):
    """The weights move along the gradient of the advantage-weighted log-likelihood, a third of which is computed here."""
    module = loop.scripted(
        loop.boxes(2, 3, 4),
        loop.SGD,
        max_grad_norm=None,
        algorithm=Algorithm(importance_sampling="off"),
        learning_rate=0.5,
    )
    recorder = loop.fit(module, loop.Problems([loop.problem("a")], batch_size=1))
    model = loading.load_model(str(loop.checkpoint), "float32")
    loss = torch.zeros(())
    for rollout in recorder.groups[0][0].solutions:
        ids = torch.tensor([rollout.prompt_ids + rollout.completion.token_ids])
        logp = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[len(rollout.prompt_ids) - 1 :, 0]
        loss = loss - rollout.advantage * logp.sum() / 30
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    assert recorder.metrics[0]["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    after = loop.weights(module)
    for name, p in model.named_parameters():
        torch.testing.assert_close(after[name], p.detach() - 0.5 * p.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_log_probabilities_are_compared_with_the_samplers(loop):
    """The sampler says -5 for every token."""
    module = loop.scripted(loop.boxes(2, 3, 4), GRPOLightningModule)
    module.sampler.logprob = lambda call: -5.0
    recorder = loop.fit(module, loop.Problems([loop.problem("a"), loop.problem("b")]))
    model = loading.load_model(str(loop.checkpoint), "float32")
    logps, entropies = [], []
    with torch.no_grad():
        for rollout in (r for g in recorder.groups[0] for r in g.solutions if r.advantage):  # others are left out
            ids = torch.tensor([rollout.prompt_ids + rollout.completion.token_ids])
            table = model(ids).logits[0, len(rollout.prompt_ids) - 1 : -1].log_softmax(-1)
            logps.append(table.gather(1, torch.tensor(rollout.completion.token_ids)[:, None])[:, 0])
            entropies.append(-(table.exp() * table).sum(-1))
    difference = (torch.cat(logps) + 5).abs()
    weights = (torch.cat(logps) + 5).exp().clamp(max=2)
    assert weights.max() == 2
    expected = {
        "sampling/sampling_logp_difference/mean": difference.mean(),
        "sampling/sampling_logp_difference/median": difference.sort()[0][29],
        "sampling/sampling_logp_difference/max": difference.max(),
        "sampling/importance_sampling_ratio/mean": weights.mean(),
        "sampling/importance_sampling_ratio/min": weights.min(),
        "sampling/importance_sampling_ratio/max": (torch.cat(logps) + 5).max().exp(),
        "entropy": torch.cat(entropies).mean(),
        "approx_kl": 0.0,
        "clip_ratio/region_mean": 0.0,
    }
    assert len(difference) == 60
    got = {name: recorder.metrics[0][name] for name in expected}
    assert got == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-4, abs=1e-5)


def test_the_real_sampler_agrees_with_the_trainer(loop):
    module = loop.module(GRPOLightningModule, sampling=SamplingSettings(temperature=0.8))
    for metrics in loop.fit(module, loop.Problems(4)).metrics:
        assert metrics["sampling/sampling_logp_difference/max"] < 1e-4
        assert metrics["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=1e-4)


def test_bf16_weights_do_not_round_rewards_or_log_probabilities(loop):
    """The sampler says -20.3 for every token, which bfloat16 would make -20.25."""
    module = loop.scripted(loop.boxes(2, 3, 4), GRPOLightningModule, dtype="bfloat16")
    module.sampler.logprob = lambda call: -20.3
    data = loop.Problems([loop.problem("a", "2"), loop.problem("b", "7")])
    recorder = loop.fit(module, data, precision="bf16-true")
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    metrics = recorder.metrics[0]
    assert metrics["pass_rate"] == pytest.approx(1 / 6, rel=1e-6)
    assert metrics["reward_std"] == pytest.approx(math.sqrt(1 / 3) / 2, rel=1e-6)
    logps = []
    model = loading.load_model(str(loop.checkpoint), "bfloat16")
    with torch.no_grad():
        for rollout in (r for g in recorder.groups[0] for r in g.solutions if r.advantage):  # others are left out
            ids = torch.tensor([rollout.prompt_ids + rollout.completion.token_ids])
            table = model(ids).logits[0, len(rollout.prompt_ids) - 1 : -1].float().log_softmax(-1)
            logps.append(table.gather(1, torch.tensor(rollout.completion.token_ids)[:, None])[:, 0])
    expected = (torch.cat(logps) + 20.3).mean().item()
    assert metrics["sampling/sampling_logp_difference/mean"] == pytest.approx(expected, abs=5e-3)


def test_later_iterations_compare_with_the_policy_before(loop):
    module = loop.scripted(loop.boxes(2, 3, 4), GRPOLightningModule, num_iterations=3)
    metrics = loop.fit(module, loop.Problems([loop.problem("a"), loop.problem("b")])).metrics[0]
    assert metrics["approx_kl"] > 1e-4
    assert metrics["clip_ratio/region_mean"] > 0
    parts = [metrics[f"clip_ratio/{side}_mean"] for side in ("low", "high")]
    assert metrics["clip_ratio/region_mean"] == pytest.approx(sum(parts))


# -- evaluation --------------------------------------------------------------------------------------------------------


def held_out(loop):
    """Of four rollouts, four, one and none are right."""
    return [loop.problem("a", "1"), loop.problem("b", "2"), loop.problem("c", "3")]


def mixed(kind, text, index, call):
    return f"\\boxed{{{ {'a': 1, 'b': 2 if index == 1 else 0, 'c': 0}[text] }}}"


@pytest.mark.parametrize("prefix", ["val", "test"])
def test_evaluation(loop, prefix):
    module = loop.scripted(mixed, GRPOLightningModule, evaluation=Evaluation(num_generations=4, pass_at=(2, 4)))
    trainer = loop.trainer()
    run = trainer.validate if prefix == "val" else trainer.test
    (metrics,) = run(module, loop.Problems(0, validation=held_out(loop)), verbose=False)
    assert all(name.startswith(f"{prefix}/") for name in metrics)
    metrics = {name.removeprefix(f"{prefix}/"): value for name, value in metrics.items()}
    assert metrics["pass@1"] == metrics["pass_rate"] == metrics["reward"] == pytest.approx(5 / 12)
    assert metrics["pass@2"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert metrics["pass@4"] == pytest.approx(2 / 3)
    assert 0 <= metrics["pass@1_low"] < 5 / 12 < metrics["pass@1_high"] <= 1
    assert metrics["completions/mean_length"] == 10
    assert metrics["frac_reward_zero_std"] == pytest.approx(2 / 3)
    assert not loop.changed(loop.weights(), loop.weights(module))


def test_evaluation_has_its_own_sampling_and_repeats_itself(loop):
    evaluation = Evaluation(num_generations=2, temperature=0.5, top_p=0.9, top_k=5)
    module = loop.module(GRPOLightningModule, evaluation=evaluation)
    data = loop.Problems(8, validation=3)
    recorder = loop.fit(module, data, val_check_interval=2)
    settings = [s for _, s in module.sampler.calls]
    greedy = SamplingSettings(temperature=0.5, top_p=0.9, top_k=5)
    assert settings == [*[SamplingSettings()] * 2, greedy, greedy] * 2
    evaluations = [[r.seed for r in requests] for requests, s in module.sampler.calls if s == greedy]
    assert [len(seeds) for seeds in evaluations] == [4, 2, 4, 2]
    assert evaluations[:2] == evaluations[2:]
    training = {r.seed for requests, s in module.sampler.calls if s != greedy for r in requests}
    assert not training & {seed for seeds in evaluations for seed in seeds}
    assert [step for step, m in recorder.logged if "val/pass@1" in m] == [2, 4]
    assert not any(name.startswith("val/") for m in recorder.metrics for name in m)


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"num_sanity_val_steps": 2}, [[0, 1], [2, 3], [4, 5]] * 2),
        ({"limit_val_batches": 2}, [[0, 1], [2, 3]] * 2),
        ({"limit_val_batches": 0.4, "num_sanity_val_steps": 1}, [[0, 1]] * 2),
    ],
    ids=["sanity check", "number", "share"],
)
def test_every_validation_begins_at_the_first_problem(loop, settings, expected, bare):
    """The loop before left off early: Lightning's sanity check does by default."""
    seen = []

    class See(Callback):
        def on_validation_batch_end(self, trainer, module, outputs, *_):
            if not trainer.sanity_checking:
                seen.append([int(g.problem.id.removeprefix("validation-")) for g in outputs["groups"]])

    data = loop.Problems(4, validation=6)
    given = {"datamodule": data}
    if bare:
        given = {
            "train_dataloaders": ProblemLoader(data.load_split("train"), 2),
            "val_dataloaders": ProblemLoader(data.load_split("validation"), 2),
        }
    loop.trainer(See(), val_check_interval=1, **settings).fit(loop.module(GRPOLightningModule), **given)
    assert seen == expected


def test_predict_returns_scored_groups(loop):
    module = loop.scripted(mixed, GRPOLightningModule, evaluation=Evaluation(num_generations=4))
    batches = loop.trainer().predict(module, loop.Problems(0, validation=held_out(loop)))
    groups = [g for batch in batches for g in batch["groups"]]
    assert [g.problem.id for g in groups] == ["a", "b", "c"]
    assert [g.pass_rate for g in groups] == [1, 0.25, 0]


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_generations": 0}, "num_generations is 0; expected >= 1"),
        ({"num_iterations": 0}, "num_iterations is 0; expected >= 1"),
        ({"num_mini_batches": 0}, "num_mini_batches is 0; expected >= 1"),
        ({"max_tokens_per_micro_batch": 0}, "max_tokens_per_micro_batch is 0; expected >= 1"),
        ({"max_completion_length": 0}, "max_completion_length is 0; expected >= 1"),
        ({"sampling": SamplingSettings(temperature=0.0)}, "sampling.temperature is 0"),
        ({"reward_functions": [brevity], "reward_weights": [1.0, 2.0]}, "2 reward_weights were given for 1"),
        ({"reward_weights": [1.0]}, "1 reward_weights were given for 0"),
    ],
)
def test_bad_settings(loop, settings, message):
    with pytest.raises(ValueError, match=message):
        loop.module(GRPOLightningModule, **settings)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Algorithm(kl_coef=-0.1), "kl_coef is -0.1; expected >= 0"),
        (lambda: Algorithm(kl_coef=math.nan), "kl_coef is nan; expected >= 0"),
        (lambda: Evaluation(num_generations=0), "num_generations is 0"),
        (lambda: Evaluation(num_meta_generations=-1), "num_meta_generations -1"),
        (
            lambda: Evaluation(num_generations=4, pass_at=(2, 5)),
            r"pass_at is \(2, 5\); expected values in 1\.\.num_gen",
        ),
        (lambda: Evaluation(pass_at=(0,)), "pass_at is"),
    ],
)
def test_bad_algorithms_and_evaluations(make, message):
    with pytest.raises(ValueError, match=message):
        make()
