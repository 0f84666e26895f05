"""What a training step logs of its tokens and seconds, beside what its rollouts and its update say."""

from __future__ import annotations

from collections.abc import Sequence

from masa_lightning.distributed import Processes, imbalance
from masa_lightning.timing import Stopwatch


def add_token_sums(metrics: dict[str, float], ledger: dict[str, float]) -> None:
    """Adds the ``tokens/`` metrics of a step to their sums over all steps, and these to the metrics; both in place.

    >>> metrics, ledger = {"tokens/trained": 3.0, "reward": 0.5}, {"tokens/trained": 4.0}
    >>> add_token_sums(metrics, ledger)
    >>> metrics["tokens_total/trained"], ledger
    (7.0, {'tokens/trained': 7.0})
    """
    for name in [name for name in metrics if name.startswith("tokens/")]:
        ledger[name] = ledger.get(name, 0.0) + metrics[name]
        metrics[name.replace("tokens/", "tokens_total/")] = ledger[name]


def speed_metrics(
    *,
    generated: Sequence[Sequence[int]],
    trained: Sequence[Sequence[int]],
    processes: Processes,
    watch: Stopwatch,
) -> dict[str, float]:
    """Returns tokens a second, the seconds of each phase, and how evenly processes share the work; a collective.

    Args:
        generated: Tokens that each process drew, one list for each call of the sampler.
        trained: Tokens that each process computed, one list for each optimiser step.
        processes: Those of the run; of a phase the slowest counts.
        watch: Measured the step.
    """
    timings = processes.gather(watch.seconds)
    seconds = {name: max(each.get(name, 0.0) for each in timings) for name in watch.seconds}
    metrics = {"tokens_per_second": sum(map(sum, generated)) / max(seconds["generate"], 1e-9)}
    metrics |= {f"timing_s/{name}": value for name, value in seconds.items()}
    if processes.size > 1:
        metrics["balance/generated_tokens"] = imbalance(generated)
        metrics["balance/trained_tokens"] = imbalance(trained)
    return metrics
