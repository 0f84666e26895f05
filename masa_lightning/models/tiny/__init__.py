"""The embedded model: a Qwen3-architecture checkpoint of about a million parameters that solves arithmetic, sometimes.

`scripts/build_tiny_model.py` rebuilds it. It knows the short prompts below, not the default ones; its config.json says
them, and the lengths that it was made for (`models.trained_with`).
"""

from pathlib import Path

from masa_lightning.functional.prompts import PromptTemplates

PATH = Path(__file__).parent / "checkpoint"
PROMPTS = PromptTemplates(solution="{problem} Solve.", meta="{problem} Predict.", hint="{problem} ({notions})")
