"""What a run of the real command logged."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

CLOCKS = ("timing_s/", "tokens_per_second", "hp_metric", "balance/")  # not the same in two equal runs


def stream(folder: Path) -> dict[tuple[str, int], set[float]]:
    """All values logged for a metric and step; an interrupted run logs some steps twice."""
    events = EventAccumulator(str(folder / "runs/tiny"), size_guidance={"scalars": 0}).Reload()
    values: dict[tuple[str, int], set[float]] = {}
    for tag in events.Tags()["scalars"]:
        if not tag.startswith(CLOCKS):
            for event in events.Scalars(tag):
                values.setdefault((tag, event.step), set()).add(event.value if event.value == event.value else -1e9)
    return values
