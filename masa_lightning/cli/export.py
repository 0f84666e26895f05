"""`masa export CHECKPOINT OUT_DIR`: a Lightning checkpoint as a Hugging Face folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from masa_lightning.cli.errors import stop
from masa_lightning.model_card.results import read_results
from masa_lightning.models.checkpoints import find_checkpoint
from masa_lightning.models.exported import check_room


def main(args: Sequence[str]) -> None:
    """Runs `masa export` with its arguments."""
    parser = argparse.ArgumentParser(
        prog="masa export",
        allow_abbrev=False,
        description="Write a checkpoint as a Hugging Face folder, for transformers, vLLM and the hub: masa export runs/tiny "
        "OUT_DIR. An export that is there already is replaced. The checkpoint may be a stranger's: nothing in it is run, "
        "and no file that it names is read but those of the model.",
    )
    parser.add_argument("checkpoint", type=Path, help="file or folder of shards; or a run's folder, for its newest")
    parser.add_argument("out", metavar="OUT_DIR", type=Path, help="folder to write")
    parser.add_argument("--model", help="base model, if it is no longer where the run found it")
    parser.add_argument("--chat-template", help="in place of the run's: Jinja text or a file with it")
    parser.add_argument("--adapter", action="store_true", help="write LoRA adapters alone, in peft's format")
    parser.add_argument(
        "--results",
        type=Path,
        nargs="+",
        default=(),
        metavar="FILE",
        help="files results.json of BenchmarkReport, for the model card",
    )
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run Python code that the model of --model brings, and copy it to OUT_DIR; only for code that you have read",
    )
    if any(word.partition("=")[0] == "--ckpt_path" for word in args):  # as the other commands have it
        parser.error("--ckpt_path is no option here; expected the checkpoint first: masa export RUN OUT_DIR")
    given = parser.parse_args(args)
    try:
        checkpoint = find_checkpoint(str(given.checkpoint))
        if not Path(checkpoint).exists():
            raise FileNotFoundError(
                f"checkpoint {checkpoint!r} is neither a file nor a folder with shards; expected what ModelCheckpoint "
                "wrote, or the folder of a run"
            )
        replaces = check_room(given.out)
        read_results(given.results)
        from masa_lightning.cli import console
        from masa_lightning.export import export_checkpoint  # behind all that can be said without torch

        console.without_bars_of_weights()
        export_checkpoint(
            checkpoint,
            given.out,
            model=given.model,
            chat_template=given.chat_template,
            adapter=given.adapter,
            results=given.results,
            trust_remote_code=given.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        stop(error)
    instead = ", in place of the export that was there" if replaces else ""
    print(f"exported to {given.out}{instead}; its model card is README.md")
