"""A progress bar that moves inside a step: which phase, how far, how well, how fast."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

_SHOWN = {"pass_rate": "pass", "meta/reward": "meta", "calibration/pass_rate/pearson": "r"}
_MOST_BAR = 30  # characters
_BLOCKS = " ▏▎▍▌▋▊▉█"


class StepBar(Tqdm):
    """A line of tqdm's: steps done, the phase of the current one, the time left, metrics; never wider than the terminal.

    Where lines cannot be overwritten, in a pipe or a file, each is a line of its own.
    """

    def __init__(
        self, name: str, *, total: int | None = None, initial: int = 0, position: int = 0, **options: Any
    ) -> None:
        self.name = name
        """What is counted, in front of the numbers."""
        self.phase = ""
        self._drawn = initial  # steps, in a pipe
        self.metrics: Sequence[str] = ()
        """The first are kept where there is no room for all."""
        super().__init__(
            total=total, initial=initial, position=position, dynamic_ncols=True, file=sys.stdout, smoothing=0, **options
        )
        if not self.disable:
            # A terminal may not know its size, as that of a container: tqdm takes it for one without room.
            size: Any = vars(self)["dynamic_ncols"]
            self.dynamic_ncols: Any = lambda file: tuple(n if (n or 0) > 0 else None for n in size(file))
            self.ncols, self.nrows = self.dynamic_ncols(self.fp)
            self.refresh()

    def __str__(self) -> str:
        state = self.format_dict
        return line(
            self.name,
            self.n,
            self.total,
            initial=self.initial,
            seconds=state["elapsed"],
            phase=self.phase,
            metrics=self.metrics,
            columns=state["ncols"],
            blocks=" #" if state["ascii"] is True else _BLOCKS,
        )

    @property
    def overwrites(self) -> bool:
        """Whether a line can be drawn over the one before, in a terminal or a notebook that is."""
        return bool(sys.stdout.isatty()) or "ipykernel" in sys.modules

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Draws the line."""
        if self.overwrites:
            return bool(super().display(msg, pos))
        if msg is None and self.n > self._drawn:
            self._drawn = self.n
            print(self, file=sys.stdout, flush=True)
        return False

    def reset(self, total: float | None = None) -> None:
        """Starts again, for the next of several loaders."""
        self._drawn = 0
        super().reset(total)

    def close(self) -> None:
        """Leaves the last line, or removes it."""
        if not self.overwrites:
            self.leave = False  # or an empty line would follow
        super().close()

    def restart(self) -> None:
        """Starts the clock."""
        if not self.disable:
            self.start_t = self.last_print_t = self._time()


def line(
    name: str,
    done: int,
    total: int | None,
    *,
    initial: int = 0,
    seconds: float = 0.0,
    phase: str = "",
    metrics: Sequence[str] = (),
    columns: int | None = None,
    blocks: str = _BLOCKS,
) -> str:
    """Lays out a line of progress.

    Args:
        name: What is counted.
        done: Of them.
        total: How many there will be; None if nobody knows.
        initial: Those done before the clock was started.
        seconds: Since then.
        phase: Of the current one.
        metrics: What else to show; as many as there is room for.
        columns: Room; None is enough for all.
        blocks: What to draw a bar with, from empty to full.

    >>> line("step", 11, 44, seconds=60, phase="generate  50%", metrics=["pass 0.51", "22k tok/s"], columns=80)
    'step 11/44 generate  50% |█████               | 01:00<03:00 pass 0.51 22k tok/s'
    """
    head = " ".join(filter(None, [name, str(done) if total is None else f"{done}/{total}", phase]))
    clock = Tqdm.format_interval(seconds)
    if total is not None:
        rate = (done - initial) / seconds if seconds else 0.0
        clock += f"<{Tqdm.format_interval(max(total - done, 0) / rate) if rate else '?'}"
    text = [head, clock]
    for metric in metrics:
        if columns is not None and len(" ".join([*text, metric])) >= columns:
            break
        text.append(metric)
    room = (79 if columns is None else columns - 1) - len(" ".join(text)) - 3
    if total and room >= 3:
        width = min(room, _MOST_BAR)
        whole, part = divmod(round((len(blocks) - 1) * width * min(done / total, 1.0)), len(blocks) - 1)
        filled = blocks[-1] * whole + blocks[part].strip()
        text.insert(1, f"|{filled:<{width}}|")
    return " ".join(text)[:columns]


