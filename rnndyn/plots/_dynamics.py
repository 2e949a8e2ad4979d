"""Results on any flow: phase portraits, cycles, multipliers, exponents, basins."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._core._system import Map
from .._core._verdicts import Verdict, names
from ..dynamics import LimitCycle, LimitCycles
from ._planes import Plane, one_search, pca_plane, points as draw_points, speed_field
from ._style import PATH, SLOW, STABLE, UNSTABLE, expect, legend, tidy


_STABILITY = {-1: (PATH, "-", "stable"), 0: ("#777777", "-.", "undecided"),
              1: (UNSTABLE, "--", "unstable")}  # fmt: skip


def phase_portrait(
    ax: Any,
    f: Any,
    points: Any = None,
    *,
    plane: Plane | None = None,
    limits: Any = None,
    args: Any = None,
    cycles: Any = (),
) -> Any:
    """Streamlines of a flow with its fixed points, slow points and cycles.

    ```python
    fig, axes = rd.plots.figure()
    rd.plots.phase_portrait(axes[0, 0], f, pts, limits=((-2, 2), (-2, 2)))
    ```

    **Arguments:**

    - `ax`: matplotlib axes.
    - `f`: a flow `f(t, x, args)`.
    - `points`: `FixedPoints`, of which those of the mask and the slow points are drawn.
    - `plane`: where to look. Default: the plane of a two-dimensional state itself, else
        the first two principal components of the points and cycles.
    - `limits`: `((left, right), (bottom, top))` in the plane; by default around the
        points and cycles.
    - `args`: the input, held constant.
    - `cycles`: a `LimitCycle`, several of them, or what `limit_cycles` found.

    **Returns:** `ax`. Raises `ValueError` for a `Map`, for a flow of one variable or of
    other states than the plane's, and where neither `plane` nor `limits` can be found.
    Not shown: the velocity across the plane.
    """
    if isinstance(f, Map):
        raise ValueError(
            "phase_portrait got a Map, expected a flow f(t, x, args): a map has no "
            "streamlines. Draw its points with rnndyn.plots.points."
        )
    roots, stability, slow = _found(points)
    if isinstance(cycles, LimitCycles | LimitCycle):
        cycles = cycles.found() if isinstance(cycles, LimitCycles) else [cycles]
    for c in cycles:
        _single(c, "phase_portrait")
    orbits = [np.asarray(c.orbit) for c in cycles]
    shown = [a for a in (roots, slow, *orbits) if len(a)]
    states = np.concatenate(shown) if shown else roots
    if plane is None:
        plane = _default_plane(states)
    _check_fit(f, plane, args)
    if limits is None:
        limits = _around(plane(states)) if shown else None
    if np.shape(limits) != (2, 2) or not np.all(np.diff(limits) > 0):
        bare = "" if shown else " without points or cycles"
        raise ValueError(
            f"limits = {limits}{bare}, expected ((left, right), (bottom, top)) in the "
            "plane, with left < right and bottom < top."
        )
    ax.set_xlim(*limits[0])
    ax.set_ylim(*limits[1])
    velocity = jax.jit(jax.vmap(lambda x, args: f(0.0, x, args), (0, None)))
    speed_field(ax, plane, lambda x: velocity(jnp.asarray(x), args))
    for c in cycles:
        cycle(ax, c, plane)
    (left, right), (bottom, top) = limits
    draw_points(ax, plane, roots, stability, slow)
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
    return tidy(ax, title="phase portrait", x=plane.labels[0], y=plane.labels[1])


def cycle(ax: Any, limit_cycle: Any, plane: Plane | None = None) -> Any:
    """The orbit of a limit cycle: solid if stable, dashed if unstable.

    What a search returned without a cycle is drawn dotted, with its verdict as label.

    ```python
    rd.plots.cycle(ax, rd.dynamics.limit_cycle(f, x0, 6.6))
    ```

    **Arguments:**

    - `ax`: matplotlib axes.
    - `limit_cycle`: a `LimitCycle`.
    - `plane`: as in `phase_portrait`.

    **Returns:** `ax`.
    """
    _single(limit_cycle, "cycle")
    orbit = np.asarray(limit_cycle.orbit)
    plane = _default_plane(orbit) if plane is None else plane
    line = plane(orbit)
    verdict = Verdict(int(limit_cycle.verdict))
    if verdict is Verdict.limit_cycle:
        colour, style, word = _STABILITY[int(limit_cycle.stability)]
        label = f"{word} cycle, T = {float(limit_cycle.period):.6g}"
    else:
        colour, style, label = "#bbbbbb", ":", f"no cycle: {verdict.name}"
    ax.plot(line[:, 0], line[:, 1], style, color=colour, lw=1.6, label=label, zorder=3)
    middle = len(line) // 8  # an arrow says which way round
    if len(line) > 8:
        ax.annotate(
            "", xy=line[middle + 1], xytext=line[middle], zorder=3,
            arrowprops={"arrowstyle": "->", "color": colour, "lw": 1.6},
        )  # fmt: skip
    legend(ax)
    return tidy(ax, title="limit cycle", x=plane.labels[0], y=plane.labels[1])


def multipliers(ax: Any, limit_cycle: Any) -> Any:
    """Floquet multipliers and the unit circle.

    Multipliers that the eye cannot tell from 0 are listed by their decimal logarithm.
    If one is above 3, distances outside the circle are 1 + log10 |m|, and the axis says
    so. The title gives the accuracy: how far the trivial multiplier is from 1.

    ```python
    rd.plots.multipliers(ax, rd.dynamics.limit_cycle(f, x0, 6.6))
    ```

    **Arguments:**

    - `ax`: matplotlib axes.
    - `limit_cycle`: a `LimitCycle`.

    **Returns:** `ax`.
    """
    _single(limit_cycle, "multipliers")
    logs = np.asarray(limit_cycle.log_multipliers)
    angles = np.imag(logs)
    decades = np.real(logs) / np.log(10)
    compressed = bool(np.max(decades, initial=0.0) > np.log10(3.0))
    outside = 1 + decades if compressed else 10.0 ** np.minimum(decades, 1)
    radius = np.where(decades > 0, outside, 10.0 ** np.minimum(decades, 0))
    x, y = radius * np.cos(angles), radius * np.sin(angles)
    trivial = np.arange(len(logs)) == int(limit_cycle.trivial)
    angle = np.linspace(0, 2 * np.pi, 200)
    ax.plot(np.cos(angle), np.sin(angle), lw=0.7, color="#999999")
    inside = decades <= 0
    for chosen, colour, label in (
        (~trivial & inside, STABLE, "inside"),
        (~trivial & ~inside, UNSTABLE, "outside"),
    ):
        if np.any(chosen):
            ax.plot(x[chosen], y[chosen], "o", ms=5, color=colour, label=label)
    ax.plot(x[trivial], y[trivial], "o", ms=8, mfc="none", color=SLOW,
            label="trivial")  # fmt: skip
    tiny = np.sort(decades[decades < -2])[::-1]
    if len(tiny):
        more = f" and {len(tiny) - 4} more" if len(tiny) > 4 else ""
        text = "near 0: 10^ " + ", ".join(f"{d:.2f}" for d in tiny[:4]) + more
        ax.annotate(text, (0, 0), (0, -10), textcoords="offset points", fontsize=7,
                    ha="center", va="top")  # fmt: skip
    ax.set_aspect("equal")
    legend(ax)
    accuracy = float(limit_cycle.accuracy)
    scale = " (1 + log10 |m| outside the circle)" if compressed else ""
    return tidy(
        ax, title=f"multipliers, accuracy {accuracy:.0e}", x=f"Re{scale}", y="Im"
    )


def exponents(ax: Any, spectrum: Any) -> Any:
    """Running estimates of Lyapunov exponents, with bands of one standard error.

    The error of a running mean falls with the root of the time: the band at time t is
    the final standard error times sqrt(total / t).

    ```python
    rd.plots.exponents(ax, rd.dynamics.lyapunov_spectrum(lorenz, x0, ...))
    ```

    **Arguments:**

    - `ax`: matplotlib axes.
    - `spectrum`: a `LyapunovSpectrum`.

    **Returns:** `ax`.
    """
    expect("exponents", spectrum, "lyapunov_spectrum", "history", "stderr")
    history, times = np.asarray(spectrum.history), np.asarray(spectrum.times)
    if history.ndim != 2:
        raise ValueError(
            f"`history` has shape {history.shape}, expected (checkpoints, k). Pick "
            "network i with jax.tree.map(lambda a: a[i], spectrum)."
        )
    final, error = np.asarray(spectrum.exponents), np.asarray(spectrum.stderr)
    widen = np.sqrt(times[-1] / times)
    ax.axhline(0, lw=0.7, color="#999999")
    for i, curve in enumerate(history.T):
        label = f"{final[i]:.4g} ± {error[i]:.1g}"
        (line,) = ax.plot(times, curve, lw=1.2, label=label)
        band = error[i] * widen
        ax.fill_between(times, curve - band, curve + band, alpha=0.25, lw=0,
                        color=line.get_color())  # fmt: skip
    # The first estimates scatter widely and would set the scale.
    settled = history[len(history) // 10 :]
    low, high = np.nanmin(settled, initial=0.0), np.nanmax(settled, initial=0.0)
    if np.isfinite(high - low) and high > low:
        ax.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))
    legend(ax)
    dimension = float(np.asarray(spectrum.kaplan_yorke))
    title = "Lyapunov exponents"
    if not np.all(np.asarray(spectrum.finite)):
        title += ": a trajectory diverged"
    elif np.isfinite(dimension):
        title += f", Kaplan-Yorke dimension {dimension:.3f}"
    return tidy(ax, title=title, x="time", y="exponent")


def basins(ax: Any, attractors: Any) -> Any:
    """Shares of starts that each attractor took, with intervals.

    ```python
    rd.plots.basins(ax, rd.dynamics.attractors(f, x0s))
    ```

    **Arguments:**

    - `ax`: matplotlib axes.
    - `attractors`: an object with `share`, `low` and `high` (one number an attractor),
        and the attractors' names in `kind` or their codes in `verdict`.

    **Returns:** `ax`. The shares are of the starts used, not of state space.
    """
    expect("basins", attractors, "attractors", "share", "low", "high", "kind")
    share = np.asarray(attractors.share, float)
    kinds = attractors.kind
    if isinstance(kinds, str):  # "flow" or "map": the names are in the verdicts
        kinds = names(np.asarray(attractors.verdict))
    kinds = [str(kind).replace("_", " ") for kind in kinds]
    if share.shape != (len(kinds),):
        raise ValueError(
            f"`share` has shape {share.shape} for {len(kinds)} kinds, expected one "
            "number for each attractor. Pick one network first."
        )
    low, high = np.asarray(attractors.low), np.asarray(attractors.high)
    error = np.maximum([share - low, high - share], 0)
    rows = np.arange(len(share))
    ax.barh(rows, share, xerr=error, color="#8c6bb1", ecolor=STABLE, capsize=2)
    ax.set_yticks(rows, [f"{kind} {i + 1}" for i, kind in enumerate(kinds)])
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    return tidy(ax, title="basins", x="share of the starts (95 % interval)")


def _found(points: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Roots, their stability, and slow points of a `FixedPoints`, which may be None."""
    if points is None:
        return np.zeros((0, 2)), np.zeros(0, int), np.zeros((0, 2))
    x = one_search(points)
    verdict, unique = np.asarray(points.verdict), np.asarray(points.unique)
    root = unique & np.isin(verdict, (Verdict.root, Verdict.continuum))
    slow = unique & np.isin(verdict, (Verdict.slow_point, Verdict.ghost))
    return x[root], np.asarray(points.stability)[root], x[slow]


