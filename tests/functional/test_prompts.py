import dataclasses
from typing import get_args

import pytest

from masa_lightning.functional.prompts import PromptTemplates, meta_messages, solution_messages
from masa_lightning.types import AnswerType


def test_default_solution_prompt():
    (message,) = solution_messages(PromptTemplates(), "What is 1+1?")
    assert message["role"] == "user"
    assert message["content"].startswith("What is 1+1?\n")
    assert "\\boxed{}" in message["content"]


def test_default_meta_prompt_fills_in_everything_and_keeps_the_json():
    (message,) = meta_messages(PromptTemplates(), "What is 1+1?", pass_rate_scale=16, max_completion_length=777)
    text = message["content"]
    assert '{"math_notion": [' in text
    assert "from 0 to 16" in text
    assert "from 1 to 777" in text
    assert text.endswith("What is 1+1?")
    assert "<meta>" in text and "</meta>" in text
    for name in ("{problem}", "{pass_rate_scale}", "{max_completion_length}"):
        assert name not in text


def test_problem_with_placeholders_and_braces_stays_as_it_is():
    problem = "\\frac{1}{2} {pass_rate_scale} {problem} {max_completion_length} \\g<0> {x}"
    templates = PromptTemplates(solution="<{problem}>", meta="<{problem}> {pass_rate_scale} {unknown} {}")
    assert solution_messages(templates, problem)[0]["content"] == f"<{problem}>"
    (message,) = meta_messages(templates, problem, pass_rate_scale=8, max_completion_length=10)
    assert message["content"] == f"<{problem}> 8 {{unknown}} {{}}"


def test_system_message_comes_first_and_is_not_filled_in():
    templates = PromptTemplates(system="Be terse. {problem}")
    for messages in (
        solution_messages(templates, "p"),
        meta_messages(templates, "p", pass_rate_scale=8, max_completion_length=10),
    ):
        assert [m["role"] for m in messages] == ["system", "user"]
        assert messages[0]["content"] == "Be terse. {problem}"


def test_the_kind_of_answer_chooses_the_template():
    templates = PromptTemplates(
        solution="s {problem}", choice="c {problem}", code="p {problem}", hint="{problem}/{notions}"
    )

    def text(answer_type):
        return solution_messages(templates, "q", ["n"], answer_type)[0]["content"]

    assert [text(t) for t in get_args(AnswerType)] == ["s q/n", "s q/n", "c q/n", "p q/n"]


@pytest.mark.parametrize("name", ["solution", "choice", "code", "meta", "hint"])
def test_template_without_problem_is_refused(name):
    with pytest.raises(ValueError, match=f"the {name} template has no {{problem}}"):
        PromptTemplates(**{name: "Solve it."})


def test_templates_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PromptTemplates().meta = "{problem}"
