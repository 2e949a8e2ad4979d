"""The affine map between recorded units and rates in (-1, 1)."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from ..._core._checks import check_shape
from ..._core._export import Result
from .._problem import check_in, doubles


class Scaling(Result):
    """Per-neuron affine map `y = (x - offset) / scale`, kept to be inverted.

    NumPy, float64, host level. Made by `z_scale`; `Scaling(offset, scale, limit)` may
    also be built from known numbers.

    **Attributes:**

    - `offset`: in recorded units (Hz, dF/F), shape `(neuron,)`.
    - `scale`: recorded units per unit of the scaled rate, shape `(neuron,)`, > 0.
    - `limit`: scaled rates beyond it are set to it, in (0, 1).
    - `constant`: neurons that did not vary where the map was fitted; their scale is 1.
    """

    offset: Float[np.ndarray, " neuron"]
    scale: Float[np.ndarray, " neuron"]
    limit: Float[np.ndarray, ""]
    constant: Bool[np.ndarray, " neuron"]

    def __init__(
        self, offset: Any, scale: Any, limit: Any = 0.95, constant: Any = None
    ):
        """**Arguments:** as the attributes; `constant` is none of them by default."""
        self.offset = np.asarray(offset, np.float64)
        self.scale = np.asarray(scale, np.float64)
        self.limit = np.asarray(limit, np.float64)
        self.constant = (
            np.zeros(self.offset.shape, bool)
            if constant is None
            else np.asarray(constant, bool)
        )
        check_shape("offset", self.offset, (None,), "One number a neuron.")
        check_shape("scale", self.scale, self.offset.shape, "As `offset`.")
        inside = (self.scale > 0) & (self.scale < np.inf) & np.isfinite(self.offset)
        if not np.all(inside):
            raise ValueError(
                f"`scale` is at least {self.scale.min(initial=np.inf)} and `offset` "
                f"has {int(np.sum(~np.isfinite(self.offset)))} non-finite entries, "
                "expected finite numbers, positive ones for `scale`."
            )
        _check_limit(float(self.limit))

    def __call__(self, rates: Any) -> Float[np.ndarray, "..."]:
        """Scaled rates, cut at +-`limit`; the neurons are the last axis."""
        limit = float(self.limit)
        return np.clip(self.linear(rates), -limit, limit)

    def linear(self, rates: Any) -> Float[np.ndarray, "..."]:
        """Scaled rates without the cut."""
        return (self._checked(rates) - self.offset) / self.scale

    def invert(self, scaled: Any) -> Float[np.ndarray, "..."]:
        """Recorded units again; what was cut stays cut."""
        return self._checked(scaled) * self.scale + self.offset

    def clipped(self, rates: Any) -> Float[np.ndarray, " neuron"]:
        """Fraction of the samples of each neuron that the cut changes."""
        over = np.abs(self.linear(rates)) > float(self.limit) * (1 + 1e-12)
        return over.reshape(-1, len(self.offset)).mean(axis=0)

    def take(self, index: Any) -> "Scaling":
        """The map of some of the neurons, by position or mask."""
        index = positions(index, len(self.offset))
        return Scaling(
            self.offset[index], self.scale[index], self.limit, self.constant[index]
        )

    def _checked(self, rates):
        rates = doubles("rates", rates)
        if rates.ndim < 1 or rates.shape[-1] != len(self.offset):
            raise ValueError(
                f"rates have shape {rates.shape}, expected {len(self.offset)} neurons "
                "on the last axis. Transpose a recording stored cells first."
            )
        return rates


def z_scale(rates: Any, *, limit: float = 0.95, quantile: float | int = 1.0) -> Scaling:
    """The map that z-scores every neuron and brings it into (-1, 1).

    With the mean m and the standard deviation s of neuron i, and c_i the `quantile` of
    its |z| = |x - m|/s,

        y = limit (x - m) / (s c_i),

    so that this quantile lands on `limit`. With `quantile=1` nothing is cut where the
    map was fitted; heavy-tailed signals such as dF/F then use little of (-1, 1), and a
    quantile of 0.99 or so trades some cut peaks for range. Fit it on the training part
    and apply it to the rest: means of the future are not to be used.

    ```python
    scaling = rd.fitting.z_scale(train)
    fit = rd.fitting.cornn(scaling(train), alpha=0.5)
    scaling.invert(scaling(test)), scaling.clipped(test)
    ```

    **Arguments:**

    - `rates`: shape `(time, neuron)` or `(trial, time, neuron)`, any units.
    - `limit`: largest scaled rate, in (0, 1).
    - `quantile`: which quantile of |z| lands on `limit`, in (0, 1].

    **Returns:** a `Scaling`. Constant neurons are marked and keep scale 1. Not
    guaranteed: that other data stay inside without being cut; see `Scaling.clipped`.

    **Raises:** a `ValueError` for NaN, wrong shapes or numbers out of range.
    """
    rates = doubles("rates", rates)
    if rates.ndim not in (2, 3) or 0 in rates.shape:
        raise ValueError(
            f"`rates` has shape {rates.shape}, expected (time, neuron) or (trial, "
            "time, neuron), not empty."
        )
    if not np.isfinite(rates).all():
        raise ValueError(
            f"`rates` has {int(np.sum(~np.isfinite(rates)))} non-finite entries, "
            "expected none. Cut these frames, or leave their neurons out."
        )
    _check_limit(limit)
    check_in("quantile", quantile, "(0, 1]", "Pass 1.0, or 0.99 to cut peaks.")
    flat = rates.reshape(-1, rates.shape[-1])
    mean, spread = flat.mean(axis=0), flat.std(axis=0)
    # Rounding of a large mean must not pass for activity.
    constant = spread <= 1e-12 * np.maximum(1e-300, np.abs(flat).max(axis=0))
    spread = np.where(constant, 1, spread)
    reach = np.quantile(np.abs(flat - mean) / spread, quantile, axis=0)
    # A neuron that hardly ever fires may have a quantile of 0: use its spread.
    scale = np.where(constant, 1, spread * np.where(reach > 0, reach, 1) / limit)
    return Scaling(mean, scale, limit, constant)


def positions(index: Any, count: int) -> np.ndarray:
    """Which of `count` neurons an index, a mask or a slice names, one-dimensional."""
    return np.atleast_1d(np.arange(count)[index])


def _check_limit(limit: float) -> None:
    remedy = "Targets at +-1 would need infinite currents: pass 0.95."
    check_in("limit", limit, "(0, 1)", remedy)