class RolloutProgressBar(TQDMProgressBar):
    """One bar over all training steps of a run, with the phase of the current step and metrics of the last; fits 80 columns.

    The metrics are the pass rate, the meta reward, the correlation r of predicted and actual pass rates, and tokens
    generated a second. The time left is by the speed of this session's steps, with the validations between them.

    Satisfies `protocols.PhaseListener`.

    Args:
        refresh_rate: Update at every how many batches; 0 shows nothing.
    """

    def __init__(self, refresh_rate: int = 1) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._begun = False  # the first training step of this session

    def on_phase_progress(self, phase: str, done: int, total: int) -> None:
        """Shows the phase; called by the module."""
        bar = self._bar()
        if bar is None or bar.disable:
            return
        bar.phase = f"{phase:<8s}" + (f" {100 * done // total:3d}%" if total else "     ")  # of one width
        if bar.overwrites:
            bar.update(0)  # redraws at most ten times a second, tqdm's own limit
            if done == total:
                bar.refresh()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The few metrics that are shown after the bar, without those that are NaN or infinite."""
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        shown = {label: _decimals(logged[n]) for n, label in _SHOWN.items() if math.isfinite(logged.get(n, math.nan))}
        speed = logged.get("tokens_per_second", math.nan)
        return shown | ({"tok/s": _short(speed)} if math.isfinite(speed) else {})

    # -- bars --------------------------------------------------------------------------------------------------------

    def init_train_tqdm(self) -> StepBar:
        """The bar of training, over the whole run."""
        total = _total(self.trainer)
        return StepBar("step", total=total, initial=self.trainer.global_step, disable=self.is_disabled, leave=True)

    def init_sanity_tqdm(self) -> StepBar:
        """The bar of the sanity check."""
        return StepBar("sanity check", disable=self.is_disabled, leave=False)

    def init_validation_tqdm(self) -> StepBar:
        """The bar of a validation, below that of training while there is one."""
        below = self._train_progress_bar is not None and not self._train_progress_bar.disable
        stays = self.trainer.state.fn == "validate"
        return StepBar("validate", position=int(below), disable=self.is_disabled, leave=stays)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Says which loader it is, if there are several."""
        super().on_validation_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        name = "sanity check" if trainer.sanity_checking else "validate"
        _name_loader(self.val_progress_bar, name, dataloader_idx, len(trainer.num_val_batches))

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Says which loader it is, if there are several."""
        super().on_test_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        _name_loader(self.test_progress_bar, "test", dataloader_idx, len(trainer.num_test_batches))

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Says which loader it is, if there are several."""
        super().on_predict_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        _name_loader(self.predict_progress_bar, "predict", dataloader_idx, len(trainer.num_predict_batches))

    def init_test_tqdm(self) -> StepBar:
        """The bar of a test."""
        return StepBar("test", disable=self.is_disabled, leave=True)

    def init_predict_tqdm(self) -> StepBar:
        """The bar of predictions."""
        return StepBar("predict", disable=self.is_disabled, leave=True)

    def _bar(self) -> StepBar | None:
        trainer = getattr(self, "_trainer", None)
        if trainer is None or not self.is_enabled:
            return None
        bar: Any = {
            "train": self._train_progress_bar,
            "validate": self._val_progress_bar,
            "sanity_check": self._val_progress_bar,
            "test": self._test_progress_bar,
            "predict": self._predict_progress_bar,
        }.get(str(getattr(trainer.state.stage, "value", "")))
        return bar if isinstance(bar, StepBar) else None

    # -- training: Lightning's hooks count batches of an epoch -------------------------------------------------------

    def on_train_start(self, *_: Any) -> None:
        """Begins the bar."""
        self._begun = False
        super().on_train_start()

    def on_train_epoch_start(self, *_: Any) -> None:
        """Does nothing: there is one bar for all epochs."""

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Says which epoch it is, if there are several; a run that is resumed inside one starts none."""
        bar = self.train_progress_bar
        assert isinstance(bar, StepBar)
        bar.total, bar.name = _total(trainer), epoch_name(trainer.current_epoch, _epochs(trainer))
        if not self._begun:  # the validation before the first step says nothing of the steps' speed
            self._begun = True
            bar.restart()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar, and shows the metrics of the step."""
        bar, step = self.train_progress_bar, trainer.global_step
        if not bar.disable and self._should_update(step, bar.total):
            bar.n = step
            self._show(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows the metrics."""
        self._show(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Removes the bar of the validation, and shows that of training again."""
        self.val_progress_bar.close()
        self.reset_dataloader_idx_tracker()
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._show(trainer, pl_module)

    def _show(self, trainer: Trainer, pl_module: LightningModule) -> None:
        bar = self.train_progress_bar
        if isinstance(bar, StepBar) and not bar.disable:
            metrics = self.get_metrics(trainer, pl_module)
            speed = metrics.pop("tok/s", None)
            bar.metrics = [*(f"{n} {value}" for n, value in metrics.items()), *([f"{speed} tok/s"] if speed else [])]
            bar.refresh()


def _name_loader(bar: Any, name: str, loader: int, loaders: int) -> None:
    if isinstance(bar, StepBar) and loaders > 1:
        bar.name = f"{name} {loader + 1}/{loaders}:"


def epoch_name(epoch: int, epochs: int | None) -> str:
    """Names what the bar counts.

    Args:
        epoch: The current one, from 0.
        epochs: How many there will be; None if nobody knows.

    >>> [epoch_name(0, 1), epoch_name(1, 3), epoch_name(4, None)]
    ['step', 'epoch 2/3', 'epoch 5, step']
    """
    if epochs == 1:
        return "step"
    return f"epoch {epoch + 1}, step" if epochs is None else f"epoch {epoch + 1}/{epochs}"


def _total(trainer: Trainer) -> int | None:
    """Training steps of the whole run."""
    limits = [trainer.max_steps] if trainer.max_steps >= 0 else []
    if trainer.max_epochs is not None and trainer.max_epochs >= 0 and math.isfinite(trainer.num_training_batches):
        limits.append(trainer.max_epochs * int(trainer.num_training_batches))
    return min(limits, default=None)


def _epochs(trainer: Trainer) -> int | None:
    """Epochs that are begun in the whole run."""
    total, batches = _total(trainer), trainer.num_training_batches
    if not math.isfinite(batches):  # one that never ends
        return 1
    return None if total is None else max(1, math.ceil(total / max(batches, 1)))


def _decimals(number: float) -> str:
    """Two, without a leading zero: .51, -.12, 1.00."""
    return f"{number:.2f}".replace("0.", ".", 1) if abs(number) < 0.995 else f"{number:.2f}"


def _short(number: float) -> str:
    """Three digits at most: 950, 9.5k, 22k."""
    if number < 999.5:
        return f"{number:.0f}"
    return f"{number / 1000:.1f}k" if number < 9950 else f"{number / 1000:.0f}k"
