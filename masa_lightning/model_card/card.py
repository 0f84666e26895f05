"""The model card of an exported checkpoint, and a file of all settings beside it.

The facts are here, the words in ``card.md.jinja``.

Cards are published: folders of this machine are cut down to the last part of their path, and whatever a text holds is
shown as code.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path, PureWindowsPath
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, lazily imported

from masa_lightning.checks import is_secret
from masa_lightning.functional.markdown import code, python_block, python_literal
from masa_lightning.functional.prompts import (
    NOTIONS,
    PASS_RATE,
    SOLUTION_LENGTH,
    PromptTemplates,
    Question,
    meta_messages,
    solution_messages,
)
from masa_lightning.models.exported import SETTINGS
from masa_lightning.models.loading import TINY
from masa_lightning.quantities import LABELS, default_quantities, shown, shown_by_names

_TEMPLATE = Path(__file__).with_name("card.md.jinja")
_MASA = "2510.03259"
_GRPO = "2402.03300"
_SHARES = re.compile(r"\w+@\d+")  # pass@1, maj@8, maj_predicted@8
_SOURCE_FILES = (".parquet", ".json", ".jsonl", ".txt")
_SETTINGS = {  # those that a card names, and its words for them
    "num_generations": "solutions a problem",
    "num_meta_generations": "predictions a problem",
    "max_prompt_length": "longest prompt, tokens",
    "max_completion_length": "longest solution, tokens",
    "max_meta_length": "longest prediction, tokens",
    "optimizer": "optimiser",
    "learning_rate": "learning rate",
    "weight_decay": "weight decay",
    "lr_scheduler": "schedule of the learning rate",
    "warmup_steps": "warmup steps",
    "max_grad_norm": "largest norm of gradients",
    "num_iterations": "passes over the rollouts of a step",
    "num_mini_batches": "optimiser steps a pass",
    "loss_type": "objective",
    "kl_coef": "KL coefficient",
}
_OF_OPTIMIZER = {"learning_rate": "lr", "weight_decay": "weight_decay"}


def write_card(
    out: str | Path,
    checkpoint: Mapping[str, Any],
    *,
    name: str | None = None,
    model: str | None = None,
    adapter: bool = False,
    results: Sequence[Mapping[str, Any]] = (),
    own_code: bool = False,
) -> None:
    """Writes README.md and `SETTINGS`. What a checkpoint does not say, as those of earlier versions, is left out.

    Args:
        out: Folder of the exported model.
        checkpoint: ``masa`` of a checkpoint.
        name: Of the exported model; by default its folder's.
        model: Base model, in place of the one that the run started from.
        adapter: The folder holds LoRA adapters alone.
        results: As `results.read_results` gives.
        own_code: Whether the model brings Python code of its own.
    """
    facts = _Facts(name or Path(out).absolute().name, checkpoint, model, adapter, results)
    card = ModelCard.from_template(facts.metadata(), template_path=str(_TEMPLATE), own_code=own_code, **facts.words())
    card.text = _valid(card.text) + "\n"
    card.save(Path(out, "README.md"))
    if settings := facts.all_settings():
        Path(out, SETTINGS).write_text(json.dumps(settings, indent=2, default=str) + "\n")


def base_name(checkpoint: Mapping[str, Any], model: str | None = None) -> tuple[str, bool]:
    """The base model's name as a card may say it, and whether it is a name on the hub."""
    saved: str = checkpoint["model"]
    names = [] if checkpoint.get("run", {}).get("model_is_local") else [saved]
    hub = [name for name in (model, *names) if name is not None and _is_hub_name(name)]
    return (hub[0], True) if hub else (_last_part(saved), False)


