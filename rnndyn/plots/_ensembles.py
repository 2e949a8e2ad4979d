"""Ensembles: phase diagrams and learning curves."""

from typing import Any

import numpy as np

from .._core._checks import check_shape
from ._style import COLOURS, tidy


def phase_diagram(ax: Any, labels: Any, rows: Any, columns: Any, **names: str) -> Any:
    """Shares of mechanisms, one bar a cell.

    **Arguments:**

    - `labels`: names of mechanisms or published classes, shape `(row, column, seed)`.
    - `rows`, `columns`: coordinate of each row and column, numbers or names.
    - `names`: `row=` and `column=`, axis labels with units.
    """
    shape = (len(rows), len(columns), None)
    check_shape("labels", labels, shape, "One label a network: (row, column, seed).")
    labels = _known(labels)
    present = [name for name in COLOURS if np.any(labels == name)]
    for i in range(labels.shape[0]):
        for j in range(labels.shape[1]):
            left = j - 0.45
            for name in present:
                width = 0.9 * float(np.mean(labels[i, j] == name))
                ax.barh(i, width, 0.9, left, color=COLOURS[name], align="center")
                left += width
    for name in present:
        ax.barh(0, 0, color=COLOURS[name], label=name.replace("_", " "))
    tick = lambda v: v if isinstance(v, str) else f"{v:g}"
    ax.set_xticks(range(labels.shape[1]), map(tick, columns))
    ax.set_yticks(range(labels.shape[0]), map(tick, rows))
    ax.legend(fontsize=7, frameon=False, ncol=3, loc="upper center",
              bbox_to_anchor=(0.5, -0.18))  # fmt: skip
    x, y = names.get("column", ""), names.get("row", "")
    return tidy(ax, title="share of networks", x=x, y=y)


def loss_curves(ax: Any, epochs: Any, losses: Any, labels: Any) -> Any:
    """Median loss per mechanism over single networks; `losses` `(member, record)`."""
    losses, labels = np.asarray(losses), _known(labels)
    if losses.shape != (*labels.shape, *np.shape(epochs)):
        raise ValueError(
            f"losses have shape {losses.shape} for epochs {np.shape(epochs)} and "
            f"labels {labels.shape}, expected (member, record), one label a member."
        )
    for curve, name in zip(losses, labels, strict=True):
        ax.plot(epochs, curve, lw=0.3, alpha=0.35, color=COLOURS[name])
    for name, colour in COLOURS.items():
        if np.any(labels == name):
            own = losses[labels == name]
            shown = np.isfinite(own).any(axis=0)  # of networks that diverged none
            median = np.nanmedian(own[:, shown], axis=0)
            ax.plot(
                np.asarray(epochs)[shown],
                median,
                lw=1.8,
                color=colour,
                label=name.replace("_", " "),
            )
    ax.set_yscale("log")
    return tidy(ax, title="loss", x="epoch", y="weighted MSE")


def _known(labels: Any) -> np.ndarray:
    unknown = sorted({str(name) for name in np.ravel(labels)} - set(COLOURS))
    if unknown:
        raise ValueError(f"labels {unknown}, expected names among {list(COLOURS)}.")
    return np.asarray(labels)
