"""Phase boundaries by maximum likelihood: no starting values, censored rates kept."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float, Int

from .._core._checks import check_count, check_level
from .._core._export import Result
from ._fits import _grid


_LEAST, _MOST = 0.05, 100
"""Exponents that are looked for."""


class AbstractCurve(eqx.Module):
    """A probability that rises or falls with the delay at a critical delay `T_0`, at a
    rate `k` per unit of delay. Implement this one method."""

    @abc.abstractmethod
    def __call__(self, x: Any, x0: Any, k: Any) -> Any:
        """The probability at delay `x`; arguments broadcast."""


class Onset(AbstractCurve):
    """`1 - exp(-k (T - T_0))` beyond `T_0`, zero before: networks not learned."""

    def __call__(self, x, x0, k):
        return -np.expm1(-k * np.maximum(x - x0, 0))


class Decline(AbstractCurve):
    """`1/(1 + exp(k (T - T_0)))`: the share of slow points, one half at `T_0`."""

    def __call__(self, x, x0, k):
        return 0.5 * (1 - np.tanh(0.5 * k * (x - x0)))


class LikelihoodFit(Result):
    """A phase boundary, `ln lr = intercept - exponent ln T_0`, with scatter in `T_0`.

    **Attributes:**

    - `exponent`; `low`, `high`: its interval (NaN if not asked for).
    - `intercept`; `scatter`: standard deviation of `ln T_0` about the line, besides the
      error of each point.
    - `rates`: learning rates, shape `(points,)`.
    - `delays`: critical delays; `delays_low`, `delays_high`: intervals of two standard
      errors; all of shape `(points,)`.
    - `censored`: 1 if the critical delay is only known to exceed `delays_low`, -1 if
      only to fall short of `delays_high`, 0 otherwise.
    - `used`: rates that say anything at all, shape `(points,)`.
    """

    exponent: float
    low: float
    high: float
    intercept: float
    scatter: float
    rates: Float[np.ndarray, " points"]
    delays: Float[np.ndarray, " points"]
    delays_low: Float[np.ndarray, " points"]
    delays_high: Float[np.ndarray, " points"]
    censored: Int[np.ndarray, " points"]
    used: Bool[np.ndarray, " points"]

    def headline(self) -> str:
        """The exponent with its interval."""
        return f"exponent {self.exponent:.3g} ({self.low:.3g} to {self.high:.3g})"


def fit_boundary(
    delays: Any,
    outcomes: Any,
    lrs: Any,
    *,
    networks: int | None = None,
    curve: AbstractCurve | None = None,
    lapse: float = 0.001,
    min_rate: float | int = 0,
    factor: Callable[[Any], Any] | None = None,
    level: float | None = 0.95,
) -> LikelihoodFit:
    """The exponent of a phase boundary by maximum likelihood, with an interval.

    What differs from the published fits:

    - A cell with one failure in 100 says more than one with 50: binomial likelihood
      instead of least squares. It is maximised over a grid of critical delays and rates
      `k`, so nothing hangs on starting values.
    - A learning rate at which no boundary is seen is no missing point but one beyond
      the last delay, and enters as such (censored).
    - The critical delay is what was measured, so it is the dependent variable:
      `ln T_0` is normal about the line, and integrated out with the likelihood of its
      own outcomes. With few networks, where regression on the wrong variable flattens
      the line, this matters.
    - The interval is that of the profile likelihood, as wide as Student's t asks for
      with so few points. It covers finite networks a cell and scatter about the line;
      not the choice of the curve, nor that one seed serves all cells (see the second
      example). In 60 made-up studies of each of seven kinds (10 rates, 20 or 100
      networks a cell, exponents 2 to 4, boundaries before the first or beyond the last
      delay among them) it held the truth in 55 to 59. Medians were 2.53 +- 0.16 with 20
      networks a cell and 2.51 +- 0.12 with 100, for 2.5; those of the published fit
      2.39 +- 0.21 and 2.47 +- 0.15.

    ```python
    delays, lrs = np.linspace(0, 400, 21), np.geomspace(0.1, 1e-5, 8)
    onset = 10 * lrs[:, None] ** (-1 / 2.5)
    fractions = 1 - np.exp(-0.02 * np.maximum(delays - onset, 0))
    fit = rnndyn.theory.fit_boundary(delays, fractions, lrs, networks=100)
    assert fit.low < 2.5 < fit.high and fit.censored[-1] == 1
    ```

    Resampling seeds, with outcomes of shape `(lr, delay, seed)`:

    ```python
    theory = rnndyn.theory
    failed = np.random.default_rng(0).random((8, 21, 40)) < fractions[..., None]
    fit = functools.partial(theory.fit_boundary, networks=40, level=None)
    b = theory.resample_exponent(fit, delays, failed, lrs, draws=5)
    assert b.low <= b.median <= b.high
    ```

    **Arguments:**

    - `delays`: ascending, shape `(delay,)`; `lrs`: shape `(lr,)`.
    - `outcomes`: fractions, shape `(lr, delay)`, or booleans `(lr, delay, seed)`.
    - `networks`: behind each fraction; 100 if not given with fractions, 1 with
      booleans `(lr, delay)`.
    - `curve`: `Onset()` by default, for networks not learned; `Decline()` for slow
      points; or any `AbstractCurve`.
    - `lapse`: probability that a network is counted on the wrong side whatever the
      delay. Without it a single stray failure would fix the critical delay; as large as
      one in the number of networks it hides the first true ones.
    - `min_rate`: lower rates are left out.
    - `factor`: the fit is made for `lr * factor(T_0)` instead of `lr`, such as
      `lambda T: effective_rate(1.0, T)`.
    - `level`: of the interval; `None` to leave it out, which is ten times faster.

    **Returns:** a `LikelihoodFit`.

    **Raises:** a `ValueError` if shapes disagree, if fewer than three rates, or equal
    ones, have a boundary within the delays, or if their critical delays do not become
    longer as the rate falls: then no exponent is identified.
    """
    outcomes = np.asarray(outcomes)
    if outcomes.dtype == bool and outcomes.ndim == 2 and networks is None:
        outcomes = outcomes[..., None]
    if outcomes.ndim == 3:
        networks, outcomes = outcomes.shape[2], outcomes.mean(axis=2)
    networks = 100 if networks is None else networks
    delays, fractions, lrs = _grid(delays, outcomes, lrs, ascending=True)
    if len(delays) < 2:
        raise ValueError(f"delays = {delays}, expected at least 2.")
    check_count("networks", networks)
    if level is not None:
        check_level(level)
    if not 0 < lapse < 0.5:
        raise ValueError(f"lapse = {lapse}, expected a probability in (0, 0.5).")
    keep = lrs >= min_rate
    fractions, lrs = fractions[keep], lrs[keep]
    curve = Onset() if curve is None else curve
    if not isinstance(curve, AbstractCurve):
        raise ValueError(
            f"curve = {curve!r}, expected an AbstractCurve such as "
            "rnndyn.theory.Onset() or Decline()."
        )
    grid, support = _supported(curve, delays, fractions, networks, lapse)
    best, low, high, censored = _critical(grid, support)
    used = censored < 2
    if np.sum(censored == 0) < 3:
        raise ValueError(
            f"{int(np.sum(censored == 0))} learning rates have a critical delay within "
            "the delays, expected at least 3. Pass more rates or longer delays."
        )
    if not np.ptp(lrs[censored == 0]):
        raise ValueError(
            f"all critical delays belong to the rate {lrs[censored == 0][0]}, expected "
            "different learning rates."
        )
    line = _Line(grid, support[used], best[used], np.log(lrs[used]), factor)
    (a, b, log_sigma), top = line.fit(censored[used] == 0)
    if not _LEAST < b < _MOST:
        raise ValueError(
            f"the exponent ran away to {b:.3g}: the critical delays "
            f"{np.exp(best[censored == 0]).round(1)} do not become longer as the rates "
            f"{lrs[censored == 0]} fall, expected a boundary that does. Do fractions "
            "and lrs go together, and is the curve the right one?"
        )
    ends = (np.nan, np.nan) if level is None else line.interval(b, top, level)
    return LikelihoodFit(
        exponent=float(b),
        low=ends[0],
        high=ends[1],
        intercept=float(a),
        scatter=float(np.exp(log_sigma)),
        rates=lrs,
        delays=np.exp(best),
        delays_low=np.exp(low),
        delays_high=np.exp(high),
        censored=np.where(used, censored, 0),
        used=used,
    )


def _supported(curve, delays, fractions, networks, lapse):
    """A grid of `ln T_0`, and what every rate's outcomes say about it: the log
    likelihood at its best `k`, 0 at the best `T_0`."""
    span = delays[-1] - delays[0]
    shortest = delays[delays > 0].min()
    x0 = np.geomspace(shortest / 4, delays[-1], 300)
    k = np.geomspace(0.3, 300, 64) / span
    p = curve(delays[None, None], x0[:, None, None], k[None, :, None])
    p = (lapse + (1 - 2 * lapse) * p).reshape(-1, len(delays))
    hits = networks * fractions
    likelihood = hits @ np.log(p).T + (networks - hits) @ np.log1p(-p).T
    profile = likelihood.reshape(len(fractions), len(x0), len(k)).max(axis=2)
    return np.log(x0), profile - profile.max(axis=1, keepdims=True)


def _critical(grid, support):
    """`ln T_0` of every rate: best, interval of two standard errors, and whether it is
    bounded (0), bounded from below (1), from above (-1) or not at all (2)."""
    near = support >= -2
    first = near.argmax(axis=1)
    last = len(grid) - 1 - near[:, ::-1].argmax(axis=1)
    below, above = first == 0, last == len(grid) - 1
    censored = np.where(above, np.where(below, 2, 1), np.where(below, -1, 0))
    return grid[support.argmax(axis=1)], grid[first], grid[last], censored


class _Line:
    """`ln T_0 = m(lr) + N(0, scatter^2)`, where `m` solves
    `ln lr = a - b m - ln factor(exp m)`, and `T_0` is known by its likelihood."""

    def __init__(self, grid, support, best, log_lrs, factor):
        self.grid, self.best, self.log_lrs = grid, best, log_lrs
        self.left, self.right = support[:, 0], support[:, -1]
        self.step = grid[1] - grid[0]
        share = np.full(len(grid), self.step)
        share[[0, -1]] /= 2
        self.support = support + np.log(share / np.sqrt(2 * np.pi))
        self.log_delay = np.linspace(best.min() - 3, best.max() + 3, 2000)
        self.shift = np.zeros_like(self.log_delay)
        if factor is not None:
            with np.errstate(invalid="ignore", divide="ignore"):
                self.shift = np.log(factor(np.exp(self.log_delay)))
            if not np.all(np.isfinite(self.shift)):
                raise ValueError(
                    "factor is not finite and positive at all delays from "
                    f"{np.exp(self.log_delay[0]):g} to {np.exp(self.log_delay[-1]):g}, "
                    "expected a positive number at each."
                )

    def loss(self, a, b, log_sigma):
        """Minus the log likelihood, each `T_0` integrated out: its summary by a best
        value and an error would be biased where the likelihood is lopsided, such as
        next to the first delay."""
        from scipy.special import log_ndtr

        rate = a - b * self.log_delay - self.shift
        rate = np.minimum.accumulate(rate)
        mean = np.interp(-self.log_lrs, -rate, self.log_delay)
        if not np.any(self.shift):
            mean = (a - self.log_lrs) / b
        # A scatter below the grid's step would fall between its points.
        scale = np.hypot(np.exp(log_sigma), self.step)
        z = (self.grid[None, :] - mean[:, None]) / scale
        inside = self.support - 0.5 * z**2 - np.log(scale)
        # Flat beyond the ends of the grid.
        inside[:, 0] = np.logaddexp(inside[:, 0], self.left + log_ndtr(z[:, 0]))
        inside[:, -1] = np.logaddexp(inside[:, -1], self.right + log_ndtr(-z[:, -1]))
        top = inside.max(axis=1, keepdims=True)
        return -float(np.sum(top[:, 0] + np.log(np.exp(inside - top).sum(axis=1))))

    def fit(self, inside):
        """Parameters and loss; the start is a line through points `inside`."""
        x = self.best[inside]
        y = self.log_lrs[inside] + np.interp(x, self.log_delay, self.shift)
        with np.errstate(divide="ignore"):  # equal critical delays
            slope = -np.var(y) / np.cov(x, y, bias=True)[0, 1]
        b = slope if 0.1 < slope < 20 else 3.0
        start = np.array([np.mean(y) + b * np.mean(x), b, np.log(0.1)])
        return self._minimise(lambda p: self.loss(*p), start)

    def interval(self, b, top, level):
        """Where the profile likelihood has fallen by as much as that of a regression
        line through so many points does at the quantile of Student's t."""
        from scipy.optimize import brentq
        from scipy.stats import t

        free = len(self.best) - 2
        quantile = t.ppf(0.5 + level / 2, free)
        fall = len(self.best) / 2 * np.log1p(quantile**2 / free)
        centre = np.mean(self.best)

        def excess(other):
            def loss(p):  # the height at the centre hardly depends on the slope
                return self.loss(p[0] + other * centre, other, p[1])

            start = [np.mean(self.log_lrs), np.log(0.1)]
            return self._minimise(loss, np.asarray(start))[1] - top - fall

        ends = []
        for step in (1 / 1.1, 1.1):
            inside, other = b, b * step
            while excess(other) < 0 and _LEAST < other < _MOST:
                inside, other = other, other * step**2
            hit = excess(other) > 0
            open_end = 0.0 if step < 1 else np.inf
            end: Any = brentq(excess, inside, other, xtol=1e-4) if hit else open_end
            ends.append(float(end))
        return tuple(ends)

    @staticmethod
    def _minimise(loss, start):
        from scipy.optimize import minimize

        def safe(p):
            if not (-12 < p[-1] < 3) or (len(p) == 3 and p[1] <= 0.02):
                return 1e10
            return loss(p)

        options = {"xatol": 1e-5, "fatol": 1e-7, "maxiter": 4000}
        best = minimize(safe, start, method="Nelder-Mead", options=options)
        best = minimize(safe, best.x, method="Nelder-Mead", options=options)
        return best.x, best.fun
