"""The text of a problem from a row: of plain text, chat messages or lines, with all its parts and without instructions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from masa_lightning.data._cells import Row, UnusableRowError, decoded, find, is_missing, kind, valid_text
from masa_lightning.data._wrappers import without_wrapper

PROBLEM_COLUMNS = ("problem", "question", "prompt", "messages", "conversations")
VERL_PROBLEM, VERL_ANSWER = "prompt", "reward_model.ground_truth"
# What a question is about: without it such a question has no answer.
CONTEXT_COLUMNS = ("context", "passage", "article", "body", "story", "paragraph", "document", "premises", "scenario")
VERL_QUESTIONS = ("reward_model.ground_truth.question", "extra_info.question")
_INSTRUCTION = re.compile(
    r"step[- ]by[- ]step|\\boxed|####|answer:|<answer>|<think>|(?:final|your) (?:answer|response|output|solution|reasoning)"
    r"|the answer (?:in|within|inside|after|between)",
    re.IGNORECASE,
)
_CHAT = re.compile(r"""\s*(?:array\()?(?:\[\s*)?\{\s*["'](?:role|content|from|value)["']\s*:""")
_USERS = ("user", "human")  # the second in ShareGPT's form: {"from": "human", "value": ...}
_RENDERED = re.compile(
    r"<\|(?:im_start|im_end|start_header_id|eot_id|user|assistant|system)\|>|<(?:start|end)_of_turn>|\[/INST\]|<\uff5c(?:User|Assistant)\uff5c>"
)

# Where the case of a letter means something: mathematics, commands, single letters, and what stands at a number (units).
_CASED = re.compile(
    r"\$\$.*?\$\$|\$[^$]*\$|\\\(.*?\\\)|\\\[.*?\\\]|\\begin\{.*?\\end\{[^}]*\}|\\[A-Za-z]+"
    r"|\d[\d.,]*\s?[^\W\d_]{1,3}(?![^\W\d_])|(?<![^\W_])[^\W\d_](?![^\W_])|[^\W_]*(?:\d|_)\w*",
    re.DOTALL,
)


@lru_cache(2**16)  # of rows that are there many times
def same_text_key(text: str) -> str:
    """Equal for texts that differ in white space alone, and in case where case means nothing: in words.

    >>> same_text_key("What  is this?") == same_text_key("what is THIS?"), same_text_key("$X$") == same_text_key("$x$")
    (True, False)
    """
    text, parts, end = " ".join(text.split()), [], 0
    for cased in _CASED.finditer(text):
        parts += [text[end : cased.start()].casefold(), cased[0]]
        end = cased.end()
    return "".join([*parts, text[end:].casefold()])


def problem_text(row: Row, column: str) -> str:
    """The text of a problem from a column, or from several joined by "+"; of a chat its last user message."""
    text = "\n\n".join(_part_texts(row, column.split("+")))
    if column == VERL_PROBLEM:
        # verl's message is the question with instructions; a question that is a part of it is the problem itself, unless
        # the rest is a part too: a story, or the first of two questions.
        for path in VERL_QUESTIONS:
            question = find(row, path)
            if not isinstance(question, str) or not question.strip():
                continue
            before, found, behind = same_text_key(text).partition(same_text_key(question))
            if found and all(not rest.strip() or _INSTRUCTION.search(rest) for rest in (before, behind)):
                return without_wrapper(valid_text(question, "problem").strip())
    return text


def context_texts(row: Row) -> list[str]:
    """What stands before the question, in the columns that are known for it."""
    values = [row.get(column) for column in CONTEXT_COLUMNS]
    there = [v for v in values if not (is_missing(v) or (isinstance(v, str) and not v.strip()))]
    return [plain_text(value) for value in there]


def _part_texts(row: Row, parts: list[str]) -> Iterator[str]:
    for part in parts:
        try:
            yield plain_text(find(row, part))
        except UnusableRowError as e:
            raise UnusableRowError(f"{e} (its part {part!r})" if len(parts) > 1 else str(e)) from None


def plain_text(value: Any) -> str:
    """The text of a cell: a string, chat messages (the last user message), or lines; without known instructions."""
    messages = chat(value)
    if messages is not None:
        users = [content for role, content in messages if role in _USERS]
        if not users:
            raise UnusableRowError("chat without a user message")
        value = _content(users[-1])
    else:
        value = decoded(value) if not isinstance(value, str) else value
        if isinstance(value, list) and value and all(isinstance(line, str) for line in value):
            value = "\n".join(value)
    if is_missing(value):
        raise UnusableRowError("no problem")
    if not isinstance(value, str):
        raise UnusableRowError(f"problem is a {kind(value)}, not text or chat messages")
    if not any(map(str.isprintable, value.strip())):  # such as a zero-width space
        raise UnusableRowError("empty problem")
    if ("<" in value or "[" in value) and (sign := _RENDERED.search(value)):
        raise UnusableRowError(f"problem is a prompt that a chat template has made ({sign[0]}), not a text or messages")
    return without_wrapper(valid_text(value, "problem").strip())


def chat(value: Any) -> list[tuple[str, Any]] | None:
    """The roles and contents of a chat's messages, which may be written as a text; None if it is none."""
    written = isinstance(value, str)
    if written and not _CHAT.match(value):
        return None
    found = decoded(value)
    messages = [found] if isinstance(found, Mapping) else found
    if isinstance(messages, list) and messages and all(isinstance(m, Mapping) for m in messages):
        for role, content in (("role", "content"), ("from", "value")):
            if all(role in m for m in messages):
                return [(str(m[role]).casefold(), m.get(content)) for m in messages]  # of any type in a table
    if written:
        raise UnusableRowError("problem is written chat messages that cannot be read")
    return None


def dropped_messages(value: Any) -> Counter[str]:
    """How many messages of each role a cell that is a chat has besides the last one of the user."""
    roles = Counter("user" if role in _USERS else role for role, _ in chat(value) or [])
    return roles - Counter(user=1)


def _content(value: Any) -> Any:
    """The text of a message whose parts are all text: [{"type": "text", "text": ...}]."""
    value = decoded(value) if not isinstance(value, str) else value
    if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        if any(not isinstance(part.get("text"), str) for part in value):
            raise UnusableRowError("chat message with a part that is no text")
        return "\n".join(part["text"] for part in value)
    return value
