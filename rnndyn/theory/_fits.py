"""Phase boundaries and their exponents, fitted as in the publication."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from .._core._checks import check_level
from .._core._export import Result


class BoundaryFit(Result):
    """A straight line through a phase boundary on log-log axes,
    `ln rate = intercept - exponent ln delay`.

    **Attributes:**

    - `exponent`, `stderr`, `r2`: of ordinary least squares with `ln rate` as the
      dependent variable; `exponent` is minus the slope.
    - `intercept`: of the same line; `covariance`, shape `(2, 2)`, of slope and
      intercept.
    - `delays`: critical delays, shape `(points,)`; NaN where a curve was left out
      beforehand or its fit failed.
    - `rates`: learning rates that go with them, shape `(points,)`.
    - `used`: which points the line was fitted to.
    """

    exponent: float
    stderr: float
    r2: float
    intercept: float
    covariance: Float[np.ndarray, "2 2"]
    delays: Float[np.ndarray, " points"]
    rates: Float[np.ndarray, " points"]
    used: Bool[np.ndarray, " points"]

    def headline(self) -> str:
        """The exponent with its error."""
        return f"exponent {self.exponent:.3g} +- {self.stderr:.2g}, R2 {self.r2:.3g}"

    def rate(self, delay: Any) -> np.ndarray:
        """The learning rate on the line at `delay`."""
        return np.exp(self.intercept) * np.asarray(delay, float) ** -self.exponent

    def band(
        self, delay: Any, *, draws: int = 1000, level: float = 0.95, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper rates at `delay` (one axis) from `draws` lines out of the
        normal distribution of slope and intercept. It takes scatter about the line for
        independent and normal, and knows nothing of the error of a critical delay."""
        check_level(level)
        rng = np.random.default_rng(seed)
        mean = [-self.exponent, self.intercept]
        slope, intercept = rng.multivariate_normal(mean, self.covariance, draws).T
        log = intercept[:, None] + slope[:, None] * np.log(np.asarray(delay, float))
        tail = (1 - level) / 2
        return tuple(np.exp(np.quantile(log, [tail, 1 - tail], axis=0)))


def fit_no_solution_boundary(
    delays: Any,
    fractions: Any,
    lrs: Any,
    *,
    start: tuple[Any, Any] = (0.1, 0.1),
    at_least: float | int = 0.1,
    drop: Sequence[int] = (),
) -> BoundaryFit:
    """The boundary beyond which networks are not learned, as in Figure 4C and 4F.

    For every learning rate the fraction not learned is fitted by

        0 for T < T_0,    1 - exp(-k (T - T_0)) for T >= T_0

    with least squares over the delays; then a line is put through `(ln T_0, ln lr)`.

    ```python
    delays, lrs = np.linspace(0, 400, 21), np.geomspace(0.1, 0.001, 8)
    onset = 10 * lrs[:, None] ** (-1 / 2.5)
    fractions = 1 - np.exp(-0.02 * np.maximum(delays - onset, 0))
    fit = rnndyn.theory.fit_no_solution_boundary(delays, fractions, lrs)
    assert abs(fit.exponent - 2.5) < 0.01
    ```

    **Arguments:**

    - `delays`: shape `(delay,)`; published in ms, from which `start` comes.
    - `fractions`: of networks not learned, shape `(lr, delay)`.
    - `lrs`: learning rates, shape `(lr,)`.
    - `start`: of `(T_0, k)`; published `(0.1, 0.1)`, and `(0.5, 0.1)` with a
      post-response period.
    - `at_least`: a rate at which no fraction reaches this is left out; published 0.1,
      and 0.2 with a post-response period.
    - `drop`: indices of rates left out of the line by hand; published `(1,)` with a
      post-response period, with rates in descending order.

    **Returns:** a `BoundaryFit`. The least squares have many minima and end where
    `start` leads them: with `start=(0.1, 0.5)` all but two of the published curves with
    a post-response period fail. `fit_boundary` has no starting values.

    **Raises:** a `ValueError` if shapes disagree, or fewer than three points are left.

    **Reference:** Kurtkaya, Dinc et al. 2025, arXiv:2502.17433,
    `Figures/Figure4/code` of github.com/fatihdinc/dynamical-phases-stm.
    """
    delays, fractions, lrs = _grid(delays, fractions, lrs)

    def onset(x, x0, k):
        return np.where(x < x0, 0, 1 - np.exp(-k * (x - x0)))

    reached = fractions.max(axis=1) >= at_least
    critical = _midpoints(onset, delays, fractions, start, 1, where=reached)
    used = critical > 0
    wrong = [i for i in drop if not -len(lrs) <= i < len(lrs)]
    if wrong:
        raise ValueError(
            f"drop holds {wrong}, expected indices of the {len(lrs)} learning rates."
        )
    used[list(drop)] = False
    return _line(critical, lrs, used)


