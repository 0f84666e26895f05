"""A row of every benchmark with the columns of its data set on the hub, and the problem it becomes; all invented here."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from masa_lightning.types import ChoiceAnswer, CodeAnswer, NumberAnswer, Problem


def math_problem(source: str, problem: str, answer: str, name: str = "0") -> Problem:
    return Problem(id=name, problem=problem, answer=answer, source=source)


def choice(source: str, problem: str, answer: str, options: list[str], name: str = "0") -> Problem:
    return Problem(id=name, problem=problem, answer=ChoiceAnswer(answer, options=options), source=source)


def on_the_hub(*others: str) -> Callable[..., Any]:
    """What takes the place of `datasets.load_dataset_builder` for a data set of the hub, with files from elsewhere."""

    def load(path: str, name: str | None = None) -> Any:
        files = [f"hf://datasets/{path}@0f1e/data/test.parquet", *others]
        return SimpleNamespace(config=SimpleNamespace(data_files={"test": files}))

    return load


def gpqa(i: int) -> dict[str, Any]:
    wrong = {f"Incorrect Answer {k}": f"wrong {k}\n" for k in (1, 2, 3)}
    return {"Record ID": f"rec{i}", "Question": f"Question {i}?", "Correct Answer": " right", **wrong}


LOGIC = {
    "id": "x_1",
    "context": "All cats purr. Tom is a cat.",
    "question": "Is the following statement true or false? Tom purrs.",
    "options": ["A) True", "B) False"],
    "answer": "A",
}
LOGIC_TEXT = "All cats purr. Tom is a cat.\n\nIs the following statement true or false? Tom purrs.\n\nA) True\nB) False"
TRUTHS = ["True", "False", "Uncertain"]
ADD = 'def add(a, b):\n    """Adds."""\n'
MBPP_TEXT = (
    "Write a function to add.\n\nYour code should pass these tests:\nassert add(1, 2) == 3\nassert add(0, 0) == 0"
)
TOLD = ["assert add(1, 2) == 3", "assert add(0, 0) == 0"]

# By benchmark; gpqa_diamond shuffles, and has `gpqa` in its place.
HUB: dict[str, tuple[dict[str, Any], Problem]] = {
    "aime24": (
        {"id": 60, "problem": "What is 20+5?", "solution": "...", "answer": "025", "url": "u", "year": "2024"},
        math_problem("aime24", "What is 20+5?", "025", "60"),
    ),
    "aime25": (
        {"problem": "What is 2+5?", "answer": "7", "id": "3"},
        math_problem("aime25", "What is 2+5?", "7", "3"),
    ),
    "amc23": (
        {"id": 4, "question": "What is 9/2*2?", "answer": 9.0, "url": "u"},
        math_problem("amc23", "What is 9/2*2?", "9", "4"),
    ),
    "math500": (
        {
            "problem": "Half of $x$?",
            "solution": "$$",
            "answer": "\\frac{x}{2}",
            "level": 2,
            "unique_id": "test/a/1.json",
        },
        math_problem("math500", "Half of $x$?", "\\frac{x}{2}", "test/a/1.json"),
    ),
    "minerva": (
        {"question": "How fast is light, in m/s?", "answer": "3e8"},
        math_problem("minerva", "How fast is light, in m/s?", "3e8"),
    ),
    "olympiadbench": (
        {
            "id": 1606,
            "context": None,
            "question": "Solve $x^2=4$.",
            "solution": ["..."],
            "final_answer": ["$2$,$-2$", "0"],
            "modality": "Text-only",
            "language": "English",
            "subject": "Math",
            "unit": None,
        },
        math_problem("olympiadbench", "Solve $x^2=4$.", "2,-2, 0", "1606"),
    ),
    "gsm8k": (
        {"question": "Ann has 3 hens and 4 more.", "answer": "3+4=<<3+4=7>>7\n#### 1,007"},
        math_problem("gsm8k", "Ann has 3 hens and 4 more.", "1007"),
    ),
    "asdiv": (
        {
            "body": "Ann has 9 hens.",
            "question": "How many?",
            "solution_type": "s",
            "answer": "9 (hens)",
            "formula": "9",
        },
        math_problem("asdiv", "Ann has 9 hens.\n\nHow many?", "9"),
    ),
    "ar_lsat": (
        {
            "query": "Ann, Bo and Cy queue. Ann is not first.Q: Who can be first? Answer Choices: (A)Ann (B)Bo (C)Di\n"
            "A: Among A through C, the answer is",
            "choices": ["(A)Ann", "(B)Bo", "(C)Di"],
            "gold": [1],
        },
        choice(
            "ar_lsat",
            "Ann, Bo and Cy queue. Ann is not first.\n\nWho can be first?\n\nA) Ann\nB) Bo\nC) Di",
            "B",
            ["Ann", "Bo", "Di"],
        ),
    ),
    "folio": (
        {
            "story_id": 1,
            "premises": "All cats purr.\nTom is a cat.",
            "premises-FOL": "",
            "conclusion": "Tom barks.",
            "label": "Uncertain",
            "example_id": 7,
        },
        choice(
            "folio",
            "All cats purr.\nTom is a cat.\n\nBased on the above information, is the following statement true, false, or "
            "uncertain? Tom barks.\n\nA) True\nB) False\nC) Uncertain",
            "C",
            TRUTHS,
            "7",
        ),
    ),
    "logical_deduction": (
        {
            "input": "Three birds sit on a branch. The owl is left of the jay.\nOptions:\n"
            "(A) The owl is first\n(B) The jay is first",
            "target": "(A)",
        },
        choice(
            "logical_deduction",
            "Three birds sit on a branch. The owl is left of the jay.\n\nWhich of the following is true?\n\n"
            "A) The owl is first\nB) The jay is first",
            "A",
            ["The owl is first", "The jay is first"],
        ),
    ),
    "prontoqa": (
        LOGIC | {"raw_logic_programs": ["..."]},
        choice("prontoqa", LOGIC_TEXT, "A", ["True", "False"], "x_1"),
    ),
    "proofwriter": (
        LOGIC | {"raw_logic_programs": ["..."]},
        choice("proofwriter", LOGIC_TEXT, "A", ["True", "False"], "x_1"),
    ),
    "arc_challenge": (
        {
            "id": "Mercury_1",
            "question": "What falls?",
            "choices": {"text": ["rain", "light", "heat", "air"], "label": ["1", "2", "3", "4"]},
            "answerKey": "3",
        },
        choice(
            "arc_challenge",
            "What falls?\n\nA) rain\nB) light\nC) heat\nD) air",
            "C",
            ["rain", "light", "heat", "air"],
            "Mercury_1",
        ),
    ),
    "rbench": (
        {"index": "a1", "question": "2+2?", "answer": "D", **{c: f"${i}$" for i, c in enumerate("ABCDEF", 1)}},
        choice(
            "rbench",
            "2+2?\n\nA) $1$\nB) $2$\nC) $3$\nD) $4$\nE) $5$\nF) $6$",
            "D",
            [f"${i}$" for i in range(1, 7)],
            "a1",
        ),
    ),
    "scibench": (
        {
            "problem_text": "How far is it?",
            "answer_latex": " +1,234.5",
            "answer_number": "+1,234.5",
            "unit": " $10^{3} \\mathrm{~m}$ ",
            "problemid": " e1.1",
            "source": "atkins",
        },
        Problem(
            id="e1.1",
            problem="How far is it?\n\nGive the answer as a number in units of $10^{3} \\mathrm{~m}$.",
            answer=NumberAnswer("1234.5", tolerance=0.05),
            source="scibench",
        ),
    ),
    "mbpp": (
        {
            "task_id": 11,
            "text": "Write a function to add.",
            "code": "...",
            "test_list": TOLD,
            "test_setup_code": "import math",
            "challenge_test_list": [],
        },
        Problem(
            id="11",
            problem=MBPP_TEXT,
            answer=CodeAnswer("import math\nassert add(1, 2) == 3\nassert add(0, 0) == 0"),
            source="mbpp",
        ),
    ),
    "mbpp_plus": (
        {
            "task_id": 2,
            "prompt": "Write a function to add.",
            "code": "...",
            "test_imports": ["import math", "import re"],
            "test_list": TOLD,
            "test": "for x in range(9):\n    assert add(x, 1) == x + 1",
        },
        Problem(
            id="2",
            problem=MBPP_TEXT,
            answer=CodeAnswer("import math\nimport re\nfor x in range(9):\n    assert add(x, 1) == x + 1"),
            source="mbpp_plus",
        ),
    ),
    **{
        name: (
            {
                "task_id": "HumanEval/0",
                "prompt": f"\n\nimport math\n\n{ADD}",
                "canonical_solution": "    return a + b\n",
                "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
                "entry_point": "add",
            },
            Problem(
                id="HumanEval/0",
                problem=f"Complete this function:\n\n```python\nimport math\n\n{ADD.strip()}\n```",
                answer=CodeAnswer(
                    "def check(candidate):\n    assert candidate(1, 2) == 3\n\ncheck(add)",
                    preamble=f"\n\nimport math\n\n{ADD}",
                ),
                source=name,
            ),
        )
        for name in ("humaneval", "humaneval_plus")
    },
}
