"""Rank-2 networks in their latent plane: flow, decision line, rates in time."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._core._checks import check_positive, check_shape
from ._style import PATH, SLOW, UNSTABLE, tidy


def latent_flow(
    ax: Any,
    model: Any,
    path: Any,
    trial: int,
    *,
    num: int = 24,
    band: float = 1.1,
    title: str = "",
) -> Any:
    """The flow of two latent variables, one path through it, and the decision line.

    Streamlines of `d kappa/dt = (-kappa + s n^T phi(m kappa + b)) / tau`, the line
    `w kappa + c = 0` on which the output is 1/2, and a band of `band` logits about it.

    ```python
    outputs, kappa = rd.training.latent_outputs(model, 5e-3, 24)
    latent_flow(ax, model, kappa, trial=8)
    ```

    **Arguments:**

    - `ax`: axes; `model`: one rank-2 `LowRankRNN` without input, with a latent
        read-out.
    - `path`: latent states, shape `(time, 2)`; the first `trial` of them are drawn in
        one colour, the rest in another.
    - `num`: grid points along each axis.

    **Returns:** the axes. What is drawn is the flow, not the map that was trained.

    **Reference:** Kurtkaya, Dinc et al. 2025, arXiv:2502.17433, Figure 2.
    """
    check_shape("path", path, (None, 2), "Latent states, of a rank-2 network.")
    remedy = "Its read-out must be latent: LowRankRNN(..., latent_readout=True)."
    check_shape("model.W_out[:1]", model.W_out[:1], (1, 2), remedy)
    path = np.asarray(path, float)
    if not np.isfinite(path).any(axis=0).all():
        raise ValueError(
            "path has no finite state, expected some to show: did training diverge?"
        )
    path = np.where(np.isfinite(path), path, np.nan)
    low, high = np.nanmin(path, axis=0), np.nanmax(path, axis=0)
    pad = 0.35 * np.maximum(high - low, 0.1 * np.max(high - low) + 1e-6)
    low, high = low - pad, high + pad
    x, y = (np.linspace(low[i], high[i], num) for i in range(2))
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    field = model.reduce()
    velocity = jax.vmap(lambda k: field(0.0, k))(jnp.asarray(grid, model.m.dtype))
    u, v = np.asarray(velocity).T.reshape(2, num, num)
    ax.streamplot(
        x, y, u, v, color="#cccccc", density=0.8, linewidth=0.6, arrowsize=0.6, zorder=0
    )
    w = np.asarray(model.W_out, float)[0]
    logit = (grid @ w + float(model.b_out[0])).reshape(num, num)
    ax.contourf(x, y, logit, levels=[-band, band], colors=["#f2d7d5"], alpha=0.6)
    ax.contour(x, y, logit, levels=[0.0], colors=[UNSTABLE], linewidths=1.0)
    ax.plot(*path[trial - 1 :].T, ".-", ms=2.5, lw=0.8, color=SLOW, label="after")
    ax.plot(*path[:trial].T, ".-", ms=4, lw=1.2, color=PATH, label="trial")
    ax.plot(*path[0], "o", ms=5, mfc="white", color=PATH)
    ax.set_xlim(low[0], high[0])
    ax.set_ylim(low[1], high[1])
    return tidy(ax, title=title, x="kappa 1", y="kappa 2")


def rate_map(ax: Any, rates: Any, dt: float, *, level: float = 0.3) -> Any:
    """|rates| of all units in time, sorted by when they first exceed `level`.

    **Arguments:** `rates` of shape `(time, unit)`; `dt`: one step in seconds.
    """
    check_shape("rates", rates, (None, None), "(time, unit), of one trial.")
    check_positive("dt", dt, "seconds")
    size = np.abs(np.asarray(rates))
    if not size.size:
        raise ValueError(f"rates have shape {size.shape}, expected at least one step.")
    above = size > level
    first = np.where(above.any(axis=0), above.argmax(axis=0), len(size))
    order = np.argsort(first, kind="stable")
    ax.imshow(
        size[:, order].T, aspect="auto", cmap="viridis", vmin=0, vmax=1,
        extent=(0, 1000 * dt * len(size), size.shape[1], 0),
    )  # fmt: skip
    return tidy(ax, x="time (ms)", y="unit, sorted")


def loss_range(ax: Any, epochs: Any, low: Any, high: Any, **style: Any) -> Any:
    """Loss over epochs on log-log axes, as the band between the smallest and the
    largest loss of every record; shapes `(records,)`."""
    low, high = np.asarray(low), np.asarray(high)
    if not low.shape == high.shape == np.shape(epochs):
        raise ValueError(
            f"epochs, low and high have shapes {np.shape(epochs)}, {low.shape} and "
            f"{high.shape}, expected the same, (records,)."
        )
    style = {"color": PATH, "lw": 0} | style
    ok = np.isfinite(low) & (np.asarray(epochs) > 0)
    at = np.asarray(epochs)[ok]
    ax.fill_between(at, low[ok], high[ok], alpha=0.35, **style)
    ax.plot(at, high[ok], color=style["color"], lw=0.7)
    ax.set_xscale("log")
    if np.any(ok):
        ax.set_yscale("log")
    return tidy(ax, x="epoch", y="loss / loss at the start")
