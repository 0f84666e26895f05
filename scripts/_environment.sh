# Sourced by quickstart.sh, test.sh and .ci/run: makes .venv with everything in it, once, and goes to the repository.
#
# Sets PYTHON (that of .venv), EXTRA ("cpu" or "cuda") and the functions say and fail. A stamp in .venv says what was
# installed; an install that was interrupted or failed is started anew.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
ROOT=$PWD
PYTHON=$ROOT/.venv/bin/python
INSTALL_LOG=$ROOT/.venv/install.log
INSTALLING=$ROOT/.venv/installing # there from the beginning of an install to its end

# Idle OpenMP threads sleep instead of spinning. Trainer and vLLM have a team of threads each; where cores are fewer than
# they seem (laptops, containers), spinning teams fight each other and the run is several times slower.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

say() { printf '[%4d s] %s\n' "$SECONDS" "$*"; }

fail() {
  printf '\n%s\n' "$1" >&2
  shift
  [ $# -eq 0 ] || printf '  %s\n' "$@" >&2
  exit 1
}

# Prints the first command that runs a Python that will do.
find_python() {
  local candidate
  for candidate in python3.11 python3.12 python3.13 python3; do
    # By running it: the shims of version managers exist for versions that are not there.
    if "$candidate" -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  fail "Python 3.11 or newer was not found." \
    "Looked for python3.11, python3.12, python3.13 and python3; python3 is $(python3 --version 2>/dev/null || echo missing)." \
    "Install Python 3.11, put it on the PATH and run this again."
}

# Checks the free disk space of a folder, in GB.
check_disk() {
  local free
  free=$(df -Pk "$1" | awk 'NR == 2 { print int($4 / 1000000) }')
  [ "$free" -ge "$2" ] || fail "There is not enough disk space: $free GB are free in $1, and the install needs $2 GB." \
    "Make room, or clone to a larger disk, and run this again."
}

# Ends after a failed install, with what may be the reason.
fail_install() {
  local errors hint="See the whole log: .venv/install.log"
  errors=$(grep -v '^WARNING: Location' "$INSTALL_LOG" || true)
  if grep -qi 'no space left' <<<"$errors"; then
    hint="The disk is full: make room here and in ${TMPDIR:-/tmp}, which pip uses too."
  elif grep -q 'torch==2\.13\.0+cpu' <<<"$errors"; then
    hint="torch 2.13.0+cpu comes from PyTorch's own index of CPU wheels (its address: pytorch.org, Get Started, CPU):
  name that index in the variable PIP_EXTRA_INDEX_URL."
  elif grep -qiE 'connection|name resolution|timed out|max retries|certificate' <<<"$errors"; then
    hint="The package registry cannot be reached: check the network, and pip's settings with 'pip config list'."
  elif grep -qiE 'no matching distribution|could not find a version' <<<"$errors"; then
    hint="Your package registry has no such version for $("$PYTHON" --version) on $(uname -sm), or cannot be reached."
  fi
  printf '\nThe last lines of .venv/install.log:\n' >&2
  tail -n 12 <<<"$errors" | cut -c 1-300 >&2
  fail "$1" "$hint" "Then run this again."
}

install() {
  local need=8
  [ "$EXTRA" = cpu ] || need=20
  check_disk "$ROOT" "$need"
  say "installing masa_lightning[$EXTRA,test] into .venv: about 2 minutes on a good network (log: .venv/install.log)"
  : >"$INSTALLING"
  : >"$INSTALL_LOG"
  # Python compiles a file when it is first imported; pip would compile all 30,000 before, which takes longer than the rest.
  "$PYTHON" -m pip install --no-compile --no-input --quiet --progress-bar off -e ".[$EXTRA,test]" \
    >>"$INSTALL_LOG" 2>&1 </dev/null || fail_install "The install failed."
  if [ "$EXTRA" = cpu ]; then
    # vLLM asks for them and nothing here uses them. Where a registry has no CPU builds of them, pip takes builds
    # that break every import of a transformers model ("operator torchvision::nms does not exist").
    "$PYTHON" -m pip uninstall --no-input --quiet --yes torchvision torchaudio torchcodec >>"$INSTALL_LOG" 2>&1 || true
  fi
  say "checking that transformers and vLLM import"
  "$PYTHON" -c 'import vllm; from transformers import Qwen3ForCausalLM' >>"$INSTALL_LOG" 2>&1 </dev/null ||
    fail_install "Everything was installed, but transformers' models or vLLM do not import."
  printf '%s\n' "$WANTED" >"$STAMP"
  rm -f "$INSTALLING"
  say "installed"
}

EXTRA=cpu
case "$(nvidia-smi -L 2>/dev/null || true)" in *"GPU "*) EXTRA=cuda ;; esac
STAMP=$ROOT/.venv/installed

if [ -e "$INSTALLING" ]; then
  say "the last install was not finished: making .venv anew"
  rm -rf .venv
elif [ -e .venv ] && ! "$PYTHON" -c 'import sys, pip; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null; then
  fail "The folder .venv has no working Python >= 3.11 with pip." "Remove it (rm -rf .venv) and run this again."
fi
if [ ! -e .venv ]; then
  base=$(find_python) || exit 1
  say "making .venv with $("$base" --version)"
  mkdir .venv && : >"$INSTALLING"
  "$base" -m venv .venv || fail "$base cannot make a virtual environment." \
    "On Debian and Ubuntu, install its package python3-venv; then run this again."
fi
# An editable install knows the folder's path, so a folder that was moved is installed again.
WANTED=$("$PYTHON" -c 'import hashlib, sys
print(hashlib.sha256(open("pyproject.toml", "rb").read() + repr(sys.argv[1:]).encode()).hexdigest())' "$EXTRA" "$ROOT")
if [ "$(cat "$STAMP" 2>/dev/null)" != "$WANTED" ]; then
  install
fi
