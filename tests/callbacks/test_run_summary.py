"""What fit, validate and test leave on the screen, in real runs; what an interruption leaves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger

from masa_lightning.callbacks.run_summary import RunSummary, _paired, next_commands, savings
from masa_lightning.callbacks.validate_first import ValidateFirst
from masa_lightning.functional.intervals import mean_interval
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.modules.masa import MASALightningModule
from masa_lightning.sampling.transformers import TransformersSampler
from masa_lightning.types import Problem


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


def fit(
    loop: Any, module: Any, *callbacks: Callback, every: int = 2, ckpt_path: str | None = None, **settings: Any
) -> Any:
    saver = ModelCheckpoint(every_n_train_steps=every, save_last=True, save_top_k=0)
    trainer = loop.trainer(
        RunSummary(), *callbacks, saver, logger=CSVLogger("runs", "x", ""), enable_checkpointing=True, **settings
    )
    trainer.fit(module, loop.Problems(8, 4), ckpt_path=ckpt_path)
    return trainer


def narrow(text: str) -> str:
    assert all(len(line) <= 80 for line in text.splitlines()), text
    return text


def test_a_fit_ends_with_one_panel(loop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    module = loop.module()
    fit(loop, module, ValidateFirst(), max_steps=3)
    text = narrow(capsys.readouterr().out)
    assert "parameters, all trained, on cpu; files in runs/x" in text
    assert "3 training steps done" in text
    assert re.search(r"4 held-out problems +before +after +intervals", text)
    assert re.search(r"pass@1 +0\.\d{3} \[0\.\d{3}, 0\.\d{3}\] +0\.\d{3} \[0\.\d{3}, 0\.\d{3}\] *$", text, re.MULTILINE)
    first, last = (
        {i: r for _, i, r in v["pass_rates"]}
        for v in (module.run_state.first_validation, module.run_state.last_validation)
    )
    changes = [last[name] - first[name] for name in first]
    assert len(changes) == 4
    low, high = mean_interval(changes)
    interval = f" [{low:+.3f}, {high:+.3f}], " if low < high else "; all differ by as much"
    assert f"pass@1 of the same problems: {fmean(changes):+.3f}{interval}" in text
    assert re.search(r"runs/x/checkpoints/last.ckpt *$", text, re.MULTILINE)  # of the last step: it was of step 2
    assert (
        f"{sum(module.run_state.ledger[f'tokens/{kind}'] for kind in ('solution', 'meta')):,.0f} tokens generated"
        in text
    )
    # Its sampler is the test's own.
    assert [line for line in text.splitlines() if line.startswith("  masa ")] == ["  masa report runs/x"]


def test_a_module_without_rollouts_has_no_table_of_them(loop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """It was one of 0 problems, and nothing below."""
    trainer = loop.trainer(RunSummary())
    trainer.test(BoringModel(), verbose=False)
    trainer.validate(BoringModel(), verbose=False)
    assert "problems" not in capsys.readouterr().out


def test_a_validation_that_did_not_follow_the_last_step_is_not_called_after(loop: Any, capsys: Any) -> None:
    fit(loop, loop.module(), ValidateFirst(), max_steps=3, val_check_interval=2, check_val_every_n_epoch=None)
    assert re.search(r"before +after step 2 +intervals", capsys.readouterr().out)


def test_of_a_checkpoint_without_pass_rates_intervals_are_compared() -> None:
    """One of an earlier version."""
    assert _paired({"measured": "a"}, [("", "1", 0.5)]) == _paired(None, []) == []
    rates = [("", "1", 0.5), ("x", "1", 0.25)]
    assert _paired({"pass_rates": rates}, [("x", "1", 1.0), ("y", "1", 1.0)]) == [0.75]


class Ends(Callback):
    def __init__(self, error: BaseException, step: int = 3) -> None:
        self.error, self.step = error, step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise self.error


def test_a_failed_fit_says_what_is_kept(loop: Any, capsys: Any) -> None:
    with pytest.raises(RuntimeError, match="broken") as raised:
        fit(loop, loop.module(), Ends(RuntimeError("broken")))
    (note,) = raised.value.__notes__
    assert "ended after step 3.\nKept: runs/x/checkpoints/last.ckpt, of step 2" in note
    assert "--ckpt_path last" in note
    assert "Next:" not in capsys.readouterr().out


def test_a_failed_fit_without_a_checkpoint_says_so(loop: Any) -> None:
    with pytest.raises(RuntimeError, match="broken") as raised:
        fit(loop, loop.module(), Ends(RuntimeError("broken")), every=100)
    assert "No checkpoint was written" in raised.value.__notes__[0]


def test_an_interrupted_fit_says_what_is_kept_and_a_resumed_one_counts_on(loop: Any, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        fit(loop, loop.module(), Ends(KeyboardInterrupt()))
    text = capsys.readouterr().out
    assert "interrupted after step 3.\nKept: runs/x/checkpoints/last.ckpt, of step 2" in text
    resumed = fit(loop, loop.module(), max_steps=4, ckpt_path="last")
    assert "4 training steps done" in capsys.readouterr().out
    summary = next(c for c in resumed.callbacks if isinstance(c, RunSummary))
    assert summary.seconds > 0


def test_a_finished_run_that_is_gone_on_with_says_that_nothing_was_left(loop: Any, capsys: Any) -> None:
    fit(loop, loop.module(), max_steps=3)
    capsys.readouterr()
    fit(loop, loop.module(), max_steps=3, ckpt_path="runs/x/checkpoints/last.ckpt")
    text = capsys.readouterr().out
    assert "Nothing was left to do: the checkpoint has all that trainer.max_steps 3 asks for." in text
    assert re.search(r"^checkpoint +runs/x/checkpoints/last.ckpt *$", text, re.MULTILINE)  # it was "of step 0"


def test_a_run_whose_time_is_used_up_says_so(loop: Any, capsys: Any) -> None:
    fit(loop, loop.module(), max_steps=3, max_time="00:01:00:00")
    capsys.readouterr()
    fit(loop, loop.module(), max_steps=9, max_time={"microseconds": 1}, ckpt_path="runs/x/checkpoints/last.ckpt")
    assert "Nothing was left to do: trainer.max_time is used up" in capsys.readouterr().out


def test_an_interruption_while_a_checkpoint_is_written_names_the_one_before(loop: Any, capsys: Any) -> None:
    class Interrupts(Callback):
        def on_save_checkpoint(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 2:
                raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        fit(loop, loop.module(), Interrupts(), every=1)
    assert "interrupted after step 2.\nKept: runs/x/checkpoints/last.ckpt, of step 1" in capsys.readouterr().out


def test_an_error_before_the_first_step_is_left_alone(loop: Any) -> None:
    class Breaks(Callback):
        def on_train_start(self, *_: Any) -> None:
            raise RuntimeError("early")

    trainer = loop.trainer(Breaks(), RunSummary())
    with pytest.raises(RuntimeError, match="early") as raised:
        trainer.fit(loop.module(), loop.Problems(4, 4))
    assert not hasattr(raised.value, "__notes__")


def test_validate_compares_with_before_training(loop: Any, capsys: Any) -> None:
    module = loop.module()
    trainer = fit(loop, module, ValidateFirst(), max_steps=2)
    capsys.readouterr()
    trainer.validate(loop.module(), loop.Problems(8, 4), ckpt_path="runs/x/checkpoints/last.ckpt", verbose=False)
    text = narrow(capsys.readouterr().out)
    assert re.search(r"4 problems +before training +validate +intervals", text)
    assert "pass@1 of the same problems: " in text
    assert "All metrics, by name: runs/x" in text
    trainer.test(loop.module(), loop.Problems(8, 5), ckpt_path="runs/x/checkpoints/last.ckpt", verbose=False)
    text = narrow(capsys.readouterr().out)
    assert re.search(r"5 problems +test$", text, re.MULTILINE)  # others than those of the validation


def test_several_benchmarks_are_lines(loop: Any, capsys: Any) -> None:
    problems = [loop.problem(f"{n}+1", str(n + 1)) for n in range(6)]
    for n, problem in enumerate(problems):
        problem.source = f"set{n % 2}"
    trainer = loop.trainer(RunSummary())
    trainer.test(loop.module(), loop.Problems(4, problems), verbose=False)
    text = narrow(capsys.readouterr().out)
    assert re.search(r"^set0 +3 +[01]\.\d{3} \[", text, re.MULTILINE)
    assert re.search(r"^set1 +3 +[01]\.\d{3} \[", text, re.MULTILINE)


def test_savings() -> None:
    ledger = {"tokens/solution": 900.0, "tokens/saved_gating": 100.0, "tokens/saved_cutoff": 0.0}
    assert [*savings(ledger, {"controls/gating/lost_correct": 0.012}, {})] == [
        ("gating", "saved about 100 solution tokens (10.0%), lost 1.2% of the correct solutions; by its audits")
    ]
    assert [*savings({}, {}, {})] == []


def test_what_controls_in_shadow_mode_would_have_saved() -> None:
    ledger = {"tokens/solution": 900.0, "tokens/saved_gating": 0.0, "tokens/saved_cutoff": 0.0}
    seen = {
        "controls/gating/evidence": 3.0,
        "controls/gating/saved_tokens": 0.25,
        "controls/gating/lost_correct": 0.012,
    }
    said = "in shadow mode: would have saved 25.0% of the solution tokens of 7 steps"
    assert [*savings(ledger, seen, {"gating": 7})] == [("gating", f"{said} and lost 1.2% of the correct ones")]
    assert [*savings(ledger, seen | {"controls/gating/lost_correct": float("nan")}, {"gating": 7})] == [
        ("gating", said)
    ]
    none = {"controls/cutoff/evidence": 0.0, "controls/cutoff/saved_tokens": 0.0}
    assert [*savings(ledger, none, {"cutoff": 7})] == [
        ("cutoff", "in shadow mode: would have changed nothing in 7 steps")
    ]
    # One that acts, and has saved nothing that its audits know of, is not said to have been in shadow mode.
    assert [*savings(ledger, seen, {})] == []


class Own:
    """A reward of the user's own."""

    def __call__(self, problem: Problem, completions: Sequence[str]) -> Sequence[float]:
        return [0.0 for _ in completions]


