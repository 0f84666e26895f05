"""Callbacks that are told how far a phase of a step is."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer

from masa_lightning.protocols import PhaseListener, PhaseProgress, ProgressFn


def phase_progress(trainer: Trainer) -> PhaseProgress:
    """Makes what tells the listening callbacks of a trainer."""

    def begin(phase: str, total: int) -> ProgressFn:
        callbacks: list[Any] = getattr(trainer, "callbacks", [])
        listeners = [c for c in callbacks if isinstance(c, PhaseListener)]

        def report(done: int, of: int) -> None:
            for listener in listeners:
                listener.on_phase_progress(phase, done, of)

        report(0, total)
        return report

    return begin
