"""Which right answers more than their own text can meet."""

import pytest

from masa_lightning.functional.grading import grade
from masa_lightning.functional.readable import is_readable

# With another spelling that is right.
READ = {
    "7": "7.0",
    "7 apples": "7",
    "$1,200": "1200",
    "50\\%": "50",
    "10:30": "10:30",
    "4:6": "2:3",
    "\\frac{1}{2}": "0.5",
    "x=5": "5",
    "y = 2x + 1": "y=1+2x",
    "f(x) = x^2 + 1": "1 + x^2",
    "7 or 8": "8, 7",
    "(-4, 27); (2, 15)": "(2,15),(-4,27)",
    "[1, 2)": "[1,2)",
    "x<2 \\text{ or } x>3": "(-\\infty,2)\\cup(3,\\infty)",
    "\\{1, 2\\}": "\\{2,1\\}",
    "123_5": "123_{5}",
    "\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}": "\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}",
    "\\boxed{1} and \\boxed{2}": "2, 1",
    "Evelyn": "\\text{Evelyn}",
    "\\text{no solution}": "No solution",
    "(B)": "B",
}
# With the value that a model would give.
UNREAD = {
    "about 7": "7",
    "The answer is 7": "7",
    "Answer: 7": "7",
    "12 so the answer": "12",
    "<answer>7</answer>": "7",
    "print(7)": "7",
    "July 4": "4 July",
    "1. 7\n2. 8": "7, 8",
    "(a) 3 (b) 4": "3, 4",
    "2007+\\frac{\\}{p}i2": "2007",
    "x" * 3000: "x",
}


@pytest.mark.parametrize(("answer", "other"), READ.items(), ids=[*READ])
def test_other_spellings_meet_it(answer, other):
    assert is_readable(answer)
    assert grade(f"\\boxed{{{other}}}", answer)


@pytest.mark.parametrize(("answer", "other"), UNREAD.items(), ids=[text[:20] for text in UNREAD])
def test_its_own_text_alone_meets_it(answer, other):
    assert not is_readable(answer)
    assert not grade(f"\\boxed{{{other}}}", answer)
