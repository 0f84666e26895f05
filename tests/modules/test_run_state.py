"""What a run has counted, logged and validated: what goes into a checkpoint comes out of it."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.demos.boring_classes import BoringModel

from masa_lightning.modules.run_state import RunState, run_state

SAVED: dict[str, Any] = {
    "rollout_steps": 3,
    "num_tokens": 70,
    "ledger": {"tokens/solution": 60.0},
    "metrics": {"reward": 0.5, "epoch": 0.0},
    "expected_lengths": {"solution": 5.0},
    "reserve_taken": 2,
}


def test_a_checkpoint_has_it_under_the_names_of_its_format() -> None:
    """They are those of earlier versions; the two validations are in ``run``, and not there of a test's checkpoint."""
    validations = {"validation": {"rollout_steps": 3, "metrics": {"val/pass@1": 0.5, "reward": 0.1}}}
    state = RunState()
    state.load_state_dict(SAVED | {"run": validations, "steps": 3})
    assert state.state_dict() == SAVED
    assert (state.first_validation, state.last_validation) == (None, validations["validation"])
    assert state.last_logged() == {"val/pass@1": 0.5, "reward": 0.5, "epoch": 0.0}
    state.load_state_dict(SAVED)
    assert state.last_validation is None


def test_what_is_counted_changes_no_checkpoint_that_it_came_from() -> None:
    saved = SAVED | {"ledger": {"tokens/solution": 60.0}, "metrics": {}}
    state = RunState()
    state.load_state_dict(saved)
    kept = state.state_dict()
    state.note({"reward": 0.1})
    state.ledger["tokens/solution"] += 1
    assert kept == {name: saved[name] for name in kept} == SAVED | {"metrics": {}}
    state.count([])
    assert (state.rollout_steps, state.session_steps, state.metrics) == (4, 1, {})


def test_another_module_has_none() -> None:
    module = BoringModel()
    assert run_state(module).state_dict() == RunState().state_dict()
    module.run_state = "of its own"
    assert run_state(module).rollout_steps == 0
