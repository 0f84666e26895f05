"""The sampler: an engine's life, its weights and its requests."""

from __future__ import annotations

import contextlib
import gc
import logging
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from masa_lightning.checks import check_choice, check_number, check_object, trusts_code
from masa_lightning.sampling._limits import check_requests
from masa_lightning.sampling._stops import load_tokenizer
from masa_lightning.sampling.structured import Walks
from masa_lightning.sampling.vllm.architectures import check_experts
from masa_lightning.sampling.vllm.cpu import PackedLayers
from masa_lightning.sampling.vllm.engine import (
    check_options,
    check_setting,
    computing_dtype,
    make_engine,
    making_engines,
    warn_of_version,
)
from masa_lightning.sampling.vllm.isolation import apart_from_training, give_memory_back, no_compilation
from masa_lightning.sampling.vllm.patches import StructuredOutputs, Workspace, engine_group, give_tokenizer
from masa_lightning.sampling.vllm.weights import HandOver, MissingWeightsError
from masa_lightning.settings import SamplingSettings
from masa_lightning.types import Completion, SamplingRequest

if TYPE_CHECKING:
    from masa_lightning.protocols import CompletionFn, ProgressFn
    from masa_lightning.types import FinishReason

_with_engine: weakref.WeakSet[VLLMSampler] = weakref.WeakSet()  # those of this process that have had one
_WEIGHTS, _CACHE = "weights", "kv_cache"  # what `LLM.wake_up` takes


