"""What the benchmarks of the phases study put into their JSON, as plain values."""

import os
import platform
import time
from pathlib import Path

import numpy as np


def summary(cell, compat, report, stored):
    from rnndyn.mechanisms import COMPAT, KINDS, network_kinds

    learned = np.asarray(compat.learned)
    kinds = network_kinds(report)
    count = lambda codes, names: {
        n: int(np.sum(codes == i)) for i, n in enumerate(names)
    }
    return {
        "delay_ms": cell.delay,
        "post_ms": cell.post,
        "learning_rate": cell.rate,
        "epochs": cell.epochs,
        "networks": len(learned),
        "published_label": count(np.asarray(compat.code), COMPAT),
        "cues_of_learned": count(kinds[learned], KINDS),
        "ambiguous": int(np.sum(learned & np.asarray(compat.ambiguous))),
        "mechanism": report.counts(),
        "cpu_seconds_training": round(float(stored["cpu_seconds"]), 1),
    }


def evidence(cells):
    """Whether late motion is all or nothing, how long cycles are, who is mixed."""
    from rnndyn.mechanisms import KINDS, Share, agreement, cue_kinds

    learned = [(c, np.asarray(a.learned), a, r) for c, a, r in cells]
    late = {
        name: _late(
            [np.asarray(r.features.late_rms)[pick(ok)] for _, ok, _, r in learned]
        )
        for name, pick in (("all", np.ones_like), ("learned", np.asarray))
    }
    periods = []
    for cell, ok, _, report in learned:
        cycles = (cue_kinds(report) == KINDS.index("cycle")) & ok[:, None]
        period = np.asarray(report.features.period)[cycles]
        if period.size >= 10:
            twice = 2e-3 * (30 + cell.delay)
            periods.append(
                {
                    "delay_ms": cell.delay,
                    "post_ms": cell.post,
                    "learning_rate": cell.rate,
                    "cycles": int(period.size),
                    "median_ms": 1e3 * float(np.median(period)),
                    "median_over_twice_cue_and_delay": float(np.median(period) / twice),
                }
            )
    by_cell = []
    for cell, _, compat, report in learned:
        found = agreement(compat, report)
        by_cell.append({"cell": cell.name, **found.to_dict()})
    total = lambda post, name: Share.of(
        *(
            sum(c[name][k] for c in by_cell if ("post0" not in c["cell"]) == post)
            for k in ("count", "total")
        )
    )
    shares = {
        name: {
            where: dict(vars(total(post, name)))
            for where, post in (("nopost", False), ("post", True))
        }
        for name in ("same", "same_cue", "mixed", "other", "ambiguous")
    }
    return {
        "late_rms": late,
        "periods": periods,
        "shares_of_learned": shares,
        "agreement": by_cell,
    }


def _late(parts):
    """Late motion of all cues: is it all or nothing?"""
    rms = np.concatenate([p.ravel() for p in parts])
    rms = rms[np.isfinite(rms)]
    between = rms[(rms > 0.02) & (rms < 0.1)]
    return {
        "cues": int(rms.size),
        "in_0.02_to_0.1": int(between.size),
        "largest_below": float(rms[rms <= 0.02].max(initial=0)),
        "smallest_above": float(rms[rms >= 0.1].min(initial=np.inf)),
        "values_between": np.sort(between).tolist(),
    }


def plain(value):
    """Values that JSON knows: NaN and infinity as null, NumPy numbers as numbers."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def certified_ends(cells):
    """Certified attractors of all cues, and whether they say what the labels say."""
    from rnndyn import Verdict
    from rnndyn.mechanisms import KINDS

    known = [(k, v) for _, k, v in cells if v is not None and len(v) == len(k)]
    if not known:
        return {}
    kinds, verdicts = (np.concatenate(a).ravel() for a in zip(*known, strict=True))
    table = {}
    for v in np.unique(verdicts):
        here = kinds[verdicts == v]
        counted = {n: int(np.sum(here == i)) for i, n in enumerate(KINDS)}
        table[Verdict(int(v)).name] = {k: n for k, n in counted.items() if n}
    return {"cues": int(kinds.size), "by_verdict_and_label": table}


def labels_of(stored):
    """The stored labels as the objects they were."""
    import jax.numpy as jnp

    import rnndyn as rd

    part = lambda start: {
        k.removeprefix(start): jnp.asarray(v)
        for k, v in stored.items()
        if k.startswith(start)
    }
    compat = rd.mechanisms.CompatLabels(**part("compat/"))
    report = rd.mechanisms.MechanismReport(
        **{k: jnp.asarray(stored[k]) for k in ("code", "cue_code", "margin")},
        flow_code=jnp.asarray(stored["flow_code"]),
        features=rd.mechanisms.Features(**part("features.")),
    )
    return compat, report


def machine():
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {"cpu": names[0], "cores": len(names), "system": platform.platform()}


def origin(doc):
    """Question and commands of a script, when and on what it ran."""
    import jax

    import rnndyn as rd

    return {
        "question": doc.split("\n")[0],
        "commands": doc.strip().split("\n\n")[-1].split("\n"),
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"processor": platform.machine(), "device": str(jax.devices()[0])},
        "versions": {"jax": jax.__version__, "rnndyn": rd.__version__},
        "load_average": os.getloadavg()[2],
    }
