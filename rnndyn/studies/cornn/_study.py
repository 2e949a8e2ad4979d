"""Data-constrained networks: the experiments of Dinc et al. 2023 beside ours."""

import dataclasses
import importlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..._core._store import write_bytes, write_json
from ...sweeps.disk._files import versions
from . import _random as random, _tasks as tasks
from ._lines import LINES
from ._table import Line, render


_HIGH = {"noise": (1e-1, 1e-5)}
_QUICK = ("cornn", "newton", "adam cross-entropy", "force rates")

EXPERIMENTS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "1a": (random.recovery, {}),
    "1b": (random.recovery, dict(_HIGH)),
    "1c": (random.recovery, {**_HIGH, "threshold": 1.0, "methods": ("cornn",)}),
    "2": (random.regularisation, {}),
    "3a": (random.forcing, {"fixed_point": True}),
    "3b": (random.forcing, {}),
    "4": (tasks.subsampling, {}),
    "5": (tasks.flip_flop, {}),
    "6": (tasks.correlated, {}),
    "7": (random.large_scale, {}),
    "8": (random.poisson, {}),
}
"""Experiments by their published numbers: the function, and what sets it apart."""

_TIMED = {"neurons": 60, "updates": 60, "iterations": 5}

SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "tiny": {
        "1a": {
            "neurons": 30,
            "steps": 600,
            "networks": 2,
            "records": 2,
            "methods": _QUICK,
            "shrink": 50,
        },
        "1b": {"neurons": 30, "steps": 600, "networks": 2, "records": 2}
        | {"methods": _QUICK, "shrink": 50},
        "1c": {"neurons": 30, "steps": 600, "networks": 2, "records": 2},
        "2": {"neurons": 30, "steps": 600, "networks": 1, "multipliers": (1e-5, 1, 100)}
        | {"cornn_steps": 20, "epochs": 2},
        "3a": {"neurons": 30, "steps": 60, "networks": 1, "epochs": 600}
        | {"shares": (0.0, 1.0)},
        "3b": {"neurons": 30, "steps": 60, "networks": 2, "epochs": 600}
        | {"shares": (0.0, 1.0)},
        "4": {**_TIMED, "observed": (20, 60), "trials": (2,)}
        | {"jitters": (0.0, 0.1), "jitter_observed": 20},
        "5": {"neurons": 30, "networks": 1, "updates": 150, "trials": (10, 50)}
        | {"iterations": 10},
        "6": {**_TIMED, "levels": (0.1,), "trials": (2,)},
        "7": {"neurons": 100, "steps": 1500},
        "8": {"neurons": 30, "steps": 600, "networks": 2, "records": 2}
        | {"methods": _QUICK, "shrink": 50},
    },
    "small": {
        "1a": {"networks": 2, "records": 4, "shrink": 5},
        "1b": {"networks": 2, "records": 4, "shrink": 5},
        "1c": {"neurons": 200, "steps": 4000, "networks": 2, "records": 2},
        "2": {"networks": 1, "multipliers": (1e-5, 1e-3, 1, 10, 100)}
        | {"neurons": 100, "steps": 1500, "cornn_steps": 50, "epochs": 20},
        "3a": {"networks": 3},
        "3b": {"networks": 3},
        "4": {"neurons": 150, "updates": 1500, "observed": (20, 60, 150)}
        | {"trials": (5, 20), "iterations": 30},
        "5": {"networks": 2, "trials": (25, 100, 400)},
        "6": {"neurons": 150, "updates": 1500, "levels": (0.01, 0.1)}
        | {"trials": (5, 20), "iterations": 30},
        "7": {"neurons": 500, "steps": 6000},
        "8": {"networks": 2, "records": 6, "shrink": 5},
    },
    "full": {
        "1a": {"networks": 100},
        "1b": {"networks": 100},
        "1c": {"neurons": 500, "steps": 10000, "networks": 10, "records": 10},
        "2": {"networks": 10},
        "3a": {},
        "3b": {},
        "4": {"neurons": 5000, "networks": 10, "jitter_observed": 500}
        | {"observed": (101, 175, 306, 535, 936, 1636, 2860, 5000)},
        "5": {"neurons": 1000, "learning_rate": 6e-4, "updates": 3000}
        | {"trials": (25, 50, 100, 200, 400, 1000, 2000)},
        "6": {"neurons": 5000, "networks": 10, "levels": (1e-3, 1e-2, 0.05, 0.1)},
        "7": {"networks": 7},
        "8": {"networks": 100},
    },
}
"""Sizes by scale. "full" is the published size: days on a workstation."""


