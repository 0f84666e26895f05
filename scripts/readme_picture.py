#!/usr/bin/env python3
"""Draw the picture that README opens with, from a run: what the model knew of itself before and after.

masa fit --config tiny
python scripts/readme_picture.py runs/tiny docs/pictures/quickstart.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread


def scatters(run: Path) -> dict[int, Path]:
    """The pictures of predicted against actual pass rates of a run's validations, by training steps."""
    stem = "validate_pass_rate_scatter_step"
    found = {int(file.stem.removeprefix(stem)): file for file in (run / "pictures").glob(f"{stem}*.png")}
    if len(found) < 2:
        raise SystemExit(f"{run}/pictures has {len(found)} pictures {stem}*.png; expected two or more")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run with a validation before and after")
    parser.add_argument("picture", type=Path, help="file to write")
    args = parser.parse_args()
    found = scatters(args.run)
    figure = Figure(figsize=(10, 5.6), dpi=100, layout="tight")
    FigureCanvasAgg(figure)
    for axes, step in zip(figure.subplots(1, 2), (min(found), max(found)), strict=True):
        axes.imshow(imread(found[step]))
        axes.set_title(f"after {step} training steps" if step else "before training", fontsize=13)
        axes.axis("off")
    figure.savefig(args.picture)
    print(f"{args.picture}: {args.picture.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
