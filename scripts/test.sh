#!/usr/bin/env bash
# Passes the tests, the real vLLM among them; makes .venv first if it is missing.
#   bash scripts/test.sh [arguments of pytest]     # without any, all that are not slow: about 10 minutes on two cores
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
# Nearly all tests keep one core busy, so two pass at a time; the tests of a file share an engine, and stay together.
[ $# -gt 0 ] || set -- -n 2 --dist loadfile -q
exec "$PYTHON" -m pytest "$@"
