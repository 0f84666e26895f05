"""Gating and cutoff by the rule "risk", and gating by history, in the loop on scripted rollouts."""

import pytest

from masa_lightning import EarlyCutoff, HistoryGating, PredictiveGating
from masa_lightning.functional.prompts import PromptTemplates
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.protocols import RolloutControl
from masa_lightning.types import Problem

# The script predicts the same in all rollouts of a problem.
pytestmark = pytest.mark.filterwarnings(
    "ignore:in .* training steps in a row all predictions of a problem earned the same"
)

PROMPTS = PromptTemplates(solution="S:{problem}", meta="M:{problem}", hint="{problem}+{notions}")
KINDS = ("lost", "easy", "open", "half")
RATES = {"lost": 0, "easy": 8, "open": 4, "half": 5}
PROBLEMS = [Problem(id=f"{kind}{i}", problem=f"{kind}{i}", answer="2") for i in range(4) for kind in KINDS]
LOOSE = {"max_lost_signal": 0.3, "max_lost_correct": 0.3, "confidence": 0.5}  # begins soon


def answer(kind, text, index, rates):
    name = text.rstrip("0123456789")
    if kind == "meta":
        return f'<meta>?</meta>{{"math_notion":["sum"],"pass_rate":{rates[name]},"solution_length":10}}'
    right = {"lost": False, "easy": True, "open": index % 2 == 0, "half": index > 0}[name]
    return ("x" * 40 if not right else "") + f"\\boxed{{{2 if right else 0}}}"  # 50 tokens with the end, or 10


@pytest.fixture
def run(loop):
    def run(*callbacks, epochs=12, kind=None, problems=PROBLEMS, answers=RATES, **settings):
        def script(kind, text, index, call):
            return answer(kind, text, index, answers)

        settings = {"num_generations": 4, "prompts": PROMPTS, "max_prompt_length": 40} | settings
        module = loop.scripted(script, *(() if kind is None else (kind,)), **settings)
        data = loop.Problems(problems, batch_size=len(problems))
        return loop.fit(module, data, *callbacks, max_epochs=epochs), module

    return run


def gated(groups):
    return {g.problem.id.rstrip("0123456789") for g in groups if g.gated}


def test_risk_gates_what_teaches_nothing_once_it_may(run):
    recorder, module = run(PredictiveGating(rule="risk", **LOOSE))
    by_step = [gated(groups) for groups in recorder.groups]
    assert by_step[0] == set()  # without start_step, and without a guess
    assert set().union(*by_step) == {"lost", "easy"}
    assert module.sampler.calls > 12  # and only then are predictions drawn first
    last = recorder.metrics[-1]
    assert 0 < last["controls/gating/audit_share"] < 1
    assert last["controls/gating/precision"] == 1
    assert last["controls/gating/held_back"] == 0
    bounds = [metrics["controls/gating/lost_signal_bound"] for metrics in recorder.metrics]
    assert bounds[-1] <= 0.3 < bounds[0]
    weights = {g.decisions["gating"].weight for groups in recorder.groups for g in groups if g.problem.id == "lost0"}
    assert max(weights) == pytest.approx(1 / last["controls/gating/audit_share"], rel=1) and 1.0 in weights


def test_in_shadow_mode_it_wants_and_does_not_act(run):
    recorder, module = run(PredictiveGating(mode="shadow", rule="risk", **LOOSE))
    assert not any(gated(groups) for groups in recorder.groups)
    assert any(g.decisions["gating"].wanted for g in recorder.groups[-1])
    assert module.sampler.calls == 12


def test_history_gates_without_predictions_from_the_second_epoch_on(run):
    history = HistoryGating(**LOOSE)
    recorder, _ = run(history, num_meta_generations=0)
    by_step = [gated(groups) for groups in recorder.groups]
    assert by_step[0] == set()
    assert set().union(*by_step) == {"lost", "easy"}
    known = [metrics["controls/history/known_share"] for metrics in recorder.metrics]
    assert known[:2] == [0, 1]
    assert all(0 < right + wrong <= 8 for right, wrong in history.past.values())  # 4 rollouts, and half of what was
    assert history.past["", "lost0"][0] == 0


