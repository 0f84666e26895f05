#!/usr/bin/env bash
# Watch a small language model learn to predict itself: installs, validates, trains and validates again; one closing panel.
#   bash scripts/quickstart.sh
# Made for 2 cores without a GPU. All that it writes is in .venv and runs/quickstart.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

DEVICE=()
[ "$EXTRA" = cpu ] || DEVICE=(--trainer.accelerator gpu --trainer.devices 1)

cd "$ROOT"
say "masa fit --config tiny: a few minutes"
"$PYTHON" -m masa_lightning.cli fit --config tiny --trainer.logger.init_args.name quickstart ${DEVICE[@]+"${DEVICE[@]}"} ||
  fail "masa fit ended with status $?. What it said is above."
say "the commands above are in .venv: . .venv/bin/activate"
