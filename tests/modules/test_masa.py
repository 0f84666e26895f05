"""The meta path on a tiny random model, through `Trainer.fit` on the CPU; the rest of the loop is in test_grpo."""

import math
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from masa_lightning.models import loading
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.modules.masa import MASALightningModule
from masa_lightning.quantities import Quantities, default_quantities
from masa_lightning.rollouts.meta_scorer import MetaScorer
from masa_lightning.settings import Algorithm, Evaluation
from masa_lightning.types import Completion, Problem, Rollout, RolloutGroup

# Two problems, four solutions and two predictions each. Lengths count characters and the end token.
SOLUTIONS = {
    "1+1": (
        "\\boxed{2}",
        "by parity \\boxed{2}",
        "\\boxed{3}",
        ("parity", "length"),
    ),  # 10, 20, 10 and 6; two are right
    "2+2": ("\\boxed{5}",) * 4,  # all wrong
    "3+3": ("\\boxed{5}",) * 4,
}
METAS = {
    "1+1": (
        '<meta>x</meta>{"math_notion": ["parity", "sums"], "pass_rate": 4, "solution_length": 15}',
        '<meta>y</meta>{"math_notion": ["by"], "pass_rate": 8, "solution_length": 21}',
    ),
    "2+2": ('{"pass_rate": 0, "solution_length": 9}', "nothing to parse"),
    "3+3": ('{"pass_rate": 0, "solution_length": 9}', "nothing to parse"),
}
PROBLEMS = [Problem(id="a", problem="1+1", answer="2"), Problem(id="b", problem="2+2", answer="4")]
META_LENGTHS = {name: [len(text) + 1 for text in METAS[name]] for name in ("1+1", "2+2")}


def script(kind, problem, index, call):
    return (SOLUTIONS if kind == "solution" else METAS)[problem][index]


@pytest.fixture
def masa(loop):
    """Makes the module of the example above."""

    def make(**settings):
        return loop.scripted(script, **({"num_generations": 4, "num_meta_generations": 2} | settings))

    return make


def by_problem(groups):
    return {g.problem.problem: g for g in groups}


# -- rewards and metrics by hand ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reason", "length"), [("stop", 42), ("length", None)])
def test_a_number_that_was_cut_is_no_prediction(reason, length):
    completion = Completion(token_ids=[1], logprobs=[0.0], finish_reason=reason)
    rollout = Rollout(kind="meta", prompt_ids=[1], completion=completion, text='{"pass_rate": 6, "solution_length": 42')
    group = RolloutGroup(problem=PROBLEMS[0], metas=[rollout])
    MetaScorer(Quantities(default_quantities(), budget=64)).read([group])
    assert (rollout.prediction.pass_rate, rollout.prediction.solution_length) == (6, length)


def test_meta_rewards_by_hand(loop, masa):
    groups = by_problem(loop.fit(masa(), loop.Problems(PROBLEMS)).groups[0])
    assert groups["1+1"].correct == [True, True, False, False]
    assert groups["1+1"].lengths == [10, 20, 10, 6]
    assert groups["2+2"].correct == [False] * 4
    first, second = groups["1+1"].metas
    # 15 is within 10..20; 4/8 is the pass rate; "parity" is in one right and one wrong solution, "sums" in none.
    assert first.rewards == {"length": 1.0, "difficulty": 1.0, "notion": 0.0}
    assert first.reward == pytest.approx(2 / 3)
    # 21 is not within; 8/8 is 1/2 too much; "by" is in one right solution.
    assert second.rewards == {"length": 0.0, "difficulty": pytest.approx(0.1), "notion": 1.0}
    assert second.reward == pytest.approx(1.1 / 3)
    third, fourth = groups["2+2"].metas
    assert third.rewards == {"length": 0.0, "difficulty": 1.0, "notion": 0.0}
    assert third.prediction.failures == {"math_notion": "missing_key"}
    assert fourth.rewards == {"length": 0.0, "difficulty": 0.0, "notion": 0.0}
    assert all(r.kind == "meta" for g in groups.values() for r in g.metas)


