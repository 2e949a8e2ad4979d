"""Limit cycles of flows by single and multiple shooting."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float, Int, PyTree

from .._core._masks import norm
from .._core._system import Map
from .._core._verdicts import Verdict
from ..flows import AbstractFlow, Dopri8, ScanFlow
from ._floquet import floquet


class LimitCycle(eqx.Module):
    """A periodic orbit of a flow, or the place where the search for one ended.

    `x0`, `period`, `orbit` and `log_multipliers` are differentiable by the implicit
    function theorem, in both modes, in whatever `f` and `args` depend on.

    **Attributes:**

    - `x0`: a point on the orbit, shape `(state,)`; `period`: in the time unit of the
        flow.
    - `orbit`: shape `(segment + 1, state)`, equally spaced in time, closed.
    - `log_multipliers`: complex logarithms of the Floquet multipliers, shape
        `(state,)`, real part descending.
    - `trivial`: which of them is the one along the flow, whose logarithm should be 0.
    - `accuracy`: |its logarithm|: the error that the other logarithms can be trusted
        to. `defect`: see `Floquet`.
    - `residual`: largest gap between the end of a segment and the next one's start,
        relative to max(1, |x|).
    - `extent`: largest distance of the orbit from its mean.
    - `verdict`: `limit_cycle`; `constant` if the orbit has shrunk to a point;
        `diverged`; `undetermined` if the residual is above `tol`.
    - `stability`: -1 stable, 1 unstable, 0 undecided; `margin`: the largest real part
        of the other logarithms.
    - `num_steps`: Newton steps made.
    """

    x0: Float[Array, " state"]
    period: Float[Array, ""]
    orbit: Float[Array, "nodes state"]
    log_multipliers: Complex[Array, " state"]
    trivial: Int[Array, ""]
    accuracy: Float[Array, ""]
    defect: Float[Array, ""]
    residual: Float[Array, ""]
    extent: Float[Array, ""]
    verdict: Int[Array, ""]
    stability: Int[Array, ""]
    margin: Float[Array, ""]
    num_steps: Int[Array, ""]
    kind: str = eqx.field(static=True, default="flow")

    @property
    def multipliers(self) -> Complex[Array, " state"]:
        """The Floquet multipliers; may underflow where their logarithms do not."""
        return jnp.exp(self.log_multipliers)

    @property
    def mask(self) -> Bool[Array, ""]:
        """Whether a limit cycle was found."""
        return self.verdict == Verdict.limit_cycle

    def check(self) -> "LimitCycle":
        """Itself, or a `ValueError` if no cycle was found. Host level."""
        if not bool(np.all(np.asarray(self.mask))):
            verdict = Verdict(int(np.min(np.asarray(self.verdict))))
            residual = float(np.max(np.asarray(self.residual)))
            raise ValueError(
                f"the search ended as {verdict.name!r} with residual {residual:.1e}. "
                f"{verdict.advice} Try another start or period, or more `segments`."
            )
        return self


def limit_cycle(
    f: Any,
    x0: Any,
    period: Any,
    args: PyTree = None,
    *,
    flow: AbstractFlow | None = None,
    segments: int = 1,
    tol: float | None = None,
    max_steps: int = 40,
    floquet_segments: int = 64,
) -> LimitCycle:
    """The limit cycle near a guess, stable or not, with its Floquet multipliers.

    Damped Newton on the segment ends and the period, with the phase fixed by the
    flow's direction at the guess. Pure: works under `jit`, `vmap` and `grad`.

    ```python
    cycle = rd.dynamics.limit_cycle(van_der_pol, jnp.array([2.0, 0.0]), 6.6)
    cycle.check().period, cycle.log_multipliers, cycle.accuracy
    ```

    **Arguments:**

    - `f`: a flow `f(t, x, args)`, autonomous under the held input `args`.
    - `x0`: a guess for a point of the orbit, `(state,)`, or for the starts of all
        segments, `(segments, state)`.
    - `period`: a guess for the period.
    - `flow`: how to integrate over a given time, traced times allowed. By default
        order 8 with 1024 steps an orbit.
    - `segments`: of multiple shooting. Unstable orbits need enough that no segment
        stretches by more than about 1e6.
    - `tol`: largest residual; default 1e-11 in float64 and 1e-4 in float32.
    - `max_steps`: of Newton's method.
    - `floquet_segments`: pieces over which the multipliers are accumulated; the
        result does not depend on it as long as each piece is short.

    **Returns:** a `LimitCycle`; look at its `verdict`. The period may be a multiple of
    the minimal one if the guess was. Not guaranteed: that the cycle is the one nearest
    to the guess.

    **Reference:** Stoer & Bulirsch 2002 section 7.3.5 (multiple shooting);
    Lust 2001, doi:10.1142/S0218127401003486.
    """
    if isinstance(f, Map):
        raise ValueError(
            "limit_cycle got a Map, expected a flow f(t, x, args). The oscillations of "
            "maps are invariant circles or k-cycles; look at the flow, or at "
            "rnndyn.mechanisms.settle."
        )
    x0 = jnp.asarray(x0)
    if x0.ndim not in (1, 2) or not jnp.issubdtype(x0.dtype, jnp.floating):
        raise ValueError(
            f"`x0` has shape {x0.shape} and dtype {x0.dtype}, expected floats of shape "
            "(state,) or (segments, state)."
        )
    if x0.ndim == 2 and x0.shape[0] != segments:
        raise ValueError(
            f"`x0` has {x0.shape[0]} rows, expected {segments}, one a segment. Pass "
            f"segments={x0.shape[0]}."
        )
    dtype = x0.dtype
    tol = (1e-11 if dtype == jnp.float64 else 1e-4) if tol is None else tol
    integrate = flow or ScanFlow(
        num_steps=max(8, -(-1024 // segments)), method=Dopri8()
    )
    zero = jnp.zeros((), dtype)

    def advance(x, duration, args):
        return integrate(f, x, zero, duration, args)

    period = jnp.asarray(period, dtype)
    sg = jax.lax.stop_gradient
    if x0.ndim == 1:
        step = lambda x, _: (advance(x, sg(period) / segments, sg(args)), x)
        _, x0 = jax.lax.scan(step, sg(x0), None, length=segments)
    reference = sg(x0[0])
    direction = sg(f(zero, reference, args))
    direction = direction / jnp.maximum(norm(direction), jnp.finfo(dtype).tiny)
    size = x0.shape[1]

    def residual(z, args):
        nodes, duration = z[:-1].reshape(segments, size), z[-1]
        ends = jax.vmap(lambda x: advance(x, duration / segments, args))(nodes)
        gaps = ends - jnp.roll(nodes, -1, axis=0)
        phase = jnp.vdot(direction, nodes[0] - reference)
        return jnp.concatenate([gaps.ravel(), phase[None]])

    fn = eqx.filter_closure_convert(
        residual, jnp.zeros(segments * size + 1, dtype), args
    )
    freeze = lambda tree: jax.tree.map(lambda a: sg(a) if eqx.is_array(a) else a, tree)
    frozen, held = freeze(fn), freeze(args)
    z0 = sg(jnp.concatenate([x0.ravel(), period[None]]))
    z, num_steps = _newton(lambda z: frozen(z, held), z0, tol, max_steps)
    jacobian = jax.jacfwd(lambda z: frozen(z, held))(z)
    error = frozen(z, held)
    # One Newton step from the constant solution carries the exact first derivative.
    step = jnp.linalg.solve(sg(jacobian), fn(z, args) - sg(fn(z, args)))
    z = z - jnp.where(jnp.isfinite(step), step, 0)
    nodes, duration = z[:-1].reshape(segments, size), z[-1]

    pieces = -(-floquet_segments // segments) * segments
    # The pieces start at the nodes, so that errors do not grow along the orbit.
    per_node = pieces // segments
    piece = ScanFlow(num_steps=max(4, -(-1024 // pieces)), method=Dopri8())
    if flow is not None:
        piece = flow
    small = lambda x: piece(f, x, zero, duration / pieces, args)

    def along(x):
        def step(x, _):
            return small(x), x

        return jax.lax.scan(step, x, None, length=per_node)[1]

    orbit = jax.vmap(along)(nodes).reshape(pieces, size)
    spectrum = floquet(jax.lax.map(jax.jacfwd(small), orbit))
    logs = spectrum.log_multipliers
    trivial = _trivial(spectrum.vectors[0], f(zero, orbit[0], args))
    others = jnp.where(jnp.arange(size) == trivial, -jnp.inf, logs.real)
    margin = jnp.max(others)
    gap = norm(sg(error)) / jnp.maximum(1, norm(reference))
    extent = jnp.max(
        jnp.linalg.norm(orbit - jnp.mean(orbit, axis=0, keepdims=True), axis=1)
    )
    accuracy = jnp.abs(logs[trivial])
    verdict = jnp.select(
        [
            ~(jnp.isfinite(gap) & jnp.all(jnp.isfinite(orbit))),
            gap > tol,
            (extent < 1e-6 * jnp.maximum(1, norm(reference))) | (duration <= 0),
        ],
        [Verdict.diverged, Verdict.undetermined, Verdict.constant],
        Verdict.limit_cycle,
    ).astype(jnp.int32)
    decided = (verdict == Verdict.limit_cycle) & (jnp.abs(margin) > 10 * accuracy)
    return LimitCycle(
        x0=orbit[0],
        period=duration,
        orbit=jnp.concatenate([orbit, orbit[:1]]),
        log_multipliers=logs,
        trivial=trivial,
        accuracy=sg(accuracy),
        defect=spectrum.defect,
        residual=gap,
        extent=sg(extent),
        verdict=verdict,
        stability=jnp.where(decided, jnp.sign(sg(margin)), 0).astype(jnp.int32),
        margin=margin,
        num_steps=num_steps,
    )


def _newton(fn, z0, tol, max_steps):
    """Newton steps, halved while the residual does not fall; stops where it no longer
    can, well below `tol` if rounding allows."""

    def body(carry):
        z, size, count, _ = carry
        r = fn(z)
        step = jnp.linalg.solve(jax.jacfwd(fn)(z), r)
        step = jnp.where(jnp.isfinite(step), step, 0)
        # A period that would change by more than half is a step too far.
        factor = jnp.minimum(
            1, 0.5 * jnp.abs(z[-1]) / jnp.maximum(jnp.abs(step[-1]), 1e-300)
        )

        def worse(c):
            factor, new = c
            return ~(new < size) & (factor > 1e-3)

        def halve(c):
            factor = c[0] / 2
            return factor, norm(fn(z - factor * step))

        factor, new = jax.lax.while_loop(
            worse, halve, (factor, norm(fn(z - factor * step)))
        )
        better = new < size
        z = jnp.where(better, z - factor * step, z)
        return z, jnp.where(better, new, size), count + 1, better

    def going(carry):
        _, size, count, better = carry
        return better & (count < max_steps) & (size > 0)

    start = (z0, norm(fn(z0)), jnp.zeros((), jnp.int32), jnp.ones((), bool))
    z, _, count, _ = jax.lax.while_loop(going, body, start)
    return z, count


def _trivial(vectors, velocity):
    """The Floquet vector along the flow."""
    unit = velocity / jnp.maximum(norm(velocity), jnp.finfo(velocity.dtype).tiny)
    along = jnp.abs(jnp.conj(vectors).T @ unit.astype(vectors.dtype))
    along = along / jnp.linalg.norm(vectors, axis=0)
    return jnp.argmax(jax.lax.stop_gradient(along)).astype(jnp.int32)