@dataclasses.dataclass(frozen=True)
class CornnStudy:
    """All experiments of one scale.

    - `results`: an `xarray.Dataset` by experiment.
    - `lines`: the table "published / ours / verdict".
    - `seconds`: wall time by experiment.
    """

    scale: str
    results: dict[str, Any]
    lines: tuple[Line, ...]
    seconds: dict[str, float]

    def table(self) -> str:
        """The table as text."""
        return render(self.lines)

    def save(self, out: str | Path) -> Path:
        """Write `table.txt`, `table.json` and one netCDF file an experiment to a
        folder.

        **Returns:** the folder.
        """
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "table.txt").write_text(self.table() + "\n")
        report = {"scale": self.scale, "seconds": self.seconds}
        report |= {"lines": [line.to_dict() for line in self.lines]}
        write_json(out / "table.json", report)
        for name, data in self.results.items():
            write_bytes(_file(out, name), bytes(data.to_netcdf(engine="scipy")))
        return out


def cornn_study(
    scale: str = "tiny",
    *,
    out: str | Path | None = None,
    only: tuple[str, ...] | None = None,
    seed: int = 0,
    progress: bool = False,
    say: Callable[[str], Any] = lambda text: None,
) -> CornnStudy:
    """Run the experiments of the CORNN paper and compare.

    ```python
    study = rnndyn.studies.cornn_study("tiny", say=print)
    print(study.table())
    study.save("cornn-tiny")
    ```

    **Arguments:**

    - `scale`: "tiny" (a minute), "small" (ten minutes on two cores) or "full" (the
      published sizes).
    - `out`: folder to save to, after every experiment. Those that lie there already,
        of this version and with the same settings, are read and not run again.
    - `only`: names of experiments, keys of `EXPERIMENTS`; all by default.
    - `seed`: of networks, noise and training.
    - `progress`: show a bar over experiments.
    - `say`: called with a line of text at every stage.

    **Returns:** a `CornnStudy`. At scales below "full" numbers are not comparable with
    the published ones and say so; claims are tested at every scale and can fail in
    networks this small.

    **Raises:** a `ValueError` for unknown scales or experiments.

    **Reference:** Dinc, Shai, Schnitzer & Tanaka 2023, arXiv:2311.10200.
    """
    if scale not in SIZES:
        raise ValueError(f"scale = {scale!r}, expected one of {', '.join(SIZES)}.")
    chosen = tuple(EXPERIMENTS) if only is None else tuple(only)
    unknown = [name for name in chosen if name not in EXPERIMENTS]
    if unknown:
        raise ValueError(
            f"experiments {unknown} are not known. Use some of {list(EXPERIMENTS)}."
        )
    steps = chosen
    if progress:
        steps = importlib.import_module("tqdm").tqdm(chosen, unit=" experiments")
    results, seconds, lines, trained = {}, {}, [], {}
    for name in steps:
        run, options = EXPERIMENTS[name]
        sizes = {**options, **SIZES[scale][name], "seed": seed}
        settings = json.dumps(
            {"version": versions().get("rnndyn"), **sizes}, sort_keys=True
        )
        data = None if out is None else _saved(_file(Path(out), name), settings)
        if data is not None:
            say(f"experiment {name} is there")
        else:
            if name in ("4", "6"):
                sizes["trained"] = _timed_networks(trained, sizes, say)
            say(f"experiment {name}")
            start = time.perf_counter()
            data = run(**sizes, say=say)
            data.attrs["settings"] = settings
            data.attrs["seconds"] = time.perf_counter() - start
        results[name], seconds[name] = data, float(data.attrs["seconds"])
        lines += LINES[name](name, data)
        if out is not None:
            CornnStudy(scale, results, tuple(lines), seconds).save(out)
    return CornnStudy(scale, results, tuple(lines), seconds)


def _timed_networks(trained: dict, sizes: dict[str, Any], say: Callable) -> Any:
    """The networks that experiments 4 and 6 both look at, trained once."""
    wanted = {k: sizes[k] for k in ("neurons", "updates") if k in sizes}
    wanted = {"neurons": 500} | wanted
    count = sizes.get("networks", 1)
    at = (count, *wanted.values())
    if at not in trained:
        say(f"training {count} networks for experiments 4 and 6")
        trained[at] = tasks.timed_networks(count, seed=sizes["seed"], **wanted)
    return trained[at]


def _file(out: Path, name: str) -> Path:
    return out / f"experiment_{name}.nc"


def _saved(file: Path, settings: str) -> Any | None:
    """The dataset of a file that was made with these settings, or `None`."""
    if not file.is_file():
        return None
    try:
        data = importlib.import_module("xarray").load_dataset(file, engine="scipy")
    except (OSError, TypeError, ValueError):  # cut, or of another format
        return None
    return data if data.attrs.get("settings") == settings else None
