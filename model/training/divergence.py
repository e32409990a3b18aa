"""When a run diverges, told from the mean losses of its windows of steps alone, so that a resumed run judges alike."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

WINDOWS = 10  # whose median is the running level
ENOUGH = 5  # windows before there is a level
DEVIATIONS = 10  # robust standard deviations that a spike rises above the level
NORMAL = 1.4826  # standard deviation of normal numbers over their median absolute deviation


class RunningLevel:
    """The losses of the last ten windows that did not diverge.

    A window diverges if its mean loss is not finite; or if it is more than `spike` times their median and, so that a
    loss that jumps about is let be, also more than ten robust standard deviations (1.4826 · the median absolute
    deviation) above it. spike 0: the second is not looked for, nor is it before there have been five windows.
    """

    def __init__(self, spike: float, losses: Iterable[float] = ()) -> None:
        self.spike = spike
        self.losses = list(losses)

    def diverged(self, loss: float) -> str | None:
        """Why a window with this mean loss diverges, or None."""
        if not math.isfinite(loss):
            return "the loss is not finite"
        if not self.spike or len(self.losses) < ENOUGH:
            return None
        median = statistics.median(self.losses)
        deviation = NORMAL * statistics.median(abs(known - median) for known in self.losses)
        if loss > self.spike * median and loss > median + DEVIATIONS * deviation:
            return f"the loss rose to {loss:.4g} from a running level of {median:.4g}"
        return None

    def add(self, loss: float) -> None:
        """Count a window that did not diverge."""
        self.losses = [*self.losses, loss][-WINDOWS:]