class _Facts:
    """What a card says of a checkpoint."""

    def __init__(
        self,
        name: str,
        checkpoint: Mapping[str, Any],
        model: str | None,
        adapter: bool,
        results: Sequence[Mapping[str, Any]],
    ) -> None:
        self.name, self.checkpoint, self.adapter, self.results = name, checkpoint, adapter, results
        self.base, self.base_on_hub = base_name(checkpoint, model)
        self.run: Mapping[str, Any] = checkpoint.get("run") or {}
        self.settings: Mapping[str, Any] = self.run.get("module") or {}
        self.data: Mapping[str, Any] = self.run.get("data") or {}
        self.lora: Mapping[str, Any] | None = checkpoint.get("lora")
        self.ledger: Mapping[str, float] = checkpoint.get("ledger") or {}
        self.predicts = bool(self.settings.get("num_meta_generations", self.ledger.get("tokens/meta")))
        self.method = "MASA" if self.predicts else "GRPO"
        self.evaluations = [e for e in [self._validation("validation")] if e]
        self.evaluations += [b for r in results for b in r["benchmarks"]]

    def metadata(self) -> ModelCardData:
        """What the hub reads."""
        arxiv = [f"arxiv:{_GRPO}"] + [f"arxiv:{_MASA}"] * self.predicts
        scores = [
            EvalResult(
                task_type="text-generation",
                dataset_type=_valid(str(evaluation["name"])),
                dataset_name=_valid(str(evaluation["name"])),
                metric_type=metric,
                metric_value=value,
            )
            for evaluation in self.evaluations
            if evaluation.get("of_these_weights", True)
            for metric, value in evaluation["metrics"].items()
            if _SHARES.fullmatch(metric) and _is_number(value)
        ]
        return ModelCardData(
            base_model=self.base if self.base_on_hub else None,
            datasets=self._dataset(),
            library_name="peft" if self.adapter else "transformers",
            pipeline_tag="text-generation",
            tags=["masa_lightning", self.method.lower(), "reinforcement-learning", *["lora"] * bool(self.lora), *arxiv],
            model_name=_valid(self.name),
            eval_results=scores or None,
        )

    def words(self) -> dict[str, Any]:
        """What the template shows, and the functions that make it safe to show."""
        functions: dict[str, Callable[..., str]] = {
            "code": code,
            "cell": lambda value: code(value).replace("|", r"\|"),  # in code a bar is a border all the same
            "python": lambda caller: python_block(caller().strip("\n")),
            "literal": python_literal,
            "py": repr,
        }
        grader = self.settings.get("grader")
        callbacks = self.run.get("callbacks") or ()
        return {
            **functions,
            "name": self.name,
            "base": self.base,
            "base_on_hub": self.base_on_hub,
            "adapter": self.adapter,
            "lora": self.lora,
            # vLLM knows powers of two.
            "vllm_rank": max(8, 1 << (self.lora["rank"] - 1).bit_length()) if self.adapter and self.lora else None,
            "method": self.method,
            "predicts": self.predicts,
            "usage": self._usage(),
            "training": [(name, value) for name, value in self._training().items() if value is not None],
            "expert_sft": any(each["class"] == "ExpertSFT" for each in callbacks),
            "settings_file": SETTINGS if self.all_settings() else None,
            "versions": [*(self.run.get("versions") or {}).items()],
            **self._evaluated(),
            "grader": grader["class"] if grader else None,
        }

    def all_settings(self) -> dict[str, Any]:
        """What `SETTINGS` holds."""
        states = {"first_validation", "last_validation", *self.checkpoint}
        module = {name: value for name, value in self.settings.items() if name not in states}
        parts = {"module": module, "data": self.data, "callbacks": self.run.get("callbacks"), "lora": self.lora}
        parts |= {"tokens": self.ledger}
        return {name: _public(what) for name, what in parts.items() if what}

    # -- sections ----------------------------------------------------------------------------------------------------

    def _usage(self) -> dict[str, Any] | None:
        """Prompts, and how to sample."""
        s = self.settings
        if "prompts" not in s:
            return None
        known = {field.name for field in fields(PromptTemplates)}
        prompts = PromptTemplates(**{k: v for k, v in s["prompts"].items() if k in known})
        limit = s["max_completion_length"]
        *system, solution = solution_messages(prompts, "{problem}")
        meta, questions = None, []
        if self.predicts:
            scale = s["pass_rate_scale"]
            questions = self._questions(scale, limit)
            meta = meta_messages(
                prompts, "{problem}", pass_rate_scale=scale, max_completion_length=limit, questions=questions
            )[-1]["content"]
        asked = _mapping(s.get("confidence")).get("instruction")  # behind the prompt
        return {
            "solution": " ".join(filter(None, [solution["content"], asked])),
            "meta": meta,
            "system": system[0]["content"] if system else None,
            "questions": [(question.key, question.text) for question in questions],
            "max_tokens": limit,
            **{name: s["evaluation"][name] for name in ("temperature", "top_p", "top_k")},
            "chat_template_kwargs": s.get("chat_template_kwargs"),
            "stop": [*self.checkpoint.get("stop", ())],
            "stop_token_ids": [*self.checkpoint.get("stop_token_ids", ())],
        }

    def _questions(self, scale: int, limit: int) -> list[Question]:
        """What was asked for; the paper's three if the checkpoint does not say."""
        told = self.run.get("questions") or ()
        return [Question(**question) for question in told] or [
            question.filled(pass_rate_scale=scale, max_completion_length=limit)
            for question in (NOTIONS, PASS_RATE, SOLUTION_LENGTH)
        ]

    def _training(self) -> dict[str, Any]:
        c, s = self.checkpoint, self.settings
        optimization = s.get("optimization") or {}
        optimizer, schedule = (_mapping(optimization.get(name)) for name in ("optimizer", "lr_scheduler"))
        values = {**s, **(s.get("algorithm") or {}), **optimization, "optimizer": optimizer.get("class")}
        values |= {name: optimizer[key] for name, key in _OF_OPTIMIZER.items() if key in optimizer}
        values |= {"lr_scheduler": schedule.get("class")}
        values |= {"warmup_steps": schedule["num_warmup_steps"]} if "num_warmup_steps" in schedule else {}
        return {
            "training data": self._dataset() or self.data.get("class"),
            "training problems": self.run.get("training_problems"),
            "problems a step": self._problems_a_step(),
            "training steps": c.get("rollout_steps"),
            "optimiser steps": (c.get("schedules") or {}).get("optimizer_steps"),
            "tokens of training rollouts, prompts included": c.get("num_tokens"),
            **{words: values.get(name) for name, words in _SETTINGS.items()},
            "further rewards": [*(s.get("reward_functions") or ())] or None,
            **{f"LoRA: {n}": (self.lora or {}).get(n) for n in ("rank", "alpha", "targets")},
            "processes": self.run.get("processes"),
            "precision": self.run.get("precision"),
            "dtype of the weights": c.get("dtype"),
            "seed": self.run.get("seed"),
        }

    def _evaluated(self) -> dict[str, Any]:
        """Results and calibration."""
        evaluations = self.evaluations
        metrics = sorted({n for e in evaluations for n in e["metrics"] if _SHARES.fullmatch(n)}, key=_order)
        scores = []
        for evaluation in [e for e in [self._before()] if e] + evaluations:
            m = evaluation["metrics"]
            bounds = {n: f" [{_figure(m[f'{n}_low'])}, {_figure(m[f'{n}_high'])}]" for n in metrics if f"{n}_low" in m}
            scores.append(
                {
                    "name": evaluation["name"],
                    "note": evaluation.get("note", ""),
                    "problems": evaluation.get("problems"),
                    "left_out": evaluation.get("left_out"),  # their prompts are too long
                    "scores": [_figure(m.get(n)) + bounds.get(n, "") for n in metrics],
                    "length": _figure(m.get("completions/mean_length")),
                }
            )
        names = {n for e in evaluations for n, value in e["metrics"].items() if _is_number(value)}
        quantities = shown_by_names(sorted(names), shown(default_quantities()))
        known = [q.tag(metric) for q in quantities for metric in LABELS if q.tag(metric) in names]
        known += [n for n in ("meta/parse_rate",) if n in names]
        last = self._validation("validation")
        return {
            "metrics": metrics,
            "scores": scores,
            "validation": last
            and {"step": last["step"], "now": self.checkpoint.get("rollout_steps"), "how": _how(last["settings"])},
            # Whether that was this model cannot be told here: it may have been tested as a checkpoint or as a folder.
            "results": [
                {
                    "names": [b["name"] for b in result["benchmarks"]],
                    "model": _last_part(str(result.get("model"))),
                    "how": _how(result.get("settings") or {}),
                }
                for result in self.results
            ],
            "calibration": [(n, [_figure(e["metrics"].get(n)) for e in evaluations]) for n in known],
            "columns": [e["name"] for e in evaluations],
            "sizes": [(e["name"], e.get("problems")) for e in evaluations],
        }

    # -- parts -------------------------------------------------------------------------------------------------------

    def _validation(self, which: str) -> dict[str, Any] | None:
        """A validation of the run in the shape of a benchmark: the last one, or ``first_validation``."""
        validation = self.run.get(which)
        if not validation:
            return None
        return {
            "name": "validation",
            "problems": validation["problems"],
            "step": validation["rollout_steps"],
            "settings": validation.get("settings") or {},
            "of_these_weights": validation["rollout_steps"] == self.checkpoint.get("rollout_steps"),
            "metrics": {name.removeprefix("val/"): value for name, value in validation["metrics"].items()},
        }

    def _before(self) -> dict[str, Any] | None:
        """The validation before training, if the last one measured the same."""
        first, last = self.run.get("first_validation") or {}, self.run.get("validation") or {}
        same = first and last and first != last and first.get("measured") == last.get("measured")
        return {**(self._validation("first_validation") or {}), "note": " before training"} if same else None

    def _dataset(self) -> str | None:
        """The training data's name on the hub, if `MathDataModule` had it from there."""
        sources = self.data.get("sources")
        train = sources.get("train") if isinstance(sources, Mapping) else None
        name = train[0].partition(":")[0] if isinstance(train, list) and train and isinstance(train[0], str) else ""
        return name if "/" in name and _is_hub_name(name) else None

    def _problems_a_step(self) -> int | None:
        size = self.data.get("batch_size")
        return size * self.run["processes"] if isinstance(size, int) else None