PREDICT = ' --problem "Compute 354 mod 7."'


def commands(*configured: Any, kind: Any = MASALightningModule, **settings: Any) -> list[str]:
    """The commands behind a run into "my run"; `configured` is the datamodule that its config.yaml has, if it has one."""
    run = Path("my run")
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    for data in configured:
        (run / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    return next_commands(run, (run / "checkpoints/last.ckpt", True), kind("tiny", TransformersSampler(), **settings))


def test_commands_name_what_there_is() -> None:
    module = MASALightningModule("tiny", TransformersSampler())
    assert next_commands(None, None, module) == []
    assert next_commands(Path("my run"), None, module) == ["masa report 'my run'"]
    data = {"class_path": "masa_lightning.ArithmeticDataModule", "init_args": {}}
    run, report = "--ckpt_path 'my run'", "masa report 'my run'"
    ask = f"masa predict {run}{PREDICT}"
    file = "--data MathDataModule --data.test FILE"
    assert commands() == [f"masa test {run} {file}", ask, report]  # of a script
    assert commands(data) == [f"masa test {run}", ask, report]
    assert commands(data, kind=GRPOLightningModule) == [f"masa test {run}", report]
    assert (
        next_commands(Path("my run"), (Path("apart.ckpt"), True), module)[0]
        == f"masa test --ckpt_path apart.ckpt {file}"
    )


def test_commands_name_what_they_need() -> None:
    """Of the user's own: its configuration, or no words will do."""
    run, report, config = "--ckpt_path 'my run'", "masa report 'my run'", "--config 'my run/config.yaml'"
    ask, own = f"masa predict {run}{PREDICT}", {"reward_functions": [Own()]}
    assert commands(**own) == [ask, report]
    assert commands(grader=Scripted()) == [ask, report]
    data: dict[str, Any] = {"class_path": "masa_lightning.MathDataModule", "init_args": {"train": "a", "test": None}}
    assert commands(data) == [f"masa test {run} --data.test FILE", ask, report]
    assert commands(data, **own) == [f"masa test {run} {config} --data.test FILE", ask, report]
    data["class_path"] = "own.Data"
    assert commands(data) == [f"masa test {run} {config} --data.test FILE", ask, report]
    trusting = {"trust_remote_code": True}
    words = " --model.trust_remote_code true --model.model tiny"
    data = {"class_path": "masa_lightning.ArithmeticDataModule"}
    assert commands(data, **trusting) == [f"masa test {run}{words}", f"masa predict {run}{words}{PREDICT}", report]


class Scripted:
    """A grader of the user's own."""

    def grade(self, problems: Sequence[Problem], completions: Sequence[str], on_progress: Any = None) -> list[bool]:
        return [True for _ in completions]

    def close(self) -> None: ...


def test_a_run_that_is_gone_on_with_says_from_where(loop: Any, capsys: Any) -> None:
    fit(loop, loop.module(), max_steps=2)
    assert "going on from step" not in capsys.readouterr().out
    fit(loop, loop.module(), max_steps=3, ckpt_path="runs/x/checkpoints/last.ckpt")
    assert "going on from step 2: runs/x/checkpoints/last.ckpt\n" in capsys.readouterr().out
