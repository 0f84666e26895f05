import pytest
from hypothesis import given
from hypothesis import strategies as st

from masa_lightning.functional._spelling import decimal_comma, normalise
from masa_lightning.functional.grading import grade

RIGHT = [  # (content of the box, answer)
    (r"6.02\times10^{23}", "6.02e23"),
    ("11111111100", r"11,\! 111,\! 111,\! 100"),
    (r"11,\! 111,\! 111,\! 100", "11111111100"),
    ("12 345", "12345"),
    (r"12\,345", "12345"),
    (r"12\ 345", "12345"),
    ("12~345", "12345"),
    ("12 345", "12345"),
    ("12 345", "12345"),
    ("1 234 567.5", "1234567.5"),
    ("**5**", "5"),
    ("*5*", "5"),
    ("`5`", "5"),
    (r"\underline{5}", "5"),
    (r"\textcolor{red}{5}", "5"),
    (r"{\color{blue}5}", "5"),
    (r"\color{blue}{5}", "5"),
    (r"{\color{blue}\frac{1}{2}}", r"\frac12"),
    (r"\bf 5", "5"),
    (r"{\bf 5}", "5"),
    (r"\displaystyle \frac{1}{2}", "1/2"),
    (r"\(5\)", "5"),
    (r"\[5\]", "5"),
    ("5,", "5"),
    ("5;", "5"),
    (r"x \ne 3", r"x \neq 3"),
    (r"x \not= 3", r"x \neq 3"),
    ("x ≠ 3", r"x \neq 3"),
    (r"x\leqslant3", r"x\le 3"),
    ("x ≤ 3", r"x\le 3"),
    (r"\varnothing", r"\emptyset"),
    (r"\{\}", r"\emptyset"),
    ("∅", r"\emptyset"),
    (r"\{ \}", r"\varnothing"),
    (r"\{x|x>3\}", r"\{x : x > 3\}"),
    (r"\{x \mid x>3\}", r"\{x | x > 3\}"),
    (r"\{x\in\mathbb{R}\mid x>3\}", r"\{x \in \mathbb{R} : x > 3\}"),
    (r"\{x \vert x>3\}", r"\{x : x > 3\}"),
    ("1e-05", "10^{-5}"),
    ("10^{-5}", "1e-05"),
    ("0.00001", "10^{-5}"),
    ("10^{-5}", "0.00001"),
    (r"1.2 \cdot 10^5", "120000"),
    ("3,14", "3.14"),
    ("3{,}14", "3.14"),
    ("3.14", "3{,}14"),
    ("1.234,56", "1234.56"),
    ("1.234.567", "1234567"),
    ("12½", "12.5"),
    (r"12\frac12", "12.5"),
    (r"12 \frac12", "12.5"),
    ("x²", "x^2"),
    ("√2", r"\sqrt{2}"),
    ("√(2)", r"\sqrt2"),
    ("2π", r"2\pi"),
    ("2pi", r"2\pi"),
    ("sqrt(3)/2", r"\frac{\sqrt3}{2}"),
    ("- 5", "-5"),
    ("−5", "-5"),
    ("5", "5"),
    ("(1,2)", "(1,2)"),
    (r"90^{\circ}", "90"),
    (r"20^\circ\text{C}", "20"),
    ("5 cm²", r"5 \text{ square centimeters}"),
    ("5 Apples", "5"),
    (r"\operatorname{arcsin} x", r"\arcsin x"),
    (r"\mathrm{arctan}(x)", r"\arctan(x)"),
    (r"\mathbf{5}", "5"),
    (r"\boldsymbol{5}", "5"),
    (r"\boldsymbol{\mathbf{5}}", "5"),
    (r"\fbox{5}", "5"),
    (r"\{5\}", "5"),
    (r"\textdollar 5", "5"),
    (r"5 \checkmark", "5"),
    ('"5"', "5"),
    ("“5”", "5"),
    ("{,}5", "{,}5"),
    (r"\textbf{5}", "5"),
    (r"\Large{5}", "5"),
    (r"\large 5", "5"),
    (r"\tfrac12", "0.5"),
    (r"\cfrac{1}{2}", "0.5"),
]
WRONG = [
    ("4.5e", "1.5e3"),
    ("1.5e3", "4.5e"),
    ("12 345", "12 346"),
    ("12 34", "1234"),
    ("1 1200", "11200"),
    ("1 125/216", "1125/216"),
    ("1 125/216", "1125"),
    (r"6.02\times10^{23}", "6.02e22"),
    (r"6.02\times10^{23}", r"6.02\times10^{-23}"),
    ("10^{-5}", "10^{5}"),
    ("1e5", "1e-5"),
    ("3,14", "3.15"),
    ("3.14", "3,14"),
    ("1.234,56", "1234.57"),
    ("1,234", "1.234"),
    ("1.234", "1234"),
    ("5^2", "5"),
    (r"x \ne 3", "x = 3"),
    (r"x \leq 3", "x < 3"),
    (r"x \leq 3", r"x \geq 3"),
    (r"\{x|x>3\}", r"\{x : x < 3\}"),
    (r"\emptyset", "0"),
    (r"\{0\}", r"\emptyset"),
    ("**5**", "6"),
    ("5*", "5"),
    ("*5", "6"),
    ("2*3", "23"),
    (r"\underline{5}", "6"),
    (r"\overline{5}", "5"),
    (r"\cancel{5}", "5"),
    ("-5", "5"),
    ("√2", "2"),
    ("12½", "12"),
    (r"12\frac12", "6"),
    (r"12\frac12", "121/2"),
    ("2π", "2"),
    (r"\mathbf{5}x", "5"),
    ("5!", "5"),
    ("12{,}34", "1234"),
    ("1{,}234", "1.234"),
    ("2e-5", "2e5"),
    ("A", "B"),
    (r"\text{AB}", "AC"),
    ("even", "odd"),
    (r"5 \neq 3", "5"),
    ("(1 234)", "1,234,5"),
]


