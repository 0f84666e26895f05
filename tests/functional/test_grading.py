import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from masa_lightning.functional.boxes import last_box
from masa_lightning.functional.grading import checked_verdict, grade, quick_verdict
from masa_lightning.functional.readable import is_readable

# (content of the box, answer, does the quick path decide?)
RIGHT = [
    ("5", "5", True),
    ("33", "33.0", True),
    ("204", "204.0", True),
    ("0.50", ".5", True),
    ("-7", "\u22127", True),
    ("+7", "7", True),
    ("007", "7", True),
    ("1,234", "1234", True),
    ("1{,}234{,}567", "1234567", True),
    ("1\\,234", "1,234", True),
    ("\\$1,000.50", "1000.5", True),
    ("$5$", "5", True),
    ("5.", "5", True),
    ("90^\\circ", "90", True),
    ("10\\%", "10", True),
    ("10\\%", "0.1", True),
    ("10", "10\\%", True),
    ("\\text{B}", "B", True),
    ("(B)", "B", True),
    ("b", "B", True),
    ("\\textbf{(B) }5", "B", True),
    ("B. seven", "(B)", True),
    ("Even", "even", True),
    ("YES", "yes", True),
    ("5\\text{ cm}", "5", True),
    ("5 cm", "5\\text{ cm}", True),
    ("5", "5\\text{ apples}", True),
    ("x=5", "5", True),
    ("5", "x = 5", True),
    ("1/2 = 0.5", "0.5", True),
    ("\\dfrac{1}{2}", "0.5", True),
    ("\\frac12", "1/2", True),
    ("\\frac{-1}{2}", "-\\frac{1}{2}", True),
    ("1 1/2", "3/2", True),
    ("1\\frac{1}{2}", "1.5", True),
    ("0.\\overline{3}", "1/3", True),
    ("2, 1", "1,2", True),
    ("\\{1,2\\}", "2,1", True),
    ("1 \\text{ or } 2", "1,2", True),
    ("\\left( 1, 2 \\right)", "(1,2)", True),
    ("(1,234)", "(1, 234)", True),
    ("(x,y) = (1,2)", "(1,2)", True),
    ("\\pm 5", "-5, 5", True),
    ("x=1,y=2", "y=2, x=1", True),
    ("101_2", "101_{2}", True),
    ("\\boxed{5}", "5", True),
    ("5", "\\boxed{5}", True),
    ("\\sqrt{2}", "\\sqrt2", True),
    ("2\\sqrt{3}", "\\sqrt{12}", False),
    ("\\frac{\\sqrt{2}}{2}", "1/\\sqrt{2}", False),
    ("(x+1)^2", "x^2+2x+1", False),
    ("2^{10}", "1024", False),
    ("\\log_2 8", "3", False),
    ("1.41421356", "\\sqrt{2}", False),
    ("0.33333333", "1/3", True),
    ("y = 2x+1", "2x - y + 1 = 0", False),
    ("x < 2", "2 > x", False),
    ("x < 2", "(-\\infty, 2)", False),
    ("\\{\\sqrt{4}, 1\\}", "1, 2", False),
    ("\\begin{pmatrix} 2/2 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", True),
    ("(\\sqrt{4}, 1)", "(2, 1)", False),
]
WRONG = [
    ("", "5", True),
    ("6", "5", True),
    ("5.0000001", "5", True),
    ("0.1", "10", True),
    ("1000\\%", "10.5", True),
    ("5,6", "5", True),
    ("5 or 6", "5", True),
    ("5", "5,6", True),
    ("5,000", "5", True),
    ("(1,2)", "(2,1)", True),
    ("(1,2)", "\\{1,2\\}", True),
    ("[1,2]", "(1,2)", True),
    ("(1,2]", "(1,2)", True),
    ("1 1/2", "1", True),
    ("1 1/2", "11/2", True),
    ("5\\text{ cm}", "5\\text{ m}", True),
    ("5\\text{ m}^2", "5\\text{ m}^3", True),
    ("10_{2}", "10", True),
    ("101_{3}", "101_{2}", True),
    ("even", "neve", True),
    ("(A), (B)", "A", True),
    ("C", "B", True),
    ("abc", "ABC", True),
    ("1/0", "5", False),
    ("12 13", "1213", False),
    ("5 6", "11", False),
    ("5m", "5", False),
    ("5x", "5", False),
    ("5\\text{ million}", "5", True),
    ("5\\text{ or more}", "5", False),
    ("5\\text{ apples and }6\\text{ pears}", "5", False),
    ("5\\ldots", "5", False),
    ("5'", "5", False),
    ("5!", "5", False),
    ("x=5", "y=5", False),
    ("x > 5", "5", False),
    ("x \\ne 5", "5", False),
    ("x^2+y^2=25", "25", False),
    ("x^2+1=0", "x^2+2=0", False),
    ("\\pi", "3.14", False),
    ("0.3333", "1/3", True),
    ("101", "101_{2}", True),
    ("10^{-7}", "0", True),
    ("0.0", "10^{-7}", True),
    ("10^{-20}", "2\\cdot 10^{-20}", True),
    ("2A+b", "2a+B", False),
    ("\\frac{0}{0}", "\\frac{1}{0}", False),
    ("\\infty", "-\\infty", False),
    ("x < 2", "(-\\infty, 2]", False),
    ("\\begin{pmatrix} 2/2 & 2 \\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", True),
    ("\\begin{pmatrix} 2/2 \\\\ 3 \\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", True),
    ("\\begin{vmatrix} 1 & 2 \\\\ 3 & 5 \\end{vmatrix}", "\\begin{pmatrix}1&2\\\\3&5\\end{pmatrix}", True),
    ("\\sqrt{x^2}", "x", False),
    ("\\{\\sqrt{4}, \\sqrt{4}\\}", "1, 2", False),
]