def test_advantages_are_those_of_problem_and_kind_alone(loop, masa):
    groups = by_problem(loop.fit(masa(), loop.Problems(PROBLEMS)).groups[0])
    a = 0.5 / math.sqrt(1 / 3)
    assert [r.advantage for r in groups["1+1"].solutions] == pytest.approx([a, a, -a, -a], rel=1e-5)
    assert [r.advantage for r in groups["2+2"].solutions] == [0.0] * 4
    b = math.sqrt(1 / 2)  # of any two different rewards
    assert [r.advantage for r in groups["1+1"].metas] == pytest.approx([b, -b], rel=1e-4)
    assert [r.advantage for r in groups["2+2"].metas] == pytest.approx([b, -b], rel=1e-4)


def test_advantages_scaled_by_the_batch_use_one_kind(loop, masa):
    algorithm = Algorithm(scale_rewards="batch")
    groups = by_problem(loop.fit(masa(algorithm=algorithm), loop.Problems(PROBLEMS)).groups[0])
    solution_deviation = torch.tensor([1.0, 1, 0, 0, 0, 0, 0, 0]).std().item()
    assert groups["1+1"].solutions[0].advantage == pytest.approx(0.5 / solution_deviation, rel=1e-5)
    meta_deviation = torch.tensor([2 / 3, 1.1 / 3, 1 / 3, 0]).std().item()
    assert groups["1+1"].metas[0].advantage == pytest.approx(0.15 / meta_deviation, rel=1e-5)
    assert groups["2+2"].metas[0].advantage == pytest.approx(1 / 6 / meta_deviation, rel=1e-5)


def test_parts_have_advantages_of_their_own(loop, masa):
    algorithm = Algorithm(multi_objective_aggregation="normalize_then_sum")
    groups = by_problem(loop.fit(masa(algorithm=algorithm), loop.Problems(PROBLEMS)).groups[0])
    a, b = 0.5 / math.sqrt(1 / 3), math.sqrt(1 / 2)
    assert [r.advantage for r in groups["1+1"].solutions] == pytest.approx([a, a, -a, -a], rel=1e-5)  # as ever
    # Of length and difficulty the first is the better, of notions the second; of the other problem difficulty alone differs.
    c = b / math.sqrt(3)
    assert [r.advantage for r in groups["1+1"].metas] == pytest.approx([c, -c], rel=1e-4)
    assert [r.advantage for r in groups["2+2"].metas] == pytest.approx([c, -c], rel=1e-4)


def test_values_have_advantages_of_their_own(loop, masa):
    seen = []

    def note(self, logp, batch):
        seen.extend(zip(batch.tokens.mask.sum(1).tolist(), batch.by_token.expand_as(logp).tolist(), strict=True))
        return torch.zeros_like(logp)

    per_value = type("PerValue", (MASALightningModule,), {"extra_loss": note})
    algorithm = Algorithm(multi_objective_aggregation="normalize_per_value")
    loop.fit(masa(algorithm=algorithm, kind=per_value), loop.Problems(PROBLEMS))
    by_length = {length: row[:length] for length, row in seen}
    text = METAS["1+1"][0]  # a character is a token
    c = math.sqrt(1 / 2) / math.sqrt(3)
    expected = [c] * (len(text) + 1)  # of length and difficulty it is the better of two, of notions the worse
    begin = text.index("[")
    expected[begin : text.index("]") + 1] = [-c] * len('["parity", "sums"]')
    assert by_length[len(text) + 1] == pytest.approx(expected, rel=1e-4)
    text = METAS["2+2"][0]  # of this problem difficulty alone differs, so that the value of length earns nothing
    expected = [c] * (len(text) + 1)
    expected[text.index("9")] = 0.0
    assert by_length[len(text) + 1] == pytest.approx(expected, rel=1e-4)
    assert by_length[len("nothing to parse") + 1] == pytest.approx([-c] * 17, rel=1e-4)
    a = 0.5 / math.sqrt(1 / 3)
    assert by_length[6] == pytest.approx([-a] * 6, rel=1e-5)


