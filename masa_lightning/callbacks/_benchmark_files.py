"""What a test leaves in its folder: ``results.json``, and ``results.md`` for people."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from masa_lightning.callbacks._benchmark_table import Metrics, markdown_table
from masa_lightning.models.checkpoints import replaced
from masa_lightning.quantities import ShownQuantity

_NOTE: Final = """\
pass@1: mean over the samples of a problem, with a 95% interval over problems (Wilson's); pass@k: unbiased; maj@n: the
answer that most samples give; maj_predicted@n: votes weighted by the predicted pass rate. Of predictions against what
happened: r and rho are correlations (Pearson, Spearman), error and bias means, ECE the expected calibration error, in range
the share of predicted lengths within those of the right solutions. Problems whose prompt is too long are left out.
"""


def write_results(path: Path, settings: dict[str, Any], checkpoint: str | None, rows: dict[str, Metrics]) -> None:
    """Writes all metrics, for programs; those that are not finite as null.

    Args:
        path: Of the file, which is replaced.
        settings: Of `rollout_settings`.
        checkpoint: Name of the file that weights are from, None for those of the model itself.
        rows: Metrics of each benchmark, with ``problems`` and ``left_out``.
    """
    results = {
        "model": settings["model"],
        "checkpoint": checkpoint,
        "settings": settings,
        "benchmarks": [
            {
                "name": name,
                "problems": int(metrics["problems"]),
                "left_out": int(metrics["left_out"]),
                "metrics": {
                    n: value if math.isfinite(value) else None
                    for n, value in metrics.items()
                    if n not in ("problems", "left_out")
                },
            }
            for name, metrics in rows.items()
        ],
    }
    _write(path, json.dumps(results, indent=2, allow_nan=False) + "\n")


def write_page(
    path: Path,
    settings: dict[str, Any],
    checkpoint: str | None,
    rows: dict[str, Metrics],
    quantities: Iterable[ShownQuantity],
) -> None:
    """Writes the table, with what was measured and how, for people.

    Args:
        path: As of `write_results`.
        settings: As of `write_results`.
        checkpoint: As of `write_results`.
        rows: As of `write_results`.
        quantities: What is predicted.
    """
    evaluation = settings["evaluation"]
    how = (
        f"{evaluation['num_generations']} samples a problem at temperature {evaluation['temperature']}, top_p "
        f"{evaluation['top_p']}, at most {settings['max_completion_length']} tokens; "
        f"{evaluation['num_meta_generations']} predictions."
    )
    name = settings["model"] if checkpoint is None else f"{settings['model']}, checkpoint {checkpoint}"
    _write(path, f"# {name}\n\n{how}\n\n{markdown_table(rows, quantities)}\n\n{_NOTE}")


def _write(path: Path, text: str) -> None:
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
