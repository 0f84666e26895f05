"""What a sampler, a grader, a reward function and the callbacks that take part in a step have to offer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

from masa_lightning.settings import SamplingSettings
from masa_lightning.types import Completion, Example, PackedTokens, Problem, Rollout, RolloutGroup, SamplingRequest

if TYPE_CHECKING:
    from torch import nn

ProgressFn = Callable[[int, int], None]  # (done, total)
PhaseProgress = Callable[[str, int], ProgressFn]  # (phase, total) -> whom to tell how far it is
CompletionFn = Callable[[SamplingRequest, Completion], None]
LogProbs = Callable[[PackedTokens, float], tuple[Tensor, Tensor]]  # as `models.policy.Policy`


@runtime_checkable
class Sampler(Protocol):
    """Draws completions from the policy. `VLLMSampler` and `TransformersSampler` satisfy it.

    One that cannot be right on every model may also have `check_model(model_path, config, device)`, which raises a
    ValueError and is called before weights are loaded; `config` is transformers'. One that holds memory may have `close()`,
    called at the end of fit, validate, test and predict; `setup` is then called again before the next use. One that heeds
    `SamplingRequest.structure` has an attribute `structured_outputs`, which is True. One whose
    class has ``on_completion = None`` tells each completion to it as soon as it is drawn, while it is a `CompletionFn`; a
    class that overrides `generate` says so again if it does.
    """

    def setup(
        self, policy: nn.Module, model_path: str, *, max_model_length: int, stop_token_ids: Sequence[int]
    ) -> None:
        """Gets ready to sample from `policy`, a transformers causal language model; called once, before anything else.

        Args:
            policy: The trainer's own model, already on its device.
            model_path: Folder or hub name of its configuration.
            max_model_length: Most tokens of prompt and completion together.
            stop_token_ids: Any of these ends a completion.

        Raises:
            RuntimeError: It draws from another policy already.
        """

    def sync_weights(self) -> None:
        """Makes the next `generate` use the policy's present weights."""

    def generate(
        self,
        requests: Sequence[SamplingRequest],
        settings: SamplingSettings,
        on_progress: ProgressFn | None = None,
    ) -> list[Completion]:
        """Draws one completion a request, in the order of the requests. No requests give no completions.

        Args:
            requests: What is to be drawn.
            settings: How; `stop_token_ids` and `stop` end completions besides the tokens of `setup`.
            on_progress: Told (done, total).
        """

    def sleep(self) -> None:
        """Gives accelerator memory back until `wake`; does nothing where there is none to give."""

    def wake(self) -> None:
        """Undoes `sleep`."""


@runtime_checkable
class Grader(Protocol):
    """Decides which completions are right."""

    def grade(
        self, problems: Sequence[Problem], completions: Sequence[str], on_progress: ProgressFn | None = None
    ) -> list[bool | None]:
        """Returns one verdict a pair; None where no verdict could be had (it then counts as wrong, and is counted).

        1 and 0 count as True and False; anything else is an error.
        """

    def close(self) -> None:
        """Frees what `grade` holds, such as worker processes. `grade` may be called again after it."""


RewardFunction = Callable[..., Any]
"""An extra reward for solution rollouts, added to their correctness with a weight.

It is called with what the names of its parameters ask for:

* ``(problem, completion)``: for one completion; it returns a finite number. It may ask for ``completion_ids`` (its token
  ids), ``length`` (their number), ``finish_reason`` ("stop" or "length"), ``correct`` (True, False, or None if there is no
  verdict) and ``metadata`` (the problem's) too.
* ``(problem, completions)``: for all completions of a problem; it returns a list with one number a completion. It may ask
  for ``completion_ids``, ``lengths``, ``finish_reasons`` and ``correct`` too, lists with one entry a completion, and
  ``metadata``.
* ``(problems, completions)``: for all completions of the batch, of this process; all of these are lists.

Any may ask for ``log_metric``, a function of a name and a finite number: their mean is logged as ``rewards/NAME/name``; and
for ``device``, the policy's. It may be ``async def``: all its calls then run at once, while the grader works unless it asks
for ``correct``. An attribute ``name``, if it has one, is its name in metrics (`rewards.names.reward_names`).
"""


class GroupMetric(Protocol):
    """Measures rollouts batch by batch, such as the metrics of `masa_lightning.metrics` do."""

    def add_groups(self, groups: Sequence[RolloutGroup]) -> None:
        """Adds groups whose rollouts are scored; none of them is to be kept."""

    def compute(self) -> Any:
        """Returns a number, or several by name, of all that was added: numbers, or tensors of one."""


@runtime_checkable
class RolloutControl(Protocol):
    """A callback that uses predictions to change how problems are solved, in training and in `predict`.

    The module asks all of them at each step: `decide`, then, when all solutions are drawn and graded, `settle` each; and in
    training `metrics` each.
    """

    def acts(self, step: int) -> bool:
        """Whether it may act at this training step, so that meta rollouts have to be drawn before solutions.

        Args:
            step: Training steps done before, over the whole run.
        """

    def decide(
        self, groups: Sequence[RolloutGroup], *, step: int, key: str, budget: int, count: int, audit: bool
    ) -> None:
        """Writes `decisions` into groups, and into `gated`, `token_limit` or `hint` where it acts.

        Args:
            groups: With scored predictions; with solutions only where no control acts.
            step: As in `acts`.
            key: Random draws are functions of it and of a group's index alone.
            budget: Most tokens of a solution rollout.
            count: Solution rollouts of a problem, without a reason for more or fewer.
            audit: Whether to leave some problems alone, to see what they would have been; only in training.
        """

    def settle(self, groups: Sequence[RolloutGroup]) -> None:
        """Corrects the weights of its decisions by what the solutions of a step turned out to be."""

    def metrics(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        """Takes the evidence of a step, and returns what is to be logged of it."""


@runtime_checkable
class ExampleSource(Protocol):
    """A LightningModule whose training steps yield examples to clone (`ExpertSFT`)."""

    policy: Any
    """A `models.policy.Policy`."""

    def expert_examples(self, outputs: Any) -> Sequence[Example | tuple[list[int], list[int]]]:
        """Returns the examples of the step that returned `outputs`.

        With several processes each returns its own: together they are the examples of the step.
        """


@runtime_checkable
class RolloutStore(Protocol):
    """A callback that keeps the rollouts of a test, so that an interrupted one goes on where it was."""

    def restore(self, group: RolloutGroup) -> list[Rollout]:
        """Returns the scored rollouts of a problem that were drawn before, without prompt ids; none if there are none.

        Each process asks for the same problems; what the first one gets counts.
        """


@runtime_checkable
class PhaseListener(Protocol):
    """A callback that is told how far the phases inside a training or validation step are (a progress bar, say)."""

    def on_phase_progress(self, phase: str, done: int, total: int) -> None:
        """`done` of `total` units of `phase` ("generate", "grade", "update") are finished."""
