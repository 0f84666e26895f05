"""Which names of vLLM that this package uses a version of vLLM has, and whether they take the same arguments.

    python scripts/vllm_names.py                    # the installed one
    python scripts/vllm_names.py FOLDER ...         # unpacked wheels (`pip download --no-deps vllm==...`, `unzip`)

Those from the inside are on masa_lightning/sampling/vllm/patches.py, the public ones below. Nothing is imported: a name
counts as there if the source of its module, or of its class, has each of its parts. One with arguments in brackets, such as
`vllm.module:function(first, second, option=)`, is called so by us, or replaced by what takes these: what the source defines
by this name must take them; where it only calls it, it must give no others. `**` stands for any further options.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

PUBLIC = (  # that engine.py, sampler.py and weights.py call; tests/sampling/vllm/test_patches.py holds them together
    "vllm.engine.arg_utils:EngineArgs(model=, tokenizer=, trust_remote_code=, dtype=, max_model_len=, max_num_seqs=, "
    "max_num_batched_tokens=, enforce_eager=, gpu_memory_utilization=, kv_cache_memory_bytes=, tensor_parallel_size=, "
    "enable_sleep_mode=, seed=, load_format=, skip_tokenizer_init=, enable_prefix_caching=, logprobs_mode=, "
    "generation_config=, distributed_executor_backend=, hf_overrides=, disable_log_stats=, data_parallel_size=, "
    "pipeline_parallel_size=, quantization=, block_size=, enable_chunked_prefill=)",
    "vllm.sampling_params:SamplingParams(temperature=, top_p=, top_k=, min_p=, seed=, max_tokens=, stop_token_ids=, stop=, "
    "ignore_eos=, logprobs=, flat_logprobs=, detokenize=, output_kind=)",
    "vllm.sampling_params:RequestOutputKind.FINAL_ONLY",
    "vllm.inputs.engine:tokens_input(prompt_token_ids)",
    "vllm.entrypoints.llm:LLM.apply_model(func)",
    "vllm.entrypoints.llm:LLM.collective_rpc(method, kwargs=)",
    "vllm.entrypoints.llm:LLM.reset_prefix_cache()",
    "vllm.entrypoints.llm:LLM.sleep(level=)",
    "vllm.entrypoints.llm:LLM.wake_up(tags=)",
    "vllm.v1.engine.llm_engine:LLMEngine.add_request(request_id, prompt, params)",
    "vllm.v1.engine.llm_engine:LLMEngine.abort_request(request_ids)",
    "vllm.v1.engine.llm_engine:LLMEngine.has_unfinished_requests()",
    "vllm.v1.engine.llm_engine:LLMEngine.step()",
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner.reload_weights(weights_iterator=)",
)
PAGE = Path(__file__).parents[1] / "masa_lightning" / "sampling" / "vllm" / "patches.py"


@dataclass(frozen=True)
class Entry:
    """What stands under the docstring of a function or class of the page.

    Args:
        title: Of the function or class.
        names: From the inside of vLLM, as `module:name.name`, some with their arguments.
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
            found.append(
                Entry(node.name, tuple(re.split(r",\s+(?=vllm)", parts[1])), parts[2], " ".join(parts[3].split()))
            )
    return found


