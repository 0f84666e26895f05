#!/usr/bin/env python3
"""Draw the picture that README opens with, from two runs of `masa test`: what the model knew of itself before and after.

masa test --config tiny --trainer.logger.init_args.name before
masa fit --config tiny
masa test --config tiny --ckpt_path runs/tiny/checkpoints/last.ckpt --trainer.logger.init_args.name after
python scripts/readme_picture.py runs/before runs/after docs/pictures/quickstart.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread


def scatter(run: Path) -> Path:
    """The picture of predicted against actual pass rates that a test left in its folder."""
    found = sorted((run / "pictures").glob("test_pass_rate_scatter_*.png"))
    if len(found) != 1:
        raise SystemExit(f"{run}/pictures has {len(found)} pictures test_pass_rate_scatter_*.png; expected one")
    return found[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="folder of the test before training")
    parser.add_argument("after", type=Path, help="folder of the test after training")
    parser.add_argument("picture", type=Path, help="file to write")
    args = parser.parse_args()
    figure = Figure(figsize=(10, 5.6), dpi=100, layout="tight")
    FigureCanvasAgg(figure)
    for axes, run, title in zip(figure.subplots(1, 2), (args.before, args.after), ("before", "after"), strict=True):
        axes.imshow(imread(scatter(run)))
        axes.set_title(f"{title} training", fontsize=13)
        axes.axis("off")
    figure.savefig(args.picture)
    print(f"{args.picture}: {args.picture.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
