"""Arms and seeds -> finished runs, each by the real command in a process of its own."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Final

import yaml

from masa_lightning.report.scalars import Scalars, read_scalars
from masa_lightning.report.settings import Flat, read_settings

ARMS: Final = Path(__file__).with_name("arms.yaml")
MASA: Final = (sys.executable, "-m", "masa_lightning.cli")
RECORD: Final = "compare.json"
"""In a run's folder: how it was made, and what is done of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to train.

    Args:
        name: Of its folders.
        says: What it is, for readers.
        layers: Configurations by name, and settings, over the base.
        against: Names of the arms that it is compared with.
        main: Whether it runs before the others.
        tests: Further tests by name, with the settings of each.
        start: Script, without its ending, that makes the model that it starts from; None for the shipped one.
    """

    name: str
    says: str
    layers: tuple[str, ...]
    against: tuple[str, ...] = ()
    main: bool = False
    tests: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    start: str | None = None


def read_arms(file: Path = ARMS) -> dict[str, Arm]:
    """Reads the arms of a file, by name.

    Raises:
        ValueError: If an arm has an unknown key, or is compared with none of them.
    """
    read = yaml.safe_load(file.read_text(encoding="utf-8"))
    below = ["--config", read["base"], "--config", json.dumps(read["common"])]
    arms = {}
    for name, given in read["arms"].items():
        known = {"says", "main", "with", "settings", "against", "tests", "start"}
        if unknown := set(given) - known:
            raise ValueError(f"{file}: arm {name} has {sorted(unknown)}; expected keys among {sorted(known)}")
        settings = [json.dumps(given["settings"])] if "settings" in given else []
        layers = [word for layer in (*given.get("with", ()), *settings) for word in ("--config", layer)]
        arms[name] = Arm(
            name=name,
            says=given["says"],
            layers=(*below, *layers),
            against=tuple(given.get("against", ())),
            main=given.get("main", False),
            tests=given.get("tests", {}),
            start=given.get("start"),
        )
    for arm in arms.values():
        if unknown := set(arm.against) - set(arms):
            raise ValueError(f"{file}: arm {arm.name} is compared with {sorted(unknown)}, which is no arm of the file")
    return arms


def in_order(arms: Iterable[Arm], seeds: Sequence[int]) -> list[tuple[Arm, int]]:
    """All runs: the main arms seed by seed, then each other arm with all its seeds, so that one may stop at any time."""
    arms = list(arms)
    main = [(arm, seed) for seed in seeds for arm in arms if arm.main]
    return main + [(arm, seed) for arm in arms if not arm.main for seed in seeds]


def folder_of(out: Path, arm: str, seed: int) -> Path:
    """Of a run. `masa report OUT` puts folders of one name, the seeds of an arm, together."""
    return out / f"seed{seed}" / arm


def test_folder(run: Path, test: str) -> Path:
    """Of a further test of a run."""
    return run.parent / f"{run.name}+{test.replace(' ', '_')}"


def is_trained(run: Path) -> bool:
    """Whether training came to its end: by its exit, its last checkpoint, and as many logged steps as were planned."""
    ended = "seconds_of_fit" in read_record(run) and (run / "checkpoints" / "last.ckpt").exists()
    return ended and logged_steps(read_scalars(run)[0]) == planned_steps(read_settings(run)[0])


def is_tested(folder: Path) -> bool:
    """Whether a test came to its end: its metrics are logged then."""
    return folder.is_dir() and bool(read_scalars(folder)[0].get("test/pass@1"))


def logged_steps(scalars: Scalars) -> int:
    """Training steps in the logs."""
    return len(scalars.get("tokens/trained", {}))


def planned_steps(settings: Flat) -> int:
    """Training steps that a run's settings ask for."""
    data = "data.init_args."
    steps = (
        int(settings[f"{data}train_size"]) // int(settings[f"{data}batch_size"]) * int(settings["trainer.max_epochs"])
    )
    most = int(settings["trainer.max_steps"])
    return steps if most < 0 else min(steps, most)


def read_record(run: Path) -> dict[str, Any]:
    """How a run was made, and what is done of it; empty before it began."""
    file = run / RECORD
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


