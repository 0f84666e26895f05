#!/usr/bin/env bash
# Watch a small language model learn to predict itself, and save work by that: installs, then trains twice, as MASA and as
# MASA-efficient; a panel of before and after each, and a closing table of what the second saved, and what that cost.
#   bash scripts/quickstart.sh
# Made for 2 cores without a GPU. All that it writes is in .venv and runs/quickstart.
# It takes 16 of the 32 steps of the configuration tiny: controls begin at step 8, and the model has learned most by then.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

DEVICE=()
[ "$EXTRA" = cpu ] || DEVICE=(--trainer.accelerator gpu --trainer.devices 1)

cd "$ROOT"
train() { # the folder of its run, and what else it is given
  local name=$1
  shift
  "$PYTHON" -m masa_lightning.cli fit "$@" --trainer.max_steps 16 --trainer.val_check_interval 16 \
    --trainer.logger.init_args.name "quickstart/$name" ${DEVICE[@]+"${DEVICE[@]}"} ||
    fail "masa fit ended with status $?. What it said is above."
}
say "masa fit --config tiny: MASA"
train masa --config tiny
say "masa fit --config tiny --config with/tiny_efficient: MASA-efficient, on the same problems"
train masa_efficient --config tiny --config with/tiny_efficient --validate_first false # its start is the same
say "masa report: what MASA-efficient saved against MASA, and what that cost"
"$PYTHON" -m masa_lightning.cli report runs/quickstart/masa runs/quickstart/masa_efficient -o runs/quickstart/report.html
say "that is one seed: the interval is over problems, and another seed may do otherwise (five: docs/results/embedded_model.md)"
say "the commands above are in .venv: . .venv/bin/activate"
