#!/usr/bin/env python3
r"""Measure what limits a training step, each number side by side with what it is to be compared to.

    python scripts/benchmark.py OUT_DIR [--only generation update ...] [--config YAML] [--rounds 3] [-- --model... ]

Everything after `--` goes to the command line of `masa fit`, such as the path of a model or of data. With SmolLM2:

    python scripts/benchmark.py OUT --config configs/smollm2_asdiv.yaml -- \
        --model.init_args.model MODEL_DIR --data.init_args.train TABLE

Each measurement runs in a process of its own and writes OUT_DIR/NAME.json; what is there already is not measured again. The
table is printed as markdown. The two sides of a ratio take turns in one process, because a shared machine is noisy; the
ratio is the median over rounds. `step_trl` and `step_trl_vllm` need an interpreter with TRL: --trl-python PATH.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, islice, product
from pathlib import Path
from typing import Any

from benchmark_generation import evaluation, generation
from benchmark_run import Run, lengths
from benchmark_table import Row, median, rounds, row, seconds, table
from benchmark_turns import Training, Turn, busy, tell

ROOT = Path(__file__).resolve().parents[1]
HEAD = (8 * 512, 576, 49152)  # tokens, width and words of `memory`


# -- measurements, each in a process of its own -------------------------------------------------------------------------


def update(args: argparse.Namespace) -> list[Row]:
    """Forward and backward of the update against those of the same model over as many tokens without padding."""
    import torch
    from torch.nn import functional as F

    from masa_lightning.update.experience import micro_batches

    run = Run(args, steps=1)
    module = run.module
    rollouts: list[Any] = []
    for group in run.groups:
        if sum(len(r.prompt_ids) + r.length for r in rollouts) < args.update_tokens:
            rollouts += group.rollouts
    for r in rollouts:
        r.advantage = 1.0
    batches = micro_batches(rollouts, module.optimization.max_tokens_per_micro_batch, share_prompts=module.policy.packs)
    whole = sum(len(r.prompt_ids) + r.length for r in rollouts)
    packed = sum(len(b.tokens.input_ids) for b in batches)
    width = round(whole / len(rollouts))
    model = module.policy.model
    n_rows = module.optimization.max_tokens_per_micro_batch // width

    def ours() -> None:
        for b in batches:
            logp, _ = module.policy(b.tokens, module.sampling.temperature)
            (logp * b.advantages[:, None]).sum().backward()
        module.zero_grad()

    def bare(tokens: int) -> Callable[[], None]:
        ids = torch.randint(0, model.config.vocab_size, (max(1, round(tokens / width)), width))

        def go() -> None:
            for part in ids.split(n_rows):
                logits = model(input_ids=part, use_cache=False).logits[:, :-1]
                F.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten()).backward()
            module.zero_grad()

        go.tokens = ids.numel()  # type: ignore[attr-defined]
        return go

    same, all_tokens = bare(packed), bare(whole)
    rows = []
    for what, theirs, tokens in (
        ("update, tokens computed", same, packed),
        ("update, tokens of the rollouts (a prompt counts once a rollout)", all_tokens, whole),
    ):
        pairs = rounds(args, lambda n=tokens: n / seconds(ours), lambda go=theirs: go.tokens / seconds(go))  # type: ignore[attr-defined]
        rows.append(row(what, "tokens/s", pairs, "bare forward/backward, rows of equal length", goal=">= 0.90"))
    rows.append(
        {"what": "padding among trained tokens", "value": 0.0 if module.policy.packs else None, "goal": "<= 0.05"}
    )
    rows.append({"what": "tokens: of the rollouts, computed, micro-batches", "value": [whole, packed, len(batches)]})
    rows.append({"what": "completion length: mean, longest", "value": lengths(rollouts)})
    return rows


def memory(args: argparse.Namespace) -> list[Row]:
    """Peak memory of log-probabilities, alone and with the entropy bonus, with gradients; against full logits."""
    import torch

    from masa_lightning.functional.logprobs import token_logprobs

    tokens, width, words = HEAD

    def head(tokens: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Makes logits of deviation 1: of large ones most probabilities are denormal, and slow to compute with."""
        hidden, weight = torch.randn(tokens, width), torch.randn(words, width) / width**0.5
        return hidden.requires_grad_(), weight.requires_grad_()

    hidden, weight = head(tokens, width)
    targets = torch.randint(0, words, (tokens,))

    def chunked() -> None:
        token_logprobs(hidden, weight, targets)[0].sum().backward()

    def full() -> None:
        logp = (hidden @ weight.T).log_softmax(-1)
        logp.gather(1, targets[:, None]).sum().backward()

    def with_entropy() -> None:
        logp, entropy = token_logprobs(hidden, weight, targets)
        (logp.sum() - 0.1 * entropy.sum()).backward()

    def full_with_entropy() -> None:
        logp = (hidden @ weight.T).log_softmax(-1)
        (logp.gather(1, targets[:, None]).sum() + 0.1 * (logp.exp() * logp).sum()).backward()

    def peak_of(go: Callable[[], None]) -> float:
        hidden.grad = weight.grad = None
        with peak_memory() as peak:
            go()
        return peak["bytes"] / 2**20

    rows = []
    for what, ours, theirs in (
        ("log-probabilities", chunked, full),
        ("both, and entropies", with_entropy, full_with_entropy),
    ):
        pairs = [(peak_of(ours), peak_of(theirs))]
        rows.append(row(f"peak memory of {what}, 8 x 512 tokens", "MiB", pairs, "full logits", goal="<= 0.35"))
    many, narrow = 5 * tokens, 64
    hidden, weight = head(many, narrow)
    targets = torch.randint(0, words, (many,))
    what = (
        f"peak memory of both, {many:,} tokens of width {narrow} (full logits: {many * words / 2**18:,.0f} a copy), MiB"
    )
    rows.append({"what": what, "value": peak_of(with_entropy)})
    return rows