class Comparison:
    """Makes runs, as far as they are not there.

    Args:
        out: Folder of the runs.
        extra: Words that every `masa` gets at the end.
    """

    def __init__(self, out: Path, extra: Sequence[str] = ()) -> None:
        self.out = out.resolve()
        self.extra = list(extra)
        self.failed: list[str] = []
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._lock = Lock()
        self._stopped = False

    def run(self, arms: Iterable[Arm], seeds: Sequence[int], jobs: int, minutes: float | None = None) -> None:
        """Makes the runs of arms and seeds, `jobs` at a time; failures are said, kept in `failed`, and stop no other.

        Args:
            arms: What to run.
            seeds: Of each.
            jobs: Runs at a time.
            minutes: After which none begins any more.
        """
        end = None if minutes is None else time.monotonic() + 60 * minutes
        pool = ThreadPoolExecutor(jobs)
        try:
            for each in [pool.submit(self._make, arm, seed, end) for arm, seed in in_order(arms, seeds)]:
                each.result()
        finally:  # an interrupt leaves no process behind
            self._stopped = True
            pool.shutdown(wait=False, cancel_futures=True)
            with self._lock:
                for process in self._processes:
                    process.terminate()
            pool.shutdown()

    def _make(self, arm: Arm, seed: int, end: float | None) -> None:
        name = f"{arm.name}, seed {seed}"
        if self._stopped or (end is not None and time.monotonic() > end):
            return
        try:
            self._finish(arm, seed)
        except Exception as error:  # of whatever kind, it is of this run alone
            if not self._stopped:
                self.failed.append(name)
                print(f"{name}: {error}", file=sys.stderr, flush=True)

    def _finish(self, arm: Arm, seed: int) -> None:
        run = folder_of(self.out, arm.name, seed)
        words = [*arm.layers, *self.extra]
        record = read_record(run)
        if record and record["words"] != words:
            raise ValueError(
                f"{run} was made with other settings ({run / RECORD} has them); expected the same: give another folder, "
                "or remove this one"
            )
        run.parent.mkdir(parents=True, exist_ok=True)
        with (run.parent / f".{run.name}.lock").open("w") as lock:  # a process that outlives this one holds it on
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RuntimeError(f"{run} is being made by another process; wait for its end, or stop it") from None
            own = self._start(arm.start, lock.fileno())
            self._train(run, words, seed, own, lock.fileno())
            checkpoint = ["--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
            for folder, settings in ((run, {}), *((test_folder(run, n), s) for n, s in arm.tests.items())):
                if not is_tested(folder):
                    layer = ["--config", json.dumps(settings)] if settings else []
                    self._masa("test", [*words, *layer, *own], folder, seed, checkpoint, lock.fileno())

    def _start(self, script: str | None, lock: int) -> list[str]:
        """Makes the model that an arm starts from, unless it is there; returns the words that name it."""
        if script is None:
            return []
        model = self.out / "start" / script
        model.parent.mkdir(parents=True, exist_ok=True)
        with model.with_name(f".{script}.lock").open("w") as own:
            fcntl.flock(own, fcntl.LOCK_EX)  # another run may be making it
            if not (model / "model.safetensors").is_file():
                command = [sys.executable, str(Path(__file__).parents[1] / f"{script}.py"), str(model)]
                self._call(command, model.with_suffix(".log"), "start", script, lock)
        return ["--config", json.dumps({"model": {"init_args": {"model": str(model)}}})]

    def _train(self, run: Path, words: list[str], seed: int, own: list[str], lock: int) -> None:
        if is_trained(run):
            return
        if not (run / "checkpoints" / "last.ckpt").exists():
            shutil.rmtree(run, ignore_errors=True)  # of a start that wrote no checkpoint
        run.mkdir(exist_ok=True)
        _write(run, {"words": words})
        seconds = self._masa("fit", [*words, *own], run, seed, ["--ckpt_path", "last"], lock)
        _write(run, {"words": words, "seconds_of_fit": seconds})
        if not is_trained(run):
            raise RuntimeError(
                f"training ended without its last checkpoint or some of its steps; see {run / 'fit.log'}"
            )

    def _masa(
        self, command: str, words: Sequence[str], folder: Path, seed: int, last: Sequence[str], lock: int
    ) -> float:
        """Runs the command to its end, and returns the seconds it took."""
        logger = {"init_args": {"save_dir": str(folder.parent), "name": folder.name, "version": ""}}
        own = {"seed_everything": seed, "trainer": {"logger": logger}, "data": {"init_args": {"seed": seed}}}
        whole = [command, *words, "--config", json.dumps(own), *last]
        folder.mkdir(parents=True, exist_ok=True)
        name = folder.relative_to(self.out).as_posix()
        return self._call([*MASA, *whole], folder / f"{command}.log", name, command, lock)

    def _call(self, words: Sequence[str], file: Path, name: str, command: str, lock: int) -> float:
        """Runs a program to its end, and returns the seconds it took."""
        start = time.monotonic()
        with file.open("ab") as log:
            with self._lock:
                if self._stopped:
                    raise RuntimeError("stopped")
                process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[lock])
                self._processes.add(process)
            code = process.wait()
            with self._lock:
                self._processes.discard(process)
        seconds = time.monotonic() - start
        if code:
            program = command if name == "start" else f"masa {command}"
            raise RuntimeError(f"{program} ended with status {code}; see {file}")
        print(f"{name}: {command} took {seconds:.0f} s", flush=True)
        return seconds


def _write(run: Path, record: dict[str, Any]) -> None:
    part = run / f".{RECORD}.{os.getpid()}"
    part.write_text(json.dumps(record, indent=1), encoding="utf-8")
    part.replace(run / RECORD)
