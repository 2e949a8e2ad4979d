"""Panels of the figures of the phases study: axes in, axes out."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...mechanisms import COMPAT
from ...plots._style import tidy
from ...theory import slow_point as _slow_point
from ._exponents import Boundary
from ._summary import Summary


CLASS_COLOURS = {
    "not_learned": "#3b5aa9",
    "limit_cycle": "#cf3a2b",
    "slow_point": "#2f9a47",
    "unstable": "#e0a030",
}
_KEY = "red limit cycle, green slow point, blue not learned"
_SHORT = ("not learned", "limit cycle", "slow point")


def curves(
    ax: Any, found: dict, *, what: str, merged: bool = True, named: Any = None
) -> Any:
    """Mean and standard error of loss or accuracy by published class; `merged` leaves
    unstable networks out; `named` gives classes other names."""
    for name in COMPAT:
        if name not in found or (merged and name == "unstable"):
            continue
        c = found[name]
        said = (named or {}).get(name, name.replace("_", " "))
        colour, label = CLASS_COLOURS[name], f"{said} ({c.count})"
        ax.plot(c.epochs, c.mean, color=colour, lw=1.4, label=label)
        low, high = c.mean - c.error, c.mean + c.error
        ax.fill_between(c.epochs, low, high, color=colour, alpha=0.25, lw=0)
    ax.set_ylim(0, 0.1 if what == "loss" else 1.02)
    # Among thousands of points matplotlib warns of looking for the best place.
    place = "upper right" if what == "loss" else "lower right"
    ax.legend(fontsize=7, frameon=False, loc=place)
    return tidy(ax, title=f"{what}, learning rate near 0.1", x="last epochs", y=what)


def fractions(ax: Any, summary: Summary, column: int, *, title: str = "") -> Any:
    """Share of a class against delay, a line a learning rate, light to dark."""
    import matplotlib

    shares = summary.fractions()[..., column]
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(summary.rates)))
    for rate, row, shade in zip(summary.rates, shares, shades, strict=True):
        known = np.isfinite(row)
        ax.plot(summary.x[known], row[known], color=shade, lw=1, label=f"{rate:.3g}")
    ax.set_ylim(-0.02, 1.02)
    if len(summary.rates) <= 8:
        ax.legend(fontsize=6, frameon=False, title="rate", title_fontsize=6)
    return tidy(ax, title=title or _SHORT[column], x="delay (ms)", y="share")


def scaling(ax: Any, found: Boundary | None, *, title: str, x: str) -> Any:
    """Critical learning rate against delay on log-log axes, with line and band."""
    tidy(ax, title=title, x=x, y="learning rate")
    if found is None:
        return _nothing(ax, "too few points for a line")
    fit = found.published
    ax.loglog(fit.delays[fit.used], fit.rates[fit.used], "o", ms=4, color="#222222")
    left = ~fit.used & np.isfinite(fit.delays) & (fit.delays > 0)
    ax.loglog(fit.delays[left], fit.rates[left], "o", ms=4, mfc="none", mec="#999999")
    span = np.geomspace(fit.delays[fit.used].min(), fit.delays[fit.used].max(), 60)
    low, high = fit.band(span)
    ax.fill_between(span, low, high, color="#cf3a2b", alpha=0.2, lw=0)
    ax.plot(span, fit.rate(span), color="#cf3a2b")
    said = f"exponent {fit.exponent:.2f} +- {fit.stderr:.2f}, $R^2$ {fit.r2:.2f}"
    said += f"\nseeds redrawn {found.low:.2f} to {found.high:.2f}"
    if found.likelihood is not None:
        b = found.likelihood
        said += f"\nlikelihood {b.exponent:.2f} [{b.low:.2f}, {b.high:.2f}]"
    ax.text(0.03, 0.03, said, transform=ax.transAxes, fontsize=7)
    return ax


def phase_map(ax: Any, summary: Summary, *, title: str = "") -> Any:
    """Red, green and blue: shares of limit cycles, slow points and not learned."""
    shares = summary.fractions()
    colours = np.nan_to_num(shares[..., [1, 2, 0]], nan=1.0)
    return _map(ax, np.clip(colours, 0, 1), summary, title or _KEY)


def kind_map(ax: Any, summary: Summary, *, title: str = "") -> Any:
    """The same by what the cues of learned networks certifiedly do; mixed ones are
    yellow (half cycle, half rest)."""
    counts = summary.kind_counts()
    lost, rest, cycle, mixed, other = np.moveaxis(counts, -1, 0)
    total = np.maximum(counts.sum(axis=-1), 1)
    colours = np.stack([cycle + mixed, rest + mixed, lost], axis=-1)
    colours = (colours + (other / 2)[..., None]) / total[..., None]
    return _map(
        ax, np.clip(colours, 0, 1), summary, title or "cues of learned networks"
    )


def _map(ax, colours, summary, title):
    ax.imshow(colours, aspect="auto", interpolation="nearest")
    every = max(1, len(summary.x) // 6)
    at = np.arange(0, len(summary.x), every)
    ax.set_xticks(at, [f"{summary.x[i]:g}" for i in at])
    every = max(1, len(summary.rates) // 8)
    at = np.arange(0, len(summary.rates), every)
    ax.set_yticks(at, [f"{summary.rates[i]:.3g}" for i in at])
    return tidy(ax, title=title, x="delay (ms)", y="learning rate")


def no_memory_map(ax: Any, summary: Summary) -> Any:
    """Share not learned over response window and learning rate."""
    share = summary.fractions()[..., 0]
    ax.imshow(share, aspect="auto", cmap="Blues", vmin=0, vmax=1)
    every = max(1, len(summary.x) // 6)
    at = np.arange(0, len(summary.x), every)
    ax.set_xticks(at, [f"{summary.x[i]:g}" for i in at])
    every = max(1, len(summary.rates) // 8)
    at = np.arange(0, len(summary.rates), every)
    ax.set_yticks(at, [f"{summary.rates[i]:.3g}" for i in at])
    return tidy(ax, title="share not learned", x="response (ms)", y="learning rate")


def toy_curves(ax: Any, response: float = 5.0) -> Any:
    """Critical learning rates of both toy models, with the three phases."""
    from ...theory import limit_cycle as cycle

    delays = np.geomspace(10, 400, 200)
    slow = np.asarray(_slow_point.critical_learning_rate(delays, response))
    fast = np.asarray(cycle.critical_learning_rate(delays, response))
    ax.loglog(delays, slow, color=CLASS_COLOURS["slow_point"], label="slow point")
    ax.loglog(delays, fast, color=CLASS_COLOURS["limit_cycle"], label="limit cycle")
    ax.set_ylim(1e-9, 1e-3)
    at = 80.0
    low = float(_slow_point.critical_learning_rate(at, response))
    high = float(cycle.critical_learning_rate(at, response))
    words = ("1 both", "2 only limit cycles", "3 no learning")
    for y, text in zip((low / 8, (low * high) ** 0.5, high * 8), words, strict=True):
        ax.text(at, y, text, fontsize=7, ha="left", va="center")
    ax.legend(fontsize=7, frameon=False, loc="lower left")
    return tidy(
        ax, title="toy models, response of 5", x="delay", y="critical learning rate"
    )


def toy_flow(ax: Any) -> Any:
    """Flow of the limit-cycle toy model and its orbit."""
    from ...theory import limit_cycle as cycle

    grid = np.linspace(-1.4, 1.4, 15)
    x, y = np.meshgrid(grid, grid)
    field = cycle.system().field
    points = jnp.stack([jnp.asarray(x), jnp.asarray(y)], axis=-1).reshape(-1, 2)
    speed = jax.vmap(lambda z: field(0.0, z, 1 / 20))(points)
    speed = np.asarray(speed).reshape(*x.shape, 2)
    ax.streamplot(x, y, speed[..., 0], speed[..., 1], density=0.8, linewidth=0.6,
                  arrowsize=0.6, color="#888888")  # fmt: skip
    angle = np.linspace(0, 2 * np.pi, 200)
    ax.plot(np.cos(angle), np.sin(angle), color=CLASS_COLOURS["limit_cycle"])
    ax.axvline(0, color="#222222", lw=0.8, ls="--")
    ax.plot(0, -1, "o", color="#222222", ms=4)
    ax.set_aspect("equal")
    return tidy(ax, title="output on for x < 0", x="x", y="y")


def toy_loss(ax: Any, delay: float = 60.0, response: float = 10.0) -> Any:
    """Loss of the limit-cycle toy model against its frequency."""
    from ...theory import limit_cycle as cycle

    r = np.linspace(1e-4, 1 / delay, 600)
    ax.plot(r, [float(cycle.loss(v, delay, response)) for v in r], color="#222222")
    for mark in (1 / (2 * (delay + response)), 1 / (2 * delay), 1 / (delay + response)):
        ax.axvline(mark, color="#bbbbbb", lw=0.8)
    return tidy(ax, title="delay 60, response 10", x="r (turns a unit)", y="loss")


def index_histogram(ax: Any, summary: Summary) -> Any:
    """The published index of learned networks, by published class."""
    bins = np.linspace(0, 1, 41)
    for c in (1, 2):
        values = summary.index[(summary.code == c) & np.isfinite(summary.index)]
        name = COMPAT[c]
        ax.hist(values, bins, color=CLASS_COLOURS[name], alpha=0.7,
                label=f"{name.replace('_', ' ')} ({len(values)})")  # fmt: skip
    ax.axvline(0.5, color="#222222", lw=0.8, ls="--")
    ax.legend(fontsize=7, frameon=False)
    return tidy(ax, title="published index", x="index", y="networks")


def example_fits(ax: Any, summary: Summary, found: Boundary | None, column: int) -> Any:
    """Shares and fitted curves at the highest, a middle and the lowest rate."""
    shares, x = summary.fractions()[..., column], summary.x
    rows = sorted({0, 2 * len(summary.rates) // 3, len(summary.rates) - 1})
    for row, colour in zip(rows, ("#cf3a2b", "#e0a030", "#3b5aa9"), strict=False):
        rate = summary.rates[row]
        ax.plot(x, shares[row], "o", ms=3, color=colour, label=f"rate {rate:.3g}")
        critical = np.nan if found is None else _critical(found, rate)
        if np.isfinite(critical):
            ax.axvline(critical, color=colour, lw=0.8, ls="--")
    ax.set_ylim(-0.02, 1.02)
    ax.legend(fontsize=7, frameon=False)
    what = "not learned" if column == 0 else "slow points"
    return tidy(ax, title=f"{what}, critical delays", x="delay (ms)", y="share")


def _critical(found, rate):
    fit = found.published
    near = np.isclose(fit.rates, rate)
    return float(fit.delays[near][0]) if near.any() else np.nan


def _nothing(ax, text):
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", fontsize=8)
    return ax
