"""The published index that tells slow points from limit cycles."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._core._checks import as_float


def sign_index(
    signs: Any, *, radius: float | int = 3, steps: Any = None
) -> Float[Array, ""]:
    r"""How slowly a sequence of signs changes: the mechanism discrimination index.

    The published pipeline takes the states of a free run on two principal components,
    correlates *time points* with each other over these two numbers, and asks what share
    of the power of the two-dimensional spectrum of that matrix lies within `radius`
    bins of its centre. Two observations always correlate to plus or minus one:

        C_ij = s_i s_j,  s_i = sign(z_i1 - z_i2)

    The matrix has rank one, its spectrum is a product, and with `P = |FFT(s)|^2`

        index = sum_{f^2 + g^2 <= radius^2} P(f) P(g) / (sum_f P(f))^2

    so all that is measured is how low the frequencies of one sign are. It is 1 for a
    constant sign; a cycle `k` times in the run has its power at `(+-k, +-k)`, inside
    the radius of 3 only for `k <= 2`: periods beyond about 4 of the 9 trial lengths of
    the run are taken for slow points.

    ```python
    half = jnp.where(jnp.arange(324) < 18, -1.0, 1.0)
    assert abs(rnndyn.mechanisms.sign_index(half) - 0.738) < 1e-3
    ```

    **Arguments:** `signs`: -1 or 1, shape `(time,)`; `radius`: in bins; `steps`: how
    many of them count, the first ones, all by default. It may be traced, so that runs
    of different lengths share a program.

    **Returns:** the index in (0, 1]; published networks are limit cycles below 0.5,
    slow points otherwise.

    **Raises:** a `ValueError` unless `signs` has one axis.

    **Reference:** Kurtkaya, Dinc et al. 2025, arXiv:2502.17433, `sort_data.py` of
    github.com/fatihdinc/dynamical-phases-stm.
    """
    signs = as_float(signs)
    if signs.ndim != 1:
        raise ValueError(
            f"signs has shape {signs.shape}, expected (time,). Use jax.vmap for more."
        )
    length = signs.shape[0]
    steps = jnp.asarray(length if steps is None else steps, jnp.int32)
    reach = min(math.floor(radius), length // 2)
    f = np.arange(-reach, reach + 1)
    place = jnp.arange(length)
    counted = place < steps
    signs = jnp.where(counted, signs, 0)
    # Only the lowest frequencies are needed, the sum over all is Parseval's.
    turns = jnp.mod(jnp.asarray(f, place.dtype)[:, None] * place[None, :], steps)
    count = steps.astype(signs.dtype)
    angle = 2 * np.pi * turns.astype(signs.dtype) / count
    power = (jnp.cos(angle) @ signs) ** 2 + (jnp.sin(angle) @ signs) ** 2
    total = count * jnp.sum(signs**2)
    # Of an even number of steps the highest frequency exists once, and is negative.
    exists = (f >= -(steps // 2)) & (f <= (steps - 1) // 2)
    low = jnp.where(exists, power / total, 0)
    inside = f[:, None] ** 2 + f[None, :] ** 2 <= radius**2
    return low @ jnp.asarray(inside, low.dtype) @ low


def discrimination_index(
    rates: Any, *, radius: float | int = 3, flip: bool = False, steps: Any = None
) -> Float[Array, ""]:
    """The published index of one free run of a network, from its rates.

    The rates, *not* centred, are projected on the first two principal components of
    the centred rates; `sign_index` of the difference of the two is returned. The
    published code takes a randomised decomposition, here it is exact.

    ```python
    t = jnp.arange(324) / 36
    rates = jnp.stack([jnp.sin(2 * jnp.pi * t), jnp.cos(2 * jnp.pi * t)], axis=1)
    assert rnndyn.mechanisms.discrimination_index(rates) < 0.1
    ```

    **Arguments:** `rates`: shape `(time, neurons)`, nine trial lengths of one cue;
    `radius`: in bins; `flip`: take the sum of the two instead of their difference;
    `steps`: how many time steps count, see `sign_index`.
    Signs of principal components are arbitrary (here each component's largest weight is
    positive), and the index depends on them: look at both.

    **Returns:** the index, see `sign_index`; NaN if a rate that counts is not finite.

    **Raises:** a `ValueError` unless `rates` has two axes and two neurons or more.
    """
    first, second = two_components(rates, steps)
    gap = first + second if flip else first - second
    return sign_index(sign_of(gap), radius=radius, steps=steps)


def sign_of(gap: Float[Array, "..."]) -> Float[Array, "..."]:
    """-1 or 1, with 1 for zero; NaN stays NaN and has no side."""
    signs = jnp.where(gap < 0, -1.0, 1.0).astype(gap.dtype)
    return jnp.where(jnp.isnan(gap), gap, signs)


def two_components(
    rates: Any, steps: Any = None
) -> tuple[Float[Array, " time"], Float[Array, " time"]]:
    """Uncentred rates on the first two principal components of the first `steps`."""
    rates = as_float(rates)
    if rates.ndim != 2 or min(rates.shape) < 2:
        raise ValueError(
            f"rates has shape {rates.shape}, expected (time, neurons), at least 2 each."
        )
    steps = jnp.asarray(rates.shape[0] if steps is None else steps, jnp.int32)
    counted = (jnp.arange(rates.shape[0]) < steps)[:, None]
    mean = jnp.sum(jnp.where(counted, rates, 0), axis=0, keepdims=True)
    mean = mean / steps.astype(rates.dtype)
    centred = jnp.where(counted, rates - mean, 0)
    axes = jnp.linalg.svd(centred, full_matrices=False)[2][:2]
    largest = jnp.argmax(jnp.abs(axes), axis=1, keepdims=True)
    axes = axes * jnp.sign(jnp.take_along_axis(axes, largest, axis=1))
    return rates @ axes[0], rates @ axes[1]
