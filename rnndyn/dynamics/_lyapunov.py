"""Lyapunov spectra of flows and maps."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._core._system import Map
from .._core._types import KeyLike
from ..flows import RK4, AbstractMethod


class LyapunovSpectrum(eqx.Module):
    """Lyapunov exponents, largest first.

    **Attributes:**

    - `exponents`: shape `(k,)`, per unit of time of a flow; of a map per step, or per
        second if the map has a `dt`. Means over trajectories.
    - `stderr`: shape `(k,)`, standard error of the mean, from means over 32 stretches
        of every trajectory. It covers statistical fluctuation, not the error of the
        time step: halve `dt` and compare.
    - `history`: shape `(checkpoints, k)`, the estimate as it stood at `times`.
    - `times`: shape `(checkpoints,)`, since the end of the transient.
    - `kaplan_yorke`: Kaplan-Yorke dimension; NaN if the `k` exponents computed do not
        sum to a negative number.
    - `finite`: whether every trajectory stayed finite; otherwise the numbers mean
        nothing.
    """

    exponents: Float[Array, " k"]
    stderr: Float[Array, " k"]
    history: Float[Array, "checkpoints k"]
    times: Float[Array, " checkpoints"]
    kaplan_yorke: Float[Array, ""]
    finite: Array


def lyapunov_spectrum(
    system: Any,
    x0: Any,
    args: PyTree = None,
    *,
    k: int | None = None,
    t_transient: float | int,
    t_total: float | int,
    dt: float | int | None = None,
    method: AbstractMethod | None = None,
    qr_every: int = 10,
    key: KeyLike | None = None,
) -> LyapunovSpectrum:
    """The `k` largest Lyapunov exponents, by QR of tangent vectors along trajectories.

    Fixed steps, pure and jittable. Exponents of a chaotic attractor may be estimated
    from many short trajectories at once: their mean is returned.

    ```python
    starts = jax.random.normal(key, (16, 3))
    lam = lyapunov_spectrum(lorenz, starts, t_transient=20, t_total=500, dt=0.01)
    lam.exponents, lam.stderr, lam.kaplan_yorke
    ```

    **Arguments:**

    - `system`: a flow `f(t, x, args)` or a `Map`.
    - `x0`: one start `(state,)` or several `(trajectories, state)`.
    - `args`: the input, held constant.
    - `k`: how many exponents, all by default.
    - `t_transient`, `t_total`: time discarded, then time averaged over, for each
        trajectory: units of time of a flow, steps of a map.
    - `dt`: step of the integration of a flow.
    - `method`: of integration, `RK4()` by default.
    - `qr_every`: steps between orthonormalisations. Vectors must not collapse in
        between: the spread of the exponents times this duration should stay below 20.
    - `key`: for the first tangent vectors; a fixed key by default.

    **Returns:** a `LyapunovSpectrum`. Gradients of exponents of a chaotic trajectory
    exist but mean nothing; on fixed points differentiate the eigenvalues instead.

    **Reference:** Benettin et al. 1980, doi:10.1007/BF02128236; Kaplan & Yorke 1979,
    doi:10.1007/BFb0064319.
    """
    x0 = jnp.asarray(x0)
    if x0.ndim not in (1, 2) or not jnp.issubdtype(x0.dtype, jnp.floating):
        raise ValueError(
            f"`x0` has shape {x0.shape} and dtype {x0.dtype}, expected floats of shape "
            "(state,) or (trajectories, state)."
        )
    size = x0.shape[-1]
    k = int(size if k is None else k)
    if not 1 <= k <= size:
        raise ValueError(f"`k` = {k}, expected 1 to {size}, the size of the state.")
    if qr_every < 1:
        raise ValueError(f"`qr_every` = {qr_every}, expected at least 1 step.")
    if isinstance(system, Map):
        unit = 1.0 if system.dt is None else system.dt
        steps = lambda t: round(t)
        advance = lambda x: system(x, args)
    else:
        if dt is None or not dt > 0:
            raise ValueError(f"`dt` = {dt}, expected the step of integration, > 0.")
        unit, integrate = dt, RK4() if method is None else method
        steps = lambda t: round(t / dt)
        at = jnp.zeros((), x0.dtype)
        h = jnp.asarray(dt, x0.dtype)
        advance = lambda x: integrate.step(system, at, x, h, args, None)
    transient = -(-steps(t_transient) // qr_every)
    blocks = steps(t_total) // qr_every
    checkpoints = min(_CHECKPOINTS, blocks // _STRETCHES * _STRETCHES)
    if checkpoints < _STRETCHES:
        raise ValueError(
            f"`t_total` = {t_total} holds {blocks} blocks of {qr_every} steps, but "
            f"{_STRETCHES} are needed for an error estimate. Raise it or lower "
            "`qr_every`."
        )
    per_checkpoint = blocks // checkpoints
    key = jax.random.key(0) if key is None else key
    vectors = jnp.linalg.qr(jax.random.normal(key, (size, k), x0.dtype))[0]

    def run(x):
        carry = (x, vectors)
        block = lambda c, _: _block(advance, c, qr_every)
        carry, _ = jax.lax.scan(block, carry, None, length=transient)

        def checkpoint(carry, _):
            carry, logs = jax.lax.scan(block, carry, None, length=per_checkpoint)
            return carry, jnp.sum(logs, axis=0)

        (x, _), logs = jax.lax.scan(checkpoint, carry, None, length=checkpoints)
        return logs, jnp.all(jnp.isfinite(x))

    logs, finite = jax.vmap(run)(x0 if x0.ndim == 2 else x0[None])
    duration = per_checkpoint * qr_every * unit
    rates = logs / duration
    stretches = rates.reshape(len(rates), _STRETCHES, -1, k).mean(axis=2)
    samples = stretches.reshape(-1, k)
    exponents = jnp.mean(samples, axis=0)
    counts = jnp.arange(1, checkpoints + 1, dtype=x0.dtype)
    history = jnp.cumsum(jnp.mean(rates, axis=0), axis=0) / counts[:, None]
    # QR orders the exponents but for fluctuations.
    order = jnp.argsort(-exponents)
    return LyapunovSpectrum(
        exponents=exponents[order],
        stderr=(jnp.std(samples, axis=0, ddof=1) / np.sqrt(len(samples)))[order],
        history=history[:, order],
        times=counts * jnp.asarray(duration, x0.dtype),
        kaplan_yorke=kaplan_yorke(exponents[order]),
        finite=jnp.all(finite),
    )


_CHECKPOINTS = 512
_STRETCHES = 32


def _block(advance, carry, qr_every):
    """`qr_every` steps of state and tangent vectors, then orthonormalisation."""

    def step(carry, _):
        x, vectors = carry
        push = lambda v: jax.jvp(advance, (x,), (v,))
        new, vectors = jax.vmap(push, in_axes=1, out_axes=(None, 1))(vectors)
        return (new, vectors), None

    (x, vectors), _ = jax.lax.scan(step, carry, None, length=qr_every)
    vectors, r = jnp.linalg.qr(vectors)
    return (x, vectors), jnp.log(jnp.abs(jnp.diag(r)))


def kaplan_yorke(exponents: Float[Array, " k"]) -> Float[Array, ""]:
    """Kaplan-Yorke dimension of exponents sorted from the largest: 0 if all are
    negative, NaN if their sum is not (more exponents are needed, or the volume
    grows)."""
    sums = jnp.cumsum(exponents)
    j = jnp.sum(jnp.cumprod(sums >= 0))
    size = exponents.shape[0]
    before = jnp.where(j > 0, sums[jnp.maximum(j - 1, 0)], 0)
    following = exponents[jnp.minimum(j, size - 1)]
    dimension = j + before / jnp.where(j < size, jnp.abs(following), 1)
    return jnp.where(j == 0, 0.0, jnp.where(j < size, dimension, jnp.nan))