@dataclass(frozen=True)
class Arguments:
    """Those of a call.

    Args:
        by_place: Their names, in order.
        by_name: Further names.
        more: Whether there may be any others by name.
    """

    by_place: tuple[str, ...]
    by_name: frozenset[str]
    more: bool

    @classmethod
    def parse(cls, text: str) -> Arguments:
        """From what stands in the brackets, such as `first, second, option=, **`."""
        parts = [part.strip() for part in text.split(",") if part.strip()]
        named = frozenset(part[:-1] for part in parts if part.endswith("="))
        return cls(tuple(part for part in parts if part != "**" and not part.endswith("=")), named, "**" in parts)

    def refused_by(self, definition: ast.AST, method: bool) -> str:
        """Why what a source defines does not take them; empty if it does.

        Args:
            definition: A function, or a class with a line for each of its fields.
            method: Whether it is a function of a class.
        """
        if isinstance(definition, ast.ClassDef):
            fields = {
                node.target.id for node in definition.body if isinstance(node, ast.AnnAssign) and _named(node.target)
            }
            gone = sorted(self.by_name - fields)
            return f"has no {', '.join(gone)}" if gone else ""
        assert isinstance(definition, (ast.FunctionDef, ast.AsyncFunctionDef))
        has = definition.args
        static = any(ast.unparse(each) == "staticmethod" for each in definition.decorator_list)
        places = [each.arg for each in (*has.posonlyargs, *has.args)]
        needed = places[: len(places) - len(has.defaults)]
        needed += [each.arg for each, default in zip(has.kwonlyargs, has.kw_defaults, strict=True) if default is None]
        if method and not static:
            places, needed = places[1:], needed[1:]
        if has.vararg is None and tuple(places[: len(self.by_place)]) != self.by_place:
            return f"takes ({', '.join(places)})"
        named = {*places[len(self.by_place) :], *(each.arg for each in has.kwonlyargs)}
        if has.kwarg is None and (gone := sorted(self.by_name - named)):
            return f"takes no {', '.join(gone)}"
        rest = [name for name in needed if name not in (*self.by_place, *self.by_name)]
        return f"needs {', '.join(rest)} as well" if rest and not self.more else ""

    def exceeded_by(self, call: ast.Call) -> str:
        """Why a function that takes them does not take what a source gives it; empty if it does."""
        by_place = len(call.args)
        by_name = {each.arg for each in call.keywords if each.arg}
        if any(isinstance(each, ast.Starred) for each in call.args) or len(by_name) < len(call.keywords):
            return ""  # what a list or a mapping has is not to be seen
        if by_place > len(self.by_place):
            return f"is given {by_place} by place in line {call.lineno}"
        rest = {*self.by_place[by_place:]}
        if gone := sorted(rest - by_name):
            return f"is given no {', '.join(gone)} in line {call.lineno}"
        others = sorted(by_name - self.by_name - rest)
        return f"is given {', '.join(others)} in line {call.lineno}" if others and not self.more else ""


def _named(node: ast.AST) -> bool:
    return isinstance(node, ast.Name)


def fault(folder: Path, name: str) -> str:
    """What is otherwise than we use it in a version of vLLM; empty if nothing is.

    Args:
        folder: Its package.
        name: As `module:name.name` or `module:name.name(arguments)`.
    """
    module, _, used = name.partition(":")
    parts, bracket, arguments = used.removesuffix(")").partition("(")
    path = folder.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not path.exists():
        return f"there is no {module}"
    tree: ast.AST = ast.parse(path.read_text())
    *holders, last = parts.split(".")
    for part in holders:
        if part not in words(tree):
            return f"there is no {part}"
        classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == part)
        tree = next(classes, tree)
    if last not in words(tree):
        return f"there is no {last}"
    return "" if not bracket else _difference(tree, last, Arguments.parse(arguments))


def _difference(tree: ast.AST, name: str, arguments: Arguments) -> str:
    """Why what a part of a source defines by a name, or else calls by it, has other arguments; empty if it has not."""
    methods = {each for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for each in node.body}
    faults = [
        arguments.refused_by(node, node in methods)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        and node.name == name
        and not any(ast.unparse(each).endswith("overload") for each in node.decorator_list)
    ] or [
        arguments.exceeded_by(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and name in (getattr(node.func, "id", ""), getattr(node.func, "attr", ""))
    ]
    return next((text for text in faults if text), "") if faults else "is neither defined nor called there"


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
        found = next((path for path in (Path(folder) / "vllm", Path(folder)) if (path / "version.py").exists()), None)
        if found is None:
            raise SystemExit(f"{folder} has no vllm/version.py; expected the folder of an unpacked wheel of vLLM")
        return found
    spec = find_spec("vllm")
    if spec is None or spec.origin is None:
        raise SystemExit("vLLM is not installed; expected it, or the folder of an unpacked wheel")
    return Path(spec.origin).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="an unpacked wheel; the installed one without any")
    uses = [(name, f"{entry.title} uses it; {entry.test} watches it") for entry in entries() for name in entry.names]
    uses += [(name, "it is public, and VLLMSampler uses it") for name in PUBLIC]
    faults = 0
    for folder in parser.parse_args().folders or [None]:
        home = package(folder)
        for name, use in uses:
            if text := fault(home, name):
                faults += 1
                print(f"{home}: {name}: {text}\n    {use}")
        with_arguments = sum(name.endswith(")") for name, _ in uses)
        print(f"{home}: {len(uses)} names looked up, {with_arguments} of them with their arguments")
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
