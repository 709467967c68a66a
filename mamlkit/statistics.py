"""Statistics: intervals over tasks, over seeds and of rates, and the sample size that finds a difference."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor

from mamlkit.extras import extra

Z95 = 1.96  # two-sided 95% point of the normal law, as in the paper's intervals


class Interval(NamedTuple):
    """A mean and the ends of its 95% interval, over n training runs or trials."""

    mean: float
    low: float
    high: float
    n: int


def half_width(values: Tensor) -> Tensor:
    """Half-width of the normal 95% interval of a mean over the first dimension: 1.96·s/√n.

    For the hundreds of tasks that one trained θ is examined on. It says how θ does on tasks like these, and nothing of
    what another training would find: that is `t_interval`.
    """
    return Z95 * values.std(0) / math.sqrt(len(values))


def t_interval(values: Iterable[float]) -> Interval:
    """95% interval of a mean over training runs: mean ± t·s/√n, with Student's t for n − 1 degrees of freedom.

    values  one number for each seed: a run's own mean over its tasks, or the difference of two runs of the same seed

    With ten seeds t is 2.26, with three 4.30: the normal law's 1.96 would promise too much. Raises ValueError for
    fewer than two values, and for one that is not finite.
    """
    runs = [float(value) for value in values]
    if len(runs) < 2:
        raise ValueError(f"{len(runs)} value(s); an interval over seeds needs 2 or more: run more seeds")
    if bad := [run for run in runs if not math.isfinite(run)]:
        raise ValueError(f"{len(bad)} of {len(runs)} values are not finite ({bad[0]}); count such runs apart")
    mean, error = math.fsum(runs) / len(runs), _stats().sem(runs)
    half = float(_stats().t.ppf(0.975, len(runs) - 1) * error)
    return Interval(mean, mean - half, mean + half, len(runs))


def wilson_interval(successes: int, trials: int) -> Interval:
    """95% interval of a rate: Wilson's score interval (1927), which stays inside [0, 1] and is honest near its ends.

    Raises ValueError unless 0 ≤ successes ≤ trials and there is a trial.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(
            f"{successes} successes in {trials} trials; there must be 1 trial or more, and no more successes"
        )
    low, high = _stats().binomtest(int(successes), int(trials)).proportion_ci(method="wilson")
    return Interval(successes / trials, float(low), float(high), int(trials))


def sample_size(difference: float, spread: float, *, pairs: bool = False, power: float = 0.8) -> int:
    """The smallest n, tasks or seeds, whose 95% t interval of a difference of means leaves out zero with some power.

    difference  the true difference to be found, in the units of spread
    spread      standard deviation of one value in each arm; with `pairs`, of the difference within a pair
    pairs       whether the n values of both arms come in pairs; otherwise each arm has n of its own
    power       the share of repetitions in which the interval must end on the right side of zero

    Raises ValueError for a difference or a spread that is not positive, and a power outside (0.025, 1).
    """
    if not (0 < difference < math.inf and 0 < spread < math.inf):
        raise ValueError(f"difference is {difference} and spread {spread}; both must be positive and finite")
    if not 0.025 < power < 1:
        raise ValueError(f"power is {power}; it must lie between 0.025, which is luck alone, and 1")
    arms, effect = (1 if pairs else 2), difference / spread

    def found(n: int) -> float:  # how often the t interval from n ends on the right side of zero
        freedom = arms * (n - 1)
        return float(_stats().nct.sf(_stats().t.ppf(0.975, freedom), freedom, effect * math.sqrt(n / arms)))

    # Where the normal law would stop. Student's t asks for a few more, so the search is short.
    n = max(2, math.floor(arms * float((_stats().norm.ppf(0.975) + _stats().norm.ppf(power)) / effect) ** 2))
    while found(n) < power:
        n += 1
    return n


def _stats() -> Any:
    """scipy.stats, loaded when asked for: it takes half as long to import as PyTorch, and training needs none of it."""
    with extra("statistics"):
        from scipy import stats
    return stats
