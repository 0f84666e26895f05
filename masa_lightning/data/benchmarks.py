"""The benchmarks that reasoning models are compared on, from the Hugging Face hub or from files."""

from __future__ import annotations

from functools import partial
from itertools import chain

from masa_lightning.checks import check_number
from masa_lightning.data._benchmarks import BENCHMARKS
from masa_lightning.data._choices import counting_of, read_choice
from masa_lightning.data._rows import read_rows
from masa_lightning.data._sources import load_rows
from masa_lightning.data.base import ProblemDataModule, Split
from masa_lightning.types import Problem


class BenchmarkDataModule(ProblemDataModule):
    """Problems of one or more benchmarks, to test on; `Problem.source` says which one a problem is of.

    * mathematics: aime24, aime25, amc23, math500, minerva, olympiadbench, gsm8k, asdiv
    * logic: ar_lsat, folio, logical_deduction, prontoqa, proofwriter
    * science: arc_challenge, gpqa_diamond, rbench, scibench (numbers, right within 5 %)
    * programs, which are run in a sandbox: mbpp, mbpp_plus, humaneval, humaneval_plus

    Each comes from its data set on the hub, or from `sources`: the same columns, or a question with `answer`, and with
    `options` where there are some; verl's format for mathematics. The terms of Idavidrein/gpqa have to be accepted on
    its page of the hub, by the account that `hf auth login` logged in. The options of gpqa_diamond have no order of their
    own: each row shuffles them by its own id, the same way in every run.

    Rows that are no problem, such as one whose answer is not among its options, are left out with a warning.

    Args:
        benchmarks: Names of benchmarks, in the order in which they are run.
        sources: By name of a benchmark, a file, folder or hub name ("org/name" or "org/name:config") to read it from.
        max_problems: Most problems of each benchmark, the first ones, for a quick look; None for all.
        max_unusable_share: More unusable rows than this share of a benchmark are an error; in [0, 1].
        val_batch_size: Problems a test or prediction step on each process.

    Attributes:
        unusable: Rows left out so far, over all benchmarks.

    Raises:
        RuntimeError: From `setup`, if programs are to be run and this machine has no sandbox for them.
        ValueError: If a name is unknown; from `setup`, if a benchmark cannot be read or has too many unusable rows.
    """

    def __init__(
        self,
        benchmarks: list[str],
        sources: dict[str, str] | None = None,
        max_problems: int | None = None,
        max_unusable_share: float = 0.05,
        val_batch_size: int = 64,
    ) -> None:
        super().__init__(val_batch_size=val_batch_size)
        if not benchmarks or len({*benchmarks}) < len(benchmarks):
            raise ValueError(f"benchmarks is {benchmarks}; expected at least one name, and each name once")
        for setting, names in (("benchmarks", benchmarks), ("sources", sources or {})):
            if unknown := [name for name in names if name not in BENCHMARKS]:
                raise ValueError(f"{setting} names {', '.join(unknown)}; expected some of {', '.join(BENCHMARKS)}")
        if max_problems is not None:
            check_number("max_problems", max_problems, ">= 1", whole=True, note="problems of each benchmark, or None")
        self.benchmarks = list(benchmarks)
        self.sources = dict(sources or {})
        self.max_problems = max_problems
        check_number("max_unusable_share", max_unusable_share, ">= 0", "<= 1")
        self.max_unusable_share = max_unusable_share
        self.unusable = 0

    def load_split(self, split: Split) -> list[Problem]:
        """Reads the benchmarks; there are no splits but test."""
        if split != "test":
            return []
        if any(BENCHMARKS[name].runs_code for name in self.benchmarks):
            from masa_lightning.grading.sandbox.check import check_sandbox

            check_sandbox()  # now, and not when the first programs are written and nothing can run them
        return [problem for name in self.benchmarks for problem in self._read(name)]

    def _read(self, name: str) -> list[Problem]:
        benchmark = BENCHMARKS[name]
        sources = (self.sources[name],) if name in self.sources else benchmark.hub
        remedy = "give a file, or a folder or hub data set that has it"
        parts = [load_rows(source, benchmark.split, f"sources.{name}", remedy=remedy) for source in sources]
        read = benchmark.read
        if read is read_choice:
            read = partial(read_choice, counting=counting_of(chain.from_iterable(parts)))
        table = read_rows(chain.from_iterable(parts), read, name)
        self.unusable += len(table.unusable)
        columns = ", ".join(parts[0].column_names)
        table.check(
            f"`sources.{name}` ({', '.join(sources)})",
            self.max_unusable_share,
            f"check that this is {name} (the columns are {columns})",
        )
        table.warn(f"`sources.{name}`")
        return table.problems[: self.max_problems]