def test_metrics_by_hand(loop, masa):
    metrics = loop.fit(masa(), loop.Problems(PROBLEMS)).metrics[0]
    deviation = math.sqrt(1 / 3)
    meta_tokens = sum(META_LENGTHS["1+1"] + META_LENGTHS["2+2"])
    meta_deviations = [0.3 / math.sqrt(2), 1 / 3 / math.sqrt(2)]
    expected = {
        "reward": 0.25,
        "reward_std": deviation / 2,
        "frac_reward_zero_std": 0.5,
        "pass_rate": 0.25,
        "rewards/correct/mean": 0.25,
        "completions/mean_length": 86 / 8,
        "completions/clipped_ratio": 1 / 8,
        "completions/mean_terminated_length": 80 / 7,
        "completions/ungraded_ratio": 0,
        "tokens/prompt": 8 * 7,
        "tokens/solution": 86,
        "tokens/meta": meta_tokens,
        "tokens/meta_prompt": 4 * 7,
        "num_tokens": 12 * 7 + 86 + meta_tokens,
        "prompts/overlong": 0,
        "meta/reward": (2 / 3 + 1.1 / 3 + 1 / 3 + 0) / 4,
        "meta/reward_std": sum(meta_deviations) / 2,
        "meta/frac_reward_zero_std": 0,
        "meta/rewards/length/mean": 1 / 4,
        "meta/rewards/difficulty/mean": 2.1 / 4,
        "meta/rewards/notion/mean": 1 / 4,
        "meta/parse_rate": 1 / 2,
        "meta/failures/missing_key": 1 / 4,
        "meta/failures/no_json": 3 / 4,
        "meta/failures/bad_json": 0,
        "meta/failures/wrong_type": 0,
        "meta/failures/out_of_range": 0,
        "meta/completions/mean_length": meta_tokens / 4,
        "meta/completions/clipped_ratio": 0,
        # Predicted (1/2 + 1) / 2 and 0, actual 1/2 and 0.
        "calibration/pass_rate/count": 2,
        "calibration/pass_rate/mae": 0.125,
        "calibration/pass_rate/bias": 0.125,
        "calibration/pass_rate/pearson": 1,
        "calibration/pass_rate/spearman": 1,
        "calibration/pass_rate/brier": (2 * 0.25**2 + 2 * 0.75**2) / 8,
        "calibration/pass_rate/predicted_mean": 0.375,
        "calibration/pass_rate/actual_mean": 0.25,
        "calibration/pass_rate/predicted_std": 0.375,
        "calibration/pass_rate/within_std": 0.25,
        # Predicted (15 + 21) / 2, actual (10 + 20) / 2; the other problem has no right solution.
        "calibration/length/count": 1,
        "calibration/length/abs_rel_error": 0.2,
        "calibration/length/bias": 0.2,
        "calibration/length/in_range": 1,
        "calibration/length/predicted_mean": 18,
        "calibration/length/actual_mean": 15,
        "calibration/length/within_std": 3,
        "skipped_updates": 0,
    }
    assert {name: metrics.get(name) for name in expected} == pytest.approx(expected, rel=1e-5)
    phases = ("step", "sync", "generate", "grade", "meta_rewards", "update")
    assert all(metrics[f"timing_s/{phase}"] > 0 for phase in phases)


def test_policy_loss_by_hand(loop, masa):
    """At ratio 1 the loss is minus the mean advantage over the tokens of a kind."""
    algorithm = Algorithm(importance_sampling="off")
    module = masa(algorithm=algorithm, solution_weight=0.5, meta_weight=2.0)
    metrics = loop.fit(module, loop.Problems(PROBLEMS)).metrics[0]
    a, b = 0.5 / math.sqrt(1 / 3), math.sqrt(1 / 2)
    solution = -a * (10 + 20 - 10 - 6) / 86
    differences = [first - second for first, second in META_LENGTHS.values()]
    meta = -b * sum(differences) / sum(sum(lengths) for lengths in META_LENGTHS.values())
    assert metrics["policy_loss"] == pytest.approx(0.5 * solution + 2 * meta, rel=1e-4)
    assert metrics["grad_norm"] > 0


