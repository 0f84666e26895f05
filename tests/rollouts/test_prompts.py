from types import SimpleNamespace

import pytest

from masa_lightning.functional.prompts import PromptTemplates
from masa_lightning.models import loading
from masa_lightning.rollouts.plan import make_groups
from masa_lightning.rollouts.prompts import Prompts, SolutionChat
from masa_lightning.types import Problem, RolloutGroup

TEMPLATES = PromptTemplates(solution="S:{problem}", meta="M:{problem}", hint="{problem} by {notions}")


@pytest.fixture
def tokenizer(tiny_checkpoint):
    return loading.load_tokenizer(str(tiny_checkpoint))


def prompts(tokenizer, rows=1000, **chats):
    config = SimpleNamespace(vocab_size=rows)
    config.get_text_config = lambda: config
    chats = {"solution": SolutionChat(TEMPLATES)} | chats
    return Prompts(chats, tokenizer=tokenizer, template_kwargs={}, model="a model", config=config)


def group(text, **values):
    return RolloutGroup(problem=Problem(id=text, problem=text, answer="2"), **values)


def test_a_prompt_is_the_chat_up_to_the_completion(tokenizer):
    made = prompts(tokenizer).make("solution", [group("1+1"), group("1+1", hint=("sums",))])
    assert [tokenizer.decode(ids) for ids in made] == ["<user>S:1+1<assistant>", "<user>S:1+1 by sums<assistant>"]


def test_each_kind_has_a_chat_of_its_own(tokenizer):
    def own(group):
        return [{"role": "user", "content": group.problem.problem.upper()}]

    (made,) = make_groups(
        [group("a+a").problem], ["solution", "meta"], prompts=prompts(tokenizer, meta=own), max_prompt_length=16
    )
    assert {kind: tokenizer.decode(ids) for kind, ids in made.prompts.items()} == {
        "solution": "<user>S:a+a<assistant>",
        "meta": "<user>A+A<assistant>",
    }


def test_a_kind_without_a_chat_is_refused(tokenizer):
    with pytest.raises(ValueError, match="no prompt for rollouts of kind 'meta'; expected one of solution"):
        prompts(tokenizer).make("meta", [group("1+1")])


def test_a_prompt_that_the_model_cannot_read_is_refused(tokenizer):
    with pytest.raises(ValueError, match="tokens that the model's embedding of 5 rows has no row for"):
        prompts(tokenizer, rows=5).make("solution", [group("1+1")])
