"""Figures of the rank-2 study."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ...flows import iterate
from ...mechanisms._winding import Rotation
from ...models import member
from ...plots._latent import latent_flow, loss_range, rate_map
from ...plots._style import PATH, SLOW, UNSTABLE, figure, tidy
from ...training import latent_outputs
from ._stats import DELAYS, PUBLISHED


def rank2_figures(study: Any) -> dict[str, Any]:
    """All figures that the trained cells of a `Rank2Study` allow, by name.

    - `fractions`: share of networks that oscillate, and that wind once within three
        trials, over the delay, with 95 % intervals, beside the published shares.
    - `mechanisms`: flow, loss and rates of one network at rest and one that oscillates.
    - `rates`: the same for every learning rate of Figure 2.
    - `curves`: loss with and without a post-reaction period.
    - `sequence`: flow before and after a change of mechanism within one training.

    Needs matplotlib.
    """
    out = {"fractions": _fractions(study)}
    rows = []
    for name, part in study.cells.items():
        if name.startswith("delay"):
            for code in (Rotation.rest, Rotation.cycle):
                i = _clearest(part, code)
                if i is not None:
                    rows.append((f"{name} ms, {code.name}", part, i))
    if rows:
        out["mechanisms"] = _panels(rows[:8])
    rows = []
    for name, part in study.cells.items():
        if name.startswith("rate"):
            codes = part.labels.code[part.learned]
            code = np.bincount(codes).argmax() if codes.size else Rotation.undetermined
            i = _clearest(part, code)
            rows.append((f"learning {name}", part, 0 if i is None else i))
    if rows:
        out["rates"] = _panels(rows)
    curves = {n: p for n, p in study.cells.items() if n.startswith("curve")}
    if curves:
        out["curves"] = _curves(curves)
    if study.changes:
        out["sequence"] = _sequence(study)
    return out


def _clearest(part, code) -> int | None:
    """The learned network of a code that winds farthest."""
    at = np.flatnonzero(part.learned & (part.labels.code == code))
    if not at.size:
        return None
    return int(at[np.argmax(np.abs(part.labels.turns[at]))])


def _fractions(study):
    fig, axes = figure(1, 1, size=(4.6, 3.4))
    ax = axes[0, 0]
    for post, colour in ((0, PATH), (30, UNSTABLE)):
        parts = [
            p for n, p in study.cells.items()
            if n.startswith("delay") and p.cell.post == post
        ]  # fmt: skip
        x = np.array([p.cell.delay for p in parts])
        ax.plot(
            DELAYS, PUBLISHED[post], "x--", lw=0.7, color=colour,
            label=f"published, post {post} ms",
        )  # fmt: skip
        for name, mark in (("oscillate", "o"), ("wind", "s")):
            rows = np.array([p.row()[name] for p in parts]).reshape(-1, 3)
            if not len(rows):
                continue
            gaps = np.abs(rows[:, 1:] - rows[:, :1]).T
            ax.errorbar(
                x, rows[:, 0], gaps, fmt=mark + "-", ms=4, lw=0.9, color=colour,
                mfc=colour if name == "oscillate" else "white",
                label=f"{name}, post {post} ms",
            )  # fmt: skip
    ax.set_ylim(-0.03, 1.05)
    ax.legend(fontsize=6, frameon=False)
    return tidy(ax, x="delay (ms)", y="share of learned networks") and fig


def _on_device(part, i):
    models = jax.tree.map(
        lambda a: jnp.asarray(a) if eqx.is_array(a) else a, part.result.models
    )
    return member(models, i)


def _panels(rows):
    fig, axes = figure(len(rows), 4, size=(2.9, 2.4))
    for (name, part, i), line in zip(rows, axes, strict=True):
        model, task = _on_device(part, i), part.cell.task
        length = task.num_steps
        history, every = part.result.history, part.result.record_every
        start = float(history.loss[i, 0])
        epochs = every * (np.arange(history.loss.shape[1]) + 0.5)
        loss_range(line[0], epochs, history.low[i] / start, history.high[i] / start)
        line[0].set_title(name, fontsize=8, loc="left")
        _, path = latent_outputs(model, task.dt, 3 * length)
        path = np.concatenate([part.labels.kappa_0[i][None], np.asarray(path)])
        latent_flow(line[1], model, path, length + 1)
        rates = iterate(model.map(task.dt), model.x0, 3 * length)
        rate_map(line[2], rates[:length], task.dt)
        rate_map(line[3], rates, task.dt)
    return fig


def _curves(parts):
    fig, axes = figure(1, len(parts), size=(3.6, 3.0))
    for (name, part), ax in zip(parts.items(), axes[0], strict=True):
        history, every = part.result.history, part.result.record_every
        epochs = every * (np.arange(history.loss.shape[1]) + 0.5)
        for i, loss in enumerate(np.asarray(history.loss)):
            cycle = part.labels.code[i] == Rotation.cycle
            colour = UNSTABLE if cycle else SLOW
            ax.loglog(epochs, loss / loss[0], lw=0.8, color=colour)
        tidy(ax, title=name, x="epoch", y="loss / loss at the start")
    return fig


def _sequence(study):
    part = study.cells["sequence"]
    change = max(study.changes, key=lambda c: c.spike)
    marks = np.asarray(part.result.checkpoint_epochs)
    first = int(np.searchsorted(marks, change.before))
    shown = [max(0, first - 5), first, first + 1, len(marks) - 1]
    fig, axes = figure(1, 5, size=(2.9, 2.7))
    history, every = part.result.history, part.result.record_every
    start = float(history.loss[change.network, 0])
    epochs = every * (np.arange(history.loss.shape[1]) + 0.5)
    i = change.network
    loss_range(axes[0, 0], epochs, history.low[i] / start, history.high[i] / start)
    axes[0, 0].axvspan(change.before, change.after, color="#dddddd", zorder=0)
    kept = jax.tree.map(
        lambda a: jnp.asarray(a[i]) if eqx.is_array(a) else a, part.result.checkpoints
    )
    task = part.cell.task
    for ax, k in zip(axes[0, 1:], shown, strict=True):
        model = member(kept, k)
        _, path = latent_outputs(model, task.dt, 3 * task.num_steps)
        name = Rotation(int(study.codes[i, k])).name
        latent_flow(ax, model, path, task.num_steps, title=f"epoch {marks[k]}: {name}")
    return fig
