"""Small runs that the real callbacks and loggers wrote, with texts that would break a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from training_loop import Grades, Loop

from masa_lightning.callbacks.gating import PredictiveGating
from masa_lightning.callbacks.rollout_table import RolloutTable
from masa_lightning.callbacks.validate_first import ValidateFirst
from masa_lightning.settings import Evaluation

HOSTILE = "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=1>"
UNSEEN = "\u202ereversed\u2028\x00<!--\u0430\u0301"


def script(kind: str, text: str, index: int, call: int) -> str:
    """One problem is always right, one sometimes, the others never; all are predicted at 3 of 4."""
    if kind == "meta":
        return f'<meta>{HOSTILE}</meta>{{"pass_rate": 6, "solution_length": 30, "math_notion": ["<b>ring</b>"]}}'
    return f"right {HOSTILE}" if text == "1+1" or (text == "2+2" and index == 0) else "wrong"


def train(
    loop: Loop, folder: Path, seed: int, *, csv: bool = False, steps: int = 3, learning_rate: float = 1e-4
) -> None:
    """Trains for a few steps with a validation before the first and after each, as `masa fit` would."""
    problems = [loop.problem(f"{i}+{i}", str(2 * i)) for i in range(1, 4)] + [loop.problem(f"{UNSEEN}", "4", HOSTILE)]
    module = loop.scripted(
        script, grader=Grades(), seed=seed, learning_rate=learning_rate, max_prompt_length=64,
        max_completion_length=180, evaluation=Evaluation(num_generations=3, num_meta_generations=2),
    )  # fmt: skip
    logger = (CSVLogger if csv else TensorBoardLogger)(folder.parent, name=folder.name, version="")
    callbacks = [ValidateFirst(), RolloutTable(every_n_steps=1), PredictiveGating(mode="shadow")]
    trainer = loop.trainer(
        *callbacks, logger=logger, max_steps=steps, val_check_interval=1, check_val_every_n_epoch=None
    )
    data = loop.Problems(train=2 * steps, validation=problems)
    trainer.fit(module, data)
    settings: dict[str, Any] = {
        "seed_everything": seed,
        "trainer": {
            "logger": {"init_args": {"save_dir": str(folder.parent)}},
            "callbacks": [{"class_path": "masa_lightning.PredictiveGating", "init_args": {"mode": "shadow"}}],
        },
        "model": {
            "init_args": {
                "optimization": {"optimizer": {"init_args": {"lr": learning_rate}}},
                "note": f"hf {HOSTILE}",
                "api_key": "sesame",
            }
        },
        "data": {"init_args": {"seed": seed}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
