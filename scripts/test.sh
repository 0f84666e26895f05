#!/usr/bin/env bash
# Passes the tests, the real vLLM among them; makes .venv first if it is missing.
#   bash scripts/test.sh [arguments of pytest]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
exec "$PYTHON" -m pytest "$@"
