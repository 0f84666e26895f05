import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masa_lightning.functional._evaluation import Budget
from masa_lightning.functional._quantity import read_value
from masa_lightning.functional._spelling import normalise


def evaluate(text: str) -> Fraction | None:
    return read_value(text, Budget(0.1))


VALUES = [
    (r"\pi", math.pi),
    (r"-\pi", -math.pi),
    (r"2\pi", 2 * math.pi),
    (r"\frac{\pi}{6}", math.pi / 6),
    (r"\pi/6", math.pi / 6),
    (r"\sqrt2", 2**0.5),
    (r"\sqrt{2}", 2**0.5),
    ("√2", 2**0.5),
    ("sqrt(2)", 2**0.5),
    (r"5\sqrt3", 5 * 3**0.5),
    (r"\frac{\sqrt3}{2}", 3**0.5 / 2),
    (r"\frac{1}{\sqrt{2}}", 2**-0.5),
    (r"\sqrt[3]{27}", 3),
    (r"\sqrt[3]{2}", 2 ** (1 / 3)),
    (r"\sqrt{16}", 4),
    (r"12\frac12", Fraction(25, 2)),
    (r"12 \frac{1}{2}", Fraction(25, 2)),
    (r"-12\frac12", Fraction(-25, 2)),
    ("12 1/2", Fraction(25, 2)),
    ("12½", Fraction(25, 2)),
    ("2^{10}", 1024),
    ("2^10", 1024),
    ("2^{-1}", 0.5),
    ("10^{-5}", Fraction(1, 100000)),
    ("1e-05", Fraction(1, 100000)),
    (r"6.02\times10^{23}", 602 * 10**21),
    (r"3\cdot 2^{3}", 24),
    ("e", math.e),
    ("e^{2}", math.e**2),
    (r"\mathrm{e}^2", math.e**2),
    (r"2e", 2 * math.e),
    (r"1+\sqrt{2}", 1 + 2**0.5),
    (r"\frac{1+\sqrt5}{2}", (1 + 5**0.5) / 2),
    (r"(1+\sqrt5)/2", (1 + 5**0.5) / 2),
    (r"\frac{3}{4}\pi", 0.75 * math.pi),
    (r"4\pi^2", 4 * math.pi**2),
    (r"\left(\frac{2}{3}\right)^2", Fraction(4, 9)),
    (r"\sqrt{\frac{1}{4}}", 0.5),
    (r"2(3)", 6),
    ("5!", 120),
    (r"2\frac{7}{3}", None),
    ("1/2/3", Fraction(1, 6)),
    ("5 6", None),
    ("1200-1300", -100),
    ("1/0", None),
    (r"\frac{1}{0}", None),
    (r"\sqrt{-1}", None),
    ("(-8)^{1/3}", -2),
    ("(-8)^{1/4}", None),
    ("0^{-1}", None),
    ("9^{9^{9^{9}}}", None),
    ("10^{10^{10}}", None),
    ("9^{9^9}", None),
    ("2^{99999}", None),
    ("10^{999999999999}", None),
    (r"\infty", None),
    ("nan", None),
    ("inf", None),
    ("x", None),
    ("", None),
    ("2^", None),
    ("(2", None),
    ("2)", None),
    (r"\frac{1}", None),
    (r"\sqrt", None),
    ("+", None),
    (r"\sin 30", math.sin(30)),
    (r"\sin", None),
    (r"5\%", 0.05),
    ("1,2", None),
    (r"5\pm1", None),
]


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_values(text: str, value: float | Fraction | None) -> None:
    found = evaluate(normalise(text))
    if value is None or found is None:
        assert found is value
    elif isinstance(value, Fraction):
        assert found == value
    else:
        assert math.isclose(found, value, rel_tol=1e-12)


@given(
    st.recursive(
        st.sampled_from(["9", "0", "1.5", r"\pi", "e", "-7", "99999"]),
        lambda inner: st.builds(
            str.format,
            st.sampled_from([r"\frac{{{}}}{{{}}}", "{{{}}}^{{{}}}", "({})*({})", r"\sqrt{{{}}}+{{{}}}", "({})-({})"]),
            inner,
            inner,
        ),
        max_leaves=12,
    )
)
def test_formulas_are_finite_or_none(text: str) -> None:
    value = evaluate(text)
    assert value is None or abs(value) < 10**15000


@pytest.mark.parametrize(
    "unit", ["(", "{", "9^", "9^{", r"\sqrt{", r"\frac{", "9*", "1/", "-", "e", r"\pi", "9^9*", "(9^999)*", "1+"]
)
def test_hostile_formulas_take_no_time(unit: str) -> None:
    for tail in ("", "1", "1" + "}" * 900):
        evaluate(unit * (1900 // len(unit)) + tail)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"\sum_{n=0}^{\infty} \frac{1}{2^n}", Fraction(2)),
        (r"\sum_{n=1}^\infty 3\cdot\left(-\frac13\right)^{n-1}", Fraction(9, 4)),
        (r"1+\sum_{k=2}^{\infty} 5^{-k}\cdot 2^{k}", 1 + Fraction(4, 15)),
        (r"\sum_{n=0}^{\infty} 2^n", None),
        (r"\sum_{n=1}^{\infty} \frac{1}{n^2}", None),
        (r"\sum_{n=1}^{\infty} \frac{1}{2^{n^2}}", None),
        (r"\sum_{n=0}^{\infty} 2^{-n-\lfloor n/13\rfloor}", None),
        (r"\sum_{n=0}^{\infty} n 2^{-n}", None),
        (r"\sum_{n=0}^{\infty} \frac{2^n}{2^n}", None),
        (r"\sum_{n=0}^{\infty} 0^n", None),
        (r"\sum_{n=0}^{\infty} \left(\frac12\right)^n+1", 3),
        (r"\prod_{n=0}^{\infty} 2^{-n}", None),
        (r"2^\infty", None),
    ],
)
def test_series_without_end(text: str, value: Fraction | None) -> None:
    assert evaluate(normalise(text)) == value
