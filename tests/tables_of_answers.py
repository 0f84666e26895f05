"""What tables of answers are held to: by kind, (box, gold) that are equal and (box, gold) that are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mutated_golds import mutations

from masa_lightning.functional.grading import checked_verdict, grade, quick_verdict

Rows = Sequence[tuple[str, str]]


def by_verdict(table: Mapping[str, tuple[Rows, Rows]]) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """Returns (kind, box, gold) of those that are equal, and of those that are not."""
    right, wrong = ([(kind, *row) for kind, sides in table.items() for row in sides[side]] for side in (0, 1))
    return right, wrong


def is_right(box: str, gold: str) -> None:
    """An answer is right, by each of the graders' steps, and a right answer itself."""
    text = rf"Thus $\boxed{{{box}}}$."
    assert grade(text, gold) is True
    assert quick_verdict(text, gold) is not False
    assert grade(rf"\boxed{{{box}}}", box) is True


def is_wrong(box: str, gold: str) -> None:
    """An answer is wrong, by each of the graders' steps."""
    text = rf"Thus $\boxed{{{box}}}$."
    assert grade(text, gold) is False
    assert quick_verdict(text, gold) is not True
    assert checked_verdict(text, gold) is False


def has_neighbours(right: Rows, wrong: Rows) -> None:
    """A kind has enough rows of both verdicts, and none with both."""
    assert len(right) >= 8 and len(wrong) >= 8
    assert not set(right) & set(wrong)


def changed_is_wrong(gold: str) -> None:
    """A right answer with one thing changed is another one, both ways."""
    for kind, changed in mutations(gold):
        assert grade(rf"\boxed{{{changed}}}", gold) is False, (kind, changed)
        assert grade(rf"\boxed{{{gold}}}", changed) is False, (kind, changed)