@pytest.mark.parametrize(
    ("settings", "rewards"),
    [
        ({"meta_reward_weights": {"length": 1.0, "difficulty": 3.0}}, [1.0, 0.075]),
        ({"meta_reward_weights": {"length": 0.0, "difficulty": 0.0, "notion": 2.0}}, [0.0, 1.0]),
        ({"difficulty_base": 0.25}, [2 / 3, 1.5 / 3]),
        ({"difficulty_scoring": "brier"}, [2 / 3, 1.75 / 3]),
        ({"pass_rate_scale": 16}, [(1 + 0.01**0.25) / 3, (0 + 1 + 1) / 3]),
        ({"pass_rate_scale": 4}, [(1 + 0.1) / 3, 1 / 3]),  # 4 of 4, and 8 is out of range
    ],
)
def test_reward_settings(loop, masa, settings, rewards):
    groups = by_problem(loop.fit(masa(**settings), loop.Problems(PROBLEMS)).groups[0])
    assert [r.reward for r in groups["1+1"].metas] == pytest.approx(rewards)


def test_a_removed_reward_part_is_not_logged(loop, masa):
    module = masa(meta_reward_weights={"length": 1.0, "difficulty": 1.0, "notion": 0.0})
    metrics = loop.fit(module, loop.Problems(PROBLEMS)).metrics[0]
    assert {name for name in metrics if name.startswith("meta/rewards/")} == {
        "meta/rewards/length/mean",
        "meta/rewards/difficulty/mean",
    }


def test_it_is_said_where_nothing_is_learned_from_predictions(loop):
    """Each problem gets the same prediction in all of its rollouts, ten steps in a row."""

    def alike(kind, problem, index, call):
        return SOLUTIONS["1+1"][index] if kind == "solution" else METAS["1+1"][1]

    module = loop.scripted(alike, num_generations=4, num_meta_generations=2)
    problems = [Problem(id=str(i), problem=f"{i}+1", answer="2") for i in range(40)]
    with pytest.warns(UserWarning, match="in 10 training steps in a row all predictions of a problem earned the same"):
        loop.fit(module, loop.Problems(problems, batch_size=4))


def test_notion_counting_by_rate(loop):
    """One of one right and one of three wrong solutions have it: 1 to 1 by count, 1 to 1/3 by rate."""
    solutions = ("sum \\boxed{2}", "sum \\boxed{0}", "\\boxed{0}", "\\boxed{0}")
    meta = '{"math_notion": ["sum"]}'

    def prepared(kind, problem, index, call):
        return solutions[index] if kind == "solution" else meta

    for counting, expected in (("count", 0.0), ("rate", 1.0)):
        module = loop.scripted(prepared, num_generations=4, notion_counting=counting)
        groups = loop.fit(module, loop.Problems(PROBLEMS[:1], batch_size=1)).groups[0]
        assert [r.rewards["notion"] for r in groups[0].metas] == [expected] * 2


def test_a_prediction_of_thousands_of_digits(loop):
    def prepared(kind, problem, index, call):
        digits = "9" * (90 if index else 17)
        return "\\boxed{2}" if kind == "solution" else f'{{"solution_length": {digits}}}'

    metrics = loop.fit(loop.scripted(prepared), loop.Problems(PROBLEMS[:1], batch_size=1)).metrics[0]
    assert metrics["calibration/length/predicted_mean"] == 1200  # ten times the budget
    assert metrics["meta/failures/out_of_range"] == 0.5


def test_predict_returns_predictions(loop, masa):
    """Lightning moves what `predict_step` returns to the CPU, and rebuilds every dataclass in it."""
    module = masa(evaluation=Evaluation(num_generations=4, num_meta_generations=2))
    (outputs,) = loop.trainer().predict(module, loop.Problems(0, validation=PROBLEMS))
    assert [[r.prediction.rate for r in g.metas] for g in outputs["groups"]] == [[0.5, 1.0], [0.0, None]]
    assert [g.solutions for g in outputs["groups"]] == [[], []]
    assert (outputs["left_out"], outputs["plain"]) == ([], [])


