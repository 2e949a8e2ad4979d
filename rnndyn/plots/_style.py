"""One look for every figure; nothing global is touched."""

from typing import Any


try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError(
        f'figures need matplotlib ({error}). Run pip install "rnndyn[plot]".'
    ) from error


COLOURS = {
    "undetermined": "#bdbdbd",
    "not_learned": "#4c6fb1",
    "fixed_points": "#8c6bb1",
    "limit_cycle": "#d6604d",
    "slow_manifold": "#4dac26",
    "mixed": "#e0a030",
    "chaotic": "#222222",
    "diverged": "#777777",
    "slow_point": "#4dac26",
    "unstable": "#777777",
}
"""Colour of each mechanism, and of the published classes (`mechanisms.COMPAT`)."""

STABLE, UNSTABLE, SLOW, PATH = "#111111", "#d6604d", "#4dac26", "#2c7fb8"


def figure(rows: int = 1, columns: int = 1, *, size: tuple = (4.0, 3.4)) -> tuple:
    """A figure and its axes `(rows, columns)`, without pyplot's global state."""
    fig = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    return fig, fig.subplots(rows, columns, squeeze=False)


def expect(verb: str, result: Any, kind: str, *fields: str) -> None:
    """Raise a `ValueError` unless a result has the fields that a plot shows."""
    if not all(hasattr(result, name) for name in fields):
        raise ValueError(
            f"{verb} got a {type(result).__name__}, expected the result of {kind}, or "
            f"what has its {', '.join(fields)}."
        )


def tidy(ax: Any, *, title: str = "", x: str = "", y: str = "") -> Any:
    """Labels on, box off."""
    ax.set_title(title, fontsize=10, loc="left")
    ax.set_xlabel(x, fontsize=9)
    ax.set_ylabel(y, fontsize=9)
    ax.tick_params(labelsize=8)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return ax


def legend(ax: Any) -> None:
    """A legend in a frame: its markers are no data."""
    ax.legend(fontsize=7, framealpha=0.8, edgecolor="#cccccc", fancybox=False)
