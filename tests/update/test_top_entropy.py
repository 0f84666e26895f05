"""The most uncertain tokens, against sorting, over any number of processes."""

from __future__ import annotations

import threading
from itertools import pairwise

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from masa_lightning.types import Experience, PackedTokens
from masa_lightning.update.top_entropy import choose_tokens, threshold


def on_processes(parts, function):
    """The result of each of several processes, which are threads here, that meet to exchange."""
    meeting, told, results = threading.Barrier(len(parts)), [None] * len(parts), [None] * len(parts)

    def process(rank):
        def gather(value):
            told[rank] = value
            meeting.wait()
            everything = list(told)
            meeting.wait()
            return everything

        results[rank] = function(parts[rank], gather)

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@settings(max_examples=60, deadline=None)
@given(
    values=arrays.arrays(np.float32, st.integers(1, 60), elements=st.floats(0, 12, width=32)),
    share=st.floats(0.01, 0.99),
    cuts=st.lists(st.integers(0, 60), max_size=3),
)
def test_the_threshold_is_that_of_all_values_sorted(values, share, cuts):
    bounds = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    parts = [torch.tensor(values[a:b]) for a, b in pairwise(bounds)]
    found = on_processes(parts, lambda part, gather: threshold(part, share, gather))
    assert len(set(found)) == 1
    least = sorted(values.tolist(), reverse=True)[max(1, round(share * len(values))) - 1]
    assert least - 1e-6 <= found[0] <= least


def test_no_values_at_all():
    assert threshold(torch.empty(0), 0.5, lambda value: [value]) == float("inf")


def experience(entropies, kinds, advantages=None):
    """Rows of tokens with entropies; None is no token."""
    mask = torch.tensor([[h is not None for h in row] for row in entropies])
    values = torch.tensor([[float("nan") if h is None else h for h in row] for row in entropies])
    none = torch.empty(0, dtype=torch.long)  # of no use here
    tokens = PackedTokens(input_ids=none, position_ids=none, spans=[], targets=none, mask=mask)
    given = torch.ones(len(kinds)) if advantages is None else torch.tensor(advantages)
    drawn = torch.zeros(mask.shape)
    return Experience(
        tokens=tokens,
        sampler_logp=drawn,
        advantages=given,
        kind=torch.tensor(kinds),
        entropy=values,
    )


def test_rollouts_without_an_advantage_take_no_place():
    batch = experience([[0.1, 0.2], [0.9, 0.8]], [0, 0], [1.0, 0.0])
    choose_tokens([batch], 0.5, lambda value: [value])
    assert batch.chosen.tolist() == [[False, True], [False, False]]


def test_kinds_are_ranked_apart_and_micro_batches_together():
    first = experience([[0.1, 0.9, 0.3], [2.0, 3.0, None]], [0, 1])
    second = experience([[0.5, 0.8], [4.0, 1.0]], [0, 1])
    choose_tokens([first, None, second], 0.4, lambda value: [value])  # 2 of 5 tokens, and of 4 tokens 2
    assert first.chosen.tolist() == [[False, True, False], [False, True, False]]
    assert second.chosen.tolist() == [[False, True], [True, False]]


def test_a_process_without_micro_batches_takes_part():
    whole = experience([[0.1, 0.9, 0.3]], [0])
    on_processes([[whole], [None], []], lambda batches, gather: choose_tokens(batches, 0.34, gather))
    assert whole.chosen.tolist() == [[False, True, False]]
