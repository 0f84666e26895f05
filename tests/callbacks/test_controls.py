"""Gating, cutoff and hinting in the loop, on scripted rollouts."""

from itertools import combinations

import pytest

from masa_lightning import EarlyCutoff, ExpertSFT, NotionHinting, PassRate, PredictiveGating, SolutionLength
from masa_lightning.callbacks._control import PredictionControl
from masa_lightning.functional.controls import HintCounts
from masa_lightning.functional.prompts import PromptTemplates
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.protocols import RolloutControl
from masa_lightning.settings import Algorithm
from masa_lightning.types import Problem

# The script predicts the same in all rollouts of a problem.
pytestmark = pytest.mark.filterwarnings(
    "ignore:in .* training steps in a row all predictions of a problem earned the same"
)

PROBLEMS = [Problem(id=name, problem=name, answer="2") for name in ("lost", "easy", "open")]
RATES = {"lost": 0, "easy": 8, "open": 4}
RIGHT = {"lost": (), "easy": (0, 1, 2, 3), "open": (1,)}
PROMPTS = PromptTemplates(solution="S:{problem}", meta="M:{problem}", hint="{problem}+{notions}")


def solution(name, index):
    text = f"\\boxed{{{2 if index in RIGHT[name] else 0}}}"
    return "x" * 40 + text if (name, index) == ("open", 3) else text  # 50 tokens with the end, the others 10


def script(kind, text, index, call):
    name = text.partition("+")[0]
    if kind == "solution":
        return solution(name, index)
    return f'<meta>?</meta>{{"math_notion":["sum"],"pass_rate":{RATES[name]},"solution_length":10}}'


@pytest.fixture
def run(loop):
    """Fits the three problems in one batch a step, and returns recorder and module."""

    def run(*callbacks, kind=None, epochs=1, given=script, problems=PROBLEMS, **settings):
        make = loop.scripted if kind is None else lambda script, **s: loop.scripted(script, kind, **s)
        settings = {"num_generations": 4, "prompts": PROMPTS, "max_prompt_length": 40} | settings
        module = make(given, **settings)
        data = loop.Problems(problems, batch_size=len(problems))
        return loop.fit(module, data, *callbacks, max_epochs=epochs), module

    return run


def named(groups):
    return {g.problem.id: g for g in groups}


def acting(kind, **settings):
    return kind(**({"mode": "act", "start_step": 0, "audit_share": 1e-9, "min_evidence": 10**6} | settings))


# -- gating ------------------------------------------------------------------------------------------------------------


def test_gated_problems_have_no_solutions_and_teach_nothing(run):
    recorder, module = run(acting(PredictiveGating))
    assert module.sampler.calls == 2  # metas, then solutions of what is left
    groups = named(recorder.groups[0])
    assert [g.gated for g in map(groups.get, RATES)] == [True, True, False]
    assert [len(g.solutions) for g in map(groups.get, RATES)] == [0, 0, 4]
    assert [g.decisions["gating"].detail for g in map(groups.get, RATES)] == ["hopeless", "trivial", None]
    assert not groups["lost"].is_unbiased and not groups["easy"].is_unbiased
    assert groups["open"].weight == 1
    assert all(r.reward is None and r.advantage == 0 for r in groups["lost"].metas + groups["easy"].metas)
    assert all(r.reward is not None for r in groups["open"].metas)
    metrics = recorder.metrics[0]
    assert metrics["controls/gating/acted_share"] == pytest.approx(2 / 3)
    assert metrics["controls/gating/hopeless_share"] == pytest.approx(1 / 3)
    assert metrics["controls/gating/trivial_share"] == pytest.approx(1 / 3)
    assert metrics["controls/unbiased_share"] == pytest.approx(1 / 3)
    assert metrics["tokens/solution"] == 3 * 10 + 50
    assert metrics["calibration/pass_rate/count"] == 1


