"""A learned reward: a transformers sequence classifier with one output reads problem and completion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from masa_lightning.checks import check_number
from masa_lightning.types import Problem

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


class RewardModel:
    """Rewards completions by a learned model, such as `Skywork/Skywork-Reward-V2-Qwen3-0.6B`.

    It reads the conversation as its own chat template writes it, the problem's text as the user's turn and the completion as
    the assistant's; without a template, the two as a pair. It is on the policy's device while it is asked and in the memory
    of the CPU else. Each process has one of its own, which is loaded when it is first asked.

    ``rewards/NAME/too_long_ratio`` is the share of completions that the model could not read whole: of these it gets the
    last tokens.

    Args:
        model: Folder or hub name of a model for `AutoModelForSequenceClassification` with one output.
        batch_size: Most completions a pass, >= 1.
        max_length: Most tokens of a conversation, >= 1; None is what the model was made for.
        dtype: Of its weights: "float32", "bfloat16", "float16", or "auto" as saved.
        name: In metrics.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If it has not one output, or a setting is out of range.
    """

    def __init__(
        self,
        model: str,
        *,
        batch_size: int = 16,
        max_length: int | None = None,
        dtype: str = "auto",
        name: str = "reward_model",
    ) -> None:
        check_number("batch_size", batch_size, ">= 1", whole=True)
        if max_length is not None:
            check_number("max_length", max_length, ">= 1", whole=True)
        if dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise ValueError(f"dtype is {dtype!r}; expected 'auto', 'float32', 'bfloat16' or 'float16'")
        self.model, self.batch_size, self.dtype, self.name = model, batch_size, dtype, name
        config = self._config()
        if config.num_labels != 1:
            raise ValueError(
                f"the reward model {model!r} has {config.num_labels} outputs; expected one, a reward: a sequence classifier "
                "that was saved with num_labels 1"
            )
        known = getattr(config.get_text_config(), "max_position_embeddings", None)
        self.max_length = known if max_length is None else max_length
        self._loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For copies, which load it anew."""
        return {**vars(self), "_loaded": None}

    def __call__(
        self,
        problems: Sequence[Problem],
        completions: Sequence[str],
        device: torch.device,
        log_metric: Callable[[str, float], None],
    ) -> list[float]:
        """Rewards the completions of a batch.

        Args:
            problems: One a completion.
            completions: Texts.
            device: To compute on.
            log_metric: Told whether each was too long.

        Returns:
            The model's outputs as they are, one a completion.
        """
        model, tokenizer = self._load()
        rows = [self._read(tokenizer, p.problem, text) for p, text in zip(problems, completions, strict=True)]
        for row in rows:
            log_metric("too_long_ratio", self.max_length is not None and len(row) > self.max_length)
        rows = rows if self.max_length is None else [row[-self.max_length :] for row in rows]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))  # like lengths together: little padding
        rewards = [0.0] * len(rows)
        model.to(device)  # type: ignore[arg-type]
        try:
            for start in range(0, len(order), self.batch_size):
                part = order[start : start + self.batch_size]
                for i, reward in zip(part, _outputs(model, [rows[i] for i in part]), strict=True):
                    rewards[i] = reward
        finally:
            model.to("cpu")  # type: ignore[arg-type]
        return rewards

    def _config(self) -> PretrainedConfig:
        from transformers import AutoConfig

        if Path(self.model).is_dir() and not Path(self.model, "config.json").is_file():
            raise FileNotFoundError(
                f"the reward model {self.model!r} is a folder without a config.json; expected a model's"
            )
        try:
            config: PretrainedConfig = AutoConfig.from_pretrained(self.model, trust_remote_code=False)
        except OSError as error:
            raise FileNotFoundError(
                f"the reward model {self.model!r} was not found; expected a folder, or a name on the hub, which has to be "
                f"reachable ({type(error).__name__})"
            ) from error
        return config

    def _load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        if self._loaded is None:
            from transformers import AutoModelForSequenceClassification, AutoTokenizer

            model = AutoModelForSequenceClassification.from_pretrained(
                self.model, dtype=self.dtype, trust_remote_code=False
            )
            tokenizer = AutoTokenizer.from_pretrained(self.model, trust_remote_code=False)
            self._loaded = (model.eval().requires_grad_(False), tokenizer)
        return self._loaded

    def _read(self, tokenizer: PreTrainedTokenizerBase, problem: str, completion: str) -> list[int]:
        if tokenizer.chat_template is None:
            return [*tokenizer(problem, completion)["input_ids"]]
        turns = [{"role": "user", "content": problem}, {"role": "assistant", "content": completion}]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        return [*tokenizer(text, add_special_tokens=False)["input_ids"]]


@torch.no_grad()
def _outputs(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> list[float]:
    """The model's one output for each row of token ids."""
    longest = max(map(len, rows))
    # Decoders take the last token that is none of padding: one that no row has, or an end of sequence might count as such.
    used = set().union(*rows)
    padding = next(token for token in range(len(used) + 1) if token not in used)
    config = model.config.get_text_config()
    before = config.pad_token_id
    config.pad_token_id = padding
    try:
        ids = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows], device=model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=model.device)
        return [float(x) for x in model(input_ids=ids, attention_mask=mask).logits[:, 0].float()]
    finally:
        config.pad_token_id = before
