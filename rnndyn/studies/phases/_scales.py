"""How much the phases study trains at each scale."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..._core._checks import one_of
from ...sweeps import SweepConfig, preset
from ..rank2._study import Rank2Config


_NAMES = ("nopost", "post", "longtau", "nomemory")


@dataclass(frozen=True)
class PhasesConfig:
    """What the phases study trains.

    **Attributes:**

    - `sweeps`: by name: `nopost`, `post` (with a post-response period), `longtau`
        (twice the time constant and delays), `nomemory` (the control without a delay);
        any of them may be missing. Their axes are those of the published sweeps:
        `learning_rate`, `delay` (`reaction` without memory) and `seed`.
    - `rank2`: the rank-2 study (Figures 2 and 3), a scale or a `Rank2Config`, or
        `None`.
    """

    sweeps: Mapping[str, SweepConfig]
    rank2: str | Rank2Config | None = None

    def __post_init__(self):
        for name, sweep in self.sweeps.items():
            one_of("sweep", name, _NAMES)
            along = "reaction" if name == "nomemory" else "delay"
            axes = {"learning_rate", along, "seed"}
            if set(sweep.grid.names) != axes:
                raise ValueError(
                    f"the sweep {name} has axes {sorted(sweep.grid.names)}, expected "
                    f"{sorted(axes)}. Pass one value as an axis of one."
                )


def _tiny() -> PhasesConfig:
    """A minute: everything is there, little is said."""
    small = dict(units=50, batch=16, min_epochs=500, rate_epochs=0.0, pad_steps=48)
    rates, shown = [0.316, 0.1, 0.03], [0.0, 0.06, 0.12]
    compat = dict(labels=["compat"])
    return PhasesConfig(
        sweeps={
            "nopost": preset(
                "nopost", seeds=4, learning_rate=rates, delay=shown, **small
            ),
            "post": preset(
                "post", seeds=3, learning_rate=rates[1:], delay=shown[:2], **small,
                **compat,
            ),
            "longtau": preset(
                "longtau", seeds=2, learning_rate=rates[1:], delay=shown[1:], **small,
                **compat,
            ),
            "nomemory": preset(
                "nomemory", seeds=2, learning_rate=[0.5, 0.2, 0.1, 0.05],
                reaction=[0.05, 0.1, 0.2], units=50, batch=16, min_epochs=300,
                pad_steps=48,
            ),
        }
    )  # fmt: skip


def _small() -> PhasesConfig:
    """Half an hour on two cores shared with other work."""
    rates = [0.316228, 0.177828, 0.1, 0.056234, 0.03]
    delays = [0.02 * i for i in range(0, 13, 2)]
    few = dict(seeds=6, batch=32)
    return PhasesConfig(
        sweeps={
            "nopost": preset(
                "nopost", seeds=8, batch=32, learning_rate=rates, delay=delays
            ),
            "post": preset(
                "post", **few, learning_rate=[0.1, 0.03], delay=delays[::2],
                labels=["compat"],
            ),
            "longtau": preset(
                "longtau", **few, learning_rate=[0.1, 0.03],
                delay=[0.0, 0.08, 0.16, 0.24, 0.4], labels=["compat"],
            ),
            "nomemory": preset(
                "nomemory", seeds=4, batch=32,
                learning_rate=[0.33, 0.23, 0.16, 0.11, 0.08, 0.05],
                reaction=[0.02, 0.06, 0.16, 0.4],
            ),
        },
        rank2=Rank2Config(steps=200_000),
    )  # fmt: skip


def _full() -> PhasesConfig:
    """As published: 83,100 networks."""
    return PhasesConfig(sweeps={n: preset(n) for n in _NAMES}, rank2="full")


PHASES_SCALES: dict[str, Callable[[], PhasesConfig]] = {
    "tiny": _tiny,
    "small": _small,
    "full": _full,
}
"""Configurations by scale: a minute, half an hour, and as published (days of
many cores, or hours of a GPU)."""