def test_before_its_step_and_in_shadow_mode_it_only_decides(run):
    later = PredictiveGating(start_step=1)
    recorder, module = run(later, epochs=2)
    assert module.sampler.calls == 3
    assert [named(groups)["lost"].gated for groups in recorder.groups] == [False, True]
    recorder, module = run(PredictiveGating(mode="shadow", start_step=0))
    assert module.sampler.calls == 1
    groups = named(recorder.groups[0])
    assert groups["lost"].decisions["gating"].wanted
    assert not groups["lost"].decisions["gating"].acted
    metrics = recorder.metrics[0]
    expected = {"precision": 1.0, "recall": 1.0, "f1": 1.0, "share": 2 / 3, "lost_correct": 0.0}
    expected |= {"saved_tokens": 80 / (80 + 80), "acted_share": 0.0, "evidence": 2, "held_back": 0}
    assert {name: metrics[f"controls/gating/{name}"] for name in expected} == pytest.approx(expected)
    assert metrics["tokens/saved_gating"] == metrics["tokens/audit_gating"] == 0
    assert metrics["controls/unbiased_share"] == 1


def test_an_audited_problem_is_solved_and_stands_for_others(run):
    gating = PredictiveGating(start_step=0, audit_share=0.5, window=1000, min_evidence=10**6)
    recorder, _ = run(gating, epochs=40)
    lost = [named(groups)["lost"] for groups in recorder.groups]
    weights = [group.weight if group.is_unbiased else None for group in lost]
    assert set(weights) == {2.0, None}
    audited = [i for i, weight in enumerate(weights) if weight]
    assert 10 <= len(audited) <= 30
    group = named(recorder.groups[audited[0]])["lost"]
    assert len(group.solutions) == 4
    assert all(r.reward is not None for r in group.metas)
    last = recorder.metrics[-1]
    assert last["controls/gating/precision"] == 1.0
    assert last["controls/gating/share"] == pytest.approx(2 / 3, abs=0.12)
    # The ledger: what the audits say was saved is what was saved, on average; each problem takes 4 x 10 tokens.
    skipped = sum(40 * g.gated for groups in recorder.groups for g in groups)
    assert last["tokens_total/saved_gating"] == pytest.approx(skipped, rel=0.35)
    solved = sum(40 for groups in recorder.groups for g in groups if g.decisions["gating"].weight == 2)
    assert last["tokens_total/audit_gating"] == solved


def test_lost_correct_rollouts_are_of_the_hopeless_alone(run):
    def wrong(kind, text, index, call):
        return (
            script("solution", {"lost": "open", "easy": "easy", "open": "easy"}[text], index, call)
            if (kind == "solution")
            else script(kind, text, index, call)
        )

    recorder, _ = run(PredictiveGating(mode="shadow"), given=wrong)
    metrics = recorder.metrics[0]
    assert metrics["controls/gating/lost_correct"] == pytest.approx(1 / 9)
    assert metrics["controls/gating/precision"] == 0.5
    assert metrics["controls/gating/recall"] == 0.5


# -- cutoff ------------------------------------------------------------------------------------------------------------


def limits(loop, *callbacks, **settings):
    module = loop.module(sampler=loop.Spy(), num_generations=4, **settings)
    loop.fit(module, loop.Problems(2), *callbacks)
    return [[r.max_tokens for r in requests] for requests, _ in module.sampler.calls]


class Cut(EarlyCutoff):
    """Predicts for itself: the tiny random model predicts nothing."""

    def wants(self, group, budget):
        return 3


def test_the_limit_goes_to_the_sampler(loop):
    assert limits(loop) == [[8, 8, 8, 8, 8, 8] * 2]
    assert limits(loop, acting(Cut)) == [[8] * 4, [3] * 8]
    assert limits(loop, Cut(mode="shadow")) == [[8, 8, 8, 8, 8, 8] * 2]


def test_a_cut_rollout_is_wrong_and_its_problem_has_no_true_statistics(loop):
    cutoff = acting(Cut)
    module = loop.module(sampler=loop.Spy(), num_generations=4, max_completion_length=8)
    recorder = loop.fit(module, loop.Problems(6), cutoff, max_epochs=3)
    groups = [g for step in recorder.groups for g in step]
    cut = [g for g in groups if any(r.completion.finish_reason == "length" for r in g.solutions)]
    assert cut
    assert not any(g.is_unbiased for g in cut)
    assert all(r.reward is None for g in cut for r in g.metas)
    assert all(g.weight == 1 for g in groups if g not in cut)
    assert all(r.length <= 3 for g in groups for r in g.solutions)


