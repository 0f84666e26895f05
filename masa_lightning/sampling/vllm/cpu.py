"""What an engine does otherwise on CPU, so that its weights may change and it suits a process that trains as well."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from torch import nn

from masa_lightning.sampling.vllm.patches import (
    PackedExperts,
    experts_kept_plain,
    linears_kept_plain,
    memory_of_any_node,
    models_looked_at_here,
    own_shared_memory,
    pack_linear,
)


class PackedLayers:
    """Layers of an engine that compute with copies of their weights, which have another layout.

    The weights stay what they are, and `pack` makes the copies anew.
    """

    def __init__(self) -> None:
        self.linears: list[nn.Module] = []
        self.experts: list[PackedExperts] = []
        self.derived: list[Callable[[], None]] = []
        """What computes other tensors from the weights, such as the parts of latent attention."""

    @contextlib.contextmanager
    def of_new_engine(self, processes: int) -> Iterator[None]:
        """Collects the layers of an engine that is made inside, and keeps vLLM's habits on CPU from the process.

        Args:
            processes: Number of those that make engines now.
        """
        with (
            linears_kept_plain(self.linears.append),
            experts_kept_plain(self.experts.append),
            memory_of_any_node(),
            models_looked_at_here(),
            own_shared_memory(processes),
        ):
            yield

    def pack(self) -> None:
        """Makes the copies anew, of the weights as they are now."""
        for layer in self.linears:
            pack_linear(layer)
        for experts in self.experts:
            experts.pack()
        for derive in self.derived:
            derive()
