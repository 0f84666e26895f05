"""Problems -> groups with prompts -> one call of the sampler -> groups with rollouts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import isfinite
from statistics import fmean
from typing import Any, Protocol, cast

from masa_lightning.distributed import Processes, announce, without_texts
from masa_lightning.functional.stopping import before_stop
from masa_lightning.models.stops import Stops
from masa_lightning.protocols import PhaseProgress, RolloutStore, Sampler
from masa_lightning.rollouts.plan import collect_rollouts, make_groups, plan_rollouts
from masa_lightning.rollouts.prompts import Prompts
from masa_lightning.settings import SamplingSettings
from masa_lightning.timing import Stopwatch
from masa_lightning.types import Completion, Kind, Problem, Rollout, RolloutGroup, SamplingRequest, Structure


class Listener(Protocol):
    """Is told solutions while others are drawn."""

    def hear(self, problem: Problem, rollout: Rollout) -> None:
        """Takes a solution; the rollout is a copy of the later one, with the same completion."""

    def forget(self) -> None:
        """Ends what it began: the others could not be drawn."""


class Rollouter:
    """Draws the rollouts of groups, each process its part of them; tokens go in and come out, and are never tokenised again.

    Args:
        sampler: Draws completions.
        tokenizer: Decodes them.
        stops: What ends a completion.
        prompts: Makes the prompts of groups.
        limits: Most tokens of a completion, by kind.
        max_prompt_length: Longest prompt, tokens.
        seed: Of the run.
        processes: Those of the run.
        progress: Told how far "generate" is.
        watch: Measures "generate" and "exchange".
        expected: Mean tokens of a completion by kind, as far as known; updated in place by `expect`.
        structures: What completions have to be, by kind; without those that may become anything.
        listener: Told each solution that this process draws as soon as it is there, if the sampler tells.
    """

    def __init__(
        self,
        *,
        sampler: Sampler,
        tokenizer: Any,
        stops: Stops,
        prompts: Prompts,
        limits: Mapping[Kind, int],
        max_prompt_length: int,
        seed: int,
        processes: Processes,
        progress: PhaseProgress,
        watch: Stopwatch,
        expected: dict[Kind, float],
        structures: Mapping[Kind, Structure] | None = None,
        listener: Listener | None = None,
    ) -> None:
        self.sampler, self.tokenizer, self.stops = sampler, tokenizer, stops
        self.prompts, self.limits, self.max_prompt_length = prompts, dict(limits), max_prompt_length
        self.seed, self.processes, self.progress, self.watch = seed, processes, progress, watch
        self.expected, self.structures = expected, structures
        self.listener = listener
        self.generated: list[list[int]] = []
        """Tokens that each process drew, one list for each call of `generate`, until somebody empties it."""

    def new_groups(self, problems: Sequence[Problem], counts: Mapping[Kind, int]) -> list[RolloutGroup]:
        """Makes the groups of problems with their prompts, without rollouts yet.

        Args:
            problems: Those whose prompts are too long are left out, with a warning that names one and counts them.
            counts: Rollouts a group, by kind.
        """
        kinds = [kind for kind, count in counts.items() if count]
        return make_groups(problems, kinds, prompts=self.prompts, max_prompt_length=self.max_prompt_length)

    def hint(self, groups: Sequence[RolloutGroup]) -> None:
        """Puts the hints of groups into their solution prompts, in place; one that makes a prompt too long is dropped.

        A withheld hint is dropped in the same case, so that problems with and without a hint are chosen alike.
        """
        hinted = [g for g in groups if g.hint]
        for group, ids in zip(hinted, self.prompts.make("solution", hinted), strict=True):
            if len(ids) <= self.max_prompt_length:
                group.prompts["solution"] = ids
            else:
                group.hint = ()
        withheld = [g for g in groups if g.withheld_hint]
        with_hint = [replace(g, hint=g.withheld_hint) for g in withheld]
        for group, ids in zip(withheld, self.prompts.make("solution", with_hint), strict=True):
            if len(ids) > self.max_prompt_length:
                group.withheld_hint = ()

    def generate(
        self,
        groups: Sequence[RolloutGroup],
        counts: Mapping[Kind, int],
        sampling: SamplingSettings,
        keys: Sequence[str],
        *,
        logprobs: bool,
    ) -> None:
        """Draws rollouts of groups, all kinds in one call of the sampler; in place.

        Each process draws its part of them, and keeps tokens and texts (`Rollout.holder`): a collective.

        Args:
            groups: Of `new_groups`, the same on each process.
            counts: Rollouts a group, by kind.
            sampling: How tokens are drawn.
            keys: One a group; seeds are functions of them and of the run's seed (`plan_rollouts`).
            logprobs: Whether the log-probabilities of the drawn tokens are wanted, which an update needs.

        Raises:
            RuntimeError: If they are wanted, and the sampler gives none or some that are not finite.
        """
        keys = [f"{self.seed}/{key}" for key in keys]
        plan = plan_rollouts(
            groups, counts, limits=self.limits, keys=keys, logprobs=logprobs, structures=self.structures
        )
        expected = [
            min(request.max_tokens, self.expected.get(kind, request.max_tokens))
            for request, (_, kind) in zip(plan.requests, plan.owners, strict=True)
        ]
        part = self.processes.part(expected)
        requests, owners = plan.requests[part], plan.owners[part]
        progress = self.progress("generate", len(requests))
        with self.watch.phase("generate"), self._hearing(groups, requests, owners):
            completions = self.sampler.generate(requests, self.stops.with_texts(sampling), progress)
            if logprobs:
                check_logprobs(completions, type(self.sampler).__name__)
        texts = self.texts(completions)
        with self.watch.phase("exchange"):
            drawn = announce(completions, texts, self.processes)
        collect_rollouts(plan, drawn)
        generated = [0] * self.processes.size
        for completion, _, holder in drawn:
            generated[holder or 0] += len(completion.token_ids)
        self.generated.append(generated)

    @contextmanager
    def _hearing(
        self,
        groups: Sequence[RolloutGroup],
        requests: Sequence[SamplingRequest],
        owners: Sequence[tuple[int, Kind]],
    ) -> Iterator[None]:
        sampler, listener = cast("Any", self.sampler), self.listener
        if listener is None or not _tells_completions(type(sampler)):
            yield
            return
        owner_of = {id(request): owner for request, owner in zip(requests, owners, strict=True)}

        def heard(request: SamplingRequest, completion: Completion) -> None:
            owner, kind = owner_of.get(id(request), (0, "meta"))  # other requests are the sampler's own
            if kind == "solution":
                (text,) = self.texts([completion])
                rollout = Rollout(kind=kind, prompt_ids=request.prompt_ids, completion=completion, text=text)
                try:
                    listener.hear(groups[owner].problem, rollout)
                except Exception:
                    if self.processes.size == 1:  # several are told together, when they score
                        raise

        sampler.on_completion = heard
        try:
            yield
        except BaseException:
            listener.forget()
            raise
        finally:
            sampler.on_completion = None

    def texts(self, completions: Sequence[Completion]) -> list[str]:
        """Decodes completions, without special tokens and without what ended them."""
        ids = [self.stops.without_token(c) for c in completions]
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True) if ids else []  # it makes [""] of []
        return [before_stop(text, self.stops.texts) for text in texts]

    def take_generated(self) -> list[list[int]]:
        """Returns `generated`, and empties it."""
        generated, self.generated = self.generated, []
        return generated

    def restore(self, groups: Sequence[RolloutGroup], stores: Sequence[RolloutStore]) -> None:
        """Fills groups that a store has the rollouts of, in place; of several stores the first that has any. A collective.

        Args:
            groups: Of `new_groups`.
            stores: Those of the first process count, which keeps tokens and texts.
        """
        for store in stores:
            found = [store.restore(g) for g in groups]
            if self.processes.size > 1:
                outside = [[without_texts(r, holder=0) for r in rollouts] for rollouts in found]
                outside = self.processes.gather(outside if self.processes.rank == 0 else [])[0]
                if self.processes.rank:
                    found = outside
            for group, rollouts in zip(groups, found, strict=True):
                if group.rollouts:
                    continue
                for rollout in rollouts:
                    rollout.prompt_ids = group.prompts[rollout.kind]
                    rollout.holder = 0 if self.processes.size > 1 else None
                    (group.solutions if rollout.kind == "solution" else group.metas).append(rollout)

    def expect(self, groups: Sequence[RolloutGroup]) -> None:
        """Sets `expected` to the mean lengths of these completions, for the next step."""
        for kind in ("solution", "meta"):
            lengths = [r.length for g in groups for r in g.rollouts if r.kind == kind]
            if lengths:
                self.expected[kind] = fmean(lengths)


def check_logprobs(completions: Sequence[Completion], sampler: str) -> None:
    """Refuses log-probabilities that an update cannot compute with.

    Args:
        completions: Drawn with them.
        sampler: Its name.

    Raises:
        RuntimeError: If a completion has not one a token, or one is not finite.
    """
    lacking = sum(len(c.logprobs) != len(c.token_ids) for c in completions)
    if lacking:
        raise RuntimeError(
            f"{lacking} of {len(completions)} completions of {sampler} have not one log-probability a token; expected as "
            "many of each where `SamplingRequest.logprobs` asks for them"
        )
    wrong = sum(not all(map(isfinite, c.logprobs)) for c in completions)
    if wrong:
        raise RuntimeError(
            f"{wrong} of {len(completions)} completions of {sampler} have log-probabilities that are not finite; expected "
            "those of the tokens that were drawn. The engine computes something wrong: look at what its options change"
        )


def _tells_completions(sampler: type) -> bool:
    """Whether the class that says how it generates, or one that derives from it, says that it tells completions.

    One that overrides `generate` may draw other requests than it is given, or more of them, by that of its base.
    """
    first = {
        name: next((c for c in sampler.__mro__ if name in vars(c)), object) for name in ("generate", "on_completion")
    }
    told = first["on_completion"]
    return vars(told).get("on_completion", sampler) is None and issubclass(told, first["generate"])
