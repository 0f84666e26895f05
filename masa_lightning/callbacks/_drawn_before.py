"""Rollouts of an interrupted test: the next one reuses them if they are of the same weights and settings."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from torch.distributed.tensor import DTensor

from masa_lightning.callbacks._rollout_file import Name, RolloutFile, to_line
from masa_lightning.models.checkpoints import replaced
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.modules.provenance import drawn_under, evaluation_settings
from masa_lightning.types import Problem, Rollout, RolloutGroup


class DrawnRollouts:
    """The rollouts of a test by problem, in ``rollouts.jsonl``, and what they depend on, in ``settings.json``.

    Args:
        folder: Of both files; belongs to one set of weights and settings.
        settings: Of `rollout_settings`.
        how: Of `evaluation_settings`: each problem in the file says it too.
        keeps: Whether this process has the files; the others know of each problem, and have nothing of it.

    Raises:
        ValueError: If the folder has rollouts of other settings, or what is no rollouts.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], how: dict[str, Any], *, keeps: bool) -> None:
        self._how = how
        self._file: RolloutFile | None = None
        self._seen: set[Name] = set()
        self._read: set[Name] = set()
        if not keeps:
            return
        self._file = RolloutFile(folder / "rollouts.jsonl")
        file = folder / "settings.json"
        if len(self._file):
            _compare(json.loads(file.read_text()) if file.exists() else {}, settings, folder)
            rank_zero_info(f"{folder} has the rollouts of {len(self._file)} problems: they are not drawn again")
        with replaced(file) as temporary:
            temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    def read(self, problem: Problem) -> list[Rollout]:
        """Returns the rollouts of a problem, without prompt ids; none if they are not there.

        Raises:
            ValueError: If a problem of that name was asked for before, or is another one in the file.
        """
        name = (problem.source, problem.id)
        if name in self._seen:
            raise ValueError(
                f"two problems of {name[0]!r} have the id {name[1]!r}; expected ids that tell them apart and, in several "
                "processes, a loader that repeats none, as those of this package's datamodules do and torch's do not"
            )
        self._seen.add(name)
        rollouts = [] if self._file is None else self._file.read(problem)
        if rollouts:
            self._read.add(name)
        return rollouts

    def lines(self, group: RolloutGroup) -> list[str]:
        """Writes a group whose texts are here as lines of the file; none of one that was read."""
        return (
            []
            if (group.problem.source, group.problem.id) in self._read
            else [to_line(group, r, settings=self._how) for r in group.rollouts]
        )

    def append(self, lines: Iterable[Sequence[str]]) -> None:
        """Writes the lines of groups, which are on the disk then; all of them are taken, also where there is no file."""
        if self._file is None:
            deque(lines, maxlen=0)
        else:
            self._file.append(chain.from_iterable(lines))


def rollout_settings(module: GRPOLightningModule) -> dict[str, Any]:
    """What the rollouts depend on, as plain values. A collective."""
    assert module.policy is not None
    evaluation = asdict(module.evaluation)
    del evaluation["pass_at"]
    evaluation["num_meta_generations"] = module.evaluation_counts().get("meta", 0)  # a GRPO module makes none
    return {
        "model": module.model_name,
        # Processes that have all of the weights say the same, however many they are.
        "weights": "-".join(dict.fromkeys(module.processes.gather(_fingerprint(module.policy)))),
        "dtype": module.dtype_name,
        "sampler": [type(module.sampler).__name__, getattr(module.sampler, "dtype", None)],
        "seed": module.run_seed(),
        "grader": type(module.scorer.grader).__name__,
        "grader_settings": evaluation_settings(module)["grader_settings"],  # verdicts are reused with the rollouts
        "reward_parts": module.scorer.parts,
        "evaluation": evaluation,
        "max_prompt_length": module.max_prompt_length,
        "max_completion_length": module.max_completion_length,
        "max_meta_length": module.completion_limits["meta"],
        "prompts": asdict(module.prompts),
        "confidence": None if module.confidence is None else module.confidence.instruction,
        "meta_schema": drawn_under(module),
        "pass_rate_scale": getattr(module, "pass_rate_scale", None),  # which the meta prompt asks for
        "chat_template": module.tokenizer.chat_template,
        "chat_template_kwargs": module.chat_template_kwargs,
        "stops": [*module.stops.token_ids, *module.stops.texts],
    }


def _fingerprint(policy: nn.Module) -> str:
    """Tells weights apart, those of a checkpoint that was overwritten too, by up to 64 values of each parameter."""
    digest = blake2b(digest_size=8)
    for name, parameter in policy.named_parameters():
        local = (parameter.to_local() if isinstance(parameter, DTensor) else parameter).detach().flatten()
        digest.update(f"{name}{tuple(parameter.shape)}{local[:: 1 + len(local) // 64].float().tolist()}".encode())
    return digest.hexdigest()


def _compare(before: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    differences = [
        name
        for name in now
        if before.get(name) != json.loads(json.dumps(now[name])) and (name in before or name != "grader_settings")
    ]  # which earlier versions did not write
    if differences:
        name = differences[0]
        raise ValueError(
            f"{folder} has rollouts that were drawn with other settings ({', '.join(differences)}): {name} was "
            f"{before.get(name)!r} and is {now[name]!r}. Give BenchmarkReport another dirpath, or remove that folder"
        )
