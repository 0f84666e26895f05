"""What a step sends between processes: bytes and seconds a process, as processes grow with the batch.

    python scripts/exchange.py --processes 1 2 4 8 --stage train
    python scripts/exchange.py --processes 1 2 4 8 --stage evaluate

Synthetic rollouts go the way of a training step, or of a batch of an evaluation, by the package's own functions: heads and
verdicts to all, tokens to the process that scores or trains them (`masa_lightning.distributed`). Beside it, as ``all``, what
every version before did: everything to all, as Python lists in training and packed in evaluation. ``written`` is an
evaluation whose rollouts go into a file, by the first process (`BenchmarkReport`). No model is loaded. Seconds are of the
processor, not of the clock, because more processes than cores wait for each other; bytes, seconds and memory are those of
the process with the most, and in the last columns of the others than the first.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import tempfile
import time
from array import array
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import distributed, multiprocessing

from masa_lightning.distributed import Processes, announce, collect, cut, fetch, move, share
from masa_lightning.types import Completion, Problem, Rollout, RolloutGroup
from masa_lightning.update.experience import make_experience, mini_batches, token_costs


class Meter(Processes):
    """Counts the bytes that come in from other processes."""

    received = 0

    def __init__(self, rank: int, size: int) -> None:
        super().__init__(rank, size)
        gather, exchange, receive = distributed.all_gather, distributed.all_to_all_single, distributed.recv

        def counted_gather(out: list[torch.Tensor], own: torch.Tensor, **options: Any) -> Any:
            self.received += (size - 1) * own.numel() * own.element_size()
            return gather(out, own, **options)

        def counted_exchange(out: torch.Tensor, *rest: Any, **options: Any) -> Any:
            self.received += out.numel() * out.element_size()
            return exchange(out, *rest, **options)

        def counted_receive(out: torch.Tensor, *rest: Any, **options: Any) -> Any:
            self.received += out.numel() * out.element_size()
            return receive(out, *rest, **options)

        # `all_gather_object` calls the former by its own module's name.
        distributed.distributed_c10d.all_gather = counted_gather
        distributed.all_to_all_single = counted_exchange
        distributed.recv = counted_receive


def draw(dice: random.Random, count: int, tokens: int) -> tuple[list[Completion], list[str]]:
    """Completions of about so many tokens, with texts of four characters a token."""
    completions = []
    for _ in range(count):
        length = dice.randint(tokens // 2, tokens * 3 // 2)
        ids = [dice.randrange(150_000) for _ in range(length)]
        logprobs = torch.rand(length).tolist()
        completions.append(Completion(token_ids=ids, logprobs=logprobs, finish_reason="stop"))
    return completions, ["word" * len(c.token_ids) for c in completions]


def fill(groups: list[RolloutGroup], samples: int, drawn: list[tuple[Completion, str, int | None]]) -> list[Rollout]:
    """Puts what was drawn into its groups."""
    prompts = [[i] * 200 for i in range(len(groups))]
    for i, (completion, text, holder) in enumerate(drawn):
        ids = prompts[i // samples]
        rollout = Rollout(kind="solution", prompt_ids=ids, completion=completion, text=text, holder=holder)
        groups[i // samples].solutions.append(rollout)
    return [r for g in groups for r in g.solutions]


def judge(rollout: Rollout) -> None:
    """As a grader and reward functions do, from the text."""
    rollout.correct = len(rollout.text) % 3 == 0
    rollout.rewards = {"correct": float(rollout.correct), "format": len(rollout.text) % 7 / 7}
    rollout.reward = sum(rollout.rewards.values())


def outcome(rollout: Rollout) -> tuple[Any, ...]:
    return rollout.correct, rollout.ungraded, rollout.prediction, rollout.rewards, rollout.reward


def take(rollouts: list[Rollout], outcomes: list[tuple[Any, ...]]) -> None:
    for rollout, each in zip(rollouts, outcomes, strict=True):
        rollout.correct, rollout.ungraded, rollout.prediction, rollout.rewards, rollout.reward = each


def everything_to_all(
    processes: Processes, groups: list[RolloutGroup], samples: int, drawn: Any, steps: int
) -> list[Rollout]:
    parts = processes.gather(drawn)
    rollouts = fill(groups, samples, [(c, t, None) for cs, texts in parts for c, t in zip(cs, texts, strict=True)])
    own = groups[processes.part([sum(g.lengths) for g in groups])]
    for rollout in (r for g in own for r in g.rollouts):
        judge(rollout)
    take(rollouts, processes.concatenate([outcome(r) for g in own for r in g.rollouts]))
    trained = []
    for part in mini_batches(groups, steps):
        chosen = [r for g in part for r in g.rollouts]
        trained += chosen[processes.part(token_costs(chosen))]
    return trained


def what_is_needed(
    processes: Processes, groups: list[RolloutGroup], samples: int, drawn: Any, steps: int
) -> list[Rollout]:
    rollouts = fill(groups, samples, announce(*drawn, processes))
    parts = cut([sum(g.lengths) for g in groups], processes.size)
    move(rollouts, [rank for rank, part in enumerate(parts) for g in groups[part] for _ in g.rollouts], processes)
    for rollout in (r for g in groups[parts[processes.rank]] for r in g.rollouts):
        judge(rollout)
    take(rollouts, share(rollouts, outcome, processes))
    trained = []
    for part in mini_batches(groups, steps):
        chosen = [r for g in part for r in g.rollouts]
        dealt = cut(token_costs(chosen), processes.size)
        trainers = [rank for rank, each in enumerate(dealt) for _ in chosen[each]]
        trained += fetch(chosen, trainers, processes, with_text=False)[dealt[processes.rank]]
    return trained


def score(processes: Processes, groups: list[RolloutGroup], samples: int, drawn: Any) -> list[Rollout]:
    """Draws without log-probabilities, as an evaluation does, and scores."""
    completions, texts = drawn
    bare = [replace(c, logprobs=()) for c in completions]
    rollouts = fill(groups, samples, announce(bare, texts, processes))
    parts = cut([sum(g.lengths) for g in groups], processes.size)
    move(rollouts, [rank for rank, part in enumerate(parts) for g in groups[part] for _ in g.rollouts], processes)
    for rollout in (r for g in groups[parts[processes.rank]] for r in g.rollouts):
        judge(rollout)
    take(rollouts, share(rollouts, outcome, processes))
    return rollouts


def evaluated_to_all(
    processes: Processes, groups: list[RolloutGroup], samples: int, drawn: Any, steps: int
) -> list[Rollout]:
    rollouts = score(processes, groups, samples, drawn)
    packed = share(rollouts, lambda r: (array("i", list(r.completion.token_ids)), r.text), processes)
    for rollout, (ids, text) in zip(rollouts, packed, strict=True):
        if not rollout.is_here:
            rollout.completion, rollout.text = replace(rollout.completion, token_ids=ids), text
    return rollouts[processes.rank :: processes.size]


def evaluated(processes: Processes, groups: list[RolloutGroup], samples: int, drawn: Any, steps: int) -> list[Rollout]:
    rollouts = score(processes, groups, samples, drawn)
    votes = share(groups, lambda g: [len(r.text) % 9 for r in g.solutions], processes)
    for group, numbers in zip(groups, votes, strict=True):
        group.votes = list(numbers)
    return rollouts[processes.rank :: processes.size]


def lines(group: RolloutGroup) -> list[str]:
    """Of a file, as `BenchmarkReport` writes them."""
    return [json.dumps({"text": r.text, "token_ids": list(r.completion.token_ids)}) + "\n" for r in group.rollouts]


def evaluated_and_written(
    processes: Processes, groups: list[RolloutGroup], samples: int, drawn: Any, steps: int
) -> list[Rollout]:
    rollouts = evaluated(processes, groups, samples, drawn, steps)
    with open(os.devnull, "w") as file:
        for each in collect(groups, lines, processes):
            file.writelines(each)
    return rollouts


Way = Callable[..., list[Rollout]]
WAYS: dict[str, dict[str, Way]] = {
    "train": {"all": everything_to_all, "needed": what_is_needed},
    "evaluate": {"all": evaluated_to_all, "needed": evaluated, "written": evaluated_and_written},
}


def work(rank: int, size: int, folder: str, way: str, options: argparse.Namespace) -> None:
    """One process of a run: a warm-up, then the step that is measured."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", store=distributed.FileStore(f"{folder}/store", size), rank=rank, world_size=size
    )
    processes = Meter(rank, size)
    for problems, tokens in ((1, 8), (options.problems, options.tokens)):
        groups = [RolloutGroup(problem=Problem(id=str(i), problem="?", answer="1")) for i in range(problems * size)]
        drawn = draw(random.Random(rank), problems * options.samples, tokens)
        distributed.barrier()
        processes.received, before = 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        busy, clock = time.process_time(), time.perf_counter()
        trained = WAYS[options.stage][way](processes, groups, options.samples, drawn, options.steps)
        busy, clock = time.process_time() - busy, time.perf_counter() - clock
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        told = sum(r.length for r in trained), sum(r.reward or 0.0 for r in trained), processes.received
        distributed.barrier()
    if options.stage == "train":
        make_experience(trained[:1])  # what is trained is here
    numbers = processes.gather((*told, busy, clock, peak))
    if rank == 0:
        tokens, rewards = (sum(each[i] for each in numbers) for i in range(2))
        received, busy, clock, peak = (max(each[i] for each in numbers) for i in range(2, 6))
        others = [max((each[i] for each in numbers[1:]), default=0) for i in (2, 3, 5)]
        print(
            f"| {size} | {way} | {tokens:,} | {received / 1e6:.1f} | {busy:.2f} | {clock:.2f} | {peak:.0f} | "
            f"{others[0] / 1e6:.1f} | {others[1]:.2f} | {others[2]:.0f} | {rewards:.3f} |"
        )
    distributed.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--stage", choices=WAYS, default="train")
    parser.add_argument("--problems", type=int, default=4, help="of one process")
    parser.add_argument("--samples", type=int, default=32, help="rollouts a problem")
    parser.add_argument("--tokens", type=int, default=2000, help="mean of a rollout")
    parser.add_argument("--steps", type=int, default=1, help="optimiser steps, as num_mini_batches")
    options = parser.parse_args()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    others = "MB received by others | seconds busy | MB grown"
    print(f"| processes | way | tokens | MB received | seconds busy | seconds | MB grown | {others} | rewards |")
    print("|---" * 11 + "|", flush=True)
    for size in options.processes:
        for way in WAYS[options.stage]:
            with tempfile.TemporaryDirectory() as folder:
                multiprocessing.start_processes(work, (size, folder, way, options), nprocs=size, start_method="fork")


if __name__ == "__main__":
    main()
