"""Gaussian noise that costs less than the matrix products it is added to.

Training a small network draws as many Gaussians as it evaluates tanhs, and JAX's
threefry plus inverse error function take longer than all its products together. Here
a counter is mixed by an integer hash and turned into a Gaussian by Box-Muller with
short polynomials: about a fifth of the time, all of it elementwise, so it fuses.
"""

import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, UInt32

from .._core._types import KeyLike


def words(key: KeyLike) -> UInt32[Array, "2"]:
    """Two 32-bit words that select a noise stream, drawn from a PRNG key by JAX's own
    generator, so that streams of different keys are unrelated."""
    return jr.bits(key, (2,), jnp.uint32)


def gaussian(
    key: KeyLike, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = jnp.float32
) -> Float[Array, "..."]:
    """Standard normal numbers by a counter-based hash.

    Number `i` of the array is a function of `key` and `i` alone. Computed in float32
    whatever `dtype`; 2^32 different values, the largest of magnitude 5.8.

    **Arguments:**

    - `key`: PRNG key; the noise of different keys is independent.
    - `shape`, `dtype`: of the result. At most 2^32 numbers.

    **Returns:** the numbers. They pass tests of moments, distribution, auto- and
    cross-correlation at a million draws (tests/test_training_noise.py); they are not
    cryptographic, and not meant for estimating probabilities below 1e-7.

    **Reference:** Box & Muller 1958, doi:10.1214/aoms/1177706645; the hash is
    Wellons' `lowbias32` (github.com/skeeto/hash-prospector), two rounds.
    """
    size = math.prod(shape)
    if size > 2**32:
        raise ValueError(f"shape {shape} holds {size} numbers, expected at most 2^32.")
    first, second = words(key)
    counter = _counter(shape)
    radius_bits = _mix(_mix(counter ^ first) + second)
    # A second, cheaper mix of the same word: pairs (radius, angle) still run through
    # 2^32 different values.
    angle_bits = radius_bits * np.uint32(0x9E3779B9)
    angle_bits = (angle_bits ^ (angle_bits >> 15)) * np.uint32(0x85EBCA6B)
    radius = jnp.sqrt(np.float32(-2) * _log(_unit(radius_bits)))
    return (radius * _cos_turn(_signed(angle_bits))).astype(dtype)


def _counter(shape):
    """`0 .. size - 1` in the given shape, from iotas, without integer division."""
    counter = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        iota = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        counter = counter + iota * np.uint32(stride % 2**32)
        stride *= shape[axis]
    return counter


def _mix(h):
    h = (h ^ (h >> 16)) * np.uint32(0x21F0AAAD)
    h = (h ^ (h >> 15)) * np.uint32(0xD35A2D97)
    return h ^ (h >> 15)


def _signed(bits):
    """Uniform in [-1/2, 1/2)."""
    return bits.astype(jnp.int32).astype(jnp.float32) * np.float32(2**-32)


def _unit(bits):
    """Uniform in (0, 1), never 0 and never 1, in steps of 2^-23. Converted from signed
    integers, for which CPUs have an instruction."""
    integer = (bits >> 9).astype(jnp.int32).astype(jnp.float32)
    return (integer + np.float32(0.5)) * np.float32(2**-23)


def _cos_turn(x):
    """`cos(2 pi x)` for `|x| <= 1/2`, absolute error below 1e-6: a Taylor polynomial
    of `sin(2 pi y)` on `|y| <= 1/4`."""
    y = np.float32(0.25) - jnp.abs(x)
    return y * _polynomial(y * y, _SINE)


def _log(x):
    """`log(x)` of a normal positive float32, relative error below 2e-7 (the
    polynomial of Cephes' `logf`); XLA's own also handles 0, infinity and NaN."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    # Exponent such that the mantissa lies in [sqrt(1/2), sqrt(2)).
    exponent = (bits - np.int32(0x3F3504F3)) >> 23
    m = jax.lax.bitcast_convert_type(bits - (exponent << 23), jnp.float32)
    m = m - np.float32(1)
    square = m * m
    cubic = m * square * _polynomial(m, _LOGF)
    log_mantissa = m + (cubic - np.float32(0.5) * square)
    return exponent.astype(jnp.float32) * np.float32(math.log(2)) + log_mantissa


_SINE = [
    (-1) ** k * (2 * math.pi) ** (2 * k + 1) / math.factorial(2 * k + 1)
    for k in range(6)
]
_LOGF = [
    3.3333331174e-1,
    -2.4999993993e-1,
    2.0000714765e-1,
    -1.6668057665e-1,
    1.4249322787e-1,
    -1.2420140846e-1,
    1.1676998740e-1,
    -1.1514610310e-1,
    7.0376836292e-2,
]


def _polynomial(x, coefficients):
    """Horner's rule, lowest power first."""
    total = jnp.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        total = total * x + np.float32(c)
    return total
