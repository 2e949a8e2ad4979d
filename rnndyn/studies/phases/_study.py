"""The phases study: where in learning rate and delay which memory is learned."""

import importlib
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from ..._core._store import write_json
from ...sweeps import preset, run
from .._published import WHOLE, Check, check_share, missing, table_text
from ..rank2._stats import jsonable
from ..rank2._study import Rank2Study, rank2_study
from ._checks import phase_checks
from ._exponents import Boundary, boundary, exponent_checks
from ._scales import PHASES_SCALES, PhasesConfig
from ._summary import SLOW_POINT, Summary, summarise


SCHEMA = "rnndyn.phases/1"


@dataclass(frozen=True)
class PhasesStudy:
    """The phases study, trained and labelled; see `phases_study`.

    **Attributes:**

    - `config`: what was trained; `sweeps`: a `Summary` of each sweep by name.
    - `boundaries`: fits of the phase boundaries `nopost`, `post`, `slow_point` (without
        post-response period) and `nomemory`, `None` where too few points are there.
    - `checks`: published claims against these networks; `rank2`: the rank-2 study.
    - `seconds`: wall time of each stage.
    """

    config: PhasesConfig
    sweeps: dict[str, Summary]
    boundaries: dict[str, Boundary | None]
    checks: tuple[Check, ...]
    rank2: Rank2Study | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    def table(self) -> str:
        """Published / ours / verdict, and how both labels agree, as text."""
        parts = [table_text(list(self.checks))]
        unlike = [n for n, s in self.sweeps.items() if not _as_published(n, s)]
        if unlike:
            parts.append(
                "trained unlike the paper (units, batch or epochs): "
                + ", ".join(unlike)
                + "; these are no test of the paper"
            )
        for name, summary in self.sweeps.items():
            if summary.agreement is not None:
                parts.append(f"{name}: published labels (rows), certified (columns)")
                parts[-1] += f"\n{summary.agreement}"
        if self.rank2 is not None:
            parts.append(f"rank-2 networks\n{self.rank2.table()}")
        return "\n\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: configuration, counts of every cell, exponents, checks; `None`
        for what is not finite."""
        document = {
            "schema": SCHEMA,
            "sweeps": {k: _plain(s) for k, s in self.sweeps.items()},
            "boundaries": {
                k: None if b is None else _plain_boundary(b)
                for k, b in self.boundaries.items()
            },
            "checks": [c.to_dict() for c in self.checks],
            "seconds": dict(self.seconds),
        }
        return jsonable(document)

    def save(self, out: str | Path) -> Path:
        """Write `phases.json`, `table.txt` and, where matplotlib is installed, the
        figures as PNG; the rank-2 study goes to `rank2/`."""
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "table.txt").write_text(self.table() + "\n")
        packages = ("rnndyn", "jax", "equinox", "optax", "numpy")
        document = self.to_dict() | {
            "versions": {p: version(p) for p in packages},
            "machine": f"{platform.machine()}, {jax.devices()[0]}",
        }
        write_json(out / "phases.json", document, allow_nan=False)
        if self.rank2 is not None:
            self.rank2.save(out / "rank2")
        try:
            importlib.import_module("matplotlib")
        except ImportError:
            return out
        figures = importlib.import_module("rnndyn.studies.phases._figures")
        for name, figure in figures.phases_figures(self).items():
            figure.savefig(out / f"{name}.png", dpi=160)
        return out


def phases_study(
    scale: str | PhasesConfig = "tiny",
    *,
    out: str | Path | None = None,
    progress: bool = False,
    say: Callable[[str], Any] = lambda text: None,
) -> PhasesStudy:
    """Repeat the published phase diagrams: train, label twice, fit, compare.

    Full-rank networks are trained to remember one of two cues over a delay, at many
    learning rates and delays, with and without having to be silent after the response.
    Each is labelled by the published index and by the certified attractors its cues
    end on. Boundaries of the phases are fitted as published, and by maximum likelihood
    with intervals.

    ```python
    study = rd.studies.phases_study("tiny", out="phases")
    print(study.table())
    study.save("phases")
    ```

    **Arguments:**

    - `scale`: `"tiny"` (about a minute), `"small"` (half an hour on two busy
        cores), `"full"` (as published: 81,500 full-rank and 1,600 rank-2 networks), or
        a `PhasesConfig`.
    - `out`: folder for the sweeps, `out/sweeps/NAME`; a study that was interrupted goes
        on where it was, and other processes may work on the same folder with
        `rnndyn sweep run`. `None`: nothing is kept.
    - `progress`: show a bar; `say`: called with a line of text at every stage.

    **Returns:** a `PhasesStudy`, with `table()` and `save(out)`. Not guaranteed: that
    a small grid gives the published exponents. Ten learning rates and all 21 delays are
    the least that says anything about them (resampled published data: 2.4, interval
    1.65 to 2.94, in place of 2.72), so smaller ones are fitted and not judged.

    **Raises:** a `ValueError` for an unknown scale, or a folder with another study; an
    `ImportError` without `rnndyn[data]`'s packages.

    **Reference:** Kurtkaya, Dinc et al. 2025, arXiv:2502.17433, Figures 2, 3, 4, S2,
    S3, S5 and S6.
    """
    if isinstance(scale, str):
        if scale not in PHASES_SCALES:
            raise ValueError(
                f"scale = {scale!r}, expected one of {', '.join(PHASES_SCALES)} or a "
                "PhasesConfig."
            )
        config = PHASES_SCALES[scale]()
    else:
        config = scale
    sweeps, seconds = {}, {}
    with ExitStack() as stack:
        folder = Path(out) / "sweeps" if out is not None else Path(
            stack.enter_context(tempfile.TemporaryDirectory())
        )  # fmt: skip
        for name, wanted in config.sweeps.items():
            began = time.perf_counter()
            say(f"{name}: {wanted.grid.size} networks")
            sweep = run(wanted, folder / name, progress=progress)
            sweeps[name] = summarise(name, sweep)
            seconds[name] = round(time.perf_counter() - began, 1)
    say("fitting the phase boundaries")
    began = time.perf_counter()
    boundaries = _boundaries(sweeps)
    seconds["fits"] = round(time.perf_counter() - began, 1)
    rank2 = None
    if config.rank2 is not None:
        began = time.perf_counter()
        place = None if out is None else Path(out) / "rank2"
        rank2 = rank2_study(config.rank2, out=place, progress=progress, say=say)
        seconds["rank2"] = round(time.perf_counter() - began, 1)
    checks = tuple(_checks(sweeps, boundaries))
    return PhasesStudy(config, sweeps, boundaries, checks, rank2, seconds)


_FITS = {
    "nopost": ("nopost", "no_solution"),
    "slow_point": ("nopost", "slow_point"),
    "post": ("post", "no_solution"),
    "nomemory": ("nomemory", "no_memory"),
}


def _boundaries(sweeps) -> dict[str, Boundary | None]:
    return {
        name: boundary(sweeps[sweep], which)
        for name, (sweep, which) in _FITS.items()
        if sweep in sweeps
    }


def _checks(sweeps, boundaries) -> list[Check]:
    cells = {}
    for name in ("nopost", "post"):
        if name in sweeps:
            cells |= sweeps[name].cells()
    by_cell = phase_checks(cells)
    if not all(_as_published(n, sweeps[n]) for n in ("nopost", "post") if n in sweeps):
        ran = lambda c: c.verdict != "not run"
        by_cell = [replace(c, verdict="not judged") if ran(c) else c for c in by_cell]
    return [
        *by_cell,
        *(_whole(sweeps.get(name), name) for name in WHOLE),
        long_tau_check(sweeps),
        *exponent_checks(sweeps, boundaries),
    ]


def _whole(summary: Summary | None, name: str) -> Check:
    """Fractions over all cells, comparable where the grid is the published one."""
    label = f"{name}, all cells: not learned / cycle / slow"
    said = " / ".join(f"{v:.2f}" for v in WHOLE[name])
    if summary is None:
        return missing(label, said)
    shares = [summary.share(c).share for c in range(3)]
    ours = " / ".join(f"{v:.2f}" for v in shares)
    grid = {k: list(v) for k, v in preset(name).grid.axes.items() if k != "seed"}
    mine = {k: v for k, v in summary.config["grid"].items() if k != "seed"}
    if grid != mine or not summary.complete():
        return Check(label, said, ours, "too few cells", total=int(summary.n.sum()))
    far = max(abs(a - b) for a, b in zip(shares, WHOLE[name], strict=True))
    verdict = "holds" if far <= 0.05 else "fails"
    return Check(label, said, ours, verdict, total=int(summary.n.sum()))


def long_tau_check(sweeps) -> Check:
    """Twice the time constant at twice the delay: slow points over all rates."""
    label, said = "tau = 20 ms, slow points at 200 ms over all rates", "0.29"
    summary = sweeps.get("longtau")
    column = None if summary is None else _at(summary.x, 200)
    if summary is None or column is None:
        return missing(label, said)
    code = summary.code[:, column]
    count, total = int((code == SLOW_POINT).sum()), int((code >= 0).sum())
    check = check_share(label, count, total, 0.29, per_cell=200)
    if (
        list(summary.rates)
        == sorted(preset("longtau").grid.axes["learning_rate"])[::-1]
    ):
        return check
    return Check(label, said, check.ours, "too few cells", count, total)


def _at(x, value) -> int | None:
    near = [i for i, v in enumerate(x) if abs(v - value) < 1e-6]
    return near[0] if near else None


def _as_published(name: str, summary: Summary) -> bool:
    """Trained with the published number of units, epochs and (a quarter of) trials."""
    theirs, mine = preset(name).to_dict(), summary.config
    same = ("units", "min_epochs", "rate_epochs", "noise", "tau")
    return mine["batch"] >= 32 and all(mine[k] == theirs[k] for k in same)


def _plain(summary: Summary) -> dict[str, Any]:
    agreed = summary.agreement
    return {
        "config": summary.config,
        "rates": summary.rates.tolist(),
        "x_ms": summary.x.tolist(),
        "networks": summary.n.tolist(),
        "not_learned_cycle_slow": summary.counts().tolist(),
        "not_learned_rest_cycle_mixed_other": summary.kind_counts().tolist(),
        "agreement": None if agreed is None else agreed.to_dict(),
    }


def _plain_boundary(found: Boundary) -> dict[str, Any]:
    fit = found.published
    out = {
        "exponent": fit.exponent,
        "stderr": fit.stderr,
        "r2": fit.r2,
        "seeds_redrawn": [found.low, found.high],
        "failed_draws": found.failed,
        "critical_ms": fit.delays.tolist(),
        "rates": fit.rates.tolist(),
        "used": fit.used.tolist(),
    }
    for name in ("likelihood", "effective"):
        b = getattr(found, name)
        if b is not None:
            out[name] = {"exponent": b.exponent, "low": b.low, "high": b.high}
    return out