def fit_slow_point_boundary(
    delays: Any,
    fractions: Any,
    lrs: Any,
    *,
    start: tuple[Any, Any] = (0.1, 0.1),
    min_rate: float | int = 0.005,
) -> BoundaryFit:
    """The boundary beyond which networks are not slow points, as in Figure S3F.

    For every learning rate the fraction of slow points is fitted by the logistic curve
    `1/(1 + exp(-k (T - T_0)))`; then a line is put through `(ln T_0, ln lr)` for rates
    of at least `min_rate` whose curve falls, `k < 0`.

    ```python
    delays, lrs = np.linspace(0, 400, 21), np.geomspace(0.3, 0.006, 8)
    half = 50 * lrs[:, None] ** (-1 / 4)
    fractions = 1 / (1 + np.exp(0.05 * (delays - half)))
    fit = rnndyn.theory.fit_slow_point_boundary(delays, fractions, lrs)
    assert abs(fit.exponent - 4) < 0.01
    ```

    **Arguments:**

    - `delays`, `lrs`: as in `fit_no_solution_boundary`.
    - `fractions`: of slow points among all networks, shape `(lr, delay)`.
    - `start`: of `(T_0, k)`.
    - `min_rate`: published 0.005, which keeps 25 of 30 rates. The others bend off; with
      `min_rate=0` the published exponent is 4.78 instead of 4.05.

    **Returns:** a `BoundaryFit`. Its exponent holds for the range of rates used.

    **Raises:** a `ValueError` if shapes disagree, or fewer than three points are left.

    **Reference:** as `fit_no_solution_boundary`.
    """
    delays, fractions, lrs = _grid(delays, fractions, lrs)

    def logistic(x, x0, k):
        return 1 / (1 + np.exp(-k * (x - x0)))

    critical = _midpoints(logistic, delays, fractions, start, -1)
    return _line(critical, lrs, (critical > 0) & (lrs >= min_rate))


def fit_no_memory_boundary(
    windows: Any,
    fractions: Any,
    lrs: Any,
    *,
    start: tuple[Any, Any] = (-5.0, -10.0),
) -> BoundaryFit:
    """The critical learning rate of a task without memory, as in Figure S6C.

    For every response window the fraction not learned is fitted by
    `1/(1 + exp(k (ln lr - x_0)))`; then a line is put through
    `(ln window, ln exp(x_0))` for windows whose curve rises with the rate, `k < 0`.

    ```python
    windows, lrs = np.linspace(20, 400, 20), np.geomspace(1, 1e-3, 20)
    critical = windows**-0.6
    fractions = 1 / (1 + np.exp(-8 * (np.log(lrs)[:, None] - np.log(critical))))
    fit = rnndyn.theory.fit_no_memory_boundary(windows, fractions, lrs)
    assert abs(fit.exponent - 0.6) < 0.01
    ```

    **Arguments:** `windows`: shape `(window,)`; `fractions`: not learned, shape
    `(lr, window)`; `lrs`: shape `(lr,)`; `start`: of `(x_0, k)`.

    **Returns:** a `BoundaryFit`: `delays` are windows, `rates` critical rates; windows
    whose fit ran away from `start` are left out.

    **Raises:** as `fit_no_solution_boundary`.

    **Reference:** as `fit_no_solution_boundary`.
    """
    windows, fractions, lrs = _grid(windows, fractions, lrs)

    def logistic(x, x0, k):
        return 1 / (1 + np.exp(k * (x - x0)))

    x = np.log(lrs)
    logs = _midpoints(logistic, x, fractions.T, start, -1, maxfev=1_000_000)
    # A fit that ran away is none.
    reach = 10 + np.max(np.abs(np.log(lrs)))
    rates = np.exp(np.where(np.abs(logs) < reach, logs, np.nan))
    return _line(windows, rates, np.isfinite(rates) & (windows > 0))


