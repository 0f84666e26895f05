"""Warnings of Lightning and torch about what is so on purpose here, which a user need not read."""

from __future__ import annotations

import warnings

_EXPECTED = (
    r"Found \d+ module\(s\) in eval mode",  # no dropout: it would falsify log-probabilities
    "You have overridden `transfer_batch_to_device` in",  # it leaves the batch alone
    r"`isinstance\(treespec, LeafSpec\)`",  # of torch, in Lightning's own calls
    "Using ModelCheckpoint with manual optimization",  # checkpoints are of the weights after a step
    r"It is recommended to use `self.log\(.*sync_dist=True",  # it is used; vLLM's process group misleads Lightning
)


def ignore_expected_warnings() -> None:
    """Ignores them from here on, in this process."""
    for message in _EXPECTED:
        warnings.filterwarnings("ignore", message=message)