def test_cutoff_figures_by_hand(run):
    """Limit 20: one rollout of "open" has 50 tokens and is wrong."""
    recorder, _ = run(EarlyCutoff(mode="shadow"))
    metrics = recorder.metrics[0]
    expected = {"precision": 1.0, "recall": 1 / 7, "f1": 2 / 8, "share": 1 / 12, "lost_correct": 0.0}
    expected |= {"saved_tokens": 30 / (11 * 10 + 50), "evidence": 1}
    assert {name: metrics[f"controls/cutoff/{name}"] for name in expected} == pytest.approx(expected)


def test_an_audit_without_a_cut_stands_for_itself(run):
    recorder, _ = run(EarlyCutoff(start_step=0, audit_share=1 - 1e-9, min_evidence=10**6))
    groups = named(recorder.groups[0])
    assert {name: group.weight for name, group in groups.items()} == pytest.approx({"lost": 1, "easy": 1, "open": 1})
    recorder, _ = run(EarlyCutoff(start_step=0, audit_share=1 - 1e-9, factor=0.5, min_evidence=10**6))
    assert named(recorder.groups[0])["easy"].decisions["cutoff"].weight > 1  # all of 10 tokens pass the limit 5


def test_a_rollout_that_is_right_when_cut_is_not_lost(run):
    """Two of three right rollouts pass the limit of 20 tokens: one boxed its answer before, and one behind it."""
    ends = {
        0: "\\boxed{2}. Wait, let me check" + "x" * 40,
        1: "x" * 40 + "\\boxed{2}",
        2: "\\boxed{2}",
        3: "\\boxed{0}",
    }

    def given(kind, text, index, call):
        return ends[index] if kind == "solution" else script(kind, text, index, call)

    recorder, _ = run(EarlyCutoff(mode="shadow"), given=given, problems=PROBLEMS[:1])
    metrics, (group,) = recorder.metrics[0], recorder.groups[0]
    assert [r.correct_when_cut for r in group.solutions] == [True, False, None, None]
    assert metrics["controls/cutoff/lost_correct"] == pytest.approx(1 / 3)
    assert metrics["controls/cutoff/precision"] == 0.5
    recorder, _ = run(acting(EarlyCutoff), given=given, problems=PROBLEMS[:1])
    assert [r.correct for r in recorder.groups[0][0].solutions] == [True, False, True, False]


# -- hinting -----------------------------------------------------------------------------------------------------------


def test_hinted_problems_are_solved_with_the_hint_and_trained_on_with_it(run, loop):
    def helped(kind, text, index, call):
        return "\\boxed{2}" if "+sum" in text else script(kind, text, index, call)

    hinting = NotionHinting(start_step=0, min_evidence=10**6)
    recorder, module = run(hinting, given=helped, epochs=20)
    groups = [g for step in recorder.groups for g in step]
    hinted = [g for g in groups if g.hint]
    assert 20 <= len(hinted) <= 40
    for group in groups:
        prompt = f"<user>S:{group.problem.problem}{'+sum' if group.hint else ''}<assistant>"
        assert {module.tokenizer.decode(r.prompt_ids) for r in group.solutions} == {prompt}
        assert (group.is_unbiased, group.weight) == ((False, 1) if group.hint else (True, 2))
        assert all((r.reward is None) == bool(group.hint) for r in group.metas)
        assert all(r.reward is not None for r in group.solutions)
    metrics = recorder.metrics[-1]
    assert metrics["controls/hinting/hinted_pass_rate"] == 1
    assert metrics["controls/hinting/plain_pass_rate"] == pytest.approx(5 / 12, abs=0.2)
    assert metrics["controls/hinting/lift"] == pytest.approx(1 - metrics["controls/hinting/plain_pass_rate"])


