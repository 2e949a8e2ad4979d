"""The rank-2 study: with which delays do networks learn to rotate?"""

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..._core._store import SCHEMA, write_arrays, write_json
from ..._core._verdicts import names
from ...dynamics import wilson
from ...mechanisms._winding import Rotation, Winding, winding
from ...training import RATIOS, LatentResult, latent_outputs
from .._statistics import fisher_exact
from .._table import columns
from ._cells import RANK2_SCALES, Rank2Cell, Rank2Config, train_cell
from ._stats import (
    Change,
    changes,
    jsonable,
    label_checkpoints,
    published_share,
    summarise,
)


@dataclass(frozen=True)
class Rank2Labels:
    """One cell, trained and labelled.

    **Attributes:**

    - `cell`: what was trained; `result`: the networks.
    - `learned`: whether the output is on the right side of 1/2 at every step.
    - `loss`: of the weights as they are.
    - `labels`: a `Winding`.
    """

    cell: Rank2Cell
    result: LatentResult
    learned: np.ndarray
    loss: np.ndarray
    labels: Winding

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of learned networks: `learned`, `rest`, `cycle`, `undetermined`
        (neither certified), `oscillate` (by the late deviation alone), `wind` (at least
        one whole turn in three trials)."""
        w, ok = self.labels, self.learned
        count = lambda a: int(np.sum(a & ok))
        return {
            "networks": len(ok),
            "learned": int(np.sum(ok)),
            "diverged": int(np.sum(self.result.state.diverged)),
            "rest": count(w.code == Rotation.rest),
            "cycle": count(w.code == Rotation.cycle),
            "undetermined": count(
                ~np.isin(w.code, (int(Rotation.rest), int(Rotation.cycle)))
            ),
            "oscillate": count(w.late_code == Rotation.cycle),
            "wind": count(w.full_rotation),
        }

    def row(self) -> dict[str, Any]:
        """The numbers of the cell, JSON-able."""
        c, n = self.counts, self.counts["learned"]
        published = published_share(self.cell.delay, self.cell.post)
        w = self.labels
        out = {
            "cell": asdict(self.cell),
            "done": self.result.done,
            "epochs": summarise(self.result.state.epoch),
            "counts": c,
            "oscillate": list(wilson(c["oscillate"], n)),
            "wind": list(wilson(c["wind"], n)),
            "loss": summarise(self.loss),
            "period_steps": summarise(w.period[self.learned & w.cycles]),
            "largest_relative_rms_at_rest": summarise(
                w.relative_rms[w.late_code == Rotation.rest]
            )[-1:],
            "smallest_relative_rms_of_cycles": summarise(
                w.relative_rms[w.late_code == Rotation.cycle]
            )[:1],
            "sharpest_turn_of_a_step": summarise(w.sharpest)[-1:],
            "map_verdicts": _tally(names(w.verdict[self.learned])),
            "flow_verdicts": _tally(names(w.flow_verdict[self.learned])),
            "first_epoch_below": {
                f"{r:g}": summarise(np.where(e < 0, np.nan, e))
                for r, e in zip(RATIOS, self.result.state.reached.T, strict=True)
            },
            "never_below": {
                f"{r:g}": int(np.sum(e < 0))
                for r, e in zip(RATIOS, self.result.state.reached.T, strict=True)
            },
        }
        if published is not None and self.cell.reaction == 10:
            theirs = round(100 * published)
            mine = c["oscillate"]
            out["published"] = published
            out["p_against_published"] = fisher_exact(
                mine, n - mine, theirs, 100 - theirs
            )
        return out


@dataclass(frozen=True)
class Rank2Study:
    """The rank-2 study, trained and labelled; see `rank2_study`.

    **Attributes:**

    - `config`: what was trained; `cells`: labelled cells by name.
    - `codes`: labels at the checkpoints of the sequence, `(members, checkpoints)`;
        `changes`: its changes from rest to oscillation.
    - `seconds`: wall time of each stage.
    """

    config: Rank2Config
    cells: Mapping[str, Rank2Labels]
    codes: np.ndarray | None = None
    changes: tuple[Change, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    def compared(self) -> list[dict[str, Any]]:
        """Post-reaction period against none at every delay: counts and p-values of
        Fisher's exact test, ours and published."""
        rows = []
        for delay in self.config.delays:
            pair = [self.cells.get(f"delay {delay} post {p}") for p in (0, 30)]
            if pair[0] is None or pair[1] is None:
                continue
            row: dict[str, Any] = {"delay": delay}
            for name in ("oscillate", "wind"):
                a, b = ((c.counts[name], c.counts["learned"]) for c in pair if c)
                row[name] = [*a, *b]
                row[f"p_{name}"] = fisher_exact(a[0], a[1] - a[0], b[0], b[1] - b[0])
            shares = [published_share(delay, p) for p in (0, 30)]
            if None not in shares:
                none, post = (round(100 * float(s or 0)) for s in shares)
                row["p_published"] = fisher_exact(none, 100 - none, post, 100 - post)
            rows.append(row)
        return rows

    def table(self) -> str:
        """Published against ours, as text."""
        head = ["delay ms", "post ms", "epochs", "learned", "published", "oscillate"]
        head += ["95 %", "p", "wind once", "95 %", "undecided", "steps a turn"]
        lines = [head]
        for name, part in self.cells.items():
            if not name.startswith("delay"):
                continue
            r, c = part.row(), part.counts
            between = lambda v: f"{v[1]:.2f}-{v[2]:.2f}"
            period = r["period_steps"]
            lines.append(
                [
                    f"{part.cell.delay}",
                    f"{part.cell.post}",
                    f"{int(r['epochs'][0])}",
                    f"{c['learned']}/{c['networks']}",
                    f"{r.get('published', float('nan')):.2f}",
                    f"{r['oscillate'][0]:.2f}",
                    between(r["oscillate"]),
                    f"{r.get('p_against_published', float('nan')):.2g}",
                    f"{r['wind'][0]:.2f}",
                    between(r["wind"]),
                    f"{c['undetermined']}",
                    f"{period[2]:.1f}" if period else "-",
                ]
            )
        text = [columns(lines, str.rjust)]
        pairs = self.compared()
        if pairs:
            lines = [["delay ms", "p, oscillate", "p, wind once", "p, published"]]
            lines += [
                [
                    f"{r['delay']}",
                    f"{r['p_oscillate']:.1e}",
                    f"{r['p_wind']:.1e}",
                    f"{r.get('p_published', float('nan')):.1e}",
                ]
                for r in pairs
            ]
            text.append("With against without post-reaction period (Fisher, two-sided;")
            text[-1] += f" Bonferroni: times {len(pairs)})\n" + columns(
                lines, str.rjust
            )
        text += [_example(n, p) for n, p in self.cells.items() if n[:5] != "delay"]
        if self.codes is not None:
            text.append(_sequence(self))
        return "\n\n".join(text)

    def save(self, out: str | Path) -> Path:
        """Write `rank2.json`, the labels (`labels.safetensors`), the table
        (`table.txt`) and, where matplotlib is installed, the figures."""
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, np.ndarray] = {}
        for name, part in self.cells.items():
            fields = {k: getattr(part.labels, k) for k in _STORED}
            fields |= {"learned": part.learned, "loss": part.loss}
            arrays |= {f"{name}/{k}": np.asarray(v) for k, v in fields.items()}
        if self.codes is not None:
            arrays["sequence/codes"] = self.codes
        header = {"config": asdict(self.config), "codes": [r.name for r in Rotation]}
        write_arrays(out / "labels.safetensors", arrays, header)
        (out / "table.txt").write_text(self.table() + "\n")
        packages = ("rnndyn", "jax", "equinox", "numpy")
        document = {
            "schema": SCHEMA,
            "config": asdict(self.config),
            "cells": {name: part.row() for name, part in self.cells.items()},
            "post_against_none": self.compared(),
            "changes": [c._asdict() for c in self.changes],
            "seconds": dict(self.seconds),
            "versions": {p: version(p) for p in packages},
            "machine": f"{platform.machine()}, {jax.devices()[0]}",
        }
        write_json(out / "rank2.json", jsonable(document), allow_nan=False)
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            return out
        import importlib

        figures = importlib.import_module("rnndyn.studies.rank2._figures")
        for name, figure in figures.rank2_figures(self).items():
            figure.savefig(out / f"{name}.png", dpi=160)
        return out


