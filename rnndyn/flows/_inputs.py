"""Inputs as functions of time, with the times at which they switch."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._core._checks import as_float, check_positive, check_shape, is_concrete


class HeldInput(eqx.Module):
    """Zero-order hold: `values[k]` `(time, input)` from `t0 + k dt` to
    `t0 + (k+1) dt`, held before the first and after the last.

    Fixed-step flows give every stage of a step the input in its middle; adaptive ones
    are told the switching times, so no step straddles one.
    """

    values: Float[Array, "time input"]
    dt: Float[Array, ""]
    t0: Float[Array, ""]

    def __init__(self, values: Any, dt: Any, t0: Any = 0.0):
        """**Arguments:** `values` `(time, input)`; `dt`, `t0` in seconds."""
        self.values = as_float(values, "values")
        check_shape("values", values, (None, None), "One row a step: (time, input).")
        if len(self.values) == 0:
            raise ValueError(
                f"values has shape {self.values.shape}, expected at least one row to "
                "hold. Pass jnp.zeros((1, input)) for no input."
            )
        check_positive("dt", dt, "seconds")
        self.dt = _time("dt", dt, self.values.dtype)
        self.t0 = _time("t0", t0, self.values.dtype)

    def __call__(self, t):
        # The same comparison as the adaptive controller's: a stage evaluated one
        # rounding step before a switch must still see the old value.
        return self.values[jnp.searchsorted(self.switch_times, t, side="right")]

    @property
    def switch_times(self) -> Float[Array, " time"]:
        """Times at which the value changes."""
        return self.t0 + self.dt * jnp.arange(1, self.values.shape[0])


class PulseInput(eqx.Module):
    """`amplitude` `(input,)` from `start` to `start + duration` (seconds), else 0."""

    amplitude: Float[Array, " input"]
    start: Float[Array, ""]
    duration: Float[Array, ""]

    def __init__(self, amplitude: Any, start: Any, duration: Any):
        self.amplitude = as_float(amplitude)
        check_shape("amplitude", amplitude, (None,), "One number per input.")
        self.start = _time("start", start, self.amplitude.dtype)
        self.duration = _time("duration", duration, self.amplitude.dtype)
        if is_concrete(self.duration) and not self.duration >= 0:
            raise ValueError(f"duration = {duration}, expected seconds, at least 0.")

    def __call__(self, t):
        on = (t >= self.start) & (t < self.start + self.duration)
        return jnp.where(on, self.amplitude, 0)

    @property
    def switch_times(self) -> Float[Array, " switch"]:
        """Times at which the value changes."""
        return jnp.stack([self.start, self.start + self.duration])


def _time(name: str, t: Any, dtype: Any) -> Array:
    check_shape(name, t, (), "One number, in seconds; use jax.vmap for several inputs.")
    return as_float(t, name).astype(dtype)


def switch_times(args: Any) -> Array | None:
    """Known switching times of an input, if it has any."""
    if isinstance(args, HeldInput | PulseInput):
        return args.switch_times
    return None
