"""State space in a plane: trajectories, fixed and slow points, spectra."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .._core._checks import check_count, check_shape, one_of
from .._core._verdicts import Verdict
from ..models import LowRankRNN
from ._style import PATH, SLOW, STABLE, UNSTABLE, expect, figure, legend, tidy


class Plane(NamedTuple):
    """An affine plane: coordinates `(x - origin) @ axes`, `axes` `(state, 2)`."""

    origin: np.ndarray
    axes: np.ndarray
    labels: tuple[str, str]

    def __call__(self, x: Any) -> np.ndarray:
        """Coordinates of states `(..., state)`."""
        if np.shape(x)[-1:] != np.shape(self.origin):
            raise ValueError(
                f"states of shape {np.shape(x)} in a plane of {len(self.origin)} "
                "variables, expected as many. Pass the plane of these states, such as "
                "rnndyn.plots.pca_plane(states)."
            )
        return (np.asarray(x) - self.origin) @ self.axes


def pca_plane(states: Any) -> Plane:
    """The plane of the first two principal components of states `(..., state)`; states
    of one unit, or one state, leave the second axis empty."""
    if not np.ndim(states) or not np.shape(states)[-1]:
        raise ValueError(
            f"`pca_plane` got a {type(states).__name__} of shape {np.shape(states)}, "
            "expected states (..., state). Pass points.roots() or trajectories."
        )
    flat = np.asarray(states, float).reshape(-1, np.shape(states)[-1])
    flat = flat[np.isfinite(flat).all(axis=1)]  # runs may diverge
    flat = flat if len(flat) else np.zeros((1, flat.shape[1]))
    origin = flat.mean(axis=0)
    _, values, axes = np.linalg.svd(flat - origin, full_matrices=False)
    missing = max(2 - len(values), 0)
    values, axes = np.pad(values, (0, missing)), np.pad(axes, ((0, missing), (0, 0)))
    share = values**2 / max(np.sum(values**2), 1e-300)
    labels = tuple(f"PC{i + 1} ({100 * share[i]:.0f} %)" for i in range(2))
    return Plane(origin, axes[:2].T, (labels[0], labels[1]))


def latent_plane(model: Any, u: Any = None) -> Plane:
    """The plane in which a rank-2 network in current form stays at constant input `u`
    `(input,)`, none by default: `x = m kappa + W_in u + b`.

    **Raises:** a `ValueError` for any other network, whose states lie in no such plane.
    """
    if not in_latent_plane(model):
        low = isinstance(model, LowRankRNN)
        what = f" of rank {model.rank} in {model.form} form" if low else ""
        raise ValueError(
            f"model is a {type(model).__name__}{what}, expected a LowRankRNN of rank 2 "
            "in current form, with one tau and without W_fixed. Use "
            "rnndyn.plots.pca_plane(states)."
        )
    axes = np.linalg.pinv(np.asarray(model.m, float)).T
    given = None if u is None else jnp.asarray(u, model.x0.dtype)
    origin = np.asarray(model.drive(given), float)
    return Plane(origin, axes, ("kappa 1", "kappa 2"))


def in_latent_plane(model: Any) -> bool:
    """Whether `model` has a plane that its states do not leave at constant input."""
    kind = isinstance(model, LowRankRNN) and (model.rank, model.form) == (2, "current")
    return kind and model.W_fixed is None and bool(np.ptp(np.asarray(model.tau)) == 0)


def trajectories(ax: Any, plane: Plane, paths: Any, **style: Any) -> Any:
    """Paths `(path, time, state)` in a plane; a dot where each begins."""
    check_shape("paths", paths, (None, None, None), "Pass one path as paths[None].")
    if np.shape(paths)[1] == 0:
        raise ValueError("`paths` have no steps, expected at least one.")
    style = {"lw": 0.9, "color": PATH, "alpha": 0.9} | style
    for path in np.asarray(paths):
        line = plane(path)
        ax.plot(line[:, 0], line[:, 1], **style)
        ax.plot(*line[0], ".", ms=4, color=style["color"])
    return tidy(ax, x=plane.labels[0], y=plane.labels[1])


def points(ax: Any, plane: Plane, x: Any, stability: Any, slow: Any = ()) -> Any:
    """Fixed points (filled: stable, open: unstable) and slow points (triangles).

    `x` `(point, state)`, `stability` `(point,)` in -1, 0, 1, `slow` `(point, state)`.
    """
    x, stability = np.asarray(x), np.asarray(stability)
    if x.dtype == object or x.ndim != 2 or stability.shape != x.shape[:1]:
        raise ValueError(
            f"x has shape {x.shape} and stability {stability.shape}, expected (point, "
            "state) and (point,). Draw a search with rnndyn.plots.fixed_points(found)."
        )
    for code, face, edge, label in (
        (-1, STABLE, STABLE, "stable"),
        (0, "#bbbbbb", STABLE, "undecided"),
        (1, "white", UNSTABLE, "unstable"),
    ):
        chosen = plane(x[stability == code]) if len(x) else np.zeros((0, 2))
        if len(chosen):
            ax.scatter(
                *chosen.T, s=34, c=face, edgecolors=edge, lw=1.4, zorder=5, label=label
            )
    if len(slow):
        at = plane(slow)
        ax.scatter(*at.T, s=26, c=SLOW, marker="^", zorder=4, label="slow")
    if ax.get_legend_handles_labels()[0]:
        legend(ax)
    return ax


def fixed_points(found: Any, *, ax: Any = None, plane: Plane | None = None) -> Any:
    """What a search found, in a plane: by default that of the points' own principal
    components (of the starts', where there are fewer than two points).

    ```python
    ax = rd.plots.fixed_points(rd.certify(rd.slow_points(model, x0s)))
    ```

    `found`: `FixedPoints` of one network. Returns the axes, new ones if none are given.
    """
    x, mask = one_search(found), np.asarray(found.mask)
    slow = np.isin(np.asarray(found.verdict), (Verdict.slow_point, Verdict.ghost))
    if ax is None:
        ax = figure(1, 1)[1][0, 0]
    if plane is None:
        plane = pca_plane(x[mask] if mask.sum() > 1 else np.asarray(found.x_init))
    roots = mask & ~slow
    stability = np.asarray(found.stability)[roots]
    points(ax, plane, x[roots], stability, x[mask & slow])
    return tidy(ax, x=plane.labels[0], y=plane.labels[1])


def one_search(found: Any) -> np.ndarray:
    """The states of one search; raises a `ValueError` for those of several networks."""
    expect("a plot of points", found, "fixed_points", "x", "verdict", "stability")
    x = np.asarray(found.x)
    if x.ndim != 2:
        raise ValueError(
            f"the points have shape {x.shape}, expected (slots, state). Pick network i "
            "with jax.tree.map(lambda a: a[i], points)."
        )
    return x


def speed_field(ax: Any, plane: Plane, field: Any, *, num: int = 24) -> Any:
    """Streamlines of a vector field in a plane; `field` maps states `(n, state)` to
    velocities `(n, state)`. Off-plane components of the velocity are not shown."""
    check_count("num", num, least=2)
    (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
    gx, gy = np.meshgrid(np.linspace(x0, x1, num), np.linspace(y0, y1, num))
    flat = np.stack([gx.ravel(), gy.ravel()], axis=1)
    states = plane.origin + flat @ np.linalg.pinv(plane.axes)
    try:
        velocities = np.asarray(field(states))
        got = f"returns shape {velocities.shape}"
    except TypeError as error:
        velocities, got = np.zeros(0), f"raises {error}"
    if velocities.shape != states.shape:
        raise ValueError(
            f"the field {got} for states {states.shape}, expected velocities of that "
            "shape. Pass jax.vmap(lambda x: f(0.0, x, args))."
        )
    v = (velocities @ plane.axes).reshape(num, num, 2)
    ax.streamplot(
        gx, gy, v[..., 0], v[..., 1], color="#cccccc", density=0.9, linewidth=0.6,
        arrowsize=0.6, zorder=0,
    )  # fmt: skip
    ax.set_xlim(x0, x1)
    ax.set_ylim(y0, y1)
    return ax


def spectrum(
    ax: Any, eigenvalues: Any, *, kind: str = "flow", unit: float = 1.0
) -> Any:
    """Eigenvalues `(point, state)` of a flow (times `unit`, with the imaginary axis)
    or a map (with the unit circle)."""
    one_of("kind", kind, ("flow", "map"))
    if np.asarray(eigenvalues).dtype.kind not in "fc":
        raise ValueError(
            f"eigenvalues is a {type(eigenvalues).__name__}, expected numbers (point, "
            "state). Pass points.eigenvalues[points.mask]."
        )
    values = np.ravel(eigenvalues) * (unit if kind == "flow" else 1.0)
    ax.plot(values.real, values.imag, ".", ms=3, color=PATH)
    if kind == "flow":
        ax.axvline(0, lw=0.7, color="#999999")
    else:
        angle = np.linspace(0, 2 * np.pi, 200)
        ax.plot(np.cos(angle), np.sin(angle), lw=0.7, color="#999999")
        ax.set_aspect("equal")
    if not len(values) or np.ptp(values.imag) < 0.2:  # rounding must not fill the axis
        ax.set_ylim(-0.5, 0.5)
    unit_name = "1/tau" if kind == "flow" else "multiplier"
    return tidy(ax, title="eigenvalues", x=f"Re ({unit_name})", y="Im")
