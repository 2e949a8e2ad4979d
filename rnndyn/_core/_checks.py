"""Checks of user input: what came, what was expected, what to pass instead."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array


def is_concrete(x: Any) -> bool:
    """Whether values of `x` can be looked at (not inside a transformation)."""
    return not isinstance(x, Tracer)


def is_in(value: Any, interval: str) -> bool:
    """Whether `value` is one number in an interval such as `"[0, inf)"`, as far as it
    is known."""
    low, high = map(float, interval[1:-1].split(","))
    good = np.shape(value) == ()
    if good and is_concrete(value):
        plain = np.asarray(value)
        good = plain.dtype.kind in "fiu"
        good = good and (low < plain or (interval[0] == "[" and low == plain))
        good = good and (plain < high or (interval[-1] == "]" and plain == high))
    return bool(good)


def check_shape(name: str, x: Any, shape: tuple[int | None, ...], remedy: str) -> None:
    """Raise a `ValueError` unless the shape matches; `None` matches any size."""
    got = tuple(np.shape(x))
    ok = len(got) == len(shape) and all(
        want is None or have == want for have, want in zip(got, shape, strict=True)
    )
    if not ok:
        want = "(" + ", ".join("any" if s is None else str(s) for s in shape) + ")"
        raise ValueError(f"{name} has shape {got}, expected {want}. {remedy}")


def check_finite(name: str, x: Any) -> None:
    """Raise a `ValueError` if a concrete array holds NaN or infinity."""
    if is_concrete(x) and not bool(np.all(np.isfinite(np.asarray(x)))):
        bad = int(np.sum(~np.isfinite(np.asarray(x))))
        raise ValueError(
            f"{name} has {bad} non-finite entries, expected finite numbers. "
            "Remove or replace them (a diverged training run?) before building."
        )


def check_positive(name: str, x: Any, unit: str = "") -> None:
    """Raise a `ValueError` unless every concrete entry is above zero and finite."""
    if not is_concrete(x):
        return
    x = np.asarray(x)
    if x.dtype.kind not in "fiu" or not bool(np.all((x > 0) & np.isfinite(x))):
        unit = f", in {unit}" if unit else ""
        raise ValueError(f"{name} = {x}, expected > 0 (finite{unit}).")


def check_step_ratio(dt: Any, tau: Any) -> None:
    """Raise a `ValueError` unless `0 < dt/tau <= 1`, where the Euler map of a leaky
    unit neither runs backwards nor overshoots."""
    if is_concrete(dt) and is_concrete(tau):
        if not {np.asarray(dt).dtype.kind, np.asarray(tau).dtype.kind} <= set("fiu"):
            raise ValueError(
                f"dt = {dt} and tau = {tau}, expected numbers. Pass both in seconds."
            )
        ratio = np.asarray(dt) / np.asarray(tau)
        if not bool(np.all((ratio > 0) & (ratio <= 1 + 1e-6))):
            raise ValueError(
                f"dt/tau = {ratio}, expected a number in (0, 1]. "
                "Pass dt and tau in the same unit (seconds), with dt <= tau."
            )


def steps_in(name: str, duration: float, dt: float) -> int:
    """Number of steps of `dt` in `duration`, both in seconds.

    **Raises:** a `ValueError` if `dt` is not positive, or the duration is negative, not
    finite or no multiple of `dt`.
    """
    check_positive("dt", dt, "seconds")
    plain = np.asarray(duration)
    if plain.shape or plain.dtype.kind not in "fiu" or not np.isfinite(plain):
        raise ValueError(f"{name} = {duration!r}, expected one number, finite seconds.")
    ratio = duration / dt
    if duration < 0 or abs(ratio - round(ratio)) > 1e-6:
        near = sorted({max(round_(ratio), 0) for round_ in (math.floor, math.ceil)})
        raise ValueError(
            f"{name} = {duration} s is not a non-negative multiple of dt = {dt} s. "
            f"Nearest choices: {' or '.join(f'{n * dt:g}' for n in near)}."
        )
    return round(ratio)


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raise a `ValueError` unless `value` is a whole number of at least `least`."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least:
        raise ValueError(f"{name} = {value!r}, expected a whole number >= {least}.")


def check_counts(**counts: Any) -> None:
    """Raise a `ValueError` unless all are whole numbers of at least 1."""
    for name, value in counts.items():
        check_count(name, value)


def check_level(level: Any) -> None:
    """Raise a `ValueError` unless `level` is a probability in (0, 1)."""
    if not 0 < level < 1:
        raise ValueError(f"level = {level}, expected a probability in (0, 1).")


def check_key(key: Any, name: str = "key") -> Array:
    """`key`; raises a `ValueError` unless this is one PRNG key of JAX, old or new."""
    dtype = getattr(key, "dtype", np.dtype(object))
    new = jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not new and (dtype != jnp.uint32 or np.ndim(key) == 0):
        raise ValueError(
            f"{name} = {key!r}, expected a PRNG key: pass {name}=jax.random.key(0)."
        )
    if np.ndim(key) != (0 if new else 1):
        raise ValueError(
            f"{name} holds keys of shape {np.shape(key)}, expected one. Pass one of "
            "them, or use jax.vmap over keys."
        )
    return key


def as_float(x: Any, name: str = "the array") -> jax.Array:
    """`x` as a floating-point array; numbers take JAX's default float dtype.

    **Raises:** a `ValueError` for complex numbers, and for what is no array of numbers.
    """
    try:
        x = jnp.asarray(x)
    except TypeError as error:
        raise ValueError(
            f"{name} is no array of numbers ({error}). Pass numbers of one shape."
        ) from error
    if jnp.iscomplexobj(x):  # a cast would drop the imaginary part
        raise ValueError(f"{name} is complex, expected real numbers. Pass {name}.real.")
    return x if eqx.is_inexact_array(x) else x.astype(jnp.result_type(float))


def one_of(name: str, got: str, options: Any) -> None:
    """Raise a `ValueError` unless `got` is one of the named options."""
    if got not in options:
        known = ", ".join(repr(o) for o in sorted(options))
        raise ValueError(f"{name} = {got!r} is not known. Use one of {known}.")


def check_ids(ids: Any, members: int) -> np.ndarray:
    """Member numbers, `0 .. members - 1` by default."""
    ids = np.arange(members) if ids is None else np.asarray(ids)
    if ids.shape != (members,) or ids.dtype.kind not in "iu":
        raise ValueError(
            f"ids has shape {ids.shape} and dtype {ids.dtype}, expected ({members},) "
            "whole numbers."
        )
    return ids
