"""Problems -> groups -> sampling requests -> groups with rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain, zip_longest
from typing import Any

from masa_lightning.distributed import rank_zero_warn
from masa_lightning.rollouts.prompts import Prompts
from masa_lightning.types import Completion, Kind, Problem, Rollout, RolloutGroup, SamplingRequest, Structure


@dataclass(slots=True, kw_only=True)
class RolloutPlan:
    """What one call of the sampler is asked for."""

    groups: list[RolloutGroup] = field(default_factory=list)
    """One a problem, without rollouts yet."""
    requests: list[SamplingRequest] = field(default_factory=list)
    owners: list[tuple[int, Kind]] = field(default_factory=list)
    """Index of the group and kind, one a request."""


def merge_batches(batches: Sequence[Any]) -> list[Problem]:
    """Puts the batches of all processes in the order that one process would have had them in.

    Samplers deal problems to processes like cards: the first of each process, then the second of each.

    Args:
        batches: By rank.

    Raises:
        TypeError: If one is not a list of problems.
    """
    for batch in batches:
        if not (isinstance(batch, Sequence) and all(isinstance(p, Problem) for p in batch)):
            raise TypeError(
                f"a batch is a list of masa_lightning.types.Problem; got {type(batch).__name__}. With a torch DataLoader "
                "over problems, give it collate_fn=list"
            )
    return [p for p in chain.from_iterable(zip_longest(*batches)) if p is not None]


def make_groups(
    problems: Sequence[Problem], kinds: Sequence[Kind], *, prompts: Prompts, max_prompt_length: int
) -> list[RolloutGroup]:
    """Makes a group with its prompts, without rollouts yet, of each problem whose prompts are short enough.

    Args:
        problems: Those with an over-long prompt are left out, with a warning that names one and counts them.
        kinds: Of the rollouts to come.
        prompts: Makes those of each kind.
        max_prompt_length: Longest prompt, tokens.
    """
    made = [RolloutGroup(problem=problem) for problem in problems]
    for kind in kinds:
        for group, ids in zip(made, prompts.make(kind, made), strict=True):
            group.prompts[kind] = ids
    groups, overlong = [], []
    for group in made:
        longest = max(map(len, group.prompts.values()))
        if longest <= max_prompt_length:
            groups.append(group)
        else:
            overlong.append((group.problem.id, longest))
    if overlong:
        name, longest = overlong[0]
        more = f" ({len(overlong) - 1} more of the batch are left out for the same reason)" * (len(overlong) > 1)
        rank_zero_warn(
            f"problem {name!r} is left out: its prompt has {longest} tokens, max_prompt_length is {max_prompt_length}; "
            f"raise it to use the problem{more}"
        )
    return groups


def keys_by_index(groups: Sequence[RolloutGroup], key: str) -> list[str]:
    """Makes keys for `plan_rollouts` of a common key and the index of each group."""
    return [f"{key}/{index}" for index in range(len(groups))]


def keys_by_problem(groups: Sequence[RolloutGroup], key: str) -> list[str]:
    """Makes keys of a common key and the names of problems: draws depend neither on the order nor on the size of batches."""
    return [f"{key}/{group.problem.source}/{group.problem.id}" for group in groups]


def keys_by_text(groups: Sequence[RolloutGroup], key: str) -> list[str]:
    """The same of the texts of problems: how a problem was given, and what else was, does not matter."""
    return [f"{key}/{group.problem.problem}" for group in groups]


def left_out(problems: Sequence[Problem], groups: Sequence[RolloutGroup]) -> list[Problem]:
    """Returns the problems that `make_groups` made no group of."""
    kept = {id(group.problem) for group in groups}
    return [problem for problem in problems if id(problem) not in kept]


def plan_rollouts(
    groups: Sequence[RolloutGroup],
    counts: Mapping[Kind, int],
    *,
    limits: Mapping[Kind, int],
    keys: Sequence[str],
    logprobs: bool = True,
    structures: Mapping[Kind, Structure] | None = None,
) -> RolloutPlan:
    """Plans one call of the sampler.

    Args:
        groups: Of `make_groups`; a gated one gets no solution rollouts, and a token limit and a number of solutions of its
            own hold for its solutions.
        counts: Rollouts a group, by kind.
        limits: Most tokens of a completion, by kind.
        keys: One a group. Every request's seed is a function of its group's key, of the kind and of the rollout's index
            alone: a resumed run draws what an undisturbed one would have drawn.
        logprobs: Whether the log-probabilities of the drawn tokens are wanted.
        structures: What completions have to be, by kind.
    """
    plan = RolloutPlan(groups=list(groups))
    for owner, group in enumerate(groups):
        for kind, count in counts.items():
            if not count or (kind == "solution" and group.gated):
                continue
            ids, most, structure = group.prompts[kind], limits[kind], (structures or {}).get(kind)
            if kind == "solution":
                most = most if group.token_limit is None else min(most, group.token_limit)
                count = count if group.num_solutions is None else group.num_solutions
            for index in range(count):
                seed = _seed(f"{keys[owner]}/{kind}/{index}")
                plan.requests.append(
                    SamplingRequest(prompt_ids=ids, max_tokens=most, seed=seed, logprobs=logprobs, structure=structure)
                )
                plan.owners.append((owner, kind))
    return plan


def collect_rollouts(plan: RolloutPlan, drawn: Sequence[tuple[Completion, str, int | None]]) -> None:
    """Puts what was drawn into the plan's groups.

    Args:
        plan: What was asked for.
        drawn: Completion, text and holder, one a request, in its order (`distributed.announce`).
    """
    for (index, kind), request, (completion, text, holder) in zip(plan.owners, plan.requests, drawn, strict=True):
        rollout = Rollout(kind=kind, prompt_ids=request.prompt_ids, completion=completion, text=text, holder=holder)
        group = plan.groups[index]
        (group.solutions if kind == "solution" else group.metas).append(rollout)


def _seed(key: str) -> int:
    return int.from_bytes(blake2b(key.encode(errors="surrogatepass"), digest_size=8).digest()) >> 1
