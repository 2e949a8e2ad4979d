"""Whole figures: one network, one ensemble."""

from typing import Any

import jax
import numpy as np

from ..flows import iterate
from ..mechanisms import Report, flow_map
from ._ensembles import loss_curves, phase_diagram
from ._planes import (
    in_latent_plane,
    latent_plane,
    pca_plane,
    points,
    spectrum,
    speed_field,
    trajectories,
)
from ._style import expect, figure, tidy


def report(result: Report) -> Any:
    """The report on one network: points and trajectories of the flow in a plane,
    spectra, read-out at the points, and where free runs end: those of the Euler map if
    `dt` is known, since the label is the map's then."""
    expect("report", result, "rnndyn.analyse", "attractors", "evidence", "readout")
    fig, axes = figure(2, 2)
    model = result.model
    unit = result.time_scale
    paths = _paths(result, unit)
    plane = latent_plane(model) if in_latent_plane(model) else pca_plane(paths)
    ax = trajectories(axes[0, 0], plane, paths, alpha=0.5)
    points(ax, plane, result.points, result.stability, result.slow)
    with jax.enable_x64(True):
        speed_field(ax, plane, jax.jit(jax.vmap(lambda x: model(0.0, x, None))))
    ax.set_title(f"{result.mechanism.replace('_', ' ')}", fontsize=10, loc="left")
    if len(result.points):
        spectrum(axes[0, 1], result.eigenvalues, unit=unit)
    else:
        tidy(axes[0, 1], title="no fixed point found")
    ax = axes[1, 0]
    title = "no read-out"
    if result.readout.size:
        title = "read-out at the points"
        ax.bar(range(len(result.readout)), result.readout[:, 0], color="#2c7fb8")
        ax.set_xticks(range(len(result.readout)))
    tidy(ax, title=title, x="point", y="output 1")
    ax = axes[1, 1]
    ends = result.map_attractors or result.attractors
    shares = ends.share
    error = [shares - ends.low, ends.high - shares]
    rows = result.point_of(ends)
    names = [
        f"{k + 1} {name.replace('_', ' ')}" + (f" (point {row})" if row >= 0 else "")
        for k, (name, row) in enumerate(zip(ends.names, rows, strict=True))
    ]
    ax.barh(names, shares, xerr=np.maximum(error, 0), color="#8c6bb1")
    system = "flow" if ends is result.attractors else "Euler map"
    title = f"where free runs of the {system} end" if names else "no attractor found"
    tidy(ax, title=title, x="share of runs (95 % interval)")
    return fig


def _paths(result: Report, unit: float) -> np.ndarray:
    """Free runs of 30 time constants from beside the points."""
    model = result.model
    with jax.enable_x64(True):
        start = np.concatenate([result.points, result.attractors.state])[:12]
        if not len(start):  # nothing was found
            start = np.zeros((4, model.state_size))
        rng = np.random.default_rng(0)
        start = start + 0.5 * rng.standard_normal(start.shape)
        system = flow_map(model, unit / 10)
        u = np.zeros((300, model.input_size))
        run = jax.jit(jax.vmap(lambda x: iterate(system, x, 300, u)))
        paths = np.asarray(run(start))
    # What diverges is drawn on its way out, not to the largest float.
    far = 1e6 * max(1.0, np.abs(start).max())
    return np.where(np.abs(paths) < far, paths, np.nan)


def ensemble_report(
    *,
    labels: Any,
    learning_rates: Any,
    delays: Any,
    epochs: Any,
    losses: Any,
    names: Any,
    examples: Any,
) -> Any:
    """Phase diagram, learning curves, and one network of each kind.

    **Arguments:**

    - `labels`: names, shape `(learning rate, delay, seed)`.
    - `learning_rates`, `delays` (ms): the coordinates.
    - `epochs` `(record,)`, `losses` `(member, record)`, `names` `(member,)`: curves and
        the label of each.
    - `examples`: up to two tuples `(title, paths, points, stability, slow)`.
    """
    fig, axes = figure(2, 2, size=(4.6, 3.7))
    phase_diagram(
        axes[0, 0], labels, learning_rates, delays, row="learning rate",
        column="delay (ms)",
    )  # fmt: skip
    loss_curves(axes[0, 1], epochs, losses, names)
    for ax, (title, paths, x, stability, slow) in zip(axes[1], examples, strict=False):
        plane = pca_plane(paths)
        for path, colour in zip(paths, ("#2c7fb8", "#e0a030"), strict=False):
            trajectories(ax, plane, path[None], color=colour)
        points(ax, plane, x, stability, slow)
        ax.set_title(title, fontsize=10, loc="left")
    for ax in axes[1, len(examples) :]:
        ax.axis("off")
    return fig
