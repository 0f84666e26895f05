#!/usr/bin/env bash
# Passes the tests, the real vLLM among them; makes .venv first if it is missing.
#   bash scripts/test.sh [arguments of pytest]     # without any, all that are not slow: about 10 minutes on two cores
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
[ $# -gt 0 ] || exec "$PYTHON" scripts/halves.py
exec "$PYTHON" -m pytest "$@"
