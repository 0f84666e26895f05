"""Which names from the inside of vLLM, of masa_lightning/sampling/vllm/patches.py, a version of vLLM has.

    python scripts/vllm_names.py                    # the installed one
    python scripts/vllm_names.py FOLDER ...         # unpacked wheels (`pip download --no-deps vllm==...`, `unzip`)

Nothing is imported: a name counts as there if the source of its module, or of its class, has each of its parts.
"""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

PAGE = Path(__file__).parents[1] / "masa_lightning" / "sampling" / "vllm" / "patches.py"


@dataclass(frozen=True)
class Entry:
    """What stands under the docstring of a function or class of the page.

    Args:
        title: Of the function or class.
        names: From the inside of vLLM, as `module:name.name`.
        test: That watches them, as pytest takes it.
        until: What would let the function go.
    """

    title: str
    names: tuple[str, ...]
    test: str
    until: str


def entries(page: Path = PAGE) -> list[Entry]:
    """Those of all public functions and classes; a ValueError names one that lacks something."""
    found = []
    for node in ast.parse(page.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            parts = re.search(r"\nNames: (.+)\nTest: (\S+)\nUntil: (.+)", ast.get_docstring(node) or "", re.DOTALL)
            if parts is None:
                raise ValueError(
                    f"{page.name}: {node.name} has no lines 'Names:', 'Test:' and 'Until:' in its docstring"
                )
            found.append(Entry(node.name, tuple(re.split(r",\s+", parts[1])), parts[2], " ".join(parts[3].split())))
    return found


def has(folder: Path, name: str) -> bool:
    """Whether a version of vLLM has a name.

    Args:
        folder: Its package.
        name: As `module:name.name`.
    """
    module, parts = name.split(":")
    path = folder.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not path.exists():
        return False
    tree: ast.AST = ast.parse(path.read_text())
    for part in parts.split("."):
        if part not in words(tree):
            return False
        classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == part)
        tree = next(classes, tree)
    return True


def words(tree: ast.AST) -> set[str]:
    """Every name in a part of a source."""
    found = set()
    for node in ast.walk(tree):
        for field in ("id", "attr", "name", "asname", "arg"):
            if isinstance(word := getattr(node, field, None), str):
                found.add(word)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)  # as in `replace_parameter(layer, "w13_weight", ...)`
    return found


def package(folder: str | None = None) -> Path:
    """The package in an unpacked wheel, or the installed one."""
    if folder is not None:
        return next(path for path in (Path(folder) / "vllm", Path(folder)) if (path / "version.py").exists())
    spec = find_spec("vllm")
    if spec is None or spec.origin is None:
        raise SystemExit("vLLM is not installed; expected it, or the folder of an unpacked wheel")
    return Path(spec.origin).parent


def main() -> None:
    missing = 0
    for folder in sys.argv[1:] or [None]:
        home = package(folder)
        for entry in entries():
            for name in entry.names:
                if not has(home, name):
                    missing += 1
                    print(f"{home}: no {name}\n    {entry.title} uses it; {entry.test} watches it")
        print(f"{home}: {sum(len(entry.names) for entry in entries())} names looked up")
    sys.exit(missing > 0)


if __name__ == "__main__":
    main()
