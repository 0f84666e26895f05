"""The folder that `masa export` writes: never beside the files of something else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

SETTINGS: Final = "training_settings.json"
"""All settings of the run, beside the model card; by this file an export is known."""

# What this package, transformers and peft write of a model and its tokenizer, by names: other files are somebody's own.
_WRITTEN: Final = re.compile(
    r"README\.md|training_settings\.json|(adapter_|generation_)?config\.json|(adapter_)?model.*\.safetensors(\.index\.json)?|"
    r"tokenizer\w*\.(json|model)|(special_tokens_map|added_tokens|vocab)\.json|(vocab|merges)\.txt|spiece\.model|"
    r"chat_template\.jinja|(configuration|modeling|tokenization)_\w+\.py"
)


def check_room(out: str | Path) -> bool:
    """Looks whether an export may be written.

    Args:
        out: The folder to write.

    Returns:
        Whether an earlier export is there, whose place the new one takes.

    Raises:
        ValueError: If it is a file, or a folder with anything but an earlier export.
    """
    folder = Path(out)
    if folder.is_file():
        raise ValueError(f"{str(out)!r} is a file; expected a folder to write to, or a name that is still free")
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    strange = [path.name for path in there if not _WRITTEN.fullmatch(path.name) or not path.is_file()]
    if there and (strange or not (folder / SETTINGS).is_file()):
        which = f"{strange[0]!r}, which no export has" if strange else f"files, and no {SETTINGS}"
        raise ValueError(
            f"the folder {str(out)!r} has {which}: an export beside it would be a mixture of two; expected a name that is "
            "still free, an empty folder, or an earlier export, whose place this one takes"
        )
    return bool(there)
