"""Problems -> sampling requests -> groups of rollouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b

from lightning.pytorch.utilities import rank_zero_warn

from masa_lightning.types import Completion, Kind, Problem, Rollout, RolloutGroup, RolloutPlan, SamplingRequest


def plan_rollouts(
    problems: Sequence[Problem],
    counts: Mapping[Kind, int],
    *,
    prompt_ids: Callable[[Kind, Problem], list[int]],
    limit: Callable[[Kind], int],
    max_prompt_length: int,
    key: str,
) -> RolloutPlan:
    """Plans the rollouts of a batch.

    Args:
        problems: Those with an over-long prompt are left out, with a warning that names them.
        counts: Rollouts a problem, by kind.
        prompt_ids: Gives the prompt of a kind for a problem.
        limit: Gives the most tokens of a completion of a kind.
        max_prompt_length: Longest prompt, tokens.
        key: Every request's seed is a function of it, of the problem's place, of the kind and of the rollout's index
            alone: a resumed run draws what an undisturbed one would have drawn.

    Raises:
        TypeError: If the batch is not a list of problems.
        ValueError: If all problems are left out.
    """
    if not (isinstance(problems, Sequence) and all(isinstance(p, Problem) for p in problems)):
        raise TypeError(
            f"a batch is a list of masa_lightning.types.Problem; got {type(problems).__name__}. With a torch DataLoader "
            "over problems, give it collate_fn=list"
        )
    plan = RolloutPlan()
    for place, problem in enumerate(problems):
        prompts = {kind: prompt_ids(kind, problem) for kind, count in counts.items() if count}
        longest = max(map(len, prompts.values()))
        if longest > max_prompt_length:
            rank_zero_warn(
                f"problem {problem.id!r} is left out: its prompt has {longest} tokens, max_prompt_length is "
                f"{max_prompt_length}; raise it to use the problem"
            )
            continue
        plan.groups.append(RolloutGroup(problem=problem))
        for kind, ids in prompts.items():
            for index in range(counts[kind]):
                seed = _seed(f"{key}/{place}/{kind}/{index}")
                plan.requests.append(SamplingRequest(prompt_ids=ids, max_tokens=limit(kind), seed=seed))
                plan.owners.append((len(plan.groups) - 1, kind))
    if problems and not plan.groups:
        raise ValueError(
            f"none of the {len(problems)} problems of the batch has a prompt of at most {max_prompt_length} tokens; raise "
            "max_prompt_length"
        )
    return plan


def collect_rollouts(plan: RolloutPlan, completions: Sequence[Completion], texts: Sequence[str]) -> list[RolloutGroup]:
    """Puts what was drawn into the plan's groups, and returns them.

    Args:
        plan: What was asked for.
        completions: One a request, in its order.
        texts: The same completions, decoded.
    """
    for (index, kind), request, completion, text in zip(plan.owners, plan.requests, completions, texts, strict=True):
        rollout = Rollout(kind=kind, prompt_ids=request.prompt_ids, completion=completion, text=text)
        group = plan.groups[index]
        (group.solutions if kind == "solution" else group.metas).append(rollout)
    return plan.groups


def _seed(key: str) -> int:
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest()) >> 1