# -- names -----------------------------------------------------------------------------------------------------------


def _is_hub_name(name: str) -> bool:
    if name == TINY or Path(name).expanduser().exists() or name.lower().endswith(_SOURCE_FILES):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _last_part(text: str) -> str:
    return PureWindowsPath(text).name or text  # splits at both kinds of slashes


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


# -- values ----------------------------------------------------------------------------------------------------------


def _valid(text: str) -> str:
    """Texts may hold lone surrogates, which neither YAML nor a file in UTF-8 has a place for."""
    return text.encode("utf-8", "backslashreplace").decode()


def _public(value: Any) -> Any:
    """Settings without the folders of this machine; what existed when it was recorded is cut already.

    Prompts stay as they are, what is not set or may be secret is left out, and numbers that JSON does not know become text.
    """
    if isinstance(value, Mapping):
        return {
            str(name): each if name == "prompts" else _public(each)
            for name, each in value.items()
            if each not in (None, [], "") and not is_secret(str(name))
        }
    if isinstance(value, (list, tuple)):
        return [_public(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    is_place = isinstance(value, str) and (value.startswith(("/", "~", ".")) or PureWindowsPath(value).is_absolute())
    return _last_part(value) if is_place else value


def _order(name: str) -> tuple[bool, str, int]:
    kind, _, k = name.partition("@")
    return kind != "pass", kind, int(k)


def _how(settings: Mapping[str, Any]) -> str:
    """How rollouts were drawn, by what a validation's record or the settings of a test say."""
    drawn = {**settings, **_mapping(settings.get("evaluation"))}
    words = {
        "num_generations": "{} solutions a problem",
        "num_meta_generations": "{} predictions a problem",
        "temperature": "temperature {}",
        "top_p": "top-p {}",
        "top_k": "top-k {}",
        "max_completion_length": "at most {} tokens a solution",
        "max_meta_length": "at most {} tokens a prediction",
        "stop": "ended at {}",
    }
    said = [text.format(code(drawn[name])) for name, text in words.items() if drawn.get(name) not in (None, [])]
    return ", ".join(said) or "settings not recorded"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _figure(value: Any) -> str:
    return f"{value:.4g}" if _is_number(value) else "-"
