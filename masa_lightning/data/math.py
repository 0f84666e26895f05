"""Problems with answers from the Hugging Face hub or from files, in the shapes in which people have them."""

from __future__ import annotations

import random
from numbers import Integral, Real

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from masa_lightning.checks import check_number
from masa_lightning.data._programs import program_reader
from masa_lightning.data._questions import same_text_key
from masa_lightning.data._rows import ColumnReader, Reader, choose_columns, read_rows
from masa_lightning.data._sources import Rows, load_lines, load_rows, source_label
from masa_lightning.data.base import ProblemDataModule, Split
from masa_lightning.data.loader import ProblemLoader
from masa_lightning.types import Problem


class MathDataModule(ProblemDataModule):
    r"""Problems with a checkable answer, from hub data sets or local parquet, jsonl and json files.

    Without column settings the format is detected for each source: `prompt` with `reward_model.ground_truth` (verl), or
    `problem`, `question`, `prompt`, `messages` or `conversations` with `answer`. Chat messages give the last user
    message; a system message is dropped, as the module brings its own instructions, and so are the instructions that
    known data sets put around their problems. In verl's format the raw `question` is preferred where the message is
    that question with instructions around it. An answer is text or a number (204.0 is "204"); of a GSM8K solution it is
    what follows the final "####". A full solution with a `\boxed{}` is not searched for its answer: name a column that
    holds the answer alone. With `options` or `choices` in `problem_column` the answer is the letter of one. Other small
    columns (level, type, ...) become the problem's metadata. docs/data.md has it all.

    Tables of programs are told by their columns: `input_output` (APPS), `public_test_cases` (LiveCodeBench), `inputs` and
    `outputs`, `test_list` (MBPP), or `prompt`, `test` and `entry_point` (HumanEval). Rows whose tests a program passes that
    does nothing are left out. They need a sandbox.

    Training problems with the same text, up to white space and the case of words, are used once. Without `validation` some
    of them are held out. Rows that are no problem, or whose answer is not certain, are left out with a warning. Problems to
    `predict` may have no answer, and may be the lines of a text file.

    Args:
        train: File, folder, or hub name ("org/name" or "org/name:config"); None to evaluate only.
        validation: Source of the validation problems; None holds out `validation_size` of `train`.
        test: Source of the test problems; None without.
        predict: Source of the problems of `masa predict`, or a .txt file with one on each line; None takes the test
            problems, or the validation problems without.
        train_split: As `datasets` understands it: "train", "train[:1000]", "train[50%:]". A single file has any split.
        validation_split: Likewise, of `validation`.
        test_split: Likewise, of `test`.
        predict_split: Likewise, of `predict`.
        problem_column: "a.b" is a field of a struct; "a+b" joins columns by a blank line (a list of strings by lines).
        answer_column: Likewise; the answers of several columns are one list, "a, b".
        validation_size: Held-out problems: a number, or as a float the share in [0, 1); 0 is no validation. Which ones
            is drawn with `seed`.
        max_unusable_share: More unusable rows than this share of a source are an error; in [0, 1]. Of `predict` they are
            left out and named, unless there are no others.
        batch_size: Problems a training step on each process.
        val_batch_size: Problems a validation, test or prediction step on each process.
        seed: Of what is held out and of the order of training problems.

    Attributes:
        unusable: Rows left out so far, over all sources loaded.
        duplicates: Training problems left out because their text was there before.

    Raises:
        RuntimeError: From `setup`, if there are programs and this machine has no sandbox for them.
        ValueError: From `setup`, if a source has no such columns, no rows, or too many unusable ones.
    """

    def __init__(
        self,
        train: str | None = None,
        validation: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        train_split: str = "train",
        validation_split: str = "validation",
        test_split: str = "test",
        predict_split: str = "train",
        problem_column: str | None = None,
        answer_column: str | None = None,
        validation_size: int | float = 0.05,  # noqa: PYI041  the CLI would make 100 a float
        max_unusable_share: float = 0.05,
        batch_size: int = 8,
        val_batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, val_batch_size=val_batch_size, seed=seed)
        if train is None and validation is None and test is None and predict is None:
            raise ValueError(
                "none of train, validation, test and predict is set; expected a file or hub name for one at least"
            )
        if isinstance(validation_size, Real) and not isinstance(validation_size, Integral):  # of numpy, too
            check_number(
                "validation_size", validation_size, ">= 0", "< 1", note="as a share, or a whole number of problems"
            )
        else:
            note = "problems, or a share in [0, 1)"
            check_number("validation_size", validation_size, ">= 0", whole=True, note=note)
        self.sources: dict[Split, tuple[str | None, str]] = {
            "train": (train, train_split),
            "validation": (validation, validation_split),
            "test": (test, test_split),
            "predict": (predict, predict_split),
        }
        self.problem_column = problem_column
        self.answer_column = answer_column
        self.validation_size = validation_size
        check_number("max_unusable_share", max_unusable_share, ">= 0", "<= 1")
        self.max_unusable_share = max_unusable_share
        self.unusable = 0
        self.duplicates = 0
        self._train_and_held_out: tuple[list[Problem], list[Problem]] | None = None

    def setup(self, stage: str | None = None) -> None:
        """Loads the splits of a stage, and warns of training problems that are validation problems too."""
        if stage == "predict" and self.sources["predict"][0] is not None:
            self.problems_of("predict")
            return
        super().setup(stage)
        if "train" in self.splits and self.sources["validation"][0] is not None:
            held_out = {same_text_key(p.problem) for p in self.splits["validation"]}
            if shared := sum(same_text_key(p.problem) in held_out for p in self.splits["train"]):
                rank_zero_warn(
                    f"{shared} of {len(self.splits['train'])} training problems are also among the validation problems:"
                    " validation will look better than it is. Take them out of one of the two"
                )

    def predict_dataloader(self) -> ProblemLoader:
        """Makes a loader of the problems of `predict`, or as the base class without that source."""
        return super().predict_dataloader() if self.sources["predict"][0] is None else self.evaluation_loader("predict")

    def load_split(self, split: Split) -> list[Problem]:
        """Reads a split from its source; without a `validation` source, train and validation share `train`."""
        if split in ("test", "predict") or (split == "validation" and self.sources["validation"][0] is not None):
            return self._read(split)
        if self._train_and_held_out is None:
            self._train_and_held_out = self._divide(self._read("train"))
        return self._train_and_held_out[split == "validation"]

    def _read(self, split: Split) -> list[Problem]:
        source, part = self.sources[split]
        if source is None:
            return []
        answered = split != "predict"
        label, what = source_label(source), f"`{split}` ({source})"
        chosen: tuple[str, str | None] | str
        rows: Rows | list[dict[str, str]]
        if not answered and source.lower().endswith(".txt"):
            rows, columns, chosen = load_lines(source, split), ["problem"], ("problem", None)
        else:
            rows = loaded = load_rows(source, part, split, remedy=f"it comes from `{split}_split`")
            columns = list(loaded.column_names)
            if self.problem_column is None and self.answer_column is None and (read := program_reader(columns)):
                return self._read_programs(loaded, read, what, label)
            chosen = choose_columns(columns, self.problem_column, self.answer_column, answered=answered)
        if isinstance(chosen, str):
            raise ValueError(f"`{split}` is {source!r} with the columns {', '.join(columns)}: {chosen}")
        reader = ColumnReader(columns, *chosen, answered=answered)
        reader.look_at(rows)
        table = read_rows(rows, reader, label, prefix=f"{label}/")
        self.unusable += len(table.unusable)
        table.check(
            what,
            # Nothing is trained or measured by what is predicted: a row that cannot be used is left out and named.
            self.max_unusable_share if answered or not table.problems else 1.0,
            f"check that problem_column {chosen[0]!r} and answer_column {chosen[1]!r} are right (the columns are"
            f" {', '.join(columns)})",
        )
        table.warn(what)
        if reader.conversations:
            rank_zero_warn(
                f"{what}: {reader.conversations} prompts are conversations, of which the user's last message alone is the"
                " problem; leave out those whose last message needs what was said before"
            )
        if reader.system_messages:
            rank_zero_info(
                f"{what}: dropped the system message of {reader.system_messages} prompts; the module brings its own"
                " instructions"
            )
        return table.problems

    def _read_programs(self, rows: Rows, read: Reader, what: str, label: str) -> list[Problem]:
        from masa_lightning.grading.sandbox.check import check_sandbox

        check_sandbox()  # now, and not when the first programs are written and nothing can run them
        table = read_rows(rows, read, label, prefix=f"{label}/")
        self.unusable += len(table.unusable)
        columns = ", ".join(rows.column_names)
        table.check(what, self.max_unusable_share, f"check the tests of these programs (the columns are {columns})")
        return table.problems

    def _divide(self, problems: list[Problem]) -> tuple[list[Problem], list[Problem]]:
        """Drops duplicates and holds out validation problems; both parts keep the order."""
        first: dict[str, Problem] = {}
        for p in problems:
            first.setdefault(same_text_key(p.problem), p)
        unique = list(first.values())
        if duplicates := len(problems) - len(unique):
            self.duplicates = duplicates
            rank_zero_info(f"dropped {duplicates} training problems whose text was there before, of {len(problems)}")
        if self.sources["validation"][0] is not None:
            return unique, []
        size = self.validation_size
        count = round(size * len(unique)) if isinstance(size, float) else size
        if unique and count >= len(unique):
            raise ValueError(
                f"validation_size is {size}, but there are {len(unique)} different training problems; expected fewer,"
                " so that some are left to train on"
            )
        held_out = {*random.Random(f"held out/{self.seed}").sample(range(len(unique)), count if unique else 0)}
        return (
            [p for i, p in enumerate(unique) if i not in held_out],
            [p for i, p in enumerate(unique) if i in held_out],
        )