def _check_fit(f: Any, plane: Plane, args: Any) -> None:
    """Raise a `ValueError` unless the flow takes states of the plane's size."""
    size = len(plane.origin)
    try:
        got = jax.eval_shape(f, 0.0, jnp.zeros(size), args).shape
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        got = f"an error ({error})"
    if got != (size,):
        raise ValueError(
            f"the flow returns {got} for a state of shape ({size},), expected "
            f"({size},). Pass args= if it needs any, and plane=, points= or cycles= "
            "with states of its own size."
        )


def _default_plane(states: np.ndarray) -> Plane:
    if states.shape[-1] == 1:
        raise ValueError(
            "the states have one variable, expected at least two: a line has no "
            "streamlines. Draw the velocity against the state: "
            "ax.plot(x, jax.vmap(lambda x: f(0.0, x, args))(x[:, None]))."
        )
    if states.shape[-1] == 2:
        return Plane(np.zeros(2), np.eye(2), ("x1", "x2"))
    centred = states - states.mean(axis=0)
    if np.linalg.matrix_rank(centred, tol=1e-9 * max(1, np.abs(states).max())) < 2:
        raise ValueError(
            f"{len(states)} states of size {states.shape[-1]} do not span a plane. "
            "Pass plane=rnndyn.plots.pca_plane(trajectories), or a Plane."
        )
    return pca_plane(states)


def _around(at: np.ndarray) -> Any:
    low, high = at.min(axis=0), at.max(axis=0)
    margin = np.maximum(0.25 * (high - low), 0.1 * np.max(high - low))
    margin = np.where(margin > 0, margin, 1.0)
    return tuple(zip(low - margin, high + margin, strict=True))


def _single(limit_cycle: Any, verb: str) -> None:
    if isinstance(limit_cycle, LimitCycles):
        raise ValueError(
            f"`{verb}` got the result of limit_cycles, expected one LimitCycle. Pass "
            "one of result.found(), or draw all with phase_portrait(cycles=result)."
        )
    expect(verb, limit_cycle, "limit_cycle", "orbit", "log_multipliers")
    if np.ndim(limit_cycle.orbit) != 2:
        raise ValueError(
            f"`{verb}` got orbits of shape {np.shape(limit_cycle.orbit)}, expected one "
            "(nodes, state). Pick network i with jax.tree.map(lambda a: a[i], cycle)."
        )
