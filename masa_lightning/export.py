"""Lightning checkpoint -> Hugging Face folder, for transformers, vLLM and the hub.

The checkpoint may be a stranger's: nothing in it is run, and no file that it names is read but those of the model.
Takes files and the folders of shards that `ModelParallelStrategy` writes. The command is in `cli.export`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from masa_lightning.checks import brings_code
from masa_lightning.model_card.card import base_name, write_card
from masa_lightning.model_card.results import read_results
from masa_lightning.models import loading
from masa_lightning.models.checkpoints import reading, replaced
from masa_lightning.models.exported import check_room
from masa_lightning.models.lora import LoRA
from masa_lightning.models.shards import META, read_weights, weight_sizes
from masa_lightning.models.trained_with import ENTRY, TrainedWith

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PREFIX = "policy.model."


def export_checkpoint(
    checkpoint: str | Path,
    out: str | Path,
    *,
    model: str | None = None,
    chat_template: str | None = None,
    adapter: bool = False,
    results: Sequence[str | Path] = (),
    trust_remote_code: bool = False,
) -> None:
    """Writes the policy of a checkpoint with its tokenizer, chat template, generation configuration and model card.

    LoRA adapters are merged into the weights of the model that the run started from. One copy of the weights is held. The
    folder is there whole or not at all, and takes the place of an earlier export.

    Args:
        checkpoint: What `ModelCheckpoint` or `Trainer.save_checkpoint` wrote: a file, or a folder of shards.
        out: Folder to write.
        model: Where configuration, tokenizer and weights under adapters come from; by default the model that the run
            started from.
        chat_template: Replaces the one of the run: Jinja text, or the path of a file with it.
        adapter: Write the LoRA adapters alone, in peft's format.
        results: Files ``results.json`` of `BenchmarkReport`, for the card.
        trust_remote_code: Run Python code that `model`, which has to be given, brings; the folder gets a copy of it.

    Raises:
        FileNotFoundError: If there is no such checkpoint, model or file of results.
        ValueError: If the checkpoint is not one of a `GRPOLightningModule`, is of another model, or has no adapters to
            write; if it holds code, or the name of a file as its chat template; if the model is one with code of its own,
            or its folder has links that lead out of it; if `out` is a file or has other files than an export, or a file of
            results holds none.
    """
    check_room(out)
    if trust_remote_code and model is None:
        raise ValueError(
            "trust_remote_code is given and no model, so the checkpoint would say whose code is run; expected the model by "
            "name as well: --model PATH"
        )
    benchmarks = read_results(results)
    saved = _Checkpoint(Path(checkpoint))
    lora = None if saved.settings["lora"] is None else LoRA(**saved.settings["lora"])
    if adapter and lora is None:
        raise ValueError(f"checkpoint {str(checkpoint)!r} was trained without LoRA; export it without `adapter`")
    template = saved.chat_template() if chat_template is None else chat_template
    name = model or saved.settings["model"]
    loading.refuse_links_out(name)
    # All weights are in the checkpoint, unless they are to be merged with adapters.
    policy = loading.load_model(
        name, saved.settings["dtype"], empty=lora is None or adapter, trust_remote_code=trust_remote_code
    )
    tokenizer = loading.load_tokenizer(name, template, trust_remote_code=trust_remote_code)
    for settings, of in ((vars(policy.config), policy), (tokenizer.init_kwargs, tokenizer)):
        if not brings_code(of):
            settings.pop("auto_map", None)  # names code, which is not exported
    _stop_where_training_did(policy, tokenizer, saved.settings.get("stop_token_ids", []))
    # What it was trained with goes with it, or it would be asked otherwise than it knows.
    run = saved.settings.get("run")
    known = TrainedWith.of(run.get("module") if isinstance(run, dict) else None, f"checkpoint {str(checkpoint)!r}")
    if known is not None:
        setattr(policy.config, ENTRY, known.entry())
    adapted: Any = None
    if lora is None:
        saved.copy_into(policy.state_dict())
    else:
        from peft import get_peft_model

        adapted = get_peft_model(policy, lora.config())
        trained = {n.removeprefix("base_model.model."): p for n, p in adapted.named_parameters() if p.requires_grad}
        saved.copy_into(trained)
    own_code = brings_code(policy) or brings_code(tokenizer)
    with replaced(Path(out).resolve(), folder=True) as folder:
        if adapted is None:
            policy.save_pretrained(folder)
        elif adapter:
            base, _ = base_name(saved.settings, model)
            adapted.peft_config["default"].base_model_name_or_path = base  # not where it lies on this machine
            adapted.save_pretrained(str(folder), save_embedding_layers=False)
        else:
            adapted.merge_and_unload().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        name = Path(out).absolute().name
        write_card(
            folder, saved.settings, name=name, model=model, adapter=adapter, results=benchmarks, own_code=own_code
        )


def _stop_where_training_did(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, recorded: Sequence[int]
) -> None:
    """Lists all tokens that ended completions in the generation configuration; transformers and vLLM read no other."""
    stops = sorted({*loading.stop_token_ids(policy, tokenizer), *recorded})
    generation = policy.generation_config
    if generation is not None and {*stops} - {*_listed(generation.eos_token_id)}:
        generation.eos_token_id = stops


def _listed(ids: int | list[int] | None) -> list[int]:
    return ids if isinstance(ids, list) else [] if ids is None else [ids]


def _are_settings(found: Mapping[str, Any]) -> bool:
    """Whether what an export takes from a run's settings is of the kind that a run writes."""
    kinds: dict[str, Any] = {"model": str, "dtype": str, "lora": (dict, NoneType), "chat_template": (str, NoneType)}
    tokens, texts = (found.get(name, []) for name in ("stop_token_ids", "stop"))  # earlier versions recorded none
    return (
        all(name in found and isinstance(found[name], kind) for name, kind in kinds.items())
        and isinstance(tokens, list)
        and isinstance(texts, list)
        and all(type(token) is int and token >= 0 for token in tokens)
        and all(type(text) is str for text in texts)
    )


