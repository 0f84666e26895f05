"""What chat templates end an answer with, and which messages they show."""

import pytest
from transformers import AddedToken

from masa_lightning.models import loading
from masa_lightning.models.turns import TurnEnd, check_roles, end_of_turn

SPECIAL = ["<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|return|>", "<|end|>", "<bos>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = "{{ bos_token }}{% for m in messages %}({{ m.role }})\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}({{ 'model' if m.role == 'assistant' else m.role }})\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
)
HARMONY = (  # the end of a message is that of a turn in the last one alone
    "{% for m in messages %}({{ m.role }}){{ m.content }}"
    "{% if loop.last and not add_generation_prompt %}<|return|>{% else %}<|end|>{% endif %}{% endfor %}"
)
VICUNA = (
    "{% for m in messages %}{{ m.role | upper }}: {{ m.content }}{{ '</s>\n' if m.role == 'assistant' }}{% endfor %}"
)
ALPACA = "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n\n{% endfor %}"
GLM4 = (  # nothing ends an answer but the user's next turn
    "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
NEMOTRON = "{{ bos_token }}{% for m in messages %}<extra_id_1>{{ m.role }}\n{{ m.content }}\n{% endfor %}"
PHI3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
OPENED = CHATML.replace("{% if add_generation_prompt %}", "{% if true %}")  # as Llama 3's first one: always
USER_LAST = "{{ raise_exception('a question last') if messages[-1].role != 'user' }}" + CHATML
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n\n</think>\n\n"
    "{{ m.content.split('</think>')[-1].lstrip() }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
)
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<\uff5cUser\uff5c>{{ m.content }}"
    "{% elif m.role == 'assistant' %}<\uff5cAssistant\uff5c>{{ m.content.split('</think>')[-1] }}"
    "<\uff5cend\u2581of\u2581sentence\uff5c>{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<\uff5cAssistant\uff5c><think>\n{% endif %}"
)
OLMO = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}"
    "{{ eos_token if m.role == 'assistant' }}\n{% endfor %}"
)
QUESTIONS = "{{ raise_exception('one message') if messages | length > 1 }}{{ messages[0].content }}"
QUIET = "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}"
NO_USER = "{% for m in messages if m.role != 'user' %}{{ m.content }}{% endfor %}"


@pytest.fixture
def tokenizer(tiny_checkpoint):
    tokenizer = loading.load_tokenizer(str(tiny_checkpoint))
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL, "bos_token": "<bos>"})
    tokenizer.eos_token = "<|endoftext|>"
    return tokenizer


@pytest.mark.parametrize(
    ("template", "ends"),
    [
        (CHATML, "<|im_end|>"),
        (LLAMA3, "<|eot_id|>"),
        (GEMMA, "<end_of_turn>"),
        (LLAMA2, "<|endoftext|>"),
        (HARMONY, "<|return|>"),
        (ALPACA, None),
        (QUESTIONS, None),
        (NO_USER, None),
    ],
)
def test_the_token_that_ends_an_answer(tokenizer, template, ends):
    tokenizer.chat_template = template
    expected = None if ends is None else TurnEnd(token_ids=(tokenizer.convert_tokens_to_ids(ends),))
    assert end_of_turn(tokenizer) == expected


FAMILIES = [
    (CHATML, "<|im_end|>"),
    (CHATML + "{{ eos_token if not add_generation_prompt }}", "<|im_end|>"),
    (OPENED, "<|im_end|>"),
    (USER_LAST, "<|im_end|>"),
    (QWEN3, "<|im_end|>"),
    (LLAMA3, "<|eot_id|>"),
    (GEMMA, "<end_of_turn>"),
    (LLAMA2, "<|endoftext|>"),
    (R1, "<\uff5cend\u2581of\u2581sentence\uff5c>"),
    (OLMO, "<|endoftext|>"),
    (PHI3, "<|end|>"),
    (GLM4, "<|user|>"),
    (NEMOTRON, "<extra_id_1>"),
]
MARKS = "<|im_start|> <|im_end|> <|eot_id|> <end_of_turn> <|end|> [gMASK] <sop> <|user|> <|assistant|> <extra_id_1>"
R1_MARKS = "<\uff5cUser\uff5c> <\uff5cAssistant\uff5c> <\uff5cend\u2581of\u2581sentence\uff5c>"


@pytest.mark.parametrize("one_for_all", [False, True], ids=["", "eos is bos and unk"])
@pytest.mark.parametrize("special", [True, False])
def test_families_of_templates(special, one_for_all):
    """Markers that were added without being called special end turns too."""
    tokenizer = loading.load_tokenizer("tiny")
    marks = [AddedToken(mark, special=special) for mark in [*MARKS.split(), *R1_MARKS.split()]]
    blanks = [AddedToken(text, special=False) for text in ("\n\n", "  ", "<think>", "</think>")]
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    tokenizer.add_tokens([*marks, *blanks])
    tokenizer.eos_token = "<|endoftext|>"
    if one_for_all:
        tokenizer.bos_token = tokenizer.unk_token = "<|endoftext|>"
    for template, ends in FAMILIES:
        tokenizer.chat_template = template
        assert end_of_turn(tokenizer) == TurnEnd(token_ids=(tokenizer.convert_tokens_to_ids(ends),)), template


def test_a_text_that_ends_an_answer(tokenizer):
    tokenizer.chat_template = VICUNA
    ids = tokenizer("</s>", add_special_tokens=False).input_ids
    assert end_of_turn(tokenizer) == TurnEnd(token_ids=tuple(ids), text="</s>")
    tokenizer.add_tokens([AddedToken("</s>", special=False)])
    assert end_of_turn(tokenizer) == TurnEnd(token_ids=(tokenizer.convert_tokens_to_ids("</s>"),))
    tokenizer.chat_template = VICUNA.replace("</s>", "\u2603")  # no token has it: it never comes
    assert end_of_turn(tokenizer) is None


def test_variables_of_the_template_count(tokenizer):
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{{ closing }}{% endfor %}"
    assert end_of_turn(tokenizer) is None
    (token,) = end_of_turn(tokenizer, {"closing": "<|end|>"}).token_ids
    assert token == tokenizer.convert_tokens_to_ids("<|end|>")


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        (GEMMA, "it ends with TemplateError: System role not supported"),
        (QUIET, "the text of the system is not in the prompt"),
        (LLAMA2, "the text of the system is not in the prompt"),
        (QUESTIONS, "it ends with TemplateError: one message"),
    ],
)
def test_a_template_without_a_system_role(tokenizer, template, problem):
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=r"prompts\.system is set, but the chat template of model 'm' shows no") as e:
        check_roles(tokenizer, model="m", system=True)
    assert problem in str(e.value)
    assert "Set prompts.system to null" in str(e.value)
    check_roles(tokenizer, model="m", system=False)


@pytest.mark.parametrize("template", [CHATML, LLAMA3, HARMONY, VICUNA, ALPACA])
@pytest.mark.parametrize("system", [False, True])
def test_templates_with_all_roles(tokenizer, template, system):
    tokenizer.chat_template = template
    check_roles(tokenizer, model="m", system=system)


def test_a_template_that_leaves_the_problem_out(tokenizer):
    tokenizer.chat_template = NO_USER
    with pytest.raises(ValueError, match=r"shows no user message \(the text of the user is not in the prompt\)"):
        check_roles(tokenizer, model="m", system=False)