# -- one call, one update ----------------------------------------------------------------------------------------------


def test_both_kinds_in_one_call(loop):
    module = loop.module(max_completion_length=9, max_meta_length=5, pass_rate_scale=6)
    module.prompts = type(module.prompts)(
        solution="S:{problem}", meta="M:{problem},{pass_rate_scale},{max_completion_length}"
    )
    recorder = loop.fit(module, loop.Problems(4))
    assert len(module.sampler.calls) == 2
    for (requests, _), groups in zip(module.sampler.calls, recorder.groups, strict=True):
        prompts = [module.tokenizer.decode(r.prompt_ids) for r in requests]
        expected = []
        for g in groups:
            text = g.problem.problem
            expected += [f"<user>S:{text}<assistant>"] * 3 + [f"<user>M:{text},6,9<assistant>"] * 2
        assert prompts == expected
        assert [r.max_tokens for r in requests] == [9, 9, 9, 5, 5] * 2
        assert len({r.seed for r in requests}) == 10
        assert [(len(g.solutions), len(g.metas)) for g in groups] == [(3, 2)] * 2


class Walked(MASALightningModule):
    """Counts the calls of a step that come from another file into those of the LightningModules."""

    def training_step(self, batch, batch_idx):
        self.calls = Counter()
        sys.setprofile(self.count)
        try:
            return super().training_step(batch, batch_idx)
        finally:
            sys.setprofile(None)

    def count(self, frame, event, arg):
        file = Path(frame.f_code.co_filename)
        of_a_module = file.parent.name == "modules" and file.name in ("base.py", "grpo.py", "masa.py")
        if event == "call" and of_a_module and frame.f_back.f_code.co_filename != str(file):
            self.calls[frame.f_code.co_name] += 1


def test_a_step_enters_the_modules_as_often_with_more_problems(loop):
    found = []
    for problems in (2, 6):
        module = loop.module(Walked)
        loop.fit(module, loop.Problems(problems, batch_size=problems), max_steps=1)
        found.append(module.calls)
    assert found[0] == found[1]
    assert found[0]["training_step"] == 1


@pytest.mark.parametrize(("iterations", "mini_batches"), [(1, 1), (2, 2), (1, 3)])
@pytest.mark.parametrize("metas", [0, 5])
def test_as_many_optimizer_steps_with_and_without_metas(loop, metas, iterations, mini_batches):
    module = loop.module(num_meta_generations=metas, num_iterations=iterations, num_mini_batches=mini_batches)
    recorder = loop.fit(module, loop.Problems(4))
    assert len(recorder.rates) == 2 * iterations * mini_batches
    assert recorder.trainer.global_step == 2


def test_solutions_are_drawn_alike_with_and_without_metas(loop):
    calls = []
    for module in (loop.module(), loop.module(num_meta_generations=0), loop.module(GRPOLightningModule)):
        loop.fit(module, loop.Problems(2))
        (requests, _), *_ = module.sampler.calls
        calls.append([r for r in requests if module.tokenizer.decode(r.prompt_ids).startswith("<user>S")])
    assert calls[0] == calls[1] == calls[2]


