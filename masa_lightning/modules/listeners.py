"""Callbacks of a trainer that a module asks, and those that it tells how far a phase of a step is."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer

from masa_lightning.protocols import PhaseListener, PhaseProgress, ProgressFn


def callbacks_of(trainer: Trainer, protocol: Any) -> list[Any]:
    """The callbacks of a trainer that satisfy a protocol, in their order.

    By class: an object that answers to any name, such as Lightning's `DummyLogger`, satisfies none.
    """
    return [c for c in getattr(trainer, "callbacks", []) if issubclass(type(c), protocol)]


def phase_progress(trainer: Trainer) -> PhaseProgress:
    """Makes what tells the listening callbacks of a trainer."""

    def begin(phase: str, total: int) -> ProgressFn:
        listeners = callbacks_of(trainer, PhaseListener)

        def report(done: int, of: int) -> None:
            for listener in listeners:
                listener.on_phase_progress(phase, done, of)

        report(0, total)
        return report

    return begin
