"""Names of mechanisms and the report that carries them."""

import enum
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int

from .._core._export import xarray_module
from ._features import Features


class Mechanism(enum.IntEnum):
    """How a network holds a memory. The codes are frozen: appended, never reused."""

    undetermined = 0
    not_learned = 1
    fixed_points = 2
    limit_cycle = 3
    slow_manifold = 4
    mixed = 5
    chaotic = 6
    diverged = 7


MECHANISMS: tuple[str, ...] = tuple(m.name for m in Mechanism)
"""Names by code."""


class MechanismReport(eqx.Module):
    """Labels of an ensemble with the numbers that decided them.

    - `code` `(member,)`: codes of `Mechanism`.
    - `cue_code` `(member, cue)`: what holds each cue, whether learned or not.
    - `margin` `(member, cue)`: relative distance of the deciding number from its
        threshold, the smallest over the tests passed; 0 where undetermined.
    - `flow_code` `(member, cue)`: what the continuous flow does in place of the map:
        `fixed_points` (it comes to rest), `limit_cycle`, `chaotic`, `diverged`,
        `undetermined`.
    - `features`: all evidence, see `Features`.
    """

    code: Int[Array, " member"]
    cue_code: Int[Array, "member cue"]
    margin: Float[Array, "member cue"]
    flow_code: Int[Array, "member cue"]
    features: Features

    @property
    def names(self) -> list[str]:
        """Names of the labels, one a network."""
        return [MECHANISMS[int(c)] for c in np.asarray(self.code)]

    def counts(self) -> dict[str, int]:
        """How many networks carry each label that occurs."""
        codes = np.asarray(self.code)
        return {
            name: int(np.sum(codes == i))
            for i, name in enumerate(MECHANISMS)
            if np.any(codes == i)
        }

    def evidence(self, member: int) -> list[str]:
        """Why one network has its label: its score, then a line per cue."""
        f = self.features
        score = f"accuracy {float(f.accuracy[member]):.2f}, reliability "
        lines = [score + f"{float(f.reliability[member]):.2f}"]
        for cue in range(self.cue_code.shape[1]):
            at = lambda a, cue=cue: float(np.asarray(a)[member, cue])
            code = MECHANISMS[int(self.cue_code[member, cue])]
            flow = MECHANISMS[int(self.flow_code[member, cue])]
            if code == "limit_cycle":
                what = (
                    f"oscillates, rms {at(f.late_rms):.3g}, period "
                    f"{1e3 * at(f.period):.1f} ms, recurrence {at(f.recurrence):.3f}, "
                    f"leading exponent {at(f.exponent):.2g}/s"
                )
            elif code == "diverged":
                what = "left the finite numbers, or 1e8"
            else:
                root = "no certified root found"
                if at(f.root_distance) < float("inf"):
                    root = (
                        f"certified root at distance {at(f.root_distance):.1g} "
                        f"(residual {at(f.root_residual):.1g}, largest multiplier "
                        f"{at(f.root_radius):.4f})"
                    )
                slow = f"slowest time constant {1e3 * at(f.slow_time):.0f} ms"
                if at(f.slow_time) > 1e6:
                    slow = "neutral"
                what = (
                    f"late rms {at(f.late_rms):.2g}, {root}, "
                    f"{at(f.remaining):.2f} separations still to go when the "
                    f"delay ends, {at(f.apart):.2g} separations from where another cue "
                    f"ends, {slow} in "
                    f"{int(at(f.num_slow))} direction(s), gap {at(f.slow_gap):.1f}"
                )
            lines.append(f"cue {cue}: {code}: {what}; as a flow: {flow}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Everything as NumPy arrays and names, by dotted name."""
        fields = {
            f"features.{k}": np.asarray(v) for k, v in vars(self.features).items()
        }
        return {
            "mechanism": self.names,
            "code": np.asarray(self.code),
            "cue_code": np.asarray(self.cue_code),
            "flow_code": np.asarray(self.flow_code),
            "margin": np.asarray(self.margin),
            **fields,
        }

    def to_xarray(self) -> Any:
        """An `xarray.Dataset` with dimensions `member` and `cue` (needs the extra
        `rnndyn[data]`)."""
        xarray = xarray_module()
        dims = {1: ("member",), 2: ("member", "cue")}
        return xarray.Dataset(
            {k: (dims[np.ndim(v)], np.asarray(v)) for k, v in self.to_dict().items()}
        )
