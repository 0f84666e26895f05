"""The numbers that a run logged, from TensorBoard's event files or from the CSV logger's ``metrics.csv``."""

from __future__ import annotations

import csv
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Series = dict[int, float]  # step -> value
Scalars = dict[str, Series]

HUGE = 1e30
"""No metric of a run is as large; arithmetic with larger ones would end in an overflow."""
LARGEST = 64 << 20
"""Bytes of a record of an event file; longer ones are none."""


def read_scalars(folder: Path) -> tuple[Scalars, list[str]]:
    """Reads what loggers wrote into a run's folder.

    Of a run that was interrupted and went on, what the later part logged again counts. What a validation by itself logged
    beside a training run, as in a script, is left out: it may be of other problems or settings. Training alone logs
    the epoch with its validations.

    Args:
        folder: Of the run; folders in it are left alone.

    Returns:
        Values by name and step, without those that are not finite or huge; and what could not be read.
    """
    scalars: Scalars = {}
    problems: list[str] = []
    parts: list[Scalars] = []
    for file in sorted(file for file in folder.glob("events.out.tfevents*") if file.is_file()):
        part: Scalars = {}
        try:
            for tag, step, value in _events(file, problems):
                if abs(value) < HUGE:
                    part.setdefault(tag, {})[step] = value
        except OSError as error:
            problems.append(f"{file.name} could not be read: {error.strerror}")
        parts.append(part)
    trained = any("epoch" in part for part in parts)
    for part in parts:
        by_itself = trained and "epoch" not in part
        _overlay(scalars, {tag: series for tag, series in part.items() if not (by_itself and _is_validation(tag))})
    if (file := folder / "metrics.csv").is_file():
        part = {}
        try:
            for tag, step, value in _rows(file):
                if abs(value) < HUGE:
                    part.setdefault(tag, {})[step] = value
        except (OSError, csv.Error, ValueError, TypeError, OverflowError) as error:
            problems.append(f"{file.name} is no table of metrics from some line on: {error}")
        for tag, series in part.items():
            scalars.setdefault(tag, series)  # the same numbers, where a run has both loggers
    return scalars, problems


def _is_validation(tag: str) -> bool:
    return tag.startswith("val/")


def _overlay(scalars: Scalars, later: Scalars) -> None:
    for tag, series in later.items():
        before = scalars.setdefault(tag, {})
        first = min(series)
        if not tag.startswith("test/"):  # tests of several checkpoints stand side by side
            for step in [s for s in before if s >= first]:
                del before[step]
        before |= series


def _events(file: Path, problems: list[str]) -> Iterator[tuple[str, int, float]]:
    """Walks through an event file: TFRecords (length, checksum, bytes, checksum) of `tensorflow.Event`."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event

    size = file.stat().st_size
    with file.open("rb") as stream:
        while head := stream.read(12):
            length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else LARGEST + 1
            if length > LARGEST or stream.tell() + length + 4 > size:
                left = size - stream.tell() + len(head)
                problems.append(f"{file.name} ends in {left} bytes that are no whole record: written still, or broken")
                return
            data = stream.read(length)
            stream.read(4)
            try:
                event = Event.FromString(data)
            except DecodeError:
                problems.append(f"{file.name} is no event file of TensorBoard from byte {stream.tell() - length} on")
                return
            for value in event.summary.value:
                if (number := _number(value)) is not None:
                    yield value.tag, event.step, number


def _number(value: Any) -> float | None:
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return float(value.simple_value)
    if kind == "tensor" and len(value.tensor.float_val) == 1:
        return float(value.tensor.float_val[0])
    return None


def _rows(file: Path) -> Iterator[tuple[str, int, float]]:
    with file.open(newline="", encoding="utf-8") as stream:
        rows = csv.DictReader(stream)
        trained = "epoch" in (rows.fieldnames or ())
        for row in rows:
            if not row.get("step"):
                continue
            step = int(float(row["step"]))
            by_itself = trained and not row["epoch"]
            for name, text in row.items():
                if not name or name == "step" or not isinstance(text, str) or not text:
                    continue
                if not (by_itself and _is_validation(name)):
                    yield name, step, float(text)
