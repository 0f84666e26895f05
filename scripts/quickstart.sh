#!/usr/bin/env bash
# Watch a small language model learn to predict itself: installs, tests, trains and tests again, then prints one table.
#   bash scripts/quickstart.sh
# Made for 2 cores without a GPU. All that it writes is in .venv and runs/quickstart.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

RUN=$ROOT/runs/quickstart
# The run shows its progress; known noise of the libraries would hide it. Other warnings stay.
export PYTHONWARNINGS=${PYTHONWARNINGS:-ignore::FutureWarning,ignore::DeprecationWarning}
DEVICE=()
[ "$EXTRA" = cpu ] || DEVICE=(--trainer.accelerator gpu --trainer.devices 1)

# masa NAME SUBCOMMAND [ARGUMENTS]: runs the command with its log in runs/quickstart/NAME, and sets TOOK.
masa() {
  local name=$1 subcommand=$2 start=$SECONDS status=0
  shift 2
  local command=("$PYTHON" -m masa_lightning.cli "$subcommand" --config "$ROOT/configs/tiny.yaml"
    --trainer.logger.init_args.save_dir "$RUN" --trainer.logger.init_args.name "$name"
    ${DEVICE[@]+"${DEVICE[@]}"} "$@")
  if [ "$subcommand" = fit ] && [ -t 1 ]; then
    "${command[@]}" || status=$? # with its progress bar
  else
    "${command[@]}" >"$RUN/$name.log" 2>&1 </dev/null || status=$?
  fi
  if [ "$status" -ne 0 ]; then
    [ ! -s "$RUN/$name.log" ] || tail -n 25 "$RUN/$name.log" >&2
    fail "masa $subcommand ended with status $status after $((SECONDS - start)) s." \
      "Its whole output is above or in runs/quickstart/$name.log."
  fi
  TOOK=$((SECONDS - start))
}

INSTALL=$SECONDS
if [ -e "$RUN" ]; then
  earlier=$RUN-$(date +%Y%m%d-%H%M%S)
  mv "$RUN" "$earlier"
  say "the earlier run is kept as runs/${earlier##*/}"
fi
mkdir -p "$RUN"
cd "$RUN" # relative paths of the YAML (checkpoints) end here

say "1/3 masa test: what the model can do and knows about itself before training"
masa before test
BEFORE=$TOOK
say "2/3 masa fit: configs/tiny.yaml (a few minutes)"
masa fit fit
FIT=$TOOK
CHECKPOINT=$(find "$RUN" -name last.ckpt)
[ -n "$CHECKPOINT" ] || fail "masa fit left no last.ckpt under runs/quickstart; expected one of ModelCheckpoint."
say "3/3 masa test: the same problems after training"
masa after test --ckpt_path "$CHECKPOINT"
AFTER=$TOOK

cd "$ROOT"
"$PYTHON" scripts/summary.py --before runs/quickstart/before --fit runs/quickstart/fit --after runs/quickstart/after \
  --seconds "install=$INSTALL" "test before=$BEFORE" "fit=$FIT" "test after=$AFTER"
say "done"