@pytest.mark.parametrize(("box", "answer"), RIGHT)
def test_right(box: str, answer: str) -> None:
    assert grade(rf"so \boxed{{{box}}}", answer) is True


@pytest.mark.parametrize(("box", "answer"), WRONG)
def test_wrong(box: str, answer: str) -> None:
    assert grade(rf"so \boxed{{{box}}}", answer) is False


TRICKY = st.text(st.sampled_from("\\{}$^_.,;*`'\" 0123eE()textboldfrac²½√ \u2212") | st.characters(), max_size=40)
PIECES = st.lists(
    st.sampled_from(["\\text{", "\\mathbf{", "\\frac", "\\sqrt", "{\\bf ", "}", "\\!", "$", "5", "a", " "])
)


@given(TRICKY | PIECES.map("".join))
def test_normalise_never_raises_and_is_soon_done(text: str) -> None:
    once = normalise(text)
    assert isinstance(once, str) and len(once) <= 20 * len(text) + 20


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9))
def test_grouped_digits_are_one_number(value: object) -> None:
    plain = f"{value:f}"
    for sign in (" ", "\\,", "\\ ", "\u2009", "\u00a0", ",\\!", "{,}"):
        assert normalise(f"{value:,f}".replace(",", sign)).replace(",", "") == plain
    european = f"{value:,f}".translate(str.maketrans(",.", ".,"))
    if "." in european or european.lstrip("-").startswith("0,"):  # 1,234 is a thousand
        assert decimal_comma(european) == plain


@pytest.mark.parametrize("text", ["1,234", "1,2,3", "3, 14", "a,5", "", "1.23,4", "1,5,", "01,5"])
def test_what_is_no_decimal_comma(text: str) -> None:
    assert decimal_comma(text) is None


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "unit",
    [
        "\\text{",
        "\\mathbf{",
        "{\\bf ",
        "\\sqrt(",
        "\\frac",
        "1 000 ",
        "1.000",
        "{,}5",
        "\\{x:",
        "**",
        '"',
        "$",
        "²",
        "{",
    ],
)
def test_hostile_spellings_take_no_time(unit: str) -> None:
    assert isinstance(normalise(unit * (2000 // len(unit))), str)