def handover(args: argparse.Namespace) -> list[Row]:
    """A hand-over of weights that are copied, against one memcpy of them; where they are shared, what packing saves."""
    import torch
    from torch.nn import functional as F

    run = Run(args, steps=1)
    sampler = run.module.sampler
    shared = median([seconds(sampler.sync_weights) for _ in range(5)])
    linears, requests, settings = sampler.packed_layers.linears, run.requests, run.module.sampling
    packed = {layer: layer.cpu_linear for layer in linears}

    def generate(packs: bool) -> None:
        sampler.packed_layers.linears = linears if packs else []
        for layer in linears:
            layer.cpu_linear = packed[layer] if packs else F.linear
        sampler.sync_weights()
        sampler.generate(requests, settings)

    saving = rounds(args, lambda: seconds(lambda: generate(True)), lambda: seconds(lambda: generate(False)))
    weights = [p.detach().clone() for p in run.module.policy.parameters()]
    targets = [torch.empty_like(w) for w in weights]

    def memcpy() -> None:
        for target, weight in zip(targets, weights, strict=True):
            target.copy_(weight)

    sampler.hand_over.shared = False
    for p, weight in zip(run.module.policy.parameters(), weights, strict=True):
        p.data = weight
    pairs = rounds(
        args, *(lambda go=go: median([seconds(go) for _ in range(20)]) for go in (sampler.hand_over, memcpy))
    )
    mib = sum(w.numel() * w.element_size() for w in weights) / 2**20
    return [
        row(f"weight hand-over, copied ({mib:.0f} MiB)", "s", pairs, "memcpy", goal="<= 1.1"),
        {"what": "weight hand-over, shared storage, s", "value": shared, "goal": "0"},
        row("shared hand-over and the solutions of a step", "s", saving, "the same without packing", goal="<= 1"),
    ]


