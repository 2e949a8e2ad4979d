"""The published index that tells slow points from limit cycles, and its closed form."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._core._checks import as_float


def sign_index(signs: Any, *, radius: float | int = 3) -> Float[Array, ""]:
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
    assert abs(rnndyn.theory.sign_index(half) - 0.738) < 1e-3
    ```

    **Arguments:** `signs`: -1 or 1, shape `(time,)`; `radius`: in bins.

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
    steps = signs.shape[0]
    power = jnp.abs(jnp.fft.fft(signs)) ** 2
    share = power / jnp.sum(power)
    # Frequencies -reach .. reach; of an even number of steps the highest is negative.
    reach = min(int(radius), steps // 2)
    f = np.arange(-reach, reach + 1)
    f = f[f < (steps + 1) // 2]
    low = share[f % steps]
    inside = jnp.asarray(f[:, None] ** 2 + f[None, :] ** 2 <= radius**2, share.dtype)
    return low @ inside @ low


def discrimination_index(
    rates: Any, *, radius: float | int = 3, flip: bool = False
) -> Float[Array, ""]:
    """The published index of one free run of a network, from its rates.

    The rates, *not* centred, are projected on the first two principal components of
    the centred rates; `sign_index` of the difference of the two is returned.

    ```python
    t = jnp.arange(324) / 36
    rates = jnp.stack([jnp.sin(2 * jnp.pi * t), jnp.cos(2 * jnp.pi * t)], axis=1)
    assert rnndyn.theory.discrimination_index(rates) < 0.1
    ```

    **Arguments:** `rates`: shape `(time, neurons)`, nine trial lengths of one cue;
    `radius`: in bins; `flip`: take the sum of the two instead of their difference.
    Signs of principal components are arbitrary (here each component's largest weight is
    positive), and the index depends on them: look at both.

    **Returns:** the index, see `sign_index`.

    **Raises:** a `ValueError` unless `rates` has two axes and two neurons or more.
    """
    rates = as_float(rates)
    if rates.ndim != 2 or min(rates.shape) < 2:
        raise ValueError(
            f"rates has shape {rates.shape}, expected (time, neurons), at least 2 each."
        )
    centred = rates - jnp.mean(rates, axis=0, keepdims=True)
    axes = jnp.linalg.svd(centred, full_matrices=False)[2][:2]
    largest = jnp.argmax(jnp.abs(axes), axis=1, keepdims=True)
    axes = axes * jnp.sign(jnp.take_along_axis(axes, largest, axis=1))
    first, second = rates @ axes[0], rates @ axes[1]
    gap = first + second if flip else first - second
    return sign_index(jnp.where(gap < 0, -1.0, 1.0).astype(rates.dtype), radius=radius)
