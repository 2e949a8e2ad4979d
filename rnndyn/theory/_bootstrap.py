"""How far a published exponent can be trusted: crossings, weights, resampling."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int

from .._core._checks import check_count, check_level, check_positive
from ._fits import _grid


def effective_rate(
    lrs: Any,
    delays: Any,
    *,
    cue: float | int = 30,
    response: float | int = 50,
    post: float | int = 0,
) -> np.ndarray:
    """The learning rate in the units of the toy models, `lr (k/T)(1 - k/T)`.

    The networks' loss is the mean over a trial of `T` steps, `k` of them at its end
    weighted by `1 - k/T` and the others by `k/T`. It equals
    `(k/T)(1 - k/T) (MSE_early + MSE_late)`, where the toy models have the bracket:
    their learning rate is smaller by that factor, which falls with the delay as `1/T`.

    ```python
    lr = rnndyn.theory.effective_rate(0.1, np.array([0.0, 400.0]))
    assert lr[1] < lr[0] / 2
    ```

    **Arguments:** `lrs`, `delays`: arrays that broadcast; `cue`, `response`, `post`:
    the other periods, in the unit of `delays` (ms by default). A trial ends with
    response and post-response periods, which have the larger weight.

    **Returns:** rates of the broadcast shape.

    **Raises:** a `ValueError` unless all are numbers, the response above 0 and the rest
    not below.
    """
    check_positive("response", response)
    for name, value in (("lrs", lrs), ("delays", delays), ("cue", cue), ("post", post)):
        given = np.asarray(value)
        if given.dtype.kind not in "fiu" or np.any(given < 0):
            raise ValueError(f"{name} = {value}, expected no number below 0.")
    late = response + post
    share = late / (cue + np.asarray(delays, float) + late)
    return np.asarray(np.asarray(lrs, float) * share * (1 - share))


class Crossings(eqx.Module):
    """Where curves first cross a level.

    **Attributes:**

    - `delays`: interpolated linearly; the first or last delay where `censored`.
    - `censored`: 1 if a curve never crossed (the crossing lies beyond the last delay),
      -1 if it had crossed at the first delay, 0 otherwise.
    """

    delays: Float[np.ndarray, " lr"]
    censored: Int[np.ndarray, " lr"]


def first_crossing(
    delays: Any, fractions: Any, level: float | int, *, falling: bool = False
) -> Crossings:
    """The first delay at which a fraction reaches `level`, for every learning rate.

    ```python
    delays = np.array([0.0, 20.0, 40.0])
    fractions = np.array([[0.0, 0.2, 0.4], [0.0, 0.0, 0.0]])
    seen = rnndyn.theory.first_crossing(delays, fractions, 0.3)
    assert abs(seen.delays[0] - 30) < 1e-9 and seen.censored[1] == 1
    ```

    **Arguments:** `delays`: ascending, shape `(delay,)`; `fractions`: shape
    `(lr, delay)`; `level`: between 0 and 1; `falling`: look for the first fraction
    *below* the level.

    **Returns:** `Crossings`. Biased towards short delays where few networks were
    trained: the first of many noisy cells decides.
    """
    check_level(level)
    fractions = np.asarray(fractions, float)
    delays, fractions, _ = _grid(
        delays, fractions, np.ones(len(fractions)), ascending=True
    )
    height = level - fractions if falling else fractions - level
    past = height > 0 if falling else height >= 0
    index = past.argmax(axis=1)
    censored = np.where(past.any(axis=1), np.where(index == 0, -1, 0), 1)
    rows, before = np.arange(len(fractions)), np.maximum(index - 1, 0)
    low, high = height[rows, before], height[rows, index]
    with np.errstate(all="ignore"):
        share = np.where(high > low, -low / (high - low), 1)
    inside = delays[before] + share * (delays[index] - delays[before])
    ends = np.where(censored > 0, delays[-1], delays[0])
    return Crossings(np.where(censored == 0, inside, ends), censored)


class Resampled(eqx.Module):
    """Exponents refitted to resampled networks.

    **Attributes:**

    - `exponents`: shape `(draws,)`; NaN where a fit failed.
    - `low`, `high`: interval of the draws that worked; `median`, `mean`, `stderr`
      (their standard deviation).
    - `failed`: how many draws did not.
    """

    exponents: Float[np.ndarray, " draws"]
    low: float
    high: float
    median: float
    mean: float
    stderr: float
    failed: int


def resample_exponent(
    fit: Callable[..., Any],
    delays: Any,
    outcomes: Any,
    lrs: Any,
    *,
    networks: int | None = None,
    draws: int = 400,
    level: float = 0.95,
    resample_rates: bool = False,
    seed: int = 0,
    **options: Any,
) -> Resampled:
    """An interval for the exponent of a published fit, by resampling networks.

    ```python
    delays, lrs = np.linspace(0, 400, 21), np.geomspace(0.1, 0.001, 8)
    onset = 10 * lrs[:, None] ** (-1 / 2.5)
    fractions = 1 - np.exp(-0.02 * np.maximum(delays - onset, 0))
    study = rnndyn.theory.fit_no_solution_boundary, delays, fractions, lrs
    b = rnndyn.theory.resample_exponent(*study, networks=50, draws=20)
    assert b.low < 2.5 < b.high + 0.5
    ```

    **Arguments:**

    - `fit`: `fit_no_solution_boundary`, `fit_slow_point_boundary` or
      `fit_no_memory_boundary`.
    - `delays`, `lrs`: as in `fit`.
    - `outcomes`: fractions, shape `(lr, delay)`, or one boolean a network, shape
      `(lr, delay, seed)`.
    - `networks`: how many networks a cell has. With fractions each cell is redrawn from
      the binomial distribution; pass a smaller number than there was to see what a
      smaller study would have found. With booleans seeds are redrawn, the same in all
      cells, because one seed is one initial network at every rate and delay.
    - `draws`, `level`, `seed`: of the resampling; one draw of 30 rates takes 10 ms.
    - `resample_rates`: redraw learning rates too: the scatter about the line then
      counts, as if rates had been a random choice.
    - `options`: passed on to `fit`. `drop` does not go with `resample_rates`.

    **Returns:** a `Resampled`. The interval is about the *procedure*: a fit that is
    biased gives a biased interval. Nor does it know of what was not varied.

    **Raises:** a `ValueError` if shapes disagree, or no draw can be fitted.
    """
    check_level(level)
    check_count("draws", draws)
    if networks is not None:
        check_count("networks", networks)
    if resample_rates and "drop" in options:
        raise ValueError(
            f"drop = {options['drop']} with resample_rates=True, expected one of them: "
            "redrawn rates have other indices. Leave the rates out of `lrs`."
        )
    draw, shape = _resampler(outcomes, networks)
    why: Any = None
    rng = np.random.default_rng(seed)
    # A wrong shape is no failed draw.
    shares = np.asarray(outcomes, float)
    _grid(delays, shares.mean(axis=2) if shares.ndim == 3 else shares, lrs)
    lrs = np.asarray(lrs, float)
    found = np.full(draws, np.nan)
    for i in range(draws):
        fractions = draw(rng)
        rows = slice(None)
        if resample_rates:
            rows = np.sort(rng.integers(shape[0], size=shape[0]))
        try:
            found[i] = fit(delays, fractions[rows], lrs[rows], **options).exponent
        except ValueError as error:  # too few points are left
            why = error
    good = found[np.isfinite(found)]
    if not len(good):
        raise ValueError(
            f"all {draws} draws failed, expected some exponents. The last said: {why}"
        ) from why
    tail = (1 - level) / 2
    low, median, high = np.quantile(good, [tail, 0.5, 1 - tail])
    return Resampled(
        exponents=found,
        low=float(low),
        high=float(high),
        median=float(median),
        mean=float(good.mean()),
        stderr=float(good.std()),
        failed=int(draws - len(good)),
    )


def _resampler(outcomes: Any, networks: int | None):
    """`(draw, shape)`: fractions of a redrawn study, shape `(lr, delay)`."""
    outcomes = np.asarray(outcomes)
    if outcomes.ndim == 3:
        seeds = outcomes.shape[2]
        count = seeds if networks is None else networks
        pick = lambda rng: outcomes[:, :, rng.integers(seeds, size=count)].mean(axis=2)
        return pick, outcomes.shape
    if outcomes.ndim != 2:
        raise ValueError(
            f"outcomes has shape {outcomes.shape}, expected (lr, delay) fractions or "
            "(lr, delay, seed) booleans."
        )
    if networks is None:
        raise ValueError(
            "networks = None, expected the number of networks behind each fraction. "
            "Pass it, or outcomes of shape (lr, delay, seed)."
        )
    return lambda rng: rng.binomial(networks, outcomes) / networks, outcomes.shape