def step(args: argparse.Namespace) -> list[Row]:
    """Where the seconds of a step go, and MASA against GRPO; the two take turns in one run."""
    run = Run(args, steps=2 * (args.rounds + 1), grpo_in_turn=True)
    kinds = {"GRPO": run.steps[2::2], "MASA": run.steps[3::2]}  # after one of each that is not counted
    totals = {name: {part: sum(s[part] for s in steps) for part in steps[0]} for name, steps in kinds.items()}
    rows = []
    for name, total in totals.items():
        rest = total["step"] - total["engine"] - total["forward"] - total["backward"]
        parts = ("step", "engine", "forward", "backward", "optimizer", "grade")
        rows += [
            {
                "what": f"{name} step, s: all, vLLM, forward, backward, optimiser, grading",
                "value": [total[k] / args.rounds for k in parts],
            },
            {
                "what": f"{name} step: neither vLLM nor forward/backward",
                "ratio": rest / total["step"],
                "goal": "<= 0.05",
            },
        ]
    ratios = sorted(m["step"] / g["step"] for g, m in zip(*kinds.values(), strict=True))
    bound = 1 + 1.1 * totals["MASA"]["meta"] / totals["MASA"]["solution"]
    ratio = totals["MASA"]["step"] / totals["GRPO"]["step"]
    rows.append(
        {"what": "MASA step / GRPO step", "ratio": ratio, "range": [ratios[0], ratios[-1]], "goal": f"<= {bound:.2f}"}
    )
    return rows


def judge(args: argparse.Namespace) -> list[Row]:
    """Solutions of a step, drawn and rewarded by a judge of 200 ms: asked while others are drawn, against afterwards."""
    import asyncio

    from masa_lightning import RemoteReward
    from masa_lightning.modules.run_parts import RunParts
    from masa_lightning.rollouts.solution_scorer import SolutionScorer

    async def answer(completion: str) -> float:
        await asyncio.sleep(0.2)
        return 0.0

    run = Run(args, steps=1)
    module, problems, step = run.module, run.seen[-1], count(1)
    grader = module.scorer.grader

    def drawn(functions: list[Any], *, early: bool) -> float:
        module.scorer = SolutionScorer(grader, functions, max_length=module.max_completion_length)
        module.scorer.start(module.watch, module.device)
        parts = RunParts(module)
        if not early:
            parts.rollouter.listener = None
        solutions = {"solution": module.num_generations}
        return seconds(lambda: parts.training.draw(problems, solutions, step=next(step)))

    remote = RemoteReward(answer, max_concurrent=16)
    pairs = rounds(args, lambda: drawn([remote], early=True), lambda: drawn([remote], early=False))
    floor = rounds(args, lambda: drawn([remote], early=True), lambda: drawn([], early=False))
    calls = sum(module.num_generations for _ in problems)
    what = f"{calls} solutions of a step and a judge of 200 ms, 16 at a time"
    return [
        row(what, "s", pairs, "asked when all are drawn", goal="< 1"),
        row(what, "s", floor, "no judge", goal=""),
        {"what": "the calls alone, s", "value": calls / 16 * 0.2},
    ]


def scaling(args: argparse.Namespace) -> list[Row]:
    """Exponents of cost ~ size ** exponent over group size, prompts and completion limit, at four sizes each."""
    import numpy as np

    rows = []
    base = {"num_generations": 4, "batch_size": 4, "max_completion_length": 16}
    for name in base:
        cost = {}
        for factor in (1, 2, 4, 8):
            now = {**base, name: base[name] * factor}
            words = [f"--model.init_args.{k}={v}" for k, v in now.items() if k != "batch_size"]
            words += [f"--data.init_args.batch_size={now['batch_size']}", "--model.init_args.num_meta_generations=0"]
            words += ["--model.init_args.optimization.num_mini_batches=1", "--model.init_args.max_meta_length=null"]
            cost[now[name]] = apart(args, "full_steps", words)
            print(name, cost, flush=True)
        exponent = np.polyfit(np.log(list(cost)), np.log(list(cost.values())), 1)[0]
        rows.append({"what": f"step seconds by {name}", "value": cost})
        rows.append({"what": f"exponent of {name}", "ratio": float(exponent), "goal": "<= 1.1"})
    return rows


def full_steps(args: argparse.Namespace) -> float:
    """A worker of `scaling`: seconds of a step whose rollouts all reach the limit and all are trained on."""
    run = Run(args, steps=args.rounds + 1, at_limit=True, all_trained=True)
    return median([s["step"] for s in run.steps[1:]])


def step_trl(args: argparse.Namespace) -> list[Row]:
    """A GRPO step against one of TRL with `generate` of transformers."""
    return _against_trl(args, "transformers")