class _Checkpoint:
    """The policy's weights in a checkpoint, which are read when they are copied, and the settings of its run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sharded = path.is_dir()
        file = path / META if self._sharded else path
        if not file.is_file():
            raise FileNotFoundError(
                f"checkpoint {str(path)!r} is neither a file nor a folder with shards and {META}; expected what "
                "ModelCheckpoint wrote"
            )
        with reading(path):
            saved = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        saved = saved if isinstance(saved, dict) else {}
        self._weights: dict[str, Tensor] = {}
        if self._sharded:
            sizes = weight_sizes(path)
        else:
            given = saved.get("state_dict")
            self._weights = given if isinstance(given, dict) else {}
            sizes = {name: weight.shape for name, weight in self._weights.items() if isinstance(weight, Tensor)}
        self._sizes = {name: size for name, size in sizes.items() if name.startswith(_PREFIX)}
        settings = saved.get("masa")
        if not self._sizes or not isinstance(settings, dict) or not _are_settings(settings):
            raise ValueError(
                f"checkpoint {str(path)!r} holds no policy; expected one of a GRPO or MASA Lightning module"
            )
        self.settings: dict[str, Any] = settings

    def chat_template(self) -> str | None:
        """The text that replaces the tokenizer's template.

        Raises:
            ValueError: If it is the name of a file, as in checkpoints of earlier versions.
        """
        template: str | None = self.settings["chat_template"]
        if template is not None and "{" not in template:
            raise ValueError(
                f"checkpoint {str(self._path)!r} has {template!r} as its chat template; expected Jinja text. A file that a "
                "checkpoint names is not read: its text would stand in the exported folder. If it is the run's template, "
                "give it: --chat-template FILE"
            )
        return template

    @torch.no_grad()
    def copy_into(self, weights: Mapping[str, Tensor]) -> None:
        """Fills tensors, given by the names that they have in the model."""
        weights = {_PREFIX + name: weight.detach() for name, weight in weights.items()}
        sizes = {name: weight.shape for name, weight in weights.items()}
        strange = [n for n in sorted({*sizes, *self._sizes}) if sizes.get(n) != self._sizes.get(n)]
        if strange:
            found, expected = self._sizes.get(strange[0]), sizes.get(strange[0])
            raise ValueError(
                f"{len(strange)} weights of checkpoint {str(self._path)!r} do not fit the model: {strange[0]} has shape "
                f"{found and tuple(found)} there and {expected and tuple(expected)} in the model (None: it is missing); "
                "give the model that the run started from"
            )
        if self._sharded:
            read_weights(self._path, weights)
        else:
            for name, weight in weights.items():
                weight.copy_(self._weights[name])