class SGD(MASALightningModule):
    """Adam would make rounding errors of small gradients large."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("aggregation", ["token-mean", "seq-mean-token-sum-norm"])
def test_metas_of_weight_zero_leave_the_update_of_grpo(loop, masa, aggregation):
    def weights(**settings):
        module = loop.scripted(
            script, SGD, num_generations=4, algorithm=Algorithm(aggregation=aggregation), max_grad_norm=None, **settings
        )
        loop.fit(module, loop.Problems(PROBLEMS))
        return loop.weights(module)

    grpo, masa_without, masa_with = weights(num_meta_generations=0), weights(meta_weight=0.0), weights()
    for name, value in grpo.items():
        torch.testing.assert_close(masa_without[name], value, atol=1e-6, rtol=0, msg=name)
    assert max((masa_with[name] - value).abs().max() for name, value in grpo.items()) > 1e-4


def test_the_gradient_of_both_kinds_is_their_weighted_sum(loop):
    def move(**settings):
        module = loop.scripted(script, SGD, num_generations=4, max_grad_norm=None, **settings)
        loop.fit(module, loop.Problems(PROBLEMS))
        return {name: value - before[name] for name, value in loop.weights(module).items()}

    before = loop.weights()
    solution, meta = move(meta_weight=0.0), move(solution_weight=0.0)
    both = move(solution_weight=0.5, meta_weight=2.0)
    for name, value in both.items():
        torch.testing.assert_close(value, 0.5 * solution[name] + 2 * meta[name], atol=1e-6, rtol=1e-4, msg=name)


def test_without_metas_nothing_of_them_is_logged_in_training(loop):
    module = loop.module(num_meta_generations=0)
    metrics = loop.fit(module, loop.Problems(2)).metrics[0]
    assert metrics["tokens/meta"] == 0
    assert not any(name.startswith(("meta/", "calibration/")) for name in metrics)


# -- evaluation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["val", "test"])
def test_evaluation_by_hand(loop, masa, prefix):
    """Three problems in two batches: the metrics are over problems, not means over batches."""
    third = Problem(id="c", problem="3+3", answer="6")
    module = masa(
        evaluation=Evaluation(num_generations=4, num_meta_generations=2, pass_at=(2,)), num_meta_generations=0
    )
    trainer = loop.trainer()
    run = trainer.validate if prefix == "val" else trainer.test
    data = loop.Problems(0, validation=[PROBLEMS[1], third, PROBLEMS[0]])
    expected = {
        "pass@1": 0.5 / 3,
        "pass@2": (1 - 1 / 6) / 3,
        "meta/reward": (1 / 3 + 1 / 3 + 2 / 3 + 1.1 / 3) / 6,
        "meta/parse_rate": 1 / 3,
        "calibration/pass_rate/count": 3,
        "calibration/pass_rate/mae": 0.25 / 3,
        "calibration/pass_rate/actual_mean": 0.5 / 3,
        "calibration/length/count": 1,
        "calibration/length/abs_rel_error": 0.2,
    }
    for _ in range(2):  # the second run has forgotten the first
        (metrics,) = run(module, data, verbose=False)
        assert all(name.startswith(f"{prefix}/") for name in metrics)
        assert {name: metrics[f"{prefix}/{name}"] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_validation_inside_training_keeps_its_figures_apart(loop, masa):
    module = masa(evaluation=Evaluation(num_generations=4, num_meta_generations=1))
    recorder = loop.fit(module, loop.Problems(PROBLEMS, validation=PROBLEMS[:1]), max_epochs=2)
    validations = [m for _, m in recorder.logged if "val/pass@1" in m]
    assert len(validations) == len(recorder.metrics) == 2
    for training, validation in zip(recorder.metrics, validations, strict=True):
        assert training["calibration/pass_rate/count"] == 2
        assert validation["val/calibration/pass_rate/count"] == 1
        assert validation["val/pass@1"] == 0.5
        assert training["pass_rate"] == 0.25


# -- checkpoints -------------------------------------------------------------------------------------------------------

CLOCKS = ("timing_s/", "tokens_per_second")


def numbers(metrics):
    return {name: value for name, value in metrics.items() if not name.startswith(CLOCKS)}


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_resumed_run_equals_an_undisturbed_one(loop, tmp_path):
    """Four training steps of two optimiser steps, three an epoch; once in one go, once stopped after the second."""
    settings = {"num_mini_batches": 2, "num_iterations": 1, "warmup_steps": 5, "weight_decay": 0.1, "seed": None}
    algorithm = Algorithm(kl_coef=0.1)
    names = [f"{i}+{j}" for i in range(3) for j in range(2)]

    def run(steps, folder, checkpoint=None):
        module = loop.module(algorithm=algorithm, reward_functions=[length_reward], **settings)
        saver = ModelCheckpoint(dirpath=folder, every_n_train_steps=2, save_top_k=-1, filename="{step}")
        recorder = loop.Recorder()
        data = loop.Problems([Problem(id=n, problem=n, answer="1") for n in names], validation=2)
        trainer = loop.trainer(
            recorder, saver, max_steps=steps, max_epochs=-1, val_check_interval=1, enable_checkpointing=True
        )
        trainer.fit(module, data, ckpt_path=checkpoint)
        return module, trainer, recorder

    module, trainer, recorder = run(4, tmp_path / "whole")
    torch.rand(3)
    _, _, first = run(2, tmp_path / "parts")
    torch.rand(5)
    resumed, second_trainer, second = run(4, tmp_path / "parts", tmp_path / "parts" / "step=2.ckpt")

    for (name, expected), got in zip(module.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(got, expected), name
    assert any(
        not torch.equal(p, q) for p, q in zip(loop.weights().values(), loop.weights(module).values(), strict=True)
    )
    states = [list(t.optimizers[0].state.values()) for t in (trainer, second_trainer)]
    for expected, got in zip(*states, strict=True):
        assert all(torch.equal(got[key], expected[key]) for key in ("step", "exp_avg", "exp_avg_sq"))
    assert resumed.run_state.num_tokens == module.run_state.num_tokens
    assert resumed.run_state.rollout_steps == module.run_state.rollout_steps == 4
    assert [len(r.groups) for r in (recorder, first, second)] == [4, 2, 2]
    expected = {(step, name): value for step, m in recorder.logged for name, value in numbers(m).items()}
    got = {}
    for step, metrics in first.logged + second.logged:
        for name, value in numbers(metrics).items():
            assert same(got.setdefault((step, name), value), value), (step, name)  # logged twice: before and after
    assert got.keys() == expected.keys()
    assert {key for key in got if not same(got[key], expected[key])} == set()
    assert {step for step, _ in got} == {1, 2, 3, 4}


def length_reward(problem, completions):
    return [sum(map(ord, c)) % 7 / 7 for c in completions]


def same(a, b):
    return a == b or (math.isnan(a) and math.isnan(b))


def test_a_checkpoint_is_evaluated_with_its_own_weights(loop, masa, tmp_path):
    recorder = loop.fit(masa(), loop.Problems(PROBLEMS))
    recorder.trainer.save_checkpoint(tmp_path / "x.ckpt")
    module = masa(evaluation=Evaluation(num_generations=4, num_meta_generations=2))
    loop.trainer().validate(module, loop.Problems(0, validation=PROBLEMS), ckpt_path=tmp_path / "x.ckpt", verbose=False)
    trained = loop.weights(recorder.trainer.lightning_module)
    for name, value in loop.weights(module).items():
        assert torch.equal(value, trained[name])
    assert any(not torch.equal(value, trained[name]) for name, value in loop.weights().items())


# -- settings ----------------------------------------------------------------------------------------------------------


def test_building_loads_nothing(loop, monkeypatch):
    for name in ("load_config", "load_tokenizer", "load_model"):
        monkeypatch.setattr(loading, name, lambda *_, **__: pytest.fail("something was loaded"))
    module = loop.module(model="no/such-model")
    assert module.policy is None
    assert list(module.parameters()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_meta_generations": -1}, "num_meta_generations is -1; expected >= 0"),
        ({"max_meta_length": 9}, r"max_meta_length is 9; expected 1\.\.max_completion_length = 8"),
        ({"max_meta_length": -1}, "max_meta_length is -1"),
        ({"max_meta_length": 0}, "max_meta_length is 0"),
        ({"pass_rate_scale": 0}, r"^meta\.pass_rate_scale is 0; expected >= 1"),
        ({"difficulty_base": 1.0}, r"^meta\.difficulty_base is 1\.0; expected a value between 0 and 1"),
        ({"difficulty_base": 0.0}, r"^meta\.difficulty_base is 0\.0"),
        ({"meta_reward_weights": {"notions": 1.0}}, "there is no reward part 'notions'"),
        ({"meta_reward_weights": {"notion": 0.0}}, "no reward part has a positive weight"),
    ],
)
def test_bad_settings(loop, settings, message):
    with pytest.raises(ValueError, match=message):
        loop.module(**settings)
