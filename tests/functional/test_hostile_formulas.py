r"""Formulas that would take for ever or all memory: `grade` ends on them, and nothing equals them."""

import pytest

from masa_lightning.functional.grading import grade

PIECES = [
    "+".join(f"|x\\sqrt{{{k}}}-\\pi|" for k in range(2, 60)),
    "+".join(f"|\\sin({k}x)|" for k in range(1, 40)),
    "+".join(f"|x_{{{k}}}-y|" for k in range(2, 60)),
    "+".join(f"\\sqrt{{(x-{k})^2}}" for k in range(50)),
    "+".join(f"\\lfloor x/{k}\\rfloor" for k in range(1, 60)),
    "\\max(x," * 30 + "x" + ")" * 30,
    "\\max(" + ",".join(f"{k}x-{k * k}" for k in range(100)) + ")",
    "\\lfloor x+" * 30 + "1" + "\\rfloor" * 30,
    "\\sqrt{x^2+" * 30 + "1" + "}" * 30,
]
"""Formulas in pieces."""

HOSTILE = [
    r"9^{9^{9^{9}}}",
    r"10^{10^{10^{10}}}",
    r"2^{2^{2^{2^{2^{2}}}}}",
    r"9999999999!",
    r"((5!)!)!",
    r"\binom{1000000000}{500000000}",
    r"\sum_{k=1}^{10^9} \frac{1}{k}",
    r"\sum_{k=1}^{2000} \frac{1}{k!}",
    r"\sum_{i=1}^{1000}\sum_{j=1}^{1000}\sum_{k=1}^{1000} \frac{1}{ijk}",
    r"\prod_{k=1}^{2000} k!",
    r"\sum_{k=1}^{\infty} \frac{1}{k^2}",
    r"\int_0^1 \int_0^1 e^{e^{xy}} dx dy",
    r"e^{e^{e^{e^{e}}}}",
    r"x^{x^{x^{x}}}",
    r"(x+y+z)^{1000000}",
    r"\sin(10^{10^{10}})",
    r"\sqrt[10^{10}]{2}",
    r"2^{-10^{12}}",
    r"\log_{2}(2^{2^{30}})",
    r"\gcd(10^{10^7},6)",
    r"\lfloor 9^{9^9} \rfloor",
    r"\frac{9^{9^9}}{9^{9^9}}",
    r"(-\infty,9^{9^9})\cup(9^{9^{9}},\infty)",
    r"9^{9^9}x<5",
    r"9^{9^9}:2",
    r"9^{9^9}x+y=1",
    r"(1+i)^{10^{9}}",
    r"(n!)!",
    r"\prod_{k=1}^{2000}\sum_{j=1}^{2000}\sin(jk)",
    "(" * 600 + "x" + ")" * 600,
    "\\sqrt{" * 250 + "2" + "}" * 250,
    "\\sum_{k=1}^{2}" * 100 + "k",
    "\\{x\\mid " * 150 + "x<1" + "\\}" * 150,
    "+".join(f"\\sin({k})" for k in range(2, 180)),
    "+".join(f"\\frac{{1}}{{{60 * k}!}}" for k in range(2, 110)),
    " or ".join(f"(x+{k})(x-{k})<\\sqrt{{2}}" for k in range(2, 60)),
    ",".join(f"(\\sqrt{{{k}}},{k})" for k in range(2, 66)),
    ":".join(f"\\sqrt{{{k}}}" for k in range(2, 150)),
    "\\begin{pmatrix}" * 100,
    "\\text{" * 300 + "}" * 300,
    "\\pm 1," * 200,
    "5" + "!" * 1000,
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("formula", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_formulas_end(formula: str) -> None:
    assert grade(rf"\boxed{{{formula}}}", r"\sqrt{7}") is False
    assert grade(rf"\boxed{{{formula}+1}}", formula) is False
    assert grade(r"\boxed{x<3 \text{ or } x>\sqrt{5}}", formula) is False


@pytest.mark.timeout(60)
@pytest.mark.parametrize("formula", PIECES, ids=range(len(PIECES)))
def test_hostile_formulas_in_pieces_end(formula: str) -> None:
    for gold in ("|x|", formula.replace("2", "3", 1)):
        assert grade(rf"\boxed{{{formula}}}", gold) is False or gold == formula
