"""The prompts, lengths and scale that a model was trained with: an entry of its config.json, which copies of it keep.

The embedded model has such an entry, and `masa export` writes one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Self

from masa_lightning.functional.prompts import PromptTemplates
from masa_lightning.models.loading import model_path

ENTRY: Final = "masa_lightning"
"""Its name in config.json, and that of the attribute that transformers makes of it."""

_NUMBERS: Final = ("max_prompt_length", "max_completion_length", "max_meta_length", "pass_rate_scale")


@dataclass(frozen=True, kw_only=True)
class TrainedWith:
    """What a model knows, and another one does not.

    Args:
        prompts: Around problems.
        max_prompt_length: Tokens; None where it is not known, as for the others.
        max_completion_length: Tokens.
        max_meta_length: Tokens.
        pass_rate_scale: What a predicted pass rate is out of.
    """

    prompts: PromptTemplates
    max_prompt_length: int | None = None
    max_completion_length: int | None = None
    max_meta_length: int | None = None
    pass_rate_scale: int | None = None

    @classmethod
    def of(cls, entry: Any, source: str) -> Self | None:
        """Reads an entry, perhaps a stranger's, or the settings of a module in a checkpoint.

        Args:
            entry: Of `ENTRY`; what is not known in it is left alone.
            source: For the message.

        Returns:
            None if it says nothing of prompts.

        Raises:
            ValueError: If it says something else than texts and numbers.
        """
        if entry is None:
            return None
        prompts = entry.get("prompts", {}) if isinstance(entry, Mapping) else entry
        known = {field.name for field in fields(PromptTemplates)}
        if not isinstance(prompts, Mapping):
            raise ValueError(_wrong(source, entry))
        if not prompts:
            return None
        texts = {name: text for name, text in prompts.items() if name in known}
        numbers = {name: value for name in _NUMBERS if (value := entry.get(name)) is not None}
        if not all(isinstance(text, str) or (text is None and name == "system") for name, text in texts.items()):
            raise ValueError(_wrong(source, texts))
        if not all(type(value) is int and value >= 1 for value in numbers.values()):
            raise ValueError(_wrong(source, numbers))
        try:
            return cls(prompts=PromptTemplates(**texts), **numbers)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error

    def entry(self) -> dict[str, Any]:
        """What is written to config.json."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def trained_with(model: str) -> TrainedWith | None:
    """What the folder of a model says that it was trained with; None for other models, and for names on the hub.

    Args:
        model: As of a module.

    Raises:
        ValueError: If the entry is not one that `masa export` writes.
    """
    file = Path(model_path(model), "config.json")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no folder, or none of a model: said where the model is loaded
        return None
    return TrainedWith.of(config.get(ENTRY), str(file)) if isinstance(config, dict) else None


def _wrong(source: str, found: Any) -> str:
    remedy = f"Take the entry {ENTRY!r} out of the model's config.json, and give prompts and lengths to the module"
    if source.startswith("checkpoint "):
        remedy = "A checkpoint of this package has none other, so this one was changed: take the one before"
    return (
        f"{source} has {str(found)[:200]!r} where prompts and lengths of the training are to be; expected texts under "
        f'"prompts" and whole numbers under {", ".join(_NUMBERS)}, as masa export writes them. {remedy}'
    )