class VLLMSampler:
    """Draws completions with a vLLM engine that lives in the trainer's process and uses the trainer's weights.

    Reported log-probabilities belong to the distribution a token was drawn from, after temperature, top-k, top-p and
    min-p. At temperature 0 that distribution has no spread, and the plain softmax (temperature 1, nothing truncated)
    is reported instead. vLLM's own limits hold: a temperature is 0 or in [0.01, 2].

    Args:
        tensor_parallel_size: Processes that share one engine; each must call `generate` equally often.
        gpu_memory_utilization: Share of a GPU's memory for weights and key-value cache, in (0, 1]. Not used on CPU.
        kv_cache_gib: Size of the key-value cache in GiB. None follows `gpu_memory_utilization` on CUDA, and on CPU the
            environment's VLLM_CPU_KVCACHE_SPACE or else 1 GiB.
        dtype: Of the engine's weights: "float32", "bfloat16" or "float16". None takes what the policy computes in: the
            Trainer's precision on CUDA (bfloat16 for "bf16-mixed"), and on CPU that of the policy's weights, which the two
            then share.
        max_num_seqs: Most completions decoded at once.
        max_num_batched_tokens: Most tokens in one engine step. None leaves it to vLLM.
        enforce_eager: Runs without compilation and CUDA graphs. None is True on CPU and False on CUDA.
        enable_sleep_mode: Lets `sleep` free the engine's GPU memory between rollouts. CUDA only.
        sleep_level: 1 keeps a copy of the engine's weights in the machine's memory while it is asleep, 2 keeps none, as they
            are handed over after it anyway. None takes 2, and 1 for models that have more state than parameters and buffers.
        share_weights: Whether the policy's parameters live in the engine's storage. None shares where it is possible
            on CPU and streams on CUDA; True warns where it is not possible; False always streams.
        engine_kwargs: Further options of vLLM's engine by name, such as `{"kv_cache_dtype": "fp8"}`; none of those that are
            set here.
        verbose: Shows vLLM's own log. False keeps it to errors; VLLM_LOGGING_LEVEL in the environment wins.
    """

    structured_outputs = True
    on_completion: CompletionFn | None = None

    def __init__(
        self,
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float = 0.3,
        kv_cache_gib: float | None = None,
        dtype: str | None = None,
        max_num_seqs: int = 256,
        max_num_batched_tokens: int | None = None,
        enforce_eager: bool | None = None,
        enable_sleep_mode: bool = False,
        sleep_level: int | None = None,
        share_weights: bool | None = None,
        engine_kwargs: dict[str, Any] | None = None,
        verbose: bool = False,
    ) -> None:
        check_number("tensor_parallel_size", tensor_parallel_size, ">= 1", whole=True)
        check_number("gpu_memory_utilization", gpu_memory_utilization, "> 0", "<= 1")
        if kv_cache_gib is not None:
            check_number("kv_cache_gib", kv_cache_gib, "> 0", note="or None for the default")
        check_number("max_num_seqs", max_num_seqs, ">= 1", whole=True)
        if max_num_batched_tokens is not None:
            check_number(
                "max_num_batched_tokens", max_num_batched_tokens, ">= 1", whole=True, note="or None for vLLM's"
            )
        check_choice("dtype", dtype, (None, "float32", "bfloat16", "float16"))
        check_choice("enable_sleep_mode", enable_sleep_mode, (False, True))
        check_choice("sleep_level", sleep_level, (None, 1, 2))
        if sleep_level is not None and not enable_sleep_mode:
            raise ValueError(
                f"sleep_level is {sleep_level} and enable_sleep_mode False, so that the engine never sleeps; expected both: "
                "set enable_sleep_mode=True, or leave sleep_level at None"
            )
        if share_weights and (enable_sleep_mode or tensor_parallel_size > 1):
            raise ValueError(
                "share_weights=True does not go with enable_sleep_mode or tensor_parallel_size > 1: asleep the engine "
                "has no weights, and in parallel it has only a part of each. Leave share_weights at None."
            )
        if engine_kwargs is not None:
            check_object("engine_kwargs", engine_kwargs, Mapping, note="options of vLLM's engine by name")
            check_options(engine_kwargs)
        self.tensor_parallel_size = tensor_parallel_size
        self.gpu_memory_utilization = gpu_memory_utilization
        self.kv_cache_gib = kv_cache_gib
        self.dtype = dtype
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.enforce_eager = enforce_eager
        self.enable_sleep_mode = enable_sleep_mode
        self.sleep_level = sleep_level
        self.share_weights = share_weights
        self.engine_kwargs = dict(engine_kwargs or {})
        self.verbose = verbose
        self._llm: Any = None
        self._end: Callable[[], None] | None = None  # of the engine
        self._hand_over: HandOver | None = None
        self._workspace: Workspace | None = None
        self._walks: Walks | None = None
        self._structured: StructuredOutputs | None = None
        self._packed = PackedLayers()  # of the engine, on CPU
        self._model_path = ""
        self._max_model_length = 0
        self._stop_token_ids: frozenset[int] = frozenset()
        self._on_cpu = True
        self._asleep: list[str] = []  # what of the engine's memory is, as vLLM calls it
        self._more_state = ""  # of the engine's model, beside parameters and buffers
        self._request_count = 0
        self.engine_dtype: str | None = None
        """Of the weights of the last engine, by name; None before the first `setup`."""

    @property
    def shares_weights(self) -> bool:
        """Whether policy and engine have one storage; False before `setup`."""
        return self._hand_over is not None and self._hand_over.shared

    @property
    def hand_over(self) -> HandOver | None:
        """Copies or shares the policy's weights; None before `setup`."""
        return self._hand_over

    @property
    def packed_layers(self) -> PackedLayers:
        """Layers whose weights an engine on CPU keeps packed."""
        return self._packed

    def check_model(self, model_path: str, config: Any, device: torch.device) -> None:
        """Refuses what cannot be right, before the policy's weights are loaded.

        Args:
            model_path: Folder or hub name of the model.
            config: Of transformers.
            device: The policy's, as it will be.

        Raises:
            ImportError: vLLM cannot be imported.
            ValueError: The settings do not fit this machine or the installed vLLM; or the model has experts, and vLLM would
                not compute it as the policy does.
        """
        with making_engines(self, device):
            check_setting(self, device)
        if device.type == "cpu":
            check_experts(model_path, config)

    def setup(
        self, policy: nn.Module, model_path: str, *, max_model_length: int, stop_token_ids: Sequence[int]
    ) -> None:
        """Makes the engine and gives it the policy's weights.

        With several processes, call it in all of them, after torch.distributed is initialised. Call it under the autocast
        that the policy is trained in, which `dtype=None` heeds. A second call with the same policy and length only takes the
        new `stop_token_ids`, and hands the weights over.

        Raises:
            ImportError: vLLM cannot be imported, or a package that it needs for this engine.
            ValueError: The settings do not fit this machine.
            RuntimeError: vLLM could not make the engine.
        """
        if self._llm is not None:
            if (
                self._hand_over is None
                or policy is not self._hand_over.policy
                or max_model_length != self._max_model_length
            ):
                raise RuntimeError(
                    "this VLLMSampler already has an engine, made for another policy or max_model_length; "
                    "an engine cannot be changed: make a new VLLMSampler"
                )
            self._stop_token_ids = frozenset(stop_token_ids)
            self.sync_weights()
            return
        device = next(policy.parameters()).device
        with making_engines(self, device):
            check_setting(self, device)
        self._check_others()
        warn_of_version()
        self.engine_dtype = self.dtype or computing_dtype(policy)
        with making_engines(self, device):
            llm, layouts, workspace, end = make_engine(
                self, policy, model_path, max_model_length, self.engine_dtype, self._packed
            )
        self._on_cpu = device.type == "cpu"
        self._more_state = layouts.more_state
        self._model_path = model_path
        self._max_model_length = max_model_length
        self._stop_token_ids = frozenset(stop_token_ids)
        with apart_from_training(), _in_our_words(model_path):
            weights = HandOver(llm, policy, layouts.derived, "" if self._on_cpu else layouts.why_private())
            if self.tensor_parallel_size == 1 and (self._on_cpu if self.share_weights is None else self.share_weights):
                weights.share(level=logging.WARNING if self.share_weights else logging.INFO)
            self._packed.pack()
            self._try(llm)
        self._llm, self._hand_over, self._workspace, self._end = llm, weights, workspace, end
        self._walks, self._structured = Walks(policy, model_path), StructuredOutputs(llm)
        _with_engine.add(self)

    def sync_weights(self) -> None:
        """Makes the next `generate` use the policy's present weights.

        With shared storage this checks that sharing still holds, mends it where someone replaced a parameter, and
        forgets cached prefixes. While asleep it does nothing; after `wake` it also takes the memory of the key-value cache,
        which nothing needs before.
        """
        llm = self.llm
        if _WEIGHTS in self._asleep or self._hand_over is None:
            return
        with apart_from_training():
            self._hand_over()
            self._packed.pack()
            if self._asleep:
                llm.wake_up(tags=[_CACHE])
                self._asleep = []
        if not llm.reset_prefix_cache():
            raise RuntimeError("vLLM would not reset its prefix cache; expected no request to be under way")

    def generate(
        self,
        requests: Sequence[SamplingRequest],
        settings: SamplingSettings,
        on_progress: ProgressFn | None = None,
    ) -> list[Completion]:
        """Draws one completion a request, in the order of the requests.

        Equal requests give equal tokens whatever else is in the batch, exactly in fp32 and up to rounding in bf16.
        torch's global random state is left as it was.

        Raises:
            RuntimeError: There is no engine yet, or it is asleep.
            ValueError: A prompt is empty, or too long for the completion it may get; there are stop strings or structures,
                and the model has no tokenizer, or there are both.
        """
        llm = self.llm
        if _WEIGHTS in self._asleep:
            raise RuntimeError("the engine is asleep; call wake() before generate()")
        if self._asleep:
            self.sync_weights()
        parts = _gather(requests) if self.tensor_parallel_size > 1 else None
        everything = list(requests) if parts is None else [request for part in parts[0] for request in part]
        self._check(everything, settings)
        if not everything:
            return []
        with apart_from_training(), no_compilation() if self._on_cpu else contextlib.nullcontext():
            completions = self._run(llm, everything, settings, on_progress, self.on_completion)
        first = 0 if parts is None else sum(len(part) for part in parts[0][: parts[1]])
        return completions[first : first + len(requests)]

    def sleep(self) -> None:
        """Frees the engine's weights and key-value cache on the GPU; does nothing without `enable_sleep_mode`."""
        llm = self.llm
        if self.enable_sleep_mode and _WEIGHTS not in self._asleep:
            with apart_from_training():
                llm.sleep(level=self.sleep_level or (1 if self._more_state else 2))
            self._asleep = [_WEIGHTS, _CACHE]

    def wake(self) -> None:
        """Takes the memory of the engine's weights again; the next `sync_weights` or `generate` hands them over."""
        llm = self.llm
        if _WEIGHTS in self._asleep:
            torch.cuda.empty_cache()
            with apart_from_training():
                llm.wake_up(tags=[_WEIGHTS])
            self._asleep = [_CACHE]

    def close(self) -> None:
        """Ends the engine, if there is one, and gives its memory back; `setup` makes another one.

        The policy keeps its weights, where they are.
        """
        if self._llm is None:
            return
        end = self._end
        self.__dict__.update(self.__getstate__())
        with apart_from_training():
            if end is not None:
                end()
            give_memory_back()

    def __getstate__(self) -> dict[str, Any]:
        """Settings without the engine: a copy has to be set up anew."""
        twin = dict(self.__dict__)
        twin.update(_llm=None, _end=None, _hand_over=None, _workspace=None, _packed=PackedLayers(), _asleep=[])
        twin.update(_walks=None, _structured=None)
        return twin

    def _check_others(self) -> None:
        """Refuses an engine beside another one of this process, if either is to sleep."""
        if not self._conflicts():
            return
        gc.collect()  # modules and trainers know each other: without this they stay for a while after their end
        if self._conflicts():
            raise RuntimeError(
                "another VLLMSampler of this process has an engine, and one of the two has enable_sleep_mode; expected one "
                "engine at a time with it, as vLLM's sleep mode has one allocator a process: call close() of the other one "
                "first, or set enable_sleep_mode=False in both"
            )

    def _conflicts(self) -> bool:
        return any(
            each is not self and each._llm is not None and (each.enable_sleep_mode or self.enable_sleep_mode)
            for each in _with_engine
        )

    @property
    def llm(self) -> Any:
        """The engine, vLLM's `LLM`, to look at and to measure; its weights are the policy's.

        Raises:
            RuntimeError: Before `setup`, and after `close`.
        """
        if self._llm is None:
            raise RuntimeError("this VLLMSampler has no engine yet; call setup(policy, model_path, ...) first")
        if self._workspace is not None:
            self._workspace.use()
        return self._llm

    # Generation

    def _try(self, llm: Any) -> None:
        """Draws two tokens: what vLLM cannot compute here shows before training starts."""
        request = SamplingRequest(prompt_ids=[0], max_tokens=min(2, self._max_model_length - 1), seed=0)
        with no_compilation() if self._on_cpu else contextlib.nullcontext():
            self._run(llm, [request], SamplingSettings(), None, None)
        llm.reset_prefix_cache()

    def _check(self, requests: Sequence[SamplingRequest], settings: SamplingSettings) -> None:
        if not (settings.temperature == 0 or 0.01 <= settings.temperature <= 2):
            raise ValueError(
                f"temperature is {settings.temperature}; expected 0 or a value in [0.01, 2], because vLLM refuses more and "
                "takes less for 0.01"
            )
        check_requests(requests, self._max_model_length)

    def _run(
        self,
        llm: Any,
        requests: Sequence[SamplingRequest],
        settings: SamplingSettings,
        on_progress: ProgressFn | None,
        on_completion: CompletionFn | None,
    ) -> list[Completion]:
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        engine = llm.llm_engine
        stop_token_ids = sorted(self._stop_token_ids.union(settings.stop_token_ids))
        if settings.stop:
            trusted = self._hand_over is not None and trusts_code(self._hand_over.policy)
            give_tokenizer(llm, lambda: load_tokenizer(self._model_path, trusted))
        walks = [None] * len(requests) if self._walks is None else self._walks.of(requests, settings)
        index_of: dict[str, int] = {}
        completions: list[Completion | None] = [None] * len(requests)
        try:
            for index, request in enumerate(requests):
                params = SamplingParams(
                    temperature=settings.temperature,
                    top_p=settings.top_p,
                    top_k=settings.top_k,
                    min_p=settings.min_p,
                    seed=request.seed,
                    max_tokens=request.max_tokens,
                    stop_token_ids=stop_token_ids,
                    stop=list(settings.stop),
                    ignore_eos=True,  # the given ids end a completion, and nothing else does
                    logprobs=0 if request.logprobs else None,  # of the drawn token alone
                    flat_logprobs=True,  # one list, not a dictionary a token
                    detokenize=bool(settings.stop),
                    output_kind=RequestOutputKind.FINAL_ONLY,
                )
                self._request_count += 1
                request_id = str(self._request_count)
                index_of[request_id] = index
                prompt, walk = tokens_input(request.prompt_ids), walks[index]
                if walk is None or self._structured is None:
                    engine.add_request(request_id, prompt, params)
                    continue
                params.structured_outputs = self._structured.parameters(request_id, walk)
                with self._structured.taken():
                    engine.add_request(request_id, prompt, params)
            done = 0
            while engine.has_unfinished_requests():
                before = done
                for output in engine.step():
                    if output.finished:
                        index = index_of[output.request_id]
                        completions[index] = completion = _completion(output.outputs[0])
                        if on_completion is not None:
                            on_completion(requests[index], completion)
                        done += 1
                if on_progress is not None and done > before:
                    on_progress(done, len(requests))
        except BaseException:
            engine.abort_request([*index_of])
            raise
        return [completion for completion in completions if completion is not None]


def _completion(output: Any) -> Completion:
    token_ids = list(output.token_ids)
    logprobs = [] if output.logprobs is None else list(output.logprobs.logprobs)
    assert len(logprobs) in (0, len(token_ids))
    finish_reason: FinishReason = "stop" if output.finish_reason == "stop" else "length"
    return Completion(token_ids=token_ids, logprobs=logprobs, finish_reason=finish_reason)


@contextlib.contextmanager
def _in_our_words(model_path: str) -> Iterator[None]:
    """Says what to do where vLLM does not get along with a model that it made an engine for."""
    try:
        yield
    except MissingWeightsError:
        raise
    except Exception as error:
        raise RuntimeError(
            f"vLLM made an engine for {model_path!r} and cannot use it here: {type(error).__name__}: {error}\nExpected one "
            "that takes the policy's weights and generates with them: use TransformersSampler, which runs every causal "
            "language model of transformers"
        ) from error


def _gather(requests: Sequence[SamplingRequest]) -> tuple[list[list[SamplingRequest]], int]:
    """All requests of the processes that share this engine, by process, and which of these processes this is."""
    size, rank, group = engine_group()
    parts: list[Any] = [None] * size
    torch.distributed.all_gather_object(parts, list(requests), group=group)
    return parts, rank
