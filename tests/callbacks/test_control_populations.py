"""What trains, and when a guard speaks, on simulated problems of known truth."""

import importlib
import math
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import pytest
from control_populations import Population, draw

from masa_lightning import EarlyCutoff, NotionHinting, PredictiveGating
from masa_lightning.functional.controls import ControlCounts, training_weights
from masa_lightning.functional.guards import LossGuard

ACTING = {"start_step": 0, "min_evidence": 10**9}
CONTROLS = {
    "gating": lambda: PredictiveGating(**ACTING),
    "cutoff": lambda: EarlyCutoff(**ACTING),
    "hinting": lambda: NotionHinting(**ACTING),
}
SUBSETS = list(chain.from_iterable(combinations(CONTROLS, n) for n in range(1, 4)))


@pytest.mark.parametrize("names", SUBSETS, ids="+".join)
def test_what_trains_has_the_distribution_of_all_problems(names):
    """Of all statistics; today's rule, every problem with true statistics alike, fails for the cutoff and for gating."""
    population = draw(np.random.default_rng(0), 4000)
    groups = population.step(*(CONTROLS[name]() for name in names))
    weights = np.array(training_weights(groups))
    trains = weights > 0
    statistics = {
        "log(actual / predicted)": np.log(population.lengths / population.predicted[:, None]).mean(1),
        "pass rate": population.correct.mean(1),
        "predicted pass rate": population.rates / 8,
    }
    assert weights.mean() == pytest.approx(trains.mean(), rel=0.15)  # the factor n / N, and 1 on average
    shifts = []
    for name, of_all in statistics.items():
        error = math.sqrt((weights**2 * (of_all - of_all.mean()) ** 2).sum()) / weights.sum()
        assert np.average(of_all, weights=weights) == pytest.approx(of_all.mean(), abs=3.5 * error), name
        alike = of_all[trains].std() / math.sqrt(trains.sum())
        shifts.append(abs(of_all[trains].mean() - of_all.mean()) / alike)
    assert (max(shifts) > 5) == (names != ("hinting",))  # so the population shows the fault


def test_audits_of_several_controls_are_of_the_same_problems():
    """With two draws of 5% one problem in 400 would train for all that gating and cutoff change."""
    population = draw(np.random.default_rng(0), 2000)
    groups = population.step(PredictiveGating(**ACTING), EarlyCutoff(**ACTING))
    audited = {name: {i for i, g in enumerate(groups) if g.decisions[name].weight > 1} for name in ("gating", "cutoff")}
    assert audited["gating"]
    both = [i for i in audited["gating"] if groups[i].decisions["cutoff"].share == groups[i].decisions["gating"].share]
    assert all(max(groups[i].lengths) <= 600 or i in audited["cutoff"] for i in both)
    assert max(g.weight for g in groups) == max(g.greatest_weight for g in groups) == 20