@pytest.mark.parametrize("others", ['"other{}"', "nothing that can be read"])
@pytest.mark.parametrize(
    ("settings", "count", "given"),
    [({}, 2, False), ({}, 3, True), ({"min_agreement": 0.49}, 2, True), ({"min_agreement": 0.0}, 1, True)],
)
def test_a_notion_that_half_of_the_predictions_name_is_no_hint(run, settings, count, given, others):
    def divided(kind, text, index, call):
        said = script(kind, text, index, call)
        return said.replace('"sum"', others.format(index)) if kind == "meta" and index >= count else said

    hinting = NotionHinting(start_step=0, max_notions=1, **settings)
    recorder, _ = run(hinting, given=divided, epochs=4, num_meta_generations=4)
    groups = [g for step in recorder.groups for g in step]
    assert all(g.decisions["hinting"].wanted is given for g in groups)
    assert {*(g.hint or g.withheld_hint for g in groups)} == {("sum",) if given else ()}


def test_what_is_known_of_other_hints_is_not_taken_up():
    """A run that began with another `min_agreement`, or before there was one."""
    window = [dict.fromkeys(HintCounts.__slots__, 1.0)]
    strict, loose = NotionHinting(), NotionHinting(min_agreement=0.0)
    strict.guard.begin(held_back=True)
    state = strict.state_dict() | {"window": window}
    loose.load_state_dict(state)
    assert (loose.held_back, len(loose.window)) == (False, 0)
    again = NotionHinting()
    again.load_state_dict(state)
    assert (again.held_back, len(again.window)) == (True, 1)
    del state["min_agreement"]
    again.load_state_dict(state)
    assert (again.held_back, len(again.window)) == (False, 0)
    loose.load_state_dict(state)
    assert (loose.held_back, len(loose.window)) == (True, 1)


def test_a_hint_without_room_is_none(run):
    recorder, _ = run(NotionHinting(start_step=0, probability=0.5), max_prompt_length=8, epochs=4)
    groups = [g for step in recorder.groups for g in step]
    assert not any(g.hint or g.withheld_hint or g.decisions["hinting"].wanted for g in groups)
    assert all(g.weight == 1 for g in groups)
    assert recorder.metrics[0]["controls/hinting/acted_share"] == 0


def test_experts_are_found_where_notions_have_no_weight(run):
    """Nobody was ever cloned."""
    recorder, _ = run(ExpertSFT(batch_size=1), meta_reward_weights={"length": 1, "difficulty": 1, "notion": 0})
    assert recorder.metrics[0]["sft/examples"] == 2


def test_fewer_predictions_while_controls_act(run):
    recorder, _ = run(PredictiveGating(start_step=1), epochs=3, num_meta_generations=4, num_acting_meta_generations=2)
    assert [[len(g.metas) for g in groups] for groups in recorder.groups] == [[4] * 3, [2] * 3, [2] * 3]
    recorder, _ = run(acting(PredictiveGating), num_meta_generations=4)
    assert [len(g.metas) for g in recorder.groups[0]] == [4] * 3


def test_an_audited_problem_trains_for_those_that_it_stands_for(run):
    def given(kind, text, index, call):
        rate = RATES[text] + (index and (1 if RATES[text] < 8 else -1))
        return (
            script(kind, text, index, call).replace(f'rate":{RATES[text]}', f'rate":{rate}')
            if kind == "meta"
            else (script(kind, text, index, call))
        )

    def advantages(*callbacks, epochs=1):
        recorder, _ = run(*callbacks, given=given, epochs=epochs)
        return [{g.problem.id: [abs(r.advantage) for r in g.metas] for g in groups} for groups in recorder.groups]

    (plain,) = advantages()
    assert all(map(any, plain.values()))
    (shadow,) = advantages(PredictiveGating(mode="shadow"))
    assert shadow == plain
    gating = PredictiveGating(start_step=0, audit_share=0.5, min_evidence=10**6, max_std=1)
    for step in advantages(gating, epochs=6):
        audited = [name for name in ("lost", "easy") if any(step[name])]
        share = (1 + len(audited)) / 3
        assert step["open"] == pytest.approx([share * each for each in plain["open"]])
        for name in audited:
            assert step[name] == pytest.approx([2 * share * each for each in plain[name]])


