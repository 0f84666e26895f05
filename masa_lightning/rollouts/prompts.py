"""Groups -> prompts as token ids: a chat of each kind of rollout, written out by the tokenizer's template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from masa_lightning.functional.prompts import PromptTemplates, Question, meta_messages, solution_messages
from masa_lightning.models.loading import check_prompt, vocabulary_size
from masa_lightning.quantities import StatedConfidence
from masa_lightning.types import Kind, RolloutGroup

Chat = Callable[[RolloutGroup], list[dict[str, str]]]
"""Makes the messages of a prompt."""


@dataclass(frozen=True, slots=True)
class SolutionChat:
    """The chat that asks for a solution, with the group's hint if it has one.

    Args:
        templates: The instructions.
        confidence: Asks how sure the solution is; None if nobody does.
    """

    templates: PromptTemplates
    confidence: StatedConfidence | None = None

    def __call__(self, group: RolloutGroup) -> list[dict[str, str]]:
        problem = group.problem
        messages = solution_messages(self.templates, problem.problem, group.hint, problem.answer_type)
        return messages if self.confidence is None else self.confidence.ask(messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaChat:
    """The chat that asks for a prediction.

    Args:
        templates: The instructions.
        questions: One for each predicted quantity.
        pass_rate_scale: Predicted pass rates are integers in 0..scale.
        max_completion_length: Most tokens of a solution.
    """

    templates: PromptTemplates
    questions: Sequence[Question]
    pass_rate_scale: int
    max_completion_length: int

    def __call__(self, group: RolloutGroup) -> list[dict[str, str]]:
        return meta_messages(
            self.templates,
            group.problem.problem,
            pass_rate_scale=self.pass_rate_scale,
            max_completion_length=self.max_completion_length,
            questions=self.questions,
        )


class Prompts:
    """Makes the prompts of groups, which end where the completion begins.

    Args:
        chats: One for each kind of rollout.
        tokenizer: With a chat template.
        template_kwargs: Extra variables of the template.
        model: Its name, for errors.
        config: The model's configuration, which says how many tokens it has an embedding for.
    """

    def __init__(
        self,
        chats: Mapping[Kind, Chat],
        *,
        tokenizer: Any,
        template_kwargs: Mapping[str, Any],
        model: str,
        config: Any,
    ) -> None:
        self.chats, self.tokenizer, self.template_kwargs = dict(chats), tokenizer, dict(template_kwargs)
        self.model, self.rows = model, vocabulary_size(config)

    def make(self, kind: Kind, groups: Sequence[RolloutGroup]) -> list[list[int]]:
        """Returns the token ids of the prompts of groups, one list each.

        Args:
            kind: Of the rollouts to come.
            groups: Their problems and hints are read, and nothing of them is changed.

        Raises:
            ValueError: If there is no chat of this kind, or a prompt has a token that the model has no embedding for.
        """
        if kind not in self.chats:
            raise ValueError(
                f"there is no prompt for rollouts of kind {kind!r}; expected one of {', '.join(self.chats)}"
            )
        return [self._ids(self.chats[kind](group)) for group in groups]

    def _ids(self, messages: list[dict[str, str]]) -> list[int]:
        text = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, **self.template_kwargs
        )
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        check_prompt(self.model, self.rows, self.tokenizer, ids)
        return ids