def _grid(delays, fractions, lrs, *, ascending=False):
    """Checked float64 copies."""
    given = {"delays": delays, "fractions": fractions, "lrs": lrs}
    for name, values in given.items():
        if np.asarray(values).dtype.kind not in "fiub":
            raise ValueError(f"{name} = {values!r}, expected an array of numbers.")
    delays, fractions, lrs = (np.array(v, float) for v in given.values())
    if delays.ndim != 1 or lrs.ndim != 1:
        raise ValueError(
            f"delays and lrs have shapes {delays.shape} and {lrs.shape}, expected one "
            "axis each."
        )
    if fractions.shape != (len(lrs), len(delays)):
        raise ValueError(
            f"fractions has shape {fractions.shape}, expected (lr, delay) = "
            f"{(len(lrs), len(delays))}. Transpose it?"
        )
    if not np.all((fractions >= 0) & (fractions <= 1)):
        raise ValueError("fractions must lie in [0, 1]; got values outside or NaN.")
    if not np.all(np.isfinite(lrs) & (lrs > 0)):
        raise ValueError(f"lrs = {lrs}, expected finite numbers > 0.")
    if not len(delays) or not np.all(np.isfinite(delays) & (delays >= 0)):
        raise ValueError(f"delays = {delays}, expected finite numbers >= 0.")
    if ascending and np.any(np.diff(delays) <= 0):
        raise ValueError(
            f"delays = {delays}, expected ascending numbers. Sort them, and the "
            "fractions along: order = np.argsort(delays); fractions[:, order]."
        )
    return delays, fractions, lrs


def _midpoints(
    curve: Callable[..., Any], x, rows, start, sign, *, where=None, maxfev=0
) -> np.ndarray:
    """The first parameter of `curve` fitted to every row; NaN if that failed, or if
    the second, the steepness, has not the `sign` of this boundary."""
    if len(x) < 2:
        raise ValueError(
            f"each curve has {len(x)} point, expected at least 2 for its 2 parameters. "
            "Pass more delays (of a task without memory: more learning rates)."
        )
    # Costs 0.3 s to import: not before it is needed.
    from scipy.optimize import OptimizeWarning, curve_fit

    found = np.full(len(rows), np.nan)
    for i, row in enumerate(rows):
        if where is not None and not where[i]:
            continue
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", OptimizeWarning)
            try:
                popt, _ = curve_fit(curve, x, row, p0=list(start), maxfev=maxfev)
            except RuntimeError:  # no convergence
                continue
        # A flat row leaves a midpoint that means nothing.
        if sign * popt[1] * np.ptp(x) > 1e-3:
            found[i] = popt[0]
    return found


def _line(delays, rates, used) -> BoundaryFit:
    """Ordinary least squares of `ln rates` on `ln delays`."""
    n = int(used.sum())
    if n < 3:
        raise ValueError(
            f"{n} critical delays are left, expected at least 3 for a line with an "
            "error. Pass more learning rates or longer delays."
        )
    x, y = np.log(delays[used]), np.log(rates[used])
    if not (np.ptp(x) and np.ptp(y)):
        raise ValueError(
            f"the {n} points have delays {delays[used]} and rates {rates[used]}, "
            "expected several of both: no line goes through points that share one."
        )
    design = np.stack([x - x.mean(), np.ones(n)], axis=1)
    slope, height = np.linalg.lstsq(design, y, rcond=None)[0]
    residual = y - design @ [slope, height]
    variance = residual @ residual / (n - 2)
    spread = design[:, 0] @ design[:, 0]
    # From the centred line back to slope and intercept.
    back = np.array([[1, 0], [-x.mean(), 1]])
    covariance = back @ np.diag([variance / spread, variance / n]) @ back.T
    total = (y - y.mean()) @ (y - y.mean())
    return BoundaryFit(
        exponent=float(-slope),
        stderr=float(np.sqrt(variance / spread)),
        r2=float(1 - residual @ residual / total),
        intercept=float(height - slope * x.mean()),
        covariance=covariance,
        delays=np.asarray(delays, float),
        rates=np.asarray(rates, float),
        used=np.asarray(used, bool),
    )