def step_trl_vllm(args: argparse.Namespace) -> list[Row]:
    """A GRPO step against one of TRL with vLLM."""
    return _against_trl(args, "vllm")


def _against_trl(args: argparse.Namespace, path: str) -> list[Row]:
    """Steps in turns beside no, one and two busy processes: the same model, prompts and limits; all rollouts are trained on.

    Threads of both sleep while they wait. TRL's spin where the user says nothing, and then its step does not end on a busy
    machine.
    """
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    environ["OMP_WAIT_POLICY"] = "passive"
    command = [args.trl_python, str(ROOT / "scripts" / "benchmark_trl.py"), path]
    rows: list[Row] = []
    for at_limit, lengths_are in ((True, "all at the limit"), (False, "natural lengths")):
        with Training(worker_command(args, "limited_steps" if at_limit else "natural_steps"), environ) as ours:
            task = ours.hear() | {"at_limit": at_limit}
            with Training(command, environ, task) as theirs:
                pairs: dict[int, list[Any]] = {beside: [] for beside in BESIDE}
                for training in (ours, theirs):
                    training.step()  # not counted
                for _, beside in product(range(args.rounds), BESIDE):
                    with busy(beside):
                        pairs[beside].append((theirs.step(), ours.step()))
                    print(beside, json.dumps(pairs[beside][-1]), flush=True)
        for beside, turns in pairs.items():
            what = f"GRPO step, {lengths_are}, beside {beside} busy: TRL ({path}), ours"
            for key, unit in (("seconds", "s"), ("cpu", "s of the processors"), ("mean_length", "mean length")):
                both = [(their[key], our[key]) for their, our in turns]
                rows.append(
                    row(what, unit, both, "", "" if key == "mean_length" or beside == 0 else "0.8 to 1.2 of idle")
                )
    return rows


BESIDE = (0, 1, 2)  # busy processes


def limited_steps(args: argparse.Namespace) -> None:
    """A worker of `step_trl`: our steps, all completions at the limit."""
    _steps_in_turn(args, at_limit=True)


def natural_steps(args: argparse.Namespace) -> None:
    """A worker of `step_trl`: our steps, completions that end by themselves."""
    _steps_in_turn(args, at_limit=False)


def _steps_in_turn(args: argparse.Namespace, at_limit: bool) -> None:
    from masa_lightning.models import loading

    def begin(run: Run) -> None:
        module, folder = run.module, str(Path(args.out).resolve() / "trl_model")
        loading.load_model(module.model_name, "float32").save_pretrained(folder)
        module.tokenizer.save_pretrained(folder)
        batches = islice(iter(run.cli.datamodule.train_dataloader()), steps)
        tell(
            {
                "model": folder,
                "prompts": [run.prompts(problems) for problems in batches],
                "temperature": module.sampling.temperature,
                "learning_rate": module.optimization.optimizer.keywords["lr"],
                "max_tokens": module.max_completion_length,
            }
        )

    steps = 1 + args.rounds * len(BESIDE)
    extra = ["--model.init_args.num_meta_generations=0", "--model.init_args.optimization.num_mini_batches=1"]
    extra += ["--model.init_args.num_generations=8"]
    Run(args, steps, extra=extra, at_limit=at_limit, all_trained=True, begin=begin, turn=Turn())


def start(args: argparse.Namespace) -> list[Row]:
    """Seconds from the command line to the end of the first training step, and where they go; beside bare vLLM's."""
    rows = []
    for turn in ("first", "again"):
        for what, worker in (
            ("start, {}, s: to the imports, to the trainer, to the engine, to the first step", "first_step"),
            (
                "start of bare vLLM, {}, s: to the imports, to the engine, to the end of the first generate",
                "first_generate",
            ),
        ):
            begin = time.time()
            marks = apart(args, worker)
            rows.append({"what": what.format(turn), "value": [mark - begin for mark in marks]})
    return rows


def first_step(args: argparse.Namespace) -> list[float]:
    """A worker of `start`: when it had reached what."""
    return list(Run(args, steps=1).marks.values())