def label_cell(cell: Rank2Cell, result: LatentResult) -> Rank2Labels:
    """What the networks of a cell have learned, and by which motion.

    **Arguments:** the cell and its `LatentResult`, finished or not.

    **Returns:** `Rank2Labels`.
    """
    task = cell.task
    trial = task.trial()
    models = jax.tree.map(
        lambda a: jnp.asarray(a) if eqx.is_array(a) else a, result.models
    )
    learned, loss = (np.asarray(a) for a in _measure(models, task, trial))
    labels = winding(result.models, task.num_steps, dt=task.dt)
    return Rank2Labels(cell, result, learned, loss, labels)


@eqx.filter_jit
def _measure(models, task, trial):
    def one(model):
        y = latent_outputs(model, task.dt, task.num_steps)[0]
        mask = trial.mask.astype(y.dtype)
        target = trial.targets.astype(y.dtype)
        loss = jnp.sum(mask * jnp.mean((y - target) ** 2, axis=1))
        return jnp.all((y > 0.5) == (target > 0.5)), loss

    return eqx.filter_vmap(one)(models)


def rank2_study(
    scale: str | Rank2Config = "tiny",
    *,
    out: str | Path | None = None,
    progress: bool = False,
    say: Callable[[str], Any] = lambda text: None,
) -> Rank2Study:
    """Train and label the rank-2 networks of the study of delayed activation.

    Rank-2 networks learn to switch on after a delay, with and without having to switch
    off again, by plain gradient descent. Their long-run behaviour is labelled without
    looking: rest or oscillation, certified on the map that was trained, and turns
    within three trials (`rnndyn.mechanisms.winding`).

    ```python
    study = rd.studies.rank2_study("tiny", out="rank2")
    print(study.table())
    study.save("rank2")
    ```

    **Arguments:**

    - `scale`: `"tiny"` (a minute), `"small"` (about 10 minutes), `"full"` (about 5
        hours of one CPU), or a `Rank2Config`.
    - `out`: folder for the trained networks, `out/cells`; a study that was interrupted
        goes on where it was. `None`: nothing is stored.
    - `progress`: show a bar; `say`: called with a line of text at every stage.

    **Returns:** a `Rank2Study`, with `table()` and `save(out)`. Not guaranteed: that
    the automatic label is what a person sees in a picture: at 30 ms the published
    share, which is by eye, lies between the two automatic ones.

    **Raises:** a `ValueError` for an unknown scale.

    **Reference:** Kurtkaya, Dinc et al. 2025, arXiv:2502.17433, Figures 2, 3 and S1.
    """
    if isinstance(scale, str):
        if scale not in RANK2_SCALES:
            raise ValueError(
                f"scale = {scale!r}, expected one of {', '.join(RANK2_SCALES)} or a "
                "Rank2Config."
            )
        config = RANK2_SCALES[scale]
    else:
        config = scale
    folder = None if out is None else Path(out) / "cells"
    cells, seconds = {}, {}
    codes, found = None, []
    for name, cell in config.cells().items():
        began = time.perf_counter()
        say(f"{name}: training {cell.networks} networks")
        result = train_cell(cell, folder, progress=progress)
        say(f"{name}: labelling")
        cells[name] = label_cell(cell, result)
        if name == "sequence":
            codes = label_checkpoints(result, cell.task.num_steps)
            found = changes(result, codes)
        seconds[name] = round(time.perf_counter() - began, 2)
    return Rank2Study(config, cells, codes, tuple(found), seconds)


