"""All that this package knows of the inside of vLLM: each private or deep name, and each thing it replaces.

Public are `vllm`, `vllm.inputs` and `vllm.sampling_params`, and what their objects show without an underscore in one
step, such as `LLM.llm_engine` and `LLMEngine.step`. All else that we use of vLLM is here, and nowhere else. Under each
docstring stand the names (as `module:name.name`), the test that fails when they no longer do what we want, and what would
let the function go. tests/sampling/vllm/test_patches.py looks the names up in the installed vLLM; docs/vllm.md says in
which versions they are.
"""

from __future__ import annotations

import contextlib
import uuid
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from masa_lightning.sampling.structured import Walk


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[Any]:
    """Puts another value in the place of a name, and yields the one before."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield before
    finally:
        setattr(owner, name, before)


# Weights that change


@contextlib.contextmanager
def linears_kept_plain(keep: Callable[[nn.Module], None]) -> Iterator[None]:
    """Linear layers keep their weights as they are and compute with them, on CPU.

    vLLM would pack copies, once, and drop the weights; then weights written over a copy are misread.

    Args:
        keep: Gets each of the layers, for `pack_linear`.

    Names: vllm.model_executor.layers.utils:dispatch_cpu_unquantized_gemm(layer, remove_weight),
        vllm.model_executor.layers.linear:dispatch_cpu_unquantized_gemm(layer, remove_weight),
        vllm.model_executor.layers.linear:cpu_linear
    Test: tests/sampling/vllm/test_sampler.py::test_weights_follow_the_optimizer
    Until: vLLM on CPU takes new weights with `LLM.apply_model(lambda model: model.load_weights(...))`.
    """
    from vllm.model_executor.layers import utils

    def use_plain(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = F.linear
        if layer.weight.dim() == 2:  # else it is the layer of a convolution
            keep(layer)

    with _replaced(utils, "dispatch_cpu_unquantized_gemm", use_plain):
        yield


def pack_linear(layer: Any) -> None:
    """Packs the weights that a linear layer has now; it computes with the copy until the next call.

    A third less time of generation for 0.3 s a hand-over, with 135M parameters (docs/results/performance.md).
    The test is that no copy is stale; `scripts/benchmark.py OUT --only handover` measures the gain.

    Names: vllm.model_executor.layers.utils:dispatch_cpu_unquantized_gemm(layer, remove_weight)
    Test: tests/sampling/vllm/test_sampler.py::test_weights_follow_the_optimizer
    Until: as `linears_kept_plain`.
    """
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    # In bfloat16 vLLM may put another bias in the place of the one that it shares with the policy.
    if layer.weight.dtype == torch.float32 or getattr(layer, "bias", None) is None:
        dispatch_cpu_unquantized_gemm(layer, remove_weight=False)


@contextlib.contextmanager
def experts_kept_plain(keep: Callable[[PackedExperts], None]) -> Iterator[None]:
    """Experts keep their weights as they are and compute with packed copies, on CPU.

    Args:
        keep: Gets those of each layer.

    Names: vllm.model_executor.layers.fused_moe.experts.cpu_moe:CPUUnquantizedExperts.process_weights_after_loading(layer)
    Test: tests/sampling/vllm/test_architectures.py::test_experts_follow_the_optimizer
    Until: as `linears_kept_plain`.
    """
    from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts

    lay_out = CPUUnquantizedExperts.process_weights_after_loading

    def use_copies(kernel: Any, layer: nn.Module) -> None:
        keep(PackedExperts(kernel, layer, lay_out))

    with _replaced(CPUUnquantizedExperts, "process_weights_after_loading", use_copies):
        yield


class PackedExperts:
    """The experts of one layer, which vLLM's kernel on CPU reads in a layout of its own.

    Args:
        kernel: vLLM's, which from now on reads the copies.
        layer: vLLM's, which has the weights.
        lay_out: Replaces the weights of a layer by those that the kernel reads.

    Names: vllm.model_executor.layers.fused_moe.experts.cpu_moe:CPUUnquantizedExperts.apply(w1=, w2=, **),
        vllm.model_executor.layers.fused_moe.experts.cpu_moe:w13_weight.w2_weight
    Test: tests/sampling/vllm/test_architectures.py::test_experts_follow_the_optimizer
    Until: as `linears_kept_plain`.
    """

    def __init__(self, kernel: Any, layer: nn.Module, lay_out: Callable[[Any, nn.Module], None]) -> None:
        self._kernel, self._layer, self._lay_out = kernel, layer, lay_out
        self._copies = nn.Module()
        self.pack()
        compute = kernel.apply

        def apply(*, w1: torch.Tensor, w2: torch.Tensor, **options: Any) -> Any:
            return compute(w1=self._copies.w13_weight, w2=self._copies.w2_weight, **options)

        kernel.apply = apply

    def pack(self) -> None:
        """Packs the weights that the layer has now."""
        self._copies = nn.Module()
        for name, weight in self._layer.named_parameters(recurse=False):
            self._copies.register_parameter(name, nn.Parameter(weight.detach(), requires_grad=False))
        self._lay_out(self._kernel, self._copies)


@contextlib.contextmanager
def layouts_watched(
    before: Callable[[nn.Module], None], after: Callable[[nn.Module, torch.dtype], None]
) -> Iterator[None]:
    """Calls two functions with each model that is loaded, before and after vLLM lays out its weights.

    Args:
        before: Gets the model.
        after: Gets the model and the dtype that it computes with.

    Names: vllm.model_executor.model_loader.base_loader:process_weights_after_loading(model, model_config, device)
    Test: tests/sampling/vllm/test_architectures.py::test_a_layout_that_is_not_known_is_refused
    Until: vLLM says which weights it does not keep as a checkpoint has them.
    """
    from vllm.model_executor.model_loader import base_loader

    def work_watched(model: nn.Module, model_config: Any, device: torch.device) -> None:
        before(model)
        work(model, model_config, device)
        after(model, model_config.dtype)

    with _replaced(base_loader, "process_weights_after_loading", work_watched) as work:
        yield


def lay_out_anew(layer: Any, dtype: torch.dtype) -> None:
    """Computes what vLLM derives from the weights of a layer, such as the parts of latent attention, once more.

    Names: vllm.model_executor.layers.attention.mla_attention:MLAAttention.process_weights_after_loading(act_dtype)
    Test: tests/sampling/vllm/test_architectures.py::test_latent_attention_follows_the_optimizer
    Until: as `linears_kept_plain`.
    """
    layer.process_weights_after_loading(dtype)


# The process that trains as well


@contextlib.contextmanager
def memory_of_any_node() -> Iterator[None]:
    """Leaves the memory of the process where it is: vLLM on CPU would bind all of it to one NUMA node, for good.

    Names: vllm.v1.worker.cpu_worker:init_cpu_memory_env(nodes)
    Test: tests/sampling/vllm/test_sampler.py::test_setup_leaves_no_trace
    Until: vLLM has an option for it.
    """
    with _replaced(torch.ops._C, "init_cpu_memory_env", lambda nodes: None):
        yield


@contextlib.contextmanager
def models_looked_at_here() -> Iterator[None]:
    """Looks at a model's class in this process; vLLM starts another one, to spare a GPU, which takes 9 s on CPU.

    Names: vllm.model_executor.models.registry:_run_in_subprocess(fn)
    Test: tests/sampling/vllm/test_patches.py::test_no_other_process_looks_at_a_model
    Until: vLLM does so on CPU itself.
    """
    from vllm.model_executor.models import registry

    with _replaced(registry, "_run_in_subprocess", lambda look: look()):
        yield


@contextlib.contextmanager
def own_shared_memory(processes: int) -> Iterator[None]:
    """Keeps the shared memory of tensor-parallel engines on CPU apart from that of other jobs, and of killed ones.

    vLLM gives it the same name in every job, and cannot start where a killed job left it behind.

    Args:
        processes: Number of those that make engines now; a collective.

    Names: vllm.distributed.device_communicators.cpu_communicator:init_shm_manager(name, size, rank, threads),
        vllm.distributed.device_communicators.cpu_communicator:join_shm_manager(handle, name)
    Test: tests/sampling/vllm/test_patches.py::test_shared_memory_has_a_name_of_its_own
    Until: vLLM makes the name unique.
    """
    operators: Any = torch.ops._C
    if processes == 1 or not hasattr(operators, "init_shm_manager"):
        yield
        return
    token = [uuid.uuid4().hex]
    torch.distributed.broadcast_object_list(token, src=0)
    files: list[Path] = []

    def init_own(name: str, size: int, rank: int, threads: int) -> Any:
        files.append(Path(f"/dev/shm/{name}-{token[0]}_{rank}"))
        return init(f"{name}-{token[0]}", size, rank, threads)

    def join_own(handle: Any, name: str) -> Any:
        return join(handle, f"{name}-{token[0]}")

    try:
        with (
            _replaced(operators, "init_shm_manager", init_own) as init,
            _replaced(operators, "join_shm_manager", join_own) as join,
        ):
            yield
    finally:
        for file in files:
            file.unlink(missing_ok=True)  # all processes have it open by now


def heed_stream() -> None:
    """Tells vLLM the CUDA stream that an engine is made in.

    Else it takes another one for its graphs, when it has begun to read results by the one before: a race.

    Names: vllm.utils.torch_utils:_patched_set_stream(stream)
    Test: tests/sampling/vllm/test_patches.py::test_vllm_heeds_the_stream_of_its_engine
    Until: vLLM looks at torch's stream.
    """
    from vllm.utils.torch_utils import _patched_set_stream

    _patched_set_stream(torch.cuda.current_stream())


def outlive_engine(llm: Any, workspace: Workspace) -> Callable[[], None]:
    """Lets an engine go without the process groups of the trainer and of other engines, which vLLM would end.

    Args:
        llm: The engine.
        workspace: Its own.

    Returns:
        What ends it, once; else that happens when it is dropped.

    Names: vllm.v1.engine.llm_engine:LLMEngine.engine_core, vllm.v1.engine.core_client:InprocClient._finalizer.engine_core,
        vllm.v1.engine.core:EngineCore.model_executor.scheduler,
        vllm.v1.executor.abstract:Executor.shutdown(), vllm.v1.core.sched.scheduler:Scheduler.shutdown()
    Test: tests/sampling/vllm/test_sampler.py::test_a_dropped_engine_frees_its_cache_and_harms_no_other
    Until: `EngineCore.shutdown` leaves groups alone that it has not made.
    """
    client = llm.llm_engine.engine_core
    client._finalizer.detach()  # else it runs EngineCore.shutdown, which destroys all groups
    return weakref.finalize(client, _free_memory, client.engine_core, workspace)


def _free_memory(engine_core: Any, workspace: Workspace) -> None:
    with workspace.ending():
        engine_core.model_executor.shutdown()
        engine_core.scheduler.shutdown()


_workspaces: list[Any] = []  # of the engines that live, the newest last; None on CPU


class Workspace:
    """The scratch memory of the engine that was made last, such as that of experts.

    vLLM has one a process: the last engine's, for all that work, and it takes it away with any engine that ends. One that is
    dropped ends when Python finds out, which may be while another one is made.

    Names: vllm.v1.worker.workspace:_manager
    Test: tests/sampling/vllm/test_patches.py::test_each_engine_works_and_ends_with_its_own_workspace
    Until: each engine has its own.
    """

    def __init__(self) -> None:
        from vllm.v1.worker import workspace

        self._module: Any = workspace
        self._own = self._module._manager
        _workspaces.append(self._own)

    def use(self) -> None:
        """Lets its engine work with it; others put theirs in its place when they work."""
        self._module._manager = self._own

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """Ends its engine inside, and leaves that of others where it is."""
        present = self._module._manager
        yield
        _workspaces.remove(self._own)
        if present is self._own:
            present = _workspaces[-1] if _workspaces else None
        self._module._manager = present


def ensure_expert_group(tensor_parallel_size: int) -> None:
    """Makes the process group of experts where an earlier engine of this process, with a dense model, made the others only.

    Args:
        tensor_parallel_size: Processes that share one engine.

    Names: vllm.distributed.parallel_state:_EP, vllm.distributed.parallel_state:model_parallel_is_initialized(),
        vllm.distributed.parallel_state:get_world_group(),
        vllm.distributed.parallel_state:init_model_parallel_group(group_ranks, local_rank, backend, group_name=)
    Test: tests/sampling/vllm/test_patches.py::test_experts_after_a_dense_model
    Until: vLLM makes each group when a model first needs it.
    """
    from vllm.distributed import parallel_state as state

    parallel_state: Any = state
    if not parallel_state.model_parallel_is_initialized() or parallel_state._EP is not None:
        return
    world = parallel_state.get_world_group()
    starts = range(0, world.world_size, tensor_parallel_size)
    parallel_state._EP = parallel_state.init_model_parallel_group(
        [[*range(start, start + tensor_parallel_size)] for start in starts],
        world.local_rank,
        torch.distributed.get_backend(world.device_group),
        group_name="ep",
    )


def engine_group() -> tuple[int, int, Any]:
    """The processes that share this engine: how many, which of them this is, and their group on CPU.

    Names: vllm.distributed.parallel_state:get_tp_group(),
        vllm.distributed.parallel_state:GroupCoordinator.world_size.rank_in_group.cpu_group
    Test: tests/sampling/test_processes.py::test_two_processes
    Until: the sampler makes groups of its own.
    """
    from vllm.distributed.parallel_state import get_tp_group

    group = get_tp_group()
    return group.world_size, group.rank_in_group, group.cpu_group


@contextlib.contextmanager
def classes_of_transformers_kept() -> Iterator[Callable[[Any], None]]:
    """Leaves the classes of transformers as they are, although vLLM's transformers backend changes them in place.

    It makes the decoder's class compilable: with another base, `__init__` and `__call__`, which older models of the class,
    such as the policy, cannot be called with, and later ones cannot be made with.

    Yields:
        A function that takes vLLM's model, and gives those parts of it that have such a class a subclass with the changes.

    Names: vllm.model_executor.models.transformers.base:support_torch_compile(**)
    Test: tests/sampling/vllm/test_architectures.py::test_a_class_that_vllm_borrows_stays_as_it_is
    Until: vLLM decorates a subclass.
    """
    from vllm.model_executor.models.transformers import base

    before: dict[type, tuple[tuple[type, ...], dict[str, Any]]] = {}
    twins: dict[type, type] = {}

    def decorate(**options: Any) -> Callable[[type], type]:
        def apply(cls: type) -> type:
            before.setdefault(cls, (cls.__bases__, dict(cls.__dict__)))
            decorated: type = decorator(**options)(cls)
            return decorated

        return apply

    def restore() -> None:
        for cls, (bases, members) in before.items():
            changed = {name: value for name, value in cls.__dict__.items() if members.get(name) is not value}
            changed = {name: value for name, value in changed.items() if name not in ("__dict__", "__weakref__")}
            added = tuple(base for base in cls.__bases__ if base not in bases)
            for name in changed:
                if name in members:
                    setattr(cls, name, members[name])
                else:
                    delattr(cls, name)
            cls.__bases__ = bases
            names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
            twins[cls] = type(cls.__name__, (cls, *added), names | changed)

    def give_twins(model: Any) -> None:
        for module in model.modules():
            if type(module) in twins:
                module.__class__ = twins[type(module)]

    try:
        with _replaced(base, "support_torch_compile", decorate) as decorator:
            yield give_twins
    finally:
        restore()


# What vLLM computes otherwise than transformers


def rotate_without_kernel(model: nn.Module) -> None:
    """Rotary embeddings in plain torch: the kernel on CPU misreads slices, as latent attention gives it.

    Names: vllm.model_executor.layers.rotary_embedding.base:RotaryEmbedding.forward_native(positions, query, key)
    Test: tests/sampling/vllm/test_architectures.py::test_latent_attention_follows_the_optimizer
    Until: the kernel heeds strides.
    """
    from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding

    rotations: list[Any] = [module for module in model.modules() if isinstance(module, RotaryEmbedding)]
    for rotation in rotations:
        rotation.forward = rotation.forward_native


def leaves_out_bias(layer: nn.Module) -> bool:
    """Whether a layer's router on CPU leaves out the correction bias, and so chooses other experts than the policy.

    Names: vllm.model_executor.layers.fused_moe.router.cpu_router:CPURouter.e_score_correction_bias.scoring_func,
        vllm.model_executor.layers.fused_moe.router.cpu_router:CPURouter.use_grouped_topk.custom_routing_function
    Test: tests/sampling/vllm/test_patches.py::test_a_router_that_leaves_out_its_bias
    Until: the router adds it to a softmax as well.
    """
    from vllm.model_executor.layers.fused_moe.router.cpu_router import CPURouter

    router = getattr(layer, "router", None)
    return (
        isinstance(router, CPURouter)
        and router.e_score_correction_bias is not None
        and router.scoring_func == "softmax"
        and not router.use_grouped_topk
        and router.custom_routing_function is None
    )


# Conveniences


def platform() -> str:
    """The kind of device that the installed vLLM runs on, as torch names it; empty where it finds none.

    Names: vllm.platforms:current_platform, vllm.platforms.interface:Platform.device_type
    Test: tests/sampling/vllm/test_engine.py::test_a_policy_elsewhere_than_the_engine_is_refused
    Until: vLLM says it in its public names.
    """
    from vllm.platforms import current_platform

    device: str = current_platform.device_type
    return device


def load_model_class(architecture: str) -> None:
    """Imports vLLM's code of an architecture, if it has any; an ImportError says what is missing.

    Names: vllm.model_executor.models.registry:_ModelRegistry.models, vllm.model_executor.models.registry:load_model_cls()
    Test: tests/sampling/vllm/test_patches.py::test_code_that_does_not_import
    Until: vLLM's own error names the package that is missing.
    """
    from vllm import ModelRegistry

    if architecture in ModelRegistry.models:
        ModelRegistry.models[architecture].load_model_cls()


def give_tokenizer(llm: Any, load: Callable[[], Any]) -> None:
    """Lets an engine that was made without a tokenizer look for stop strings.

    Names: vllm.v1.engine.llm_engine:LLMEngine.output_processor, vllm.v1.engine.output_processor:OutputProcessor.tokenizer
    Test: tests/sampling/test_stops.py
    Until: vLLM loads a tokenizer when a request first needs it.
    """
    processor = llm.llm_engine.output_processor
    if processor.tokenizer is None:
        processor.tokenizer = load()


class StructuredOutputs:
    """Draws structured outputs of an engine by walks of ours, which was made without a tokenizer.

    vLLM asks it as one of its backends for the tokens that each request may go on with.

    Args:
        llm: The engine.

    Names: vllm.v1.engine.llm_engine:LLMEngine.engine_core, vllm.v1.engine.core:EngineCore.structured_output_manager,
        vllm.v1.structured_output:StructuredOutputManager.backend._use_async_grammar_compilation,
        vllm.v1.structured_output.backend_types:StructuredOutputBackend.compile_grammar(request_type, grammar_spec, **),
        vllm.v1.structured_output.backend_types:StructuredOutputBackend.allocate_token_bitmask(max_num_seqs),
        vllm.v1.structured_output.backend_types:StructuredOutputGrammar.accept_tokens(request_id, tokens),
        vllm.v1.structured_output.backend_types:StructuredOutputGrammar.fill_bitmask(bitmask, batch_index),
        vllm.v1.structured_output.backend_types:StructuredOutputGrammar.is_terminated(),
        vllm.sampling_params:SamplingParams._validate_structured_outputs(**)
    Test: tests/sampling/test_structured.py
    Until: vLLM takes a backend of a user, for an engine without a tokenizer.
    """

    def __init__(self, llm: Any) -> None:
        self._manager = llm.llm_engine.engine_core.engine_core.structured_output_manager
        self._walks: dict[str, Walk] = {}
        self._new_masks: Callable[[int], torch.Tensor] | None = None

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Requests may be added inside, which vLLM would look through with a tokenizer."""
        from vllm import SamplingParams

        self._manager.backend, self._manager._use_async_grammar_compilation = self, False
        with _replaced(SamplingParams, "_validate_structured_outputs", lambda *_: None):
            yield

    def parameters(self, name: str, walk: Walk) -> Any:
        """What `SamplingParams` takes as `structured_outputs`.

        Args:
            name: Of the request.
            walk: At its start.
        """
        from vllm.sampling_params import StructuredOutputsParams

        self._walks[name], self._new_masks = walk, walk.new_masks
        return StructuredOutputsParams(grammar=name)

    def compile_grammar(self, request_type: Any, grammar_spec: str, **_: Any) -> _Grammar:
        """The walk of a request; for vLLM."""
        return _Grammar(self._walks.pop(grammar_spec))

    def allocate_token_bitmask(self, max_num_seqs: int) -> torch.Tensor:
        """Masks of so many requests; for vLLM."""
        assert self._new_masks is not None
        return self._new_masks(max_num_seqs)

    def destroy(self) -> None:
        """Frees nothing; for vLLM."""


class _Grammar:
    """A walk as vLLM's `StructuredOutputGrammar`."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        return all(self._walk.done or self._walk.accept(token) for token in tokens)

    def fill_bitmask(self, bitmask: torch.Tensor, batch_index: int) -> None:
        self._walk.fill(bitmask, batch_index)

    def is_terminated(self) -> bool:
        return self._walk.done
