"""Lightning checkpoint -> Hugging Face folder, for transformers, vLLM and the hub.

Run it as::

    python -m masa_lightning.export runs/tiny/checkpoints/last.ckpt OUT_DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import cast

import torch

from masa_lightning.models import loading

_PREFIX = "policy.model."


def export_checkpoint(checkpoint: str | Path, out: str | Path, *, model: str | None = None) -> None:
    """Writes the policy of a checkpoint with its tokenizer, chat template and generation configuration.

    Args:
        checkpoint: File written by `ModelCheckpoint` or `Trainer.save_checkpoint`.
        out: Folder to write.
        model: Where the configuration and tokenizer come from; by default the model that the run started from.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a checkpoint of a `GRPOLightningModule`.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise FileNotFoundError(
            f"checkpoint {str(path)!r} is not a file; expected one written by ModelCheckpoint (a sharded checkpoint is a "
            "folder: consolidate it first with lightning.pytorch.utilities.consolidate_checkpoint)"
        )
    saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    weights = {k.removeprefix(_PREFIX): v for k, v in saved["state_dict"].items() if k.startswith(_PREFIX)}
    if not weights or "masa" not in saved:
        raise ValueError(f"checkpoint {str(path)!r} holds no policy; expected one of a GRPO or MASA Lightning module")
    name = model or saved["masa"]["model"]
    dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    policy = loading.load_model(name, cast(loading.DType, dtype))
    policy.load_state_dict(weights)
    policy.save_pretrained(out)
    loading.load_tokenizer(name, saved["masa"]["chat_template"]).save_pretrained(out)


def main() -> None:
    """Runs `python -m masa_lightning.export`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", help="base model, if it is no longer where the run found it")
    args = parser.parse_args()
    export_checkpoint(args.checkpoint, args.out, model=args.model)
    print(f"exported to {args.out}")


if __name__ == "__main__":
    main()
