"""What was published about each experiment, beside what a dataset says."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from ._published import (
    FLIP_FLOP,
    FORCED,
    MULTIPLIERS,
    POISSON,
    RECORD,
    RECOVERY,
    RIDGE,
    SCORES,
)
from ._table import Line, claim, value


def _at(data: Any, method: str, record: int | None = None) -> float:
    """Mean `r` over networks at a record, the last one by default; NaN if missing."""
    if method not in data.solver.values:
        return float("nan")
    r = data.r.sel(solver=method).mean("network")
    index = -1 if record is None else record
    return float(r[index]) if -len(r) <= index < len(r) else float("nan")


def _same(data: Any, **sizes: int) -> bool:
    return all(data.attrs[k] == v for k, v in sizes.items())


def _of_a_task(lines: Callable[[str, Any], list[Line]]) -> Callable[..., list[Line]]:
    """Lines of trained networks, which test nothing unless all learned their task."""

    def checked(name: str, data: Any) -> list[Line]:
        learned, count = data.attrs["learned"], data.attrs["networks"]
        statement = "all networks have learned their task"
        first = claim(
            name, statement, f"{learned} of {count}", learned == count, same_size=True
        )
        rest = lines(name, data)
        if learned != count:
            rest = [dataclasses.replace(line, verdict="no test") for line in rest]
        return [first, *rest]

    return checked


def _spread(sd: float, data: Any) -> float:
    """Three standard errors of a mean over the networks of a dataset."""
    return 3 * sd / data.attrs["networks"] ** 0.5


def recovery_lines(name: str, data: Any) -> list[Line]:
    same = _same(data, neurons=200, steps=3000)
    # Start of every fit 0.057, end 0.017 over networks in 1a.
    sds = {"1a": (0.057, 0.03, 0.025, 0.02, 0.017), "1b": (0.025,) * 5}[name]
    lines = []
    for method in data.solver.values:
        comparable = same and (data.attrs["shrink"] == 1 or "adam" not in method)
        for record, published, sd in zip(
            RECORD, RECOVERY[name][method], sds, strict=True
        ):
            ours = _at(data, method, record)
            if published is None or np.isnan(ours):
                continue
            step = int(data.step.sel(solver=method)[record])
            lines.append(
                value(
                    name,
                    f"r, {method}, {step} steps",
                    published,
                    ours,
                    _spread(sd, data) + 0.003,
                    same_size=comparable or (same and record == 0),
                )
            )
    end = {m: _at(data, m) for m in data.solver.values}
    start = _at(data, "cornn", 0)
    text = lambda *names: ", ".join(f"{end[n]:.3f}" for n in names)
    if name == "1a":
        holds = end["newton"] > end["cornn"] > start
        order = f"{text('newton', 'cornn')}, {start:.3f}"
        lines.append(
            claim(name, "newton > cornn > fixed point", order, holds, same_size=same)
        )
        if "force currents" in end:
            holds = start > end["force currents"] - 0.02
            shown = f"{start:.3f}, {end['force currents']:.3f}"
            lines.append(
                claim(
                    name,
                    "FORCE on currents gains nothing",
                    shown,
                    holds,
                    same_size=same,
                )
            )
    elif "newton" in end:
        holds = end["cornn"] > end["newton"]
        shown = text("cornn", "newton")
        lines.append(
            claim(name, "weighting wins: cornn > newton", shown, holds, same_size=same)
        )
    return lines


def large_recovery_lines(name: str, data: Any) -> list[Line]:
    same = _same(data, neurons=500, steps=10000)
    lines = []
    for record, published in ((0, 0.9858), (1, 0.9897), (10, 0.9897)):
        ours = _at(data, "cornn", record)
        if not np.isnan(ours):
            step = int(data.step[0, record])
            tolerance = _spread(0.0016, data) + 0.001
            quantity = f"r, cornn, {step} steps"
            lines.append(
                value(name, quantity, published, ours, tolerance, same_size=same)
            )
    change = abs(_at(data, "cornn") - _at(data, "cornn", 1))
    shown = f"change {change:.1e}"
    return [
        *lines,
        claim(
            name, "nothing changes after 5 steps", shown, change < 1e-3, same_size=same
        ),
    ]


def ridge_lines(name: str, data: Any) -> list[Line]:
    same = _same(data, neurons=200, steps=3000)
    r = data.r.mean("network")
    lines = []
    for method, published in RIDGE.items():
        comparable = same and ("force" not in method or data.attrs["epochs"] == 100)
        for m, number in zip(MULTIPLIERS, published, strict=True):
            if m not in data.multiplier.values or m not in (1e-5, 1.0, 10.0, 100.0):
                continue
            ours = r.sel(solver=method, multiplier=m)
            quantity = f"r, {method}, ridge x {m:g}"
            tolerance = _spread(0.04, data) + 0.01
            lines.append(
                value(name, quantity, number, ours, tolerance, same_size=comparable)
            )
    flat = r.sel(solver="cornn").where(data.multiplier <= 1, drop=True)
    swing = float(flat.max() - flat.min())
    shown = f"range {swing:.4f}"
    lines.append(
        claim(
            name,
            "cornn: flat up to a ridge of 1e-5",
            shown,
            swing < 0.01,
            same_size=same,
        )
    )
    weak = float(r.sel(solver="force rates").isel(multiplier=0))
    shown = f"r {weak:.3f}"
    lines.append(
        claim(
            name,
            "FORCE on rates fails at weak ridge",
            shown,
            weak < 0.1,
            same_size=same,
        )
    )
    return lines


def forcing_lines(name: str, data: Any) -> list[Line]:
    same = _same(data, neurons=100, steps=100, epochs=3000)
    r = data.r.mean("network")
    lines = []
    if not data.attrs["fixed_point"]:
        for loss, published in FORCED.items():
            for q, number in zip((0, 0.25, 0.5, 0.75, 1), published, strict=True):
                if q in data.share.values:
                    quantity = f"r, {loss}, share {q:g}"
                    ours = r.sel(loss=loss, share=q)
                    tolerance = _spread(0.03, data) + 0.02
                    lines.append(
                        value(name, quantity, number, ours, tolerance, same_size=same)
                    )
        free = float(r.sel(share=0.0).max())
        shown = f"r {free:.3f}"
        lines.append(
            claim(name, "free-running BPTT fails", shown, free < 0.25, same_size=same)
        )
        gain = float(
            r.sel(loss="cross-entropy", share=1.0) - r.sel(loss="square", share=1.0)
        )
        shown = f"difference {gain:.3f}"
        lines.append(
            claim(
                name,
                "cross-entropy beats squares by .03-.06",
                shown,
                0.03 <= gain <= 0.06,
                same_size=same,
            )
        )
    start = float(data.r_start.mean())
    lines.append(
        value(
            name,
            "r, fixed point alone",
            0.716 if data.attrs["fixed_point"] else 0.734,
            start,
            _spread(0.03, data) + 0.02,
            same_size=same,
        )
    )
    if data.attrs["fixed_point"]:
        gain = float(r.max()) - start
        shown = f"gain {gain:.4f}"
        lines.append(
            claim(
                name,
                "nothing improves the start by .015",
                shown,
                gain < 0.015,
                same_size=same,
            )
        )
    return lines


@_of_a_task
def subsampling_lines(name: str, data: Any) -> list[Line]:
    mean = data.mean("network")
    same = _same(data, neurons=5000)
    few, many = mean.r2.isel(observed=0), mean.r2.isel(observed=-1)
    shown = f"{float(few[-1]):.3f}, {float(many[-1]):.3f}"
    lines = [
        claim(name, "R2 grows with neurons", shown, many[-1] > few[-1], same_size=same)
    ]
    if mean.sizes["trials"] > 1:
        best = mean.r2.isel(observed=-1)
        shown = f"{float(best[0]):.3f}, {float(best[-1]):.3f}"
        lines.append(
            claim(
                name, "R2 grows with trials", shown, best[-1] > best[0], same_size=same
            )
        )
    # With all neurons and enough trials both can be found; few tell them apart.
    for k, which in ((0, "few"), (-1, "all")):
        r_in, r_rec = (float(mean[v][k, -1]) for v in ("r_in", "r_rec"))
        what = f"{which} neurons: r(W_in) far above r(W)"
        shown, far = f"{r_in:.3f}, {r_rec:.3f}", r_in > r_rec + 0.1
        lines.append(claim(name, what, shown, far, same_size=same))
    top = float(mean.r2[-1, -1])
    lines.append(
        value(name, "R2, all neurons, 100 trials", 0.922, top, 0.03, same_size=same)
    )
    base = float(mean.jitter_r2[0])
    for spread, number in (
        (0.02, 0.798),
        (0.03, 0.795),
        (0.05, 0.411),
        (0.06, -0.086),
        (0.1, None),
    ):
        if spread not in data.jitter.values:
            continue
        ours = float(mean.jitter_r2.sel(jitter=spread))
        if number is not None:
            quantity = f"R2, jitter {spread:g}"
            lines.append(value(name, quantity, number, ours, 0.05, same_size=same))
        shown = f"{base:.3f}, {ours:.3f}"
        if spread <= 0.03:
            holds = base - ours < 0.05
            lines.append(
                claim(
                    name, f"jitter {spread:g} costs < .05", shown, holds, same_size=same
                )
            )
        elif spread >= 0.06:
            lines.append(
                claim(
                    name, f"jitter {spread:g}: R2 < 0", shown, ours < 0, same_size=same
                )
            )
    return lines


@_of_a_task
def flip_flop_lines(name: str, data: Any) -> list[Line]:
    n = data.attrs["neurons"]
    mean, same = data.mean("network"), n in FLIP_FLOP
    lines = []
    for variable, published in (("r", FLIP_FLOP), ("score", SCORES)):
        for trials, number in published.get(n, {}).items():
            if trials in data.trials.values:
                ours = mean[variable].sel(trials=trials)
                what = "r(W)" if variable == "r" else "output score"
                quantity = f"{what}, N = {n}, {trials} trials"
                lines.append(value(name, quantity, number, ours, 0.03, same_size=same))
    shown = f"{float(mean.r[0]):.3f}, {float(mean.r[-1]):.3f}"
    lines.append(
        claim(
            name,
            "r(W) grows with trials",
            shown,
            mean.r[-1] > mean.r[0],
            same_size=same,
        )
    )
    return lines


@_of_a_task
def correlated_lines(name: str, data: Any) -> list[Line]:
    same = _same(data, neurons=5000)
    mean = data.r2.mean("network")
    top = mean.level.values[-1]
    lines = []
    table = {"white": (0.818, 0.924), "correlated": (-5.21, -0.196)}
    for noise, numbers in table.items():
        for trials, number in zip((30, 100), numbers, strict=True):
            if trials in data.trials.values:
                ours = mean.sel(noise=noise, level=top, trials=trials)
                quantity = f"R2, {noise} {top:g}, {trials} trials"
                lines.append(value(name, quantity, number, ours, 0.1, same_size=same))
    white = float(mean.sel(noise="white", level=top)[-1])
    worst = float(mean.sel(noise="correlated", level=top).max())
    lines.append(
        claim(
            name, f"white {top:g}: R2 > .8", f"{white:.3f}", white > 0.8, same_size=same
        )
    )
    shown = f"{worst:.3f}"
    return [
        *lines,
        claim(name, f"correlated {top:g}: R2 < 0", shown, worst < 0, same_size=same),
    ]


def large_lines(name: str, data: Any) -> list[Line]:
    same = _same(data, neurons=5000, steps=30000)
    r = data.r.mean("network")
    numbers = (0.464, 0.825, 0.907, 0.918, 0.9205)
    lines = [
        value(name, f"r, {i} iterations", number, r[i], 0.01, same_size=same)
        for i, number in enumerate(numbers)
        if i < len(r)
    ]
    gained = float(r[-1] - r[0])
    shown = f"gain {gained:.3f}"
    return [
        *lines,
        claim(name, "four iterations raise r", shown, gained > 0.05, same_size=same),
    ]


def poisson_lines(name: str, data: Any) -> list[Line]:
    same = _same(data, neurons=200, steps=1500)
    lines = []
    for method in data.solver.values:
        for record, number in zip(RECORD, POISSON.get(method, ()), strict=False):
            r = data.r.sel(solver=method).median("network")
            if number is None or record >= len(r):
                continue
            comparable = same and (data.attrs["shrink"] == 1 or "adam" not in method)
            step = int(data.step.sel(solver=method)[record])
            quantity = f"median r, {method}, {step} steps"
            tolerance = _spread(0.03, data) + 0.01
            lines.append(
                value(
                    name, quantity, number, r[record], tolerance, same_size=comparable
                )
            )
    end = {m: _at(data, m) for m in data.solver.values}
    others = [m for m in end if m == "newton" or "force" in m]
    holds = all(end["cornn"] > end[m] + 0.1 for m in others)
    shown = ", ".join(f"{end[m]:.3f}" for m in ("cornn", *others))
    statement = "rejection wins: cornn > " + ", ".join(others)
    return [*lines, claim(name, statement, shown, holds, same_size=same)]


LINES: dict[str, Callable[[str, Any], list[Line]]] = {
    "1a": recovery_lines,
    "1b": recovery_lines,
    "1c": large_recovery_lines,
    "2": ridge_lines,
    "3a": forcing_lines,
    "3b": forcing_lines,
    "4": subsampling_lines,
    "5": flip_flop_lines,
    "6": correlated_lines,
    "7": large_lines,
    "8": poisson_lines,
}
