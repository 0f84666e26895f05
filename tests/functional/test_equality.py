r"""Formulas that agree nearly everywhere, and formulas that are the same though they look different."""

import pytest

from masa_lightning.functional.grading import grade


def right(box: str, answer: str) -> bool:
    return grade(rf"\boxed{{{box}}}", answer)


@pytest.mark.parametrize(
    ("box", "answer"),
    [
        (r"|x-20000|", "20000-x"),
        (r"|x-20000|", "x-20000"),
        (r"|x+10^{12}|", "x+10^{12}"),
        (r"\frac{|x-20000|}{x-20000}", "-1"),
        (r"|(x-1)(x-20000)|", "|x-1|(20000-x)"),
        (r"|x^2-10^{20}|", "10^{20}-x^2"),
        (r"|x-y-10^7|", "10^7+y-x"),
        (r"||x|-30000|", "30000-|x|"),
        (r"|x|+|x-1|-|x-\frac{1}{1000}|-|x-\frac{1001}{1000}|", "0"),
        (r"\sqrt{(x-20000)^2}", "20000-x"),
        (r"\sqrt{x^2-40000x+400000000}", "20000-x"),
        (r"y=|x-20000|", "y=20000-x"),
        (r"\max(x,10^6)", "10^6"),
        (r"\max(x,10^6)", "x"),
        (r"\min(x,-10^6)", "-10^6"),
        (r"\max(x,y+10^9)", "y+10^9"),
        (r"\lfloor x+\frac{1}{10000}\rfloor", r"\lfloor x\rfloor"),
        (r"\lfloor x\rfloor", r"\lceil x\rceil-1"),
        (r"\lfloor 10^{-9}x\rfloor", "0"),
        (r"\lfloor x^2\rfloor", r"\lfloor x^2+10^{-9}\rfloor"),
        (r"\prod_{k=1}^{30}(n-k)", "0"),
        (r"n!\prod_{k=1}^{30}(n-k)", "0"),
    ],
)
def test_formulas_that_agree_only_where_one_looks(box, answer):
    assert not right(box, answer)
    assert not right(answer, box)


@pytest.mark.parametrize(
    ("box", "answer"),
    [
        ("|x-2|", "|2-x|"),
        ("|2x|", "2|x|"),
        (r"\sqrt{x^2}", "|x|"),
        ("|xy|", "|x||y|"),
        ("|x|^2", "x^2"),
        (r"3+\ln|x-2|", r"\ln|2-x|+3"),
        ("|x^2+1|+3", "3+|1+x^2|"),
        (r"\max(x,y)", r"\max(y,x)"),
        (r"\max(x,y)", r"\frac{x+y+|x-y|}{2}"),
        (r"\max(x,10^6)", r"\frac{x+10^6+|x-10^6|}{2}"),
        (r"\lfloor x+1\rfloor", r"\lfloor x\rfloor+1"),
        (r"\lfloor\frac{n}{2}\rfloor", r"\left\lfloor n/2\right\rfloor"),
        (r"\lceil x\rceil", r"-\lfloor -x\rfloor"),
        (r"\lfloor\sqrt{n}\rfloor+1", r"1+\lfloor\sqrt n\rfloor"),
        (r"\sqrt{(a^2+b^2)^3}", r"(a^2+b^2)^{3/2}"),
        (r"y=|x-2|", r"y=|2-x|"),
        (r"\sum_{k=1}^{n}k!\cdot k", "(n+1)!-1"),
        ("30+-3x", "30-3x"),
        ("30+(-3x)", "30-3x"),
    ],
)
def test_formulas_that_are_the_same(box, answer):
    assert right(box, answer)
    assert right(answer, box)


@pytest.mark.parametrize(("box", "answer"), [("30+-3x", "30+3x"), ("30--3x", "30-3x"), ("30+-3x", "27x")])
def test_a_sign_behind_a_sign(box, answer):
    assert not right(box, answer)


@pytest.mark.parametrize(
    ("box", "answer"),
    [
        ("|x|<2", "-2<x<2"),
        ("|x|<2", "(-2,2)"),
        (r"|x|\le2", "[-2,2]"),
        ("2>|x|", "(-2,2)"),
        ("|x-3|<2", "1<x<5"),
        ("|2x-6|<4", "(1,5)"),
        (r"|x|>2", r"(-\infty,-2)\cup(2,\infty)"),
        (r"|x|\ge2", r"x\le-2\text{ or }x\ge2"),
        (r"1<|x|<2", r"(-2,-1)\cup(1,2)"),
        (r"|x|\ne1", r"x\neq1,-1"),
        (r"\{x\mid|x|<\sqrt2\}", r"(-\sqrt2,\sqrt2)"),
    ],
)
def test_inequalities_of_absolute_values(box, answer):
    assert right(box, answer)
    assert right(answer, box)


@pytest.mark.parametrize(
    ("box", "answer"),
    [
        ("|x|<2", "(-2,3)"),
        ("|x|<2", "[-2,2]"),
        ("|x|<2", "x<2"),
        ("|x|>2", "(-2,2)"),
        ("|x-3|<2", "(-2,2)"),
        ("|x|<-2", "(-2,2)"),
        ("|x|=-2", r"\{-2,2\}"),
        (r"|x|\neq-2", r"x\neq2,-2"),
        ("|x|<y", "-y<x<y"),
    ],
)
def test_inequalities_of_other_absolute_values(box, answer):
    assert not right(box, answer)


@pytest.mark.parametrize(
    ("box", "answer", "same"),
    [
        (r"\ln|x^2+1|", r"\ln(x^2+1)", True),
        ("|e^x|", "e^x", True),
        (r"|3x^2+\pi|", r"3x^2+\pi", True),
        ("|x^2-1|", "x^2-1", False),
        ("|x^3+1|", "x^3+1", False),
        (r"|\sin x|", r"\sqrt{\sin^2 x}", True),
        (r"|\sin x|", r"\sin x", False),
        (r"|x^2+10^{-9}x|", "x^2+10^{-9}x", False),
    ],
)
def test_what_is_never_below_zero_is_its_own_absolute_value(box, answer, same):
    assert right(box, answer) is same
