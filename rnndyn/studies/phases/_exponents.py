"""Exponents of the phase boundaries of a study, with intervals, against published."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...theory import (
    BoundaryFit,
    Decline,
    LikelihoodFit,
    Onset,
    effective_rate,
    fit_boundary,
    fit_no_memory_boundary,
    fit_no_solution_boundary,
    fit_slow_point_boundary,
    resample_exponent,
)
from .._published import EXPONENTS, Check, missing
from ._summary import NOT_LEARNED, SLOW_POINT, UNSTABLE, Summary


@dataclass(frozen=True)
class Boundary:
    """One phase boundary: the published fit and an honest one.

    - `published`: the fit by the published procedure; `low`, `high`: interval of its
        exponent by resampling seeds.
    - `likelihood`: the fit by maximum likelihood, with its own interval; `effective`:
        the same in the learning rates of the toy models.
    """

    published: BoundaryFit
    low: float
    high: float
    failed: int
    likelihood: LikelihoodFit | None
    effective: LikelihoodFit | None


def boundary(
    summary: Summary, which: str, *, draws: int | None = None
) -> Boundary | None:
    """The boundary `"no_solution"`, `"slow_point"` or `"no_memory"` of a sweep, `None`
    where it has too few points. Resampled 200 times, and 20 times on grids too small
    to be judged, where the published fits run to their last iteration."""
    if draws is None:
        draws = 200 if _large(summary) else 20
    try:
        return _boundary(summary, which, draws)
    except (ValueError, RuntimeError):
        return None


def _boundary(summary, which, draws):
    post = summary.config["post_reaction"] > 0
    rows = np.all(summary.code >= 0, axis=(1, 2))
    code, rates, x = summary.code[rows], summary.rates[rows], summary.x
    options: dict[str, Any] = {}
    fit: Callable[..., Any]
    if which == "slow_point":
        outcomes, fit, curve = code == SLOW_POINT, fit_slow_point_boundary, Decline()
        honest: dict[str, Any] = {"min_rate": 0.0049}
    else:
        outcomes = np.isin(code, (NOT_LEARNED, UNSTABLE))
        fit, curve, honest = fit_no_solution_boundary, Onset(), {}
        if post:
            options = {"start": (0.5, 0.1), "at_least": 0.2}
    if which == "no_memory":
        fit = fit_no_memory_boundary
    found = fit(x, outcomes.mean(axis=2), rates, **options)
    drawn = resample_exponent(fit, x, outcomes, rates, draws=draws, **options)
    likelihood = effective = None
    if which != "no_memory":
        periods = {k: 1000 * summary.config[k] for k in ("cue", "reaction")}
        factor = lambda delay: effective_rate(
            1.0,
            delay,
            cue=periods["cue"],
            response=periods["reaction"],
            post=1000 * summary.config["post_reaction"],
        )
        honest["curve"] = curve
        likelihood = _likelihood(x, outcomes, rates, **honest)
        effective = _likelihood(x, outcomes, rates, factor=factor, **honest)
    return Boundary(found, drawn.low, drawn.high, drawn.failed, likelihood, effective)


def _likelihood(x, outcomes, rates, **given):
    try:
        return fit_boundary(x, outcomes, rates, **given)
    except ValueError:  # no exponent is identified
        return None


def exponent_checks(
    sweeps: Mapping[str, Summary], boundaries: Mapping[str, Boundary | None]
) -> list[Check]:
    """Published exponents against ours, judged only where the grid is large enough."""
    checks = []
    for name, (sweep, text) in _LINES.items():
        published = EXPONENTS[name]
        said = f"{published.value:.2f} +- {published.stderr:.2f}"
        label = f"exponent, {text}"
        found = boundaries.get(name)
        if found is None:
            checks.append(_unfit(label, said, sweeps.get(sweep)))
            continue
        fit = found.published
        ours = f"{fit.exponent:.2f} [{found.low:.2f}, {found.high:.2f}]"
        if found.likelihood is not None:
            b = found.likelihood
            ours += f", likelihood {b.exponent:.2f} [{b.low:.2f}, {b.high:.2f}]"
        if not _large(sweeps[sweep]):
            verdict = "too few cells"
        else:
            inside = published.low <= fit.exponent <= published.high
            verdict = "holds" if inside else "fails"
        checks.append(Check(label, said, ours, verdict))
    first, second = boundaries.get("nopost"), boundaries.get("slow_point")
    label, said = "slow points fall more steeply than learning", "4.05 > 2.72"
    if first is None or second is None:
        checks.append(_unfit(label, said, sweeps.get("nopost")))
    else:
        a, b = second.published.exponent, first.published.exponent
        verdict = "holds" if a > b else "fails"
        if not _large(sweeps["nopost"]):
            verdict = "too few cells"
        checks.append(Check(label, said, f"{a:.2f} > {b:.2f}", verdict))
    return [*checks, _no_memory_ratio(sweeps.get("nomemory"))]


_LINES = {
    "nopost": ("nopost", "not learned"),
    "slow_point": ("nopost", "slow points"),
    "post": ("post", "not learned, post"),
    "nomemory": ("nomemory", "without memory"),
}


def _unfit(label: str, said: str, sweep: Summary | None) -> Check:
    """The line of a sweep that did not run, or has no boundary to fit."""
    if sweep is None:
        return missing(label, said)
    return Check(label, said, "no boundary to fit", "too few cells")


def _large(summary: Summary) -> bool:
    """Smaller grids bias the exponents by more than what is compared."""
    rates, x = summary.code.shape[:2]
    return rates >= 10 and x >= 20


def half_learned_rates(summary: Summary) -> np.ndarray:
    """The learning rate above which fewer than half the networks learn, by delay or
    window: between two rates by interpolation of logarithms, NaN where none is met.
    Unlike the published fit it is defined where the two sides are clearly parted."""
    lost = summary.fractions()[..., 0]
    logs = np.log(summary.rates)
    out = np.full(lost.shape[1], np.nan)
    for i, share in enumerate(lost.T):
        (crossing,) = np.nonzero((share[:-1] > 0.5) & (share[1:] <= 0.5))
        if len(crossing):
            k = crossing[0]
            part = (share[k] - 0.5) / (share[k] - share[k + 1])
            out[i] = np.exp(logs[k] + part * (logs[k + 1] - logs[k]))
    return out


def _no_memory_ratio(summary: Summary | None) -> Check:
    label, said = "without memory, critical rates at 20 and 400 ms", "2.9 (2 to 4)"
    if summary is None:
        return missing(label, said)
    windows, rates = summary.x, half_learned_rates(summary)
    ends = [rates[np.isclose(windows, w)] for w in (20, 400)]
    if not all(len(e) and np.isfinite(e[0]) for e in ends):
        return Check(label, said, "none at 20 or 400 ms", "too few cells")
    ratio = float(ends[0][0] / ends[1][0])
    verdict = "holds" if 2 <= ratio <= 4 else "fails"
    return Check(label, said, f"{ratio:.1f}", verdict)