def test_a_past_counts_beside_predictions(run):
    """All say 4 of 8, so predictions tell nothing apart; the past does."""
    blind, seeing = (PredictiveGating(rule="risk", history=history, **LOOSE) for history in (False, True))
    unsure = dict.fromkeys(RATES, 4)
    for gating, expected in ((blind, set()), (seeing, {"lost", "easy"})):
        recorder, _ = run(gating, answers=unsure)
        assert set().union(*(gated(groups) for groups in recorder.groups)) == expected
    known = [metrics["controls/gating/known_share"] for metrics in recorder.metrics]
    assert known[:2] == [0, 1]
    assert "controls/gating/known_share" not in run(blind, epochs=1)[0].metrics[0]
    again = PredictiveGating(rule="risk", history=True, **LOOSE)
    again.load_state_dict(blind.state_dict())  # a run that goes on with a past begins with none
    assert not again.past and blind.past is None
    again.load_state_dict(seeing.state_dict())
    assert again.past == seeing.past and list(again.past) == list(seeing.past) and len(again.past) == len(PROBLEMS)


def test_history_forgets_the_oldest(run):
    history = HistoryGating(mode="shadow", max_problems=3, discount=1.0)
    recorder, _ = run(history, epochs=2)
    assert [name for _, name in history.past] == [group.problem.id for group in recorder.groups[-1][-3:]]


def test_the_factor_of_the_cutoff_is_found(run):
    """Right solutions have 10 tokens, as predicted, and wrong ones 50: a factor of 1 loses nothing."""
    cutoff = EarlyCutoff(rule="risk", max_lost_correct=0.3, confidence=0.5)
    recorder, _ = run(cutoff, epochs=14)
    last = recorder.metrics[-1]
    assert last["controls/cutoff/factor"] == 1.0
    assert last["controls/cutoff/acted_share"] > 0
    assert last["controls/cutoff/lost_correct"] == 0
    assert recorder.metrics[0]["controls/cutoff/acted_share"] == 0
    assert all(g.token_limit in (None, 10) for groups in recorder.groups for g in groups)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PredictiveGating(rule="risk", **LOOSE),
        lambda: PredictiveGating(rule="risk", history=True, **LOOSE),
        lambda: HistoryGating(**LOOSE),
        lambda: EarlyCutoff(rule="risk", max_lost_correct=0.3, confidence=0.5),
    ],
)
def test_state_survives(run, make):
    control = make()
    run(control, epochs=6)
    other = make()
    other.load_state_dict(control.state_dict())
    assert repr(other.state_dict()) == repr(control.state_dict())  # NaN equals nothing
    assert other.acts(6) == control.acts(6)


def test_the_rule_can_be_changed_between_runs(run):
    fixed, risk = PredictiveGating(), PredictiveGating(rule="risk")
    run(fixed, epochs=1)
    risk.load_state_dict(fixed.state_dict())
    assert not risk.acts(100)  # nothing is granted yet
    fixed.load_state_dict(risk.state_dict())
    assert fixed.acts(100)


def test_history_is_a_control_of_masa_alone(run):
    assert isinstance(HistoryGating(), RolloutControl)
    with pytest.raises(
        TypeError, match="asked by a MASALightningModule alone, and the module is a GRPOLightningModule"
    ):
        run(HistoryGating(), kind=GRPOLightningModule)


@pytest.mark.parametrize(
    "make", [lambda: PredictiveGating(rule="risk"), lambda: EarlyCutoff(rule="risk"), HistoryGating]
)
def test_predict_has_no_audits(loop, make):
    with pytest.raises(ValueError, match=r"(and `masa predict` has none|and predict has seen none); expected"):
        make().setup(loop.trainer(), loop.module(), "predict")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PredictiveGating(rule="safe"), "rule is 'safe'; expected 'fixed' or 'risk'"),
        (
            lambda: PredictiveGating(rule="risk", margin=0.1),
            r"has margin = 0.1 and rule: risk, which finds it by itself",
        ),
        (lambda: PredictiveGating(rule="risk", audit_share=0.05), "has audit_share = 0.05 and rule: risk"),
        (lambda: EarlyCutoff(rule="risk", factor=2.0), "has factor = 2.0 and rule: risk"),
        (lambda: PredictiveGating(rule="risk", max_lost_signal=1.0), "max_lost_signal is 1.0"),
        (lambda: PredictiveGating(rule="risk", confidence=1.0), "confidence is 1.0"),
        (lambda: EarlyCutoff(rule="risk", confidence=0.0), "confidence is 0.0"),
        (lambda: PredictiveGating(history=True), "has history: true and rule: fixed, .* expected rule: risk"),
        (lambda: PredictiveGating(rule="risk", history="yes"), "history is 'yes'"),
        (lambda: HistoryGating(discount=1.5), "discount is 1.5"),
        (lambda: HistoryGating(max_problems=0), "max_problems is 0"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()