def test_validation_is_never_controlled(loop):
    def mixed(kind, text, index, call):
        return script(kind, text, index, call)

    module = loop.scripted(mixed, prompts=PROMPTS, max_prompt_length=40, num_generations=4)
    data = loop.Problems(PROBLEMS, validation=PROBLEMS, batch_size=3)
    recorder = loop.fit(module, data, acting(PredictiveGating), NotionHinting(start_step=0))
    validation = next(metrics for _, metrics in recorder.logged if "val/pass@1" in metrics)
    assert validation["val/pass@1"] > 0
    assert not any("controls" in name for name in validation)


# -- the guard, state, composition -------------------------------------------------------------------------------------


def test_the_guard_takes_a_harmful_control_back(run):
    """The hopeless problem is solved from the third step on, and nothing may be lost: the first audit shows it."""

    def changing(kind, text, index, call):
        return "\\boxed{2}" if (kind, text) == ("solution", "lost") and call >= 4 else script(kind, text, index, call)

    gating = PredictiveGating(start_step=0, audit_share=0.5, window=4, min_evidence=1, max_lost_correct=0.0)
    with pytest.warns(UserWarning, match=r"PredictiveGating loses .* it only decides, as in shadow mode, until it is"):
        recorder, _ = run(gating, epochs=12, given=changing)
    held = [metrics["controls/gating/held_back"] for metrics in recorder.metrics]
    assert held[:3] == [0, 0, 0]
    assert held[-1] == 1
    acted = [metrics["controls/gating/acted_share"] for metrics in recorder.metrics]
    assert all(share == 0 for share, back in zip(acted, held, strict=True) if back)


def test_state_survives(run):
    gating, cutoff, hinting = (kind(start_step=0) for kind in (PredictiveGating, EarlyCutoff, NotionHinting))
    run(gating, cutoff, hinting, epochs=3)
    gating.guard.begin(held_back=True)
    for control in (gating, cutoff, hinting):
        other = type(control)()
        other.load_state_dict(control.state_dict())
        assert other.state_dict() == control.state_dict()
        assert other.held_back == control.held_back
        assert len(other.window) == 3


CONTROLS = (PredictiveGating, EarlyCutoff, NotionHinting)


SUBSETS = [(kinds, clone) for n in range(4) for kinds in combinations(CONTROLS, n) for clone in (False, True)]


@pytest.mark.parametrize(("kinds", "clone"), SUBSETS)
def test_every_subset_trains(run, kinds, clone):
    experts = [ExpertSFT(batch_size=1)] if clone else []
    callbacks = [*(kind(start_step=1) for kind in kinds), *experts]
    recorder, module = run(*callbacks, epochs=3, min_expert_reward=0.0)
    assert module.sampler.calls == (5 if kinds else 3)
    assert (recorder.metrics[0].get("sft/examples", 0) > 0) == clone
    for metrics in recorder.metrics:
        assert metrics["skipped_updates"] == 0
        assert {name.split("/")[1] for name in metrics if name.startswith("controls/")} - {"unbiased_share"} == {
            kind.name for kind in kinds
        }


def test_acting_without_wanting_equals_not_acting(loop):
    """Predictions of a random model do not parse: the phases are apart, and all the same tokens are drawn."""

    def weights(*callbacks):
        module = loop.module(num_generations=4)
        loop.fit(module, loop.Problems(6), *callbacks)
        return loop.weights(module)

    plain = weights()
    assert not loop.changed(plain, weights(*(acting(kind) for kind in (PredictiveGating, EarlyCutoff))))
    assert not loop.changed(plain, weights(PredictiveGating(mode="off"), EarlyCutoff(mode="shadow")))


