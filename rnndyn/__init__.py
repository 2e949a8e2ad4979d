"""By which dynamical mechanism does a recurrent network hold a memory?

Rooms are imported on first use, so that `import rnndyn` is instant and the
environment can still be set before JAX starts.
"""

import importlib
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from . import (
        dynamics as dynamics,
        fitting as fitting,
        flows as flows,
        mechanisms as mechanisms,
        models as models,
        plots as plots,
        studies as studies,
        sweeps as sweeps,
        tasks as tasks,
        theory as theory,
        training as training,
        zoo as zoo,
    )
    from ._core._batch import device_mesh as device_mesh, map_members as map_members
    from ._core._system import Map as Map
    from ._core._verdicts import Verdict as Verdict
    from .dynamics import (
        attractors as attractors,
        certify as certify,
        fixed_points as fixed_points,
        limit_cycle as limit_cycle,
        limit_cycles as limit_cycles,
        lyapunov_spectrum as lyapunov_spectrum,
        slow_points as slow_points,
    )
    from .flows import DiffraxFlow as DiffraxFlow, ScanFlow as ScanFlow
    from .mechanisms import (
        Mechanism as Mechanism,
        analyse as analyse,
        classify as classify,
    )
    from .models import (
        CurrentRNN as CurrentRNN,
        LowRankRNN as LowRankRNN,
        RateRNN as RateRNN,
        ensemble as ensemble,
        load_network as load_network,
        save_network as save_network,
    )
    from .training import train as train

__version__ = "0.1.0"

_ROOMS = (
    "dynamics",
    "fitting",
    "flows",
    "mechanisms",
    "models",
    "plots",
    "studies",
    "sweeps",
    "tasks",
    "theory",
    "training",
    "zoo",
)
_NAMES = {
    **dict.fromkeys(("device_mesh", "map_members"), "._core._batch"),
    "Map": "._core._system",
    "Verdict": "._core._verdicts",
    **dict.fromkeys(
        (
            "attractors",
            "certify",
            "fixed_points",
            "limit_cycle",
            "limit_cycles",
            "lyapunov_spectrum",
            "slow_points",
        ),
        ".dynamics",
    ),
    **dict.fromkeys(("DiffraxFlow", "ScanFlow"), ".flows"),
    **dict.fromkeys(("Mechanism", "analyse", "classify"), ".mechanisms"),
    **dict.fromkeys(
        (
            "CurrentRNN",
            "LowRankRNN",
            "RateRNN",
            "ensemble",
            "load_network",
            "save_network",
        ),
        ".models",
    ),
    "train": ".training",
}


def __getattr__(name: str):
    if name in _ROOMS:
        return importlib.import_module(f".{name}", __name__)
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name], __name__), name)
    raise AttributeError(f"module 'rnndyn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOMS, *_NAMES])
