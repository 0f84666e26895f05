"""Files of results -> what a card says of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def read_results(paths: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Reads what `BenchmarkReport` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds something else.
    """
    results = []
    for path in map(Path, paths):
        if not path.is_file():
            raise FileNotFoundError(
                f"results {str(path)!r} is no file; expected the results.json that the callback BenchmarkReport writes in "
                "`masa test`"
            )
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            benchmarks = found["benchmarks"]
            valid = bool(benchmarks) and all(
                isinstance(b["name"], str) and isinstance(b["metrics"], dict) for b in benchmarks
            )
        except (ValueError, LookupError, TypeError):
            valid = False
        if not valid:
            raise ValueError(
                f"results {str(path)!r} holds no benchmarks; expected the results.json that the callback BenchmarkReport "
                "writes in `masa test`"
            )
        results.append(found)
    return results