def predictor(weigh, steps=250, size=32, rate=0.03):
    """Mean prediction of a model that learns the mean log length of what trains, while it is cut at twice the prediction."""
    rng, cutoff = np.random.default_rng(1), EarlyCutoff(**ACTING)
    level, levels = math.log(300), []
    for step in range(steps):
        centre = rng.normal(math.log(300), 0.5, size)
        lengths = np.exp(centre[:, None] + rng.normal(0, 0.35, (size, 8))).round().clip(1, 9999).astype(int)
        predicted = np.full(size, max(1, round(math.exp(level))))
        correct = np.ones((size, 8), bool)
        groups = Population(np.full(size, 4), predicted, correct, lengths).step(cutoff, step=step)
        errors = np.log(lengths).mean(1) - level
        weights = weigh(groups)
        level += rate * float(weights @ errors) / max(1, np.count_nonzero(weights))
        levels.append(math.exp(level))
    return np.mean(levels[steps // 2 :])


def test_in_a_closed_loop_predictions_stay_where_they_are_right():
    alike = predictor(lambda groups: np.array([float(g.is_unbiased) for g in groups]))
    assert alike < 240  # what trained before: problems without a cut, each alike
    assert predictor(lambda groups: np.array(training_weights(groups))) == pytest.approx(300, rel=0.05)


# -- hints -------------------------------------------------------------------------------------------------------------


def test_hints_are_compared_within_what_both_sides_have(monkeypatch):
    """A hint that does nothing, and fits into the prompts of the hard problems alone; beside it gating and cutoff act."""
    population = draw(np.random.default_rng(3), 4000)
    population.hinted = None
    hinting = NotionHinting(**ACTING)
    controls = [hinting, PredictiveGating(**ACTING), EarlyCutoff(**ACTING)]
    settle = hinting.settle

    def without_room(groups):
        for group, correct in zip(groups, population.correct, strict=True):
            if correct.mean() > 0.5:  # as `Rollouter.hint` does where there is no room
                group.hint = group.withheld_hint = ()
        settle(groups)

    monkeypatch.setattr(hinting, "settle", without_room)
    metrics = hinting.metrics(population.step(*controls))
    assert metrics["controls/hinting/lift"] == pytest.approx(0, abs=0.03)
    assert metrics["controls/hinting/plain_pass_rate"] < 0.4


def test_what_is_never_solved_is_acted_on_by_the_gate_alone():
    population = draw(np.random.default_rng(0), 400)
    controls = [EarlyCutoff(**ACTING), NotionHinting(**ACTING), PredictiveGating(**ACTING)]
    groups = population.step(*controls)
    cutoff, hinting, gating = (control.metrics(groups)[f"controls/{control.name}/acted_share"] for control in controls)
    skipped = sum(g.gated for g in groups) / 400
    assert gating == skipped > 0.3
    assert cutoff == sum(g.token_limit is not None and not g.gated for g in groups) / 400 <= 1 - skipped
    assert hinting == sum(bool(g.hint) and not g.gated for g in groups) / 400


@pytest.mark.parametrize("names", [("gating", "cutoff"), ("cutoff", "gating")], ids="+".join)
def test_the_ledger_counts_what_is_saved_once(names):
    """Averaged over steps it is what was not generated, whichever controls act."""
    rng, controls = np.random.default_rng(5), [CONTROLS[name]() for name in names]
    not_generated = told = cost = 0.0
    for step in range(40):
        population = draw(rng, 100)
        groups = population.step(*controls, step=step)
        metrics = {name: value for control in controls for name, value in control.metrics(groups).items()}
        generated = sum(sum(g.lengths) for g in groups)
        not_generated += population.lengths.sum() - generated
        told += sum(metrics[f"tokens/saved_{name}"] for name in names)
        cost += sum(metrics[f"tokens/audit_{name}"] for name in names)
    assert told == pytest.approx(not_generated, rel=0.15)
    assert cost == pytest.approx(not_generated * 0.05 / 0.95, rel=0.15)


# -- the guard ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
        yield importlib.import_module("guards")


@pytest.mark.parametrize("name", CONTROLS)
def test_a_guard_speaks_in_time_and_not_by_chance(script, name):
    assert np.isfinite(script.held_back_at(name, 3.0, runs=4)).all()
    assert np.isinf(script.held_back_at(name, 0.5, runs=2)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTROLS)
def test_a_guard_keeps_what_the_documentation_says(script, name):
    assert np.isfinite(script.held_back_at(name, 0.5, runs=100, seed=1)).sum() < 1
    assert np.isfinite(script.held_back_at(name, 2.0, runs=100, seed=1)).sum() > 95


def hopeless(lost, right=64):
    """16 problems predicted hopeless with `lost` right rollouts, and 16 others with `right`."""
    correct = np.zeros((32, 8), bool)
    correct[:16].flat[:lost] = True
    correct[16:].flat[:right] = True
    return Population(np.repeat([0, 4], 16), np.full(32, 300), correct, np.full((32, 8), 50))


def metrics(control, population, step):
    return control.metrics(population.step(control, step=step))


def test_a_guard_lets_go_on_evidence_alone_and_keeps_its_figures():
    gating = PredictiveGating(start_step=0, max_lost_correct=0.2, min_evidence=1, audit_share=0.5, window=5)
    harmful, harmless = hopeless(48), hopeless(2)
    with pytest.warns(
        UserWarning, match=r"PredictiveGating loses more .* it only decides, .* until it is within the limit"
    ):
        for step in range(30):
            last = metrics(gating, harmful, step)
    assert gating.held_back
    assert not gating.acts(1000)
    assert last["controls/gating/lost_correct"] == pytest.approx(48 / 112)
    assert last["controls/gating/evidence"] == 5 * 16  # nothing was forgotten
    nothing = Population(*(each[:0] for each in (harmful.rates, harmful.predicted, harmful.correct, harmful.lengths)))
    for _ in range(3500):
        gating.metrics(nothing.groups)
    assert gating.held_back  # no evidence, no release
    for step in range(30, 40):
        metrics(gating, harmful, step)
    assert gating.held_back
    for step in range(40, 80):
        metrics(gating, harmless, step)
    assert not gating.held_back
    assert gating.acts(1000)


def test_in_shadow_mode_a_guard_says_so_and_forgets_nothing():
    gating = PredictiveGating(mode="shadow", max_lost_correct=0.2, min_evidence=1, window=50)
    with pytest.warns(UserWarning, match="in mode: act it would be held back"):
        for step in range(30):
            last = metrics(gating, hopeless(48), step)
    assert last["controls/gating/held_back"] == 1
    assert last["controls/gating/evidence"] == 30 * 16


def test_harmful_hints_are_not_given_again():
    hinting = NotionHinting(start_step=0, min_evidence=1, window=10)
    population = hopeless(48)
    population.hinted = np.zeros((32, 8), bool)
    with pytest.warns(
        UserWarning, match=r"NotionHinting loses more .* to the end of the run, as hints that are not given"
    ):
        for step in range(60):
            metrics(hinting, population, step)
    acted = [metrics(hinting, population, step)["controls/hinting/acted_share"] for step in range(60, 120)]
    assert set(acted) == {0.0}
    other = NotionHinting(max_lost_correct=0.5)
    other.load_state_dict(hinting.state_dict())  # another limit is another question
    assert not other.held_back


def test_old_states_are_taken_up():
    """Of a checkpoint before guards had a test."""
    window = [dict.fromkeys(ControlCounts.__slots__, 1.0)]
    gating = PredictiveGating()
    gating.load_state_dict({"held_back": True, "window": window})
    assert gating.held_back
    assert len(gating.window) == 1
    gating.load_state_dict({"held_back": False, "window": window})
    assert gating.guard == LossGuard()
    other = PredictiveGating()
    gating.guard.look([1.0, -1.0, 2.0], least=-1.0, greatest=4.0)
    other.load_state_dict(gating.state_dict())
    assert other.guard == gating.guard != LossGuard()
