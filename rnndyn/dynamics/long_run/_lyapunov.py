"""Lyapunov spectra of flows and maps."""

import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import PyTree

from ..._core._checks import check_count, check_counts, check_key
from ..._core._closures import program
from ..._core._masks import after
from ..._core._system import Map
from ..._core._types import KeyLike
from ...flows import RK4, AbstractMethod, ExplicitRungeKutta
from ...flows._scan import check_method
from .._states import as_arrays, as_states, check_number
from ._spectrum import LyapunovSpectrum, kaplan_yorke


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
    qr_every: int | None = None,
    project: bool = False,
    key: KeyLike | None = None,
) -> LyapunovSpectrum:
    """The `k` largest Lyapunov exponents, by QR of tangent vectors along trajectories.

    Fixed steps, pure and jittable. Exponents of a chaotic attractor may be estimated
    from many short trajectories at once: their mean is returned.

    ```python
    starts = jax.random.normal(key, (16, 3))
    lam = lyapunov_spectrum(lorenz, starts, t_transient=20, t_total=500, dt=0.01)
    lam.exponents, lam.stderr, lam.step_error, lam.kaplan_yorke
    ```

    **Arguments:**

    - `system`: a flow `f(t, x, args)` or a `Map`.
    - `x0`: one start `(state,)` or several `(trajectories, state)`.
    - `args`: the input, held constant.
    - `k`: how many exponents, all by default.
    - `t_transient`, `t_total`: time discarded, then time averaged over, for each
        trajectory: units of time of a flow, steps of a map. `t_total` is rounded to 32
        equal stretches of whole blocks of `qr_every` steps (`times[-1]` is the time
        used; in seconds for a `Map` with `dt`), the transient up, by less than a
        stretch.
    - `dt`: step of the integration of a flow.
    - `method`: of integration, `RK4()` by default, which forgives kinks (rectified
        units). Smooth systems are solved faster by `Dop853()` with steps ten times
        longer: all exponents of a tanh network of time constant 1 to 5e-6 with RK4
        at 0.05, to 2e-6 with Dop853 at 0.56, in 0.37 of the time
        (benchmarks/lyapunov.py). Compare `step_error`.
    - `qr_every`: steps between orthonormalisations; 10 by default, 1 for maps of up
        to 8 variables. Vectors must not collapse in between (else NaN): the spread of
        the exponents times this duration should stay below 20 (8 in float32).
    - `project`: remove the direction of a flow from the tangent vectors; its exponent
        0 is then exact. Assumes that trajectories neither end in a fixed point nor
        escape, where the direction of motion has another exponent.
    - `key`: for the first tangent vectors; a fixed key by default.

    **Returns:** a `LyapunovSpectrum`.

    A derivative of the result is that along the trajectories from `x0`. With a
    positive exponent it grows exponentially with their length and means nothing; a
    `UserWarning` is given when it is computed. At a fixed point it is right. On a cycle
    it keeps an error however long the run, since the phase at its end moves with the
    parameter: differentiate the multipliers of the cycle instead.

    Not guaranteed: that trajectories have reached the attractor, or all of them the
    same one.

    **Reference:** Benettin et al. 1980, doi:10.1007/BF02128236; Kaplan & Yorke 1979,
    doi:10.1007/BFb0064319.
    """
    if key is not None:
        check_key(key)
    args = jax.tree.map(
        lambda a: jnp.asarray(a) if isinstance(a, np.ndarray) else a, args
    )
    unit = "Pass it in the flow's unit of time, or in steps of a map."
    check_number("t_transient", t_transient, unit, zero=True)
    check_number("t_total", t_total, unit)
    if not isinstance(system, Map):
        step = "Pass e.g. a twentieth of the fastest time constant, and compare "
        check_number("dt", dt, step + "`step_error`.")
    if k is not None:
        check_count("`k`", k)
    if method is not None:
        check_method(method)
    # Numbers of NumPy would be traced.
    t_transient, t_total = float(t_transient), float(t_total)
    dt = None if dt is None else float(dt)
    options = (k, t_transient, t_total, dt, method, qr_every, project, key)
    axes = [("state",), ("trajectories", "state")]
    args = as_arrays(args, x0)
    x0 = as_states("x0", x0, axes, "Pass one start or several.", system, args)
    return _spectrum(system, x0, args, *options)