_STORED = ("code", "late_code", "verdict", "flow_verdict", "relative_rms", "turns")
_STORED += ("turns_late", "sharpest", "period", "residual")


def _tally(values) -> dict[str, int]:
    names, counts = np.unique(np.asarray(values).astype(str), return_counts=True)
    return {str(n): int(c) for n, c in zip(names, counts, strict=True)}


def _example(name, part) -> str:
    r, c = part.row(), part.counts
    lines = [
        f"{name}: {c['learned']} of {c['networks']} learned; {c['cycle']} certified "
        f"cycles, {c['rest']} at rest, {c['undetermined']} undecided"
    ]
    for ratio, at in r["first_epoch_below"].items():
        never = r["never_below"][ratio]
        median = f"median epoch {at[2]:.0f}" if at else "no network"
        lines.append(f"  loss below {ratio} of its start: {median}, {never} never")
    return "\n".join(lines)


def _sequence(study) -> str:
    lines = [f"changes from rest to oscillation in training: {len(study.changes)}"]
    lines += [
        f"  network {c.network}: between epochs {c.before} and {c.after}, loss rises "
        f"{c.spike:.2f} times at {c.epoch} (so in {c.exceeded:.0%} of other intervals)"
        for c in study.changes
    ]
    return "\n".join(lines)