@pytest.mark.parametrize(("box", "answer", "quick"), RIGHT)
def test_right(box, answer, quick):
    text = f"So the answer is $\\boxed{{{box}}}$."
    assert quick_verdict(text, answer) is (True if quick else None)
    assert grade(text, answer) is True


@pytest.mark.parametrize(("box", "answer", "quick"), WRONG)
def test_wrong(box, answer, quick):
    text = f"So the answer is $\\boxed{{{box}}}$."
    assert quick_verdict(text, answer) is (False if quick else None)
    assert grade(text, answer) is False
    assert checked_verdict(text, answer) is False


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("no box, 5", None),
        ("\\boxed{1} then \\boxed{2}", "2"),
        ("\\boxed{1} then \\fbox {2}", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{\\left\\{1\\right\\}} }", "\\left\\{1\\right\\}"),
        ("\\boxed{\\boxed{5}}", "5"),
        ("\\boxed{x = \\boxed{5} + 1}", "x = \\boxed{5} + 1"),
        ("\\boxed{1} and \\boxed{2", None),
        ("\\boxed{1 and \\boxed{2}", "2"),
        ("{ stray \\boxed{5}", "5"),
        ("\\\\boxed{5}", "5"),
        ("\\\\\\boxed{5}", "5"),
        ("\\boxed 5", "5"),
        ("\\boxed{}", ""),
        ("boxed{5}", None),
    ],
)
def test_last_box(text, box):
    assert last_box(text) == box


@pytest.mark.timeout(60)
@pytest.mark.parametrize("unit", ["\\boxed{", "{", "}", "\\", "\\boxed ", "\\boxed{1}", "\\boxed{{", "\\boxed{ }{"])
def test_hostile_megabytes(unit):
    text = unit * (1_000_000 // len(unit))
    assert grade(text, "5") is False
    assert grade(text + " \\boxed{5}", "5") is True
    assert grade("\\boxed{" + text + "}", "5") is False


@pytest.mark.parametrize("unit", ["{", "\\text{", "\\frac{", "(", "\\{", "|", "1,", "\\quad x=", "\\sqrt("])
def test_hostile_megabytes_as_right_answers(unit):
    closing = unit[-1].translate(str.maketrans("{(", "})"))
    text = unit * (500_000 // len(unit)) + "5" + closing * (500_000 // len(unit))
    assert grade("\\boxed{5}", text) is False
    assert is_readable(text) is False


def test_a_long_right_answer_with_a_box_is_its_box():
    assert grade("\\boxed{5}", "so it is " * 1000 + "\\boxed{5}") is True
    assert grade("\\boxed{5}", "\\boxed{5}" * 1000) is True
    assert grade("\\boxed{5}", " ".join(f"\\boxed{{{i}}}" for i in range(10_000))) is False


def test_long_answers():
    assert grade("\\boxed{" + "1" * 2001 + "}", "1" * 2001) is False
    assert grade("\\boxed{" + "1" * 2000 + "}", "1" * 2000) is True
    assert grade("\\boxed{5}", "5" * 10**6) is False
    assert grade("\\boxed{9^{999999999}}", "5") is False


@given(st.text(st.sampled_from("()[]{}\\,;=%$<>_^ 0123xyA.:'\"!") | st.characters(), max_size=30), st.text(max_size=10))
def test_quick_verdict_never_raises_and_an_answer_equals_itself(box, answer):
    assert quick_verdict(f"\\boxed{{{box}}}", answer) in (True, False, None)
    if last_box(f"\\boxed{{{answer}}}") and "\\" not in answer and answer.strip(" .$\n").isalnum():
        assert quick_verdict(f"\\boxed{{{answer}}}", answer) is True


@given(st.lists(st.sampled_from(["\\", "\\boxed", "boxed", "fbox", " ", "{", "}", "5", "x", "$", "."]), max_size=9))
@example(["\\", "\\boxed", " ", "5"])
def test_last_box_never_raises(parts):
    box = last_box("".join(parts))
    assert box is None or box in "".join(parts)


@given(st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12))
def test_integers_are_compared_as_numbers(a, b):
    assert quick_verdict(f"\\boxed{{{a:,}}}", str(b)) is (a == b)
    assert quick_verdict(f"\\boxed{{{a}.0}}", f"{a:,}") is True


def test_a_gold_of_many_blanks_is_read_in_linear_time():
    assert grade(r"\boxed{\sqrt2}", "\n" * 300_000) is False