# One program, cached: an eager call compiles once for each system and shape.
@partial(program, quick=False)  # a long run
def _spectrum(system, x0, args, *options):
    k, t_transient, t_total, dt, method, qr_every, project, key = options
    size = x0.shape[-1]
    k = int(size if k is None else k)
    if qr_every is None:
        # Maps of a few variables may stretch and fold by orders of magnitude a step.
        qr_every = 1 if isinstance(system, Map) and size <= 8 else 10
    if not 1 <= k <= size:
        raise ValueError(f"`k` = {k}, expected 1 to {size}, the size of the state.")
    check_counts(qr_every=qr_every)
    if project and (isinstance(system, Map) or size < 2):
        raise ValueError(
            f"`project` = True with a {type(system).__name__} of {size} variables, "
            "expected a flow of at least 2: only flows have a direction of motion."
        )
    if isinstance(system, Map):
        if dt is not None:
            raise ValueError(
                f"`dt` = {dt} with a Map, expected None: a map is not integrated. Give "
                "it to the map, `Map(F, dt=...)`, for exponents per unit of time."
            )
        unit = 1.0 if system.dt is None else system.dt
        steps = lambda t: round(t)
        advance = lambda x, h: system(x, args)
        velocity, h = None, None
    else:
        unit, integrate = dt, RK4() if method is None else method
        steps = lambda t: round(t / dt)
        at = jnp.zeros((), x0.dtype)
        h = jnp.asarray(dt, x0.dtype)
        apart = isinstance(integrate, ExplicitRungeKutta) and len(integrate.b) > 6
        apart = apart and size * k > 256

        def advance(x, h):
            def field(t, y, args):
                # Else XLA may fuse every stage into all that use it, and recompute it.
                v = system(t, y, args)
                return lax.optimization_barrier(v) if apart else v

            return integrate.step(field, at, x, h, args, None)

        velocity = (lambda x: system(at, x, args)) if project else None
    blocks = max(steps(t_total) // qr_every, 0)
    if blocks < _STRETCHES:
        raise ValueError(
            f"`t_total` = {t_total} holds {blocks} blocks of {qr_every} steps, but "
            f"{_STRETCHES} are needed for an error estimate. Raise it or lower "
            "`qr_every`."
        )
    per_stretch, per_checkpoint = _divide(round(blocks / _STRETCHES))
    checkpoints = _STRETCHES * (per_stretch // per_checkpoint)
    every = checkpoints // _PROBES
    # The transient is whole checkpoints too: one program for both.
    transient = -(-steps(t_transient) // (qr_every * per_checkpoint))
    key = jax.random.key(0) if key is None else key
    columns = min(k, size - 1) if project else k
    vectors = jnp.linalg.qr(jax.random.normal(key, (size, columns), x0.dtype))[0].T

    def run(x):
        push = lambda x, vectors, h: _push(advance, x, vectors, h)
        block = lambda c, _: _block(push, velocity, c, h, qr_every)

        def checkpoint(carry, index):
            carry, out = lax.scan(block, carry, None, length=per_checkpoint)
            logs, spread, speed = out
            error = jnp.zeros(columns, x.dtype)
            if h is not None:
                last = (index - transient + 1) % every == 0
                probe = lambda c: _halving(push, velocity, c, h)
                error = lax.cond(last, probe, lambda c: error, carry)
            logs, spread = jnp.sum(logs, axis=0), jnp.max(spread, axis=0)
            return carry, (logs, spread, speed[-1], error)

        index = jnp.arange(transient + checkpoints)
        carry, out = lax.scan(checkpoint, (x, vectors), index)
        out = jax.tree.map(lambda a: a[transient:], out)
        return out, jnp.all(jnp.isfinite(carry[0]))

    (logs, spread, speed, error), finite = _each(run, x0, size * columns)
    duration = per_checkpoint * qr_every * unit
    rates = _warn_of_chaos(logs / duration, duration)
    lost = jnp.max(spread, axis=(0, 1)) > -np.log(jnp.finfo(x0.dtype).eps) - 5
    if project:
        still = jnp.min(speed) <= jnp.finfo(x0.dtype).eps ** 0.5 * jnp.max(speed)
        lost = lost | still
        widen = lambda a: jnp.concatenate([a, jnp.zeros_like(a[..., :1])], axis=-1)
        rates, error, lost = widen(rates), widen(error), widen(lost)
        lost = lost | still
    rates = jnp.where(lost[None, None], jnp.nan, rates)
    width = rates.shape[-1]
    exponents = jnp.mean(rates, axis=(0, 1))
    smooth, stderr = _smooth_mean(rates, _WINDOWS)
    # A plain mean also has the error of where it begins and ends: all there is of it on
    # a cycle.
    stderr = jnp.maximum(stderr, jnp.abs(exponents - smooth))
    # Each half about its own mean: a drift must not count as its own error.
    halves = [_smooth_mean(h, _WINDOWS // 2) for h in jnp.split(rates, 2, axis=1)]
    (first, before), (second, later) = halves
    variance = before**2 + later**2
    tiny = jnp.finfo(x0.dtype).tiny
    noise = jnp.sqrt(jnp.where(variance == 0, tiny, variance))
    drift = jnp.where(second == first, 0, (second - first) / noise)
    probes = error.reshape(-1, every, width)[:, -1]
    spread_error = _std(probes) / len(probes) ** 0.5
    step_error = jnp.abs(jnp.mean(probes, axis=0)) + 2 * spread_error
    counts = jnp.arange(1, checkpoints + 1, dtype=x0.dtype)
    history = jnp.cumsum(jnp.mean(rates, axis=0), axis=0) / counts[:, None]
    # QR orders the exponents but for fluctuations.
    order = jnp.argsort(-exponents)[:k]
    # What is 0 within its error counts as 0: a cycle is a line, not a point.
    error = 2 * stderr + step_error
    counted = jnp.where((exponents < 0) & (exponents > -error), 0, exponents)
    return LyapunovSpectrum(
        exponents=exponents[order],
        stderr=stderr[order],
        drift=drift[order],
        step_error=step_error[order],
        history=history[:, order],
        times=counts * jnp.asarray(duration, x0.dtype),
        kaplan_yorke=kaplan_yorke(-jnp.sort(-counted[order])),
        finite=jnp.all(finite),
    )


_STRETCHES = 32
_PROBES = 16


def _divide(blocks):
    """About `blocks`, at most a 32nd more, as many equal parts as possible up to 16."""
    choices = [
        (parts, -total, total // parts)
        for total in range(blocks, blocks + blocks // 32 + 1)
        for parts in range(1, 17)
        if total % parts == 0
    ]
    _, total, part = max(choices)
    return -total, part


def _each(run, x0, elements):
    if x0.ndim == 1:  # a batch of one would transpose the matrix products
        return jax.tree.map(lambda a: a[None], run(x0))
    if jax.default_backend() == "cpu" and elements > _LARGE:
        return lax.map(run, x0)  # stays in the cache
    return jax.vmap(run)(x0)


_LARGE = 1024  # numbers in the tangent vectors of one trajectory


def _push(advance, x, vectors, h):
    """One step of the state and of the tangent vectors, which are rows: their
    products are then one matrix product without transposition."""
    along = lambda v: jax.jvp(lambda x: advance(x, h), (x,), (v,))
    return jax.vmap(along, out_axes=(None, 0))(vectors)


def _block(push, velocity, carry, h, qr_every):
    """`qr_every` steps of state and tangent vectors, then orthonormalisation."""
    step = lambda c, _: (push(*c, h), None)
    (x, vectors), _ = lax.scan(step, carry, None, length=qr_every)
    vectors, logs, speed = _orthonormalise(x, vectors, velocity)
    return (x, vectors), (logs, jnp.max(logs) - logs, speed)


def _orthonormalise(x, vectors, velocity):
    """Orthonormal rows, logarithms of their growth, and the speed at `x`."""
    speed = jnp.ones((), x.dtype)
    if velocity is not None:
        # What lies along the flow stays along it: dropping it now loses nothing.
        v = velocity(x)
        speed = jnp.sqrt(jnp.vdot(v, v))
        v = v / jnp.where(speed > 0, speed, 1)
        vectors = vectors - (vectors @ v)[:, None] * v[None]
    vectors, diagonal = _qr(vectors)
    return vectors, jnp.log(jnp.abs(diagonal)), speed


def _qr(vectors):
    """Orthonormal rows and the diagonal of R, by Cholesky of the Gram matrix where
    vectors are far from parallel: the Householder QR of LAPACK takes 3 times longer."""

    def householder(vectors):
        q, r = jnp.linalg.qr(vectors.T)
        return q.T, jnp.diag(r)

    if jax.default_backend() != "cpu" or vectors.size <= _LARGE:
        return householder(vectors)
    lower = jnp.linalg.cholesky(vectors @ vectors.T, symmetrize_input=False)
    diagonal = jnp.diag(lower)
    q = jax.scipy.linalg.solve_triangular(lower, vectors, lower=True)
    d = jnp.abs(diagonal)
    # The error is eps over the square of this ratio, or NaN, which fails too.
    good = jnp.min(d) > jnp.finfo(d.dtype).eps ** 0.25 * jnp.max(d)
    careful = lambda: householder(after(jnp.abs(q[0, 0]), vectors))
    return lax.cond(good, lambda: (q, diagonal), careful)


def _halving(push, velocity, carry, h):
    """Rates of growth over one step less those over two steps of half the length."""
    starts = jnp.array([True, True, False])

    def step(c, inputs):
        h, start = inputs
        c = jax.tree.map(lambda a, b: jnp.where(start, a, b), carry, c)
        c = push(*c, h)
        return c, _orthonormalise(*c, velocity)[1]

    hs = h * jnp.array([1, 0.5, 0.5], h.dtype)
    _, logs = lax.scan(step, carry, (hs, starts))
    return (logs[0] - logs[2]) / h


def _smooth_mean(rates, windows):
    """Mean of `(trajectory, time, exponent)` and its standard error, by the spectrum at
    frequency 0 (Welch 1967, doi:10.1109/TAU.1967.1161901).

    The logarithm of growth is the logarithm of a bounded factor, which begins and ends
    every stretch, beside what accumulates. Means over stretches keep these ends and say
    too much, for the logistic map several times; smooth windows lose them.
    """
    length = rates.shape[1] // windows
    weight = np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2
    weight = jnp.asarray(weight / weight.sum(), rates.dtype)
    half = length // 2
    firsts = [i * half for i in range(rates.shape[1] // half - 1)]
    samples = jnp.stack(
        [jnp.einsum("t,ite->ie", weight, rates[:, i : i + length]) for i in firsts]
    )
    samples = samples.reshape(-1, rates.shape[-1])
    # White noise has this share of its variance in a weighted mean.
    share = length * jnp.sum(weight**2)
    count = len(rates) * windows
    return jnp.mean(samples, axis=0), _std(samples) / (share * (count - 1)) ** 0.5


_WINDOWS = 8  # in a trajectory; they overlap by half


def _std(samples):
    """Standard deviation whose derivative is finite where it is 0."""
    mean = jnp.mean(samples, axis=0)
    variance = jnp.sum((samples - mean[None]) ** 2, axis=0) / (len(samples) - 1)
    return jnp.where(variance == 0, 0, jnp.sqrt(jnp.where(variance == 0, 1, variance)))


@jax.custom_jvp
def _warn_of_chaos(rates, duration):
    """`rates`, whose differentiation warns if sensitivities have exploded."""
    return rates


@_warn_of_chaos.defjvp
def _(primals, tangents):
    rates, duration = primals
    means, errors = _smooth_mean(rates, _WINDOWS)
    which = jnp.argmax(means)
    leading, stderr = means[which], errors[which]
    growth = leading * duration * rates.shape[1]
    exploded = (leading > 2 * stderr) & (growth > _GROWTH)
    jax.debug.callback(_warn, exploded, leading, stderr)
    return rates, tangents[0]


_GROWTH = 7.0  # in e-folds over the run: a factor of 1000


def _warn(exploded, leading, stderr):
    if np.any(exploded):
        warnings.warn(
            "Derivative of Lyapunov exponents along a trajectory with a positive "
            f"exponent, {np.max(leading):.3g} +- {np.max(stderr):.1g}: sensitivities "
            "grow exponentially with its length, so the value means nothing. "
            "Compare long runs at two values of the parameter instead.",
            UserWarning,
            stacklevel=2,
        )