def first_generate(args: argparse.Namespace) -> list[float]:
    """A worker of `start`: when bare vLLM, with the options of `VLLMSampler`, had reached what."""
    os.environ |= {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_HOST_IP": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    marks = [time.time()]
    llm = LLM(
        model=str(ROOT / "masa_lightning" / "models" / "tiny" / "checkpoint"),
        skip_tokenizer_init=True,
        dtype="float32",
        max_model_len=256,
        max_num_seqs=256,
        enforce_eager=True,
        enable_chunked_prefill=False,
        max_num_batched_tokens=8192,
        block_size=32,
        kv_cache_memory_bytes=2**30,
        logprobs_mode="processed_logprobs",
        distributed_executor_backend="uni",
        disable_log_stats=True,
        generation_config="vllm",
    )
    marks.append(time.time())
    limits = SamplingParams(max_tokens=32, ignore_eos=True, detokenize=False, seed=0, logprobs=0)
    llm.generate([TokensPrompt(prompt_token_ids=[5] * 30)] * 256, limits, use_tqdm=False)
    return [*marks, time.time()]


MEASUREMENTS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    f.__name__: f
    for f in (generation, evaluation, update, memory, handover, step, judge, scaling, step_trl, step_trl_vllm, start)
}


WORKERS: dict[str, Callable[[argparse.Namespace], Any]] = {
    f.__name__: f for f in (full_steps, first_step, first_generate, limited_steps, natural_steps)
}


# -- what they share ----------------------------------------------------------------------------------------------------


def apart(args: argparse.Namespace, worker: str, words: Sequence[str] = ()) -> Any:
    """What a worker finds in a process of its own: only its end gives back all that an engine took."""
    run = subprocess.run([*worker_command(args, worker), *words], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(run.stdout.splitlines()[-1])


def worker_command(args: argparse.Namespace, worker: str) -> list[str]:
    return [sys.executable, __file__, args.out, "--worker", worker, *forwarded(args)]


@contextmanager
def peak_memory() -> Iterator[dict[str, float]]:
    """How far the resident memory rises above where it is now (Linux)."""
    found: dict[str, float] = {}
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    yield found
    found["bytes"] = _resident("VmHWM") - before


def _resident(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return float(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}; memory can be measured on Linux only")


# -- the command --------------------------------------------------------------------------------------------------------


def forwarded(args: argparse.Namespace) -> list[str]:
    """The options of a worker."""
    words = ["--config", args.config, "--rounds", str(args.rounds), "--update-tokens", str(args.update_tokens)]
    if args.trl_python:
        words += ["--trl-python", args.trl_python]
    return [*words, "--", *args.words]


def main() -> None:
    """Runs the command."""
    own, words = (sys.argv[1:], [])
    if "--" in own:
        own, words = own[: own.index("--")], own[own.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="folder of the results")
    parser.add_argument("--only", choices=list(MEASUREMENTS), nargs="+", default=list(MEASUREMENTS))
    parser.add_argument("--config", default=str(ROOT / "configs" / "tiny.yaml"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--trl-python", default="", help="interpreter of an environment with TRL; without it no step_trl"
    )
    parser.add_argument(
        "--update-tokens", type=int, default=4000, help="of the rollouts that `update` trains on, about"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args(own)
    args.words = words

    if args.worker:
        if args.worker in WORKERS:
            print(json.dumps(WORKERS[args.worker](args)))
        else:
            rows = MEASUREMENTS[args.worker](args)
            (Path(args.out) / f"{args.worker}.json").write_text(json.dumps(rows, indent=1))
        return
    Path(args.out).mkdir(parents=True, exist_ok=True)
    every = []
    for name in args.only:
        result = Path(args.out) / f"{name}.json"
        if name.startswith("step_trl") and not args.trl_python:
            continue
        if not result.exists():
            with (Path(args.out) / f"{name}.log").open("w") as log:
                code = subprocess.run(
                    worker_command(args, name), stdout=log, stderr=log, stdin=subprocess.DEVNULL
                ).returncode
            if code:
                raise SystemExit(f"{name} ended with status {code}; see {log.name}")
        every += json.loads(result.read_text())
    print(table(every))


if __name__ == "__main__":
    main()