def test_when_everything_is_gated_the_step_changes_nothing(run, loop):
    recorder, module = run(acting(PredictiveGating), problems=PROBLEMS[:2], num_mini_batches=2)
    assert not loop.changed(loop.weights(), loop.weights(module))
    assert recorder.trainer.global_step == 1
    (schedule,) = (config.scheduler for config in recorder.trainer.lr_scheduler_configs)
    assert schedule.last_epoch == 2  # it goes on as it would have
    assert recorder.metrics[0]["tokens/solution"] == 0
    other, _ = run(
        problems=PROBLEMS[:2]
    )  # a step says the same, whatever there is to say: Lightning repeats the missing
    names = {name for name in recorder.metrics[0] if not name.startswith(("controls/", "tokens"))}
    assert names == {name for name in other.metrics[0] if not name.startswith("tokens")}


def test_with_dynamic_sampling_the_places_of_gated_problems_are_refilled(loop):
    problems = [*PROBLEMS[:2], *(Problem(id=f"open{i}", problem=f"open{i}", answer="2") for i in range(4))]

    def given(kind, text, index, call):
        return script(kind, text.rstrip("0123456789"), index, call)

    settings = {"num_generations": 4, "prompts": PROMPTS, "max_prompt_length": 40}
    module = loop.scripted(given, algorithm=Algorithm(dynamic_sampling=True, max_refills=2), **settings)
    recorder = loop.fit(module, loop.Problems(problems, batch_size=2), acting(PredictiveGating), max_steps=1)
    groups, metrics = recorder.groups[0], recorder.metrics[0]
    is_gated = [not g.problem.id.startswith("open") for g in groups]
    assert any(is_gated[:2])
    assert [g.gated for g in groups] == is_gated
    assert [len(g.solutions) for g in groups] == [0 if gated else 4 for gated in is_gated]
    assert is_gated.count(False) == 2  # the places of the batch are filled
    assert metrics["prompts/refilled"] == len(groups) - 2 > 0


@pytest.mark.parametrize("kind", CONTROLS)
def test_they_are_controls_and_need_predictions(loop, run, kind):
    assert issubclass(kind, PredictionControl)
    assert isinstance(kind(), RolloutControl)
    with pytest.raises(TypeError, match="GRPOLightningModule makes none; expected a MASALightningModule"):
        run(kind(), kind=GRPOLightningModule)
    with pytest.raises(ValueError, match="num_meta_generations is 0"):
        run(kind(), num_meta_generations=0)
    run(kind(mode="off"), num_meta_generations=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PredictiveGating(mode="on"), "mode is 'on'; expected 'off', 'shadow' or 'act'"),
        (lambda: PredictiveGating(start_step=-1), "start_step is -1"),
        (lambda: PredictiveGating(audit_share=0.0), "audit_share is 0.0"),
        (lambda: PredictiveGating(max_lost_correct=2.0), "max_lost_correct is 2.0"),
        (lambda: PredictiveGating(window=0), "window is 0"),
        (lambda: PredictiveGating(min_evidence=0), "min_evidence is 0"),
        (lambda: PredictiveGating(max_std=0), "max_std is 0"),
        (lambda: PredictiveGating(margin=0.5), "margin is 0.5"),
        (lambda: PredictiveGating(min_predictions=0), "min_predictions is 0"),
        (lambda: EarlyCutoff(factor=0), "factor is 0"),
        (lambda: NotionHinting(probability=1.0), "probability is 1.0"),
        (lambda: NotionHinting(max_notions=0), "max_notions is 0"),
        (lambda: NotionHinting(min_agreement=1.0), "min_agreement is 1.0"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("control", "quantities", "reads"),
    [
        (PredictiveGating, [SolutionLength()], "pass_rate"),
        (EarlyCutoff, [PassRate()], "solution_length"),
        (NotionHinting, [PassRate(), SolutionLength()], "notions"),
    ],
)
@pytest.mark.parametrize("stage", ["fit", "predict"])
def test_what_is_not_predicted_decides_nothing(loop, control, quantities, reads, stage):
    prompts = PromptTemplates(solution="S:{problem}", meta="{problem} {quantities} {json}")
    module = loop.module(quantities=quantities, prompts=prompts)
    with pytest.raises(ValueError, match=f"decides by the predicted {reads}, and the module's quantities are "):
        control().setup(loop.trainer(), module, stage)
    control(mode="off").setup(loop.trainer(), module, stage)
