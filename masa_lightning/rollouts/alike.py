"""A warning where predictions have become all alike, so that nothing is learned from them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from masa_lightning.distributed import rank_zero_warn
from masa_lightning.types import RolloutGroup

_STEPS, _FEWEST, _GOOD = 10, 32, 0.9


class AlikeWarning:
    """Looks at the meta rollouts of training steps, and warns once if those of each problem earned the same for long.

    An advantage is a difference within a problem: where a model always predicts the same, or nothing that can be read, there
    is none, and it stays as it is. Of predictions that earn nearly all that can be earned nothing is said.
    """

    def __init__(self) -> None:
        self._said = False
        self._forget()

    def _forget(self) -> None:
        self._steps = self._problems = self._rollouts = self._read = 0
        self._reward = 0.0

    def look(self, groups: Sequence[RolloutGroup]) -> None:
        """Looks at the predictions of a training step.

        Args:
            groups: With scored meta rollouts; fewer than two of a problem, and steps without any, say nothing.
        """
        metas = [kept for g in groups if len(kept := [r for r in g.metas if r.reward is not None]) > 1]
        if self._said or not metas:
            return
        if any(len({r.reward for r in kept}) > 1 for kept in metas):
            self._forget()
            return
        rollouts = [r for kept in metas for r in kept]
        self._steps += 1
        self._problems += len(metas)
        self._rollouts += len(rollouts)
        self._reward += math.fsum(r.reward or 0.0 for r in rollouts)
        self._read += sum(r.prediction is not None and not r.prediction.failures for r in rollouts)
        reward, read = self._reward / self._rollouts, self._read / self._rollouts
        if self._steps < _STEPS or self._problems < _FEWEST or reward >= _GOOD:
            return
        self._said = True
        rank_zero_warn(
            f"in {self._steps} training steps in a row all predictions of a problem earned the same, for each of "
            f"{self._problems} problems ({reward:.3g} on average; {read:.0%} could be read), so nothing is learned of them; "
            "expected them to differ. If most cannot be read, meta/failures/* says why. Else the model predicts the same of "
            "everything: raise sampling.temperature or algorithm.entropy_coef, lower the learning rate, or take "
            "meta.difficulty_scoring: brier, from a checkpoint of when calibration/pass_rate/predicted_std was above 0"
        )
