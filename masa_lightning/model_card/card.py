"""The model card of an exported checkpoint: what was trained on what, how well that went, and how to ask it.

Cards are published: folders of this machine are cut down to the last part of their path, and whatever a text holds is
shown as code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, lazily imported

from masa_lightning.functional.markdown import code, table
from masa_lightning.model_card.usage import Adapters, usage
from masa_lightning.models.loading import TINY

_MASA = "2510.03259"
_GRPO = "2402.03300"
_SHARES = re.compile(r"\w+@\d+")  # pass@1, maj@8, maj_predicted@8
_SOURCE_FILES = (".parquet", ".json", ".jsonl", ".txt")


def write_card(
    out: str | Path,
    checkpoint: Mapping[str, Any],
    *,
    model: str | None = None,
    adapter: bool = False,
    results: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Writes README.md. What a checkpoint does not say, as those of earlier versions, is left out.

    Args:
        out: Folder of the exported model.
        checkpoint: ``masa`` of a checkpoint.
        model: Base model, in place of the one that the run started from.
        adapter: The folder holds LoRA adapters alone.
        results: As `results.read_results` gives.
    """
    card = _Card(Path(out).absolute().name, checkpoint, model, adapter, results)
    text = f"---\n{card.metadata().to_yaml()}\n---\n\n{card.text()}"
    ModelCard(text.encode("utf-8", "backslashreplace").decode()).save(Path(out, "README.md"))


def base_name(checkpoint: Mapping[str, Any], model: str | None = None) -> tuple[str, bool]:
    """The base model's name as a card may say it, and whether it is a name on the hub."""
    saved: str = checkpoint["model"]
    names = [] if checkpoint.get("run", {}).get("model_is_local") else [saved]
    hub = [name for name in (model, *names) if name is not None and _is_hub_name(name)]
    return (hub[0], True) if hub else (_last_part(saved), False)


