"""What differs by more than chance: the one rule by which edgenas prefers one thing to another.

A difference counts where it would come by chance less than once in twenty times. Two files are
compared on the same images, by those that only one of them gets right; two latencies by their
intervals. What does not differ so is alike, and the faster or the simpler of two alike is taken.
"""

import numpy as np
from scipy.stats import binomtest, ttest_1samp

CHANCE = 0.05

Interval = tuple[float, float]


def share_interval(right: int, of: int) -> Interval:
    """Of the share ``right`` of ``of`` images: 95 %, Wilson's."""
    ends = binomtest(right, of).proportion_ci(1 - CHANCE, method="wilson")
    return float(ends.low), float(ends.high)


def fewer(one: np.ndarray, other: np.ndarray, of: int = 1) -> bool:
    """Whether ``one`` gets fewer images right than ``other`` (n,), bool, of the same images.

    McNemar's exact test, on one side: were both as good, each image that only one gets right would
    be a toss of a coin. ``of``: among how many ``other`` was picked as the best (Bonferroni).
    """
    lost, won = int((other & ~one).sum()), int((one & ~other).sum())
    if lost <= won:
        return False
    return bool(binomtest(won, lost + won, alternative="less").pvalue < CHANCE / of)


def lower(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the mean of ``one`` (n,) is below that of ``other``, both of the same images."""
    less = np.asarray(one, np.float64) - np.asarray(other, np.float64)
    if np.ptp(less) == 0:  # no chance in it
        return bool(less[0] < 0)
    return bool(ttest_1samp(less, 0.0, alternative="less").pvalue < CHANCE)


def faster(one: Interval, other: Interval) -> bool:
    """Whether all of the interval of ``one``, milliseconds, lies below that of ``other``."""
    return one[1] < other[0]