class _Card:
    """Collects what is said in more than one place."""

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
        self.evaluations = [e for e in [self._validation()] if e]
        self.evaluations += [b for r in results for b in r["benchmarks"]]

    def metadata(self) -> ModelCardData:
        """What the hub reads."""
        arxiv = [f"arxiv:{_GRPO}"] + [f"arxiv:{_MASA}"] * self.predicts
        scores = [
            EvalResult(
                task_type="text-generation",
                dataset_type=str(evaluation["name"]),
                dataset_name=str(evaluation["name"]),
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
            model_name=self.name,
            eval_results=scores or None,
        )

    def text(self) -> str:
        """All below the metadata."""
        sections = [
            self._introduction(),
            self._usage(),
            self._training(),
            self._results(),
            self._calibration(),
            self._limitations(),
        ]
        return "\n\n".join(filter(None, sections)) + "\n"

    # -- sections ----------------------------------------------------------------------------------------------------

    def _introduction(self) -> str:
        if self.base_on_hub:
            base = f"[{self.base}](https://huggingface.co/{self.base})"
        elif self.base == TINY:
            base = "`tiny`, the model of about a million parameters in masa_lightning"
        else:
            base = f"a model from the local folder {code(self.base)}"
        how = ", with LoRA" if self.lora else ""
        what = "LoRA adapters of" if self.adapter else "This is"
        text = f"# {code(self.name)}\n\n{what} {base}, trained with {self.method}{how} by masa_lightning.\n\n"
        if not self.predicts:
            return text + (
                f"GRPO ([arXiv {_GRPO}](https://arxiv.org/abs/{_GRPO})) rewards solutions of problems whose answer is known."
            )
        return text + (
            f"MASA (Meta-Awareness via Self-Alignment, [arXiv {_MASA}](https://arxiv.org/abs/{_MASA})) is GRPO "
            f"([arXiv {_GRPO}](https://arxiv.org/abs/{_GRPO})) on two kinds of rollouts. The model solves problems whose "
            "answer is known, and in *meta* rollouts it predicts how that will go: its pass rate, the length of its "
            "solutions, the notions they use. Its reward is how well that matches the solutions that were then drawn."
        )

    def _usage(self) -> str:
        if "prompts" not in self.settings:
            return ""
        adapters = Adapters(self.base, self.lora["rank"]) if self.lora and self.adapter else None
        return usage(
            self.name,
            self.settings,
            predicts=self.predicts,
            adapters=adapters,
            stop=self.checkpoint.get("stop", ()),
            stop_token_ids=self.checkpoint.get("stop_token_ids", ()),
        )

    def _training(self) -> str:
        c = self.checkpoint
        facts = {
            "training steps": c.get("rollout_steps"),
            "optimiser steps": (c.get("schedules") or {}).get("optimizer_steps"),
            "tokens of training rollouts, prompts included": c.get("num_tokens"),
            "training problems": self.run.get("training_problems"),
            "problems a step": self._problems_a_step(),
            "processes": self.run.get("processes"),
            "precision": self.run.get("precision"),
            "seed": self.run.get("seed"),
            "dtype of the weights": c.get("dtype"),
            **{f"LoRA: {name}": value for name, value in (self.lora or {}).items()},
        }
        parts = ["## Training", table(["", ""], [[n, code(v)] for n, v in facts.items() if v is not None])]
        if self.ledger:
            rows = [[code(name.removeprefix("tokens/")), f"{count:,.0f}"] for name, count in self.ledger.items()]
            parts += ["Tokens, by what they were for:", table(["", "tokens"], rows)]
        hidden = {"model_name", "dtype_name", "seed", "inference", *c}  # shown above, or of no training
        settings = {name: value for name, value in self.settings.items() if name not in hidden}
        for title, what in [("Settings", settings), ("Data", self.data)]:
            if what:
                parts += [f"### {title}", _settings_table(what)]
        if callbacks := self.run.get("callbacks"):
            parts += ["### Callbacks", _settings_table({str(i): each for i, each in enumerate(callbacks)})]
        return "\n\n".join(parts)

    def _results(self) -> str:
        if not self.evaluations:
            return ""
        names = sorted({n for e in self.evaluations for n in e["metrics"] if _SHARES.fullmatch(n)}, key=_order)
        rows = []
        for evaluation in self.evaluations:
            m = evaluation["metrics"]
            bounds = {n: f" [{_figure(m[f'{n}_low'])}, {_figure(m[f'{n}_high'])}]" for n in names if f"{n}_low" in m}
            cells = [_figure(m.get(n)) + bounds.get(n, "") for n in names]
            length = _figure(m.get("completions/mean_length"))
            left_out = evaluation.get("left_out")  # their prompts are too long
            problems = code(evaluation.get("problems")) + (f" ({code(left_out)} left out)" if left_out else "")
            rows.append([code(evaluation["name"]), problems, *cells, length])
        parts = ["## Results", table(["", "problems", *map(code, names), "tokens a solution"], rows)]
        if (validation := self._validation()) is not None:
            at, now = validation["step"], self.checkpoint.get("rollout_steps")
            after = (
                "the weights here" if at == now else f"the weights after step {code(at)} of {code(now)}, not those here"
            )
            parts.append(f"`validation` is the last one of the run, of {after}: {_how(self.settings)}.")
        for result in self.results:
            tested = ", ".join(code(b["name"]) for b in result["benchmarks"])
            # Whether that was this model cannot be told here: it may have been tested as a checkpoint or as a folder.
            name = code(_last_part(str(result.get("model"))))
            parts.append(f"{tested}: `masa test` of the model {name}, {_how(result.get('settings') or {})}.")
        return "\n\n".join(parts)

    def _calibration(self) -> str:
        names = [
            *dict.fromkeys(
                n
                for e in self.evaluations
                for n, value in e["metrics"].items()
                if (n.startswith("calibration/") or n == "meta/parse_rate") and _is_number(value)
            )
        ]
        if not names:
            return ""
        rows = [[code(n), *(_figure(e["metrics"].get(n)) for e in self.evaluations)] for n in names]
        untrained = "" if self.predicts else " It was not trained to predict."
        return "\n\n".join(
            [
                "## Calibration",
                f"What the model predicted of itself, against what then happened.{untrained} `bias` is predicted minus "
                "actual; errors of lengths are relative; `ece` is the expected calibration error; `meta/parse_rate` is the "
                "share of predictions that could be read in full; what could not be read counts in no other figure.",
                table(["", *(code(e["name"]) for e in self.evaluations)], rows),
            ]
        )

    def _limitations(self) -> str:
        points = []
        if self.evaluations:
            sizes = ", ".join(f"{code(e.get('problems'))} ({code(e['name'])})" for e in self.evaluations)
            points.append(
                f"The figures are means over {sizes} problems. Intervals are of 95%, over these problems: they "
                "say nothing of other seeds of training or of other kinds of problems."
            )
        else:
            points.append("No evaluation is recorded here: how good the model is, is not known.")
        if grader := self.settings.get("grader"):
            points.append(
                f"Right or wrong is what the grader {code(grader['class'])} decided from final answers; the reasoning "
                "before them was not looked at."
            )
        if self.predicts:
            points.append(
                "Predictions are of the model's own attempts with the prompts, the limit of tokens and the sampling above; "
                "with others they are off."
            )
        points.append(
            "Nothing but such problems was trained or measured; what the base model does wrong, this may do too."
        )
        return "\n".join(["## Limitations", "", *(f"- {point}" for point in points)])

    # -- parts -------------------------------------------------------------------------------------------------------

    def _validation(self) -> dict[str, Any] | None:
        """The run's last validation in the shape of a benchmark."""
        validation = self.run.get("validation")
        if not validation:
            return None
        return {
            "name": "validation",
            "problems": validation["problems"],
            "step": validation["rollout_steps"],
            "of_these_weights": validation["rollout_steps"] == self.checkpoint.get("rollout_steps"),
            "metrics": {name.removeprefix("val/"): value for name, value in validation["metrics"].items()},
        }

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


# -- values ----------------------------------------------------------------------------------------------------------


def _settings_table(settings: Mapping[str, Any]) -> str:
    rows = [[code(n), code(v if n.startswith("prompts.") else _public(v))] for n, v in _flat(settings)]
    return table(["", ""], rows)


def _public(value: Any) -> Any:
    """A setting without the folders of this machine; what existed when it was recorded is cut already."""
    if isinstance(value, list):
        return [_public(each) for each in value]
    is_place = isinstance(value, str) and (value.startswith(("/", "~", ".")) or PureWindowsPath(value).is_absolute())
    return _last_part(value) if is_place else value


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings in settings as a.b; an object is the name of its class; what is not set is left out."""
    for name, value in settings.items():
        key = prefix[:-1] if name == "class" and prefix else prefix + name
        if isinstance(value, list) and any(isinstance(each, dict) for each in value):
            value = {str(i): each for i, each in enumerate(value)}
        if key in ("prompts.solution", "prompts.meta"):
            continue  # the usage has them
        if isinstance(value, Mapping):
            yield from _flat(value, f"{key}.")
        elif value not in (None, [], ""):
            yield key, value


def _order(name: str) -> tuple[bool, str, int]:
    kind, _, k = name.partition("@")
    return kind != "pass", kind, int(k)


def _how(settings: Mapping[str, Any]) -> str:
    """How rollouts were drawn."""
    drawn = dict(settings.get("evaluation") or {})
    drawn |= {n: settings[n] for n in ("max_completion_length", "max_meta_length") if n in settings}
    return ", ".join(f"{name} {code(value)}" for name, value in drawn.items() if value != []) or "settings not recorded"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _figure(value: Any) -> str:
    return f"{value:.4g}" if _is_number(value) else "-"
