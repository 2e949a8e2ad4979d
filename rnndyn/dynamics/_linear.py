"""Linearisation: Jacobians, eigenvalues and stability at points of state space."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Complex, Float, Int, PyTree

from .._core._checks import one_of
from .._core._closures import freeze, precise
from .._core._jacobian import jacobian as jacobian_and_value
from .._core._masks import after, norm
from .._core._system import is_map
from ._states import as_states, check_residual


PROBES = 16


def jacobian(
    system: Any, x: Float[Array, "..."], args: PyTree = None
) -> Float[Array, "state state"]:
    """Jacobian of the system at `x`: df/dx of a flow (in 1/time), dF/dx of a map.

    **Arguments:**

    - `system`: a flow `f(t, x, args)` or a `Map`.
    - `x`: state, shape `(state,)`.
    - `args`: the input, held constant.

    **Returns:**

    Array of shape `(state, state)`. Says nothing about the dynamics unless `x` is a
    fixed point.
    """
    x = as_states("x", x, ("state",), "Use `jax.vmap` for several states.")
    if is_map(system):
        fn = lambda y: system.F(y, args)
    else:
        fn = lambda y: system(jnp.zeros((), x.dtype), y, args)
    check_residual(fn, x)
    return jax.jacfwd(fn)(x)


def eigenvalues(
    system: Any, x: Float[Array, " state"], args: PyTree = None
) -> Complex[Array, " state"]:
    """Eigenvalues of the `jacobian` at `x`, most unstable first.

    Sorted by descending real part for flows and descending modulus for maps.
    Differentiable, except where eigenvalues coincide. Arguments as `jacobian`.
    """
    return _sorted(jnp.linalg.eigvals(jacobian(system, x, args)), is_map(system))


def stability(
    eigenvalues: Complex[Array, "*batch state"],
    *,
    kind: str,
    time_scale: Any = 1.0,
    tol: Any,
) -> tuple[Int[Array, "*batch"], Float[Array, "*batch"]]:
    """Linear stability of points with the given eigenvalues.

    **Arguments:**

    - `eigenvalues`: shape `(..., state)`, of df/dx for flows and dF/dx for maps.
    - `kind`: "flow" or "map".
    - `time_scale`: unit of time of the margin, for flows.
    - `tol`: margins within `tol` of 0 are not decided.

    **Returns:**

    `(code, margin)`: code -1 stable, 0 undecided, 1 unstable; margin is
    time_scale max Re(eigenvalue) for flows and max |eigenvalue| - 1 for maps.
    """
    one_of("kind", kind, ("flow", "map"))
    if kind == "map":
        margin = jnp.max(jnp.abs(eigenvalues), axis=-1) - 1
    else:
        margin = time_scale * jnp.max(jnp.real(eigenvalues), axis=-1)
    code = jnp.where(jnp.abs(margin) <= tol, 0, jnp.where(margin > 0, 1, -1))
    return code.astype(jnp.int32), margin


def _sorted(values: Complex[Array, " state"], by_modulus: bool):
    size = jnp.abs(values) if by_modulus else jnp.real(values)
    # Conjugate pairs tie; the imaginary part makes their order definite.
    return values[jnp.lexsort((-jnp.imag(values), -size))]


class Linearised(eqx.Module):
    """Linear analysis of selected points; rows that were not selected hold 0.

    **Attributes:**

    - `eigenvalues`: of the residual's Jacobian J (scale-free).
    - `condition`: sigma_max / sigma_min of J, at most 1/eps^2; without the spectrum an
        upper bound of it (see `distance_to_root`).
    - `newton`: length of the Newton step, |J^-1 f|: the error of the point. 0 where
        each component of f is no more than the rounding of its own terms.
    """

    eigenvalues: Complex[Array, "slots state"]
    condition: Float[Array, " slots"]
    newton: Float[Array, " slots"]


def linearise(
    fn: Callable,
    x: Float[Array, "slots state"],
    select: Bool[Array, " slots"],
    shift,
    spectrum: bool = True,
) -> Linearised:
    """Linear analysis of `fn` at the selected rows of `x`, at the cost of these only.

    Loops over the selected rows: an eigendecomposition costs more than a root
    search from one start, and most rows are duplicates. `shift` (0 or 1) is added to
    the eigenvalues; only these are differentiable. Without `spectrum` they are NaN.
    """
    frozen, points = freeze((fn, x))
    slots, size = x.shape
    eps = jnp.finfo(x.dtype).eps

    def at(i):
        jac, f = jacobian_and_value(frozen, points[i])
        return _finite(jac), f

    def body(carry):
        open_, condition, newton, sure = carry
        i = jnp.argmax(open_)
        jac, f = at(i)
        jac = after(newton[0], jac)  # a constant one would be taken out of the loop
        if spectrum:
            sigma = jnp.linalg.svd(jac, compute_uv=False)
            ratio = sigma[0] / jnp.maximum(sigma[-1], sigma[0] * eps**2)
            jac = after(sigma[0], jac)  # in turn, see `after`
        step, done, bound = _by_factors(frozen, jac, f, points[i])
        if not spectrum:
            # Singular values cost more than all else here.
            ratio = jnp.where(bound <= 1 / eps**2, bound, 1 / eps**2)
        return (
            open_.at[i].set(False),
            condition.at[i].set(ratio),
            newton.at[i].set(step),
            sure.at[i].set(done),
        )

    def again(carry):
        open_, newton = carry
        i = jnp.argmax(open_)
        jac, f = at(i)
        jac = after(newton[0], jac)
        step = _by_singular_vectors(frozen, jac, f, points[i])
        return open_.at[i].set(False), newton.at[i].set(step)

    running = lambda c: jnp.any(c[0])
    zeros = jnp.zeros(slots, x.dtype)
    carry = (select, zeros, zeros, jnp.zeros(slots, bool))
    _, condition, newton, sure = lax.while_loop(running, body, carry)
    # A loop of its own: a branch would be taken for every point under `vmap`.
    _, newton = lax.while_loop(running, again, (select & ~sure, newton))
    if not spectrum:
        complex_dtype = jnp.result_type(x.dtype, jnp.complex64)
        unknown = jnp.where(select[:, None], jnp.full(x.shape, jnp.nan), 0)
        return Linearised(unknown.astype(complex_dtype), condition, newton)
    # LAPACK calls in turn, see `after`.
    values = _eigenvalues(fn, x, select & (newton >= 0), shift)
    return Linearised(values, condition, newton)


def newton_length(
    fn: Callable,
    jac: Float[Array, "state state"],
    f: Float[Array, " state"],
    x: Float[Array, " state"],
) -> Float[Array, ""]:
    """Length of the Newton step (see `Linearised`); large if there is none."""
    eps = jnp.finfo(x.dtype).eps
    step = norm(jnp.linalg.solve(jac, f))
    rounding, within = rounding_of(fn, jac, f, x)
    step = jnp.where(jnp.isfinite(step), step, 1 / eps**2)
    return jnp.where(within & jnp.all(jnp.abs(f) <= rounding), 0, step)


def distance_to_root(
    fn: Callable,
    jac: Float[Array, "state state"],
    f: Float[Array, " state"],
    x: Float[Array, " state"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Length of the Newton step if a root is really there, else a huge number.

    Evidence is either a second step with the same Jacobian of at most 0.2 of the first
    (at a fold it is a quarter or more, in a tail that only tends to 0 a third or more),
    or a change of the sign of f along the direction of the smallest singular value.
    Directions of singular value 0 may hold rounding only.

    Also an upper bound of the condition number of `jac`: |J| |J^-1| in Frobenius norms
    for up to 16 unknowns, else three times an estimate from 16 products, which holds
    with probability 1 - 1e-5. NaN or meaningless where J is singular."""
    length, done, bound = _by_factors(fn, jac, f, x)
    # Under `vmap` both ways are taken: in turn, see `after`.
    rest = lambda: _by_singular_vectors(fn, after(length, jac), f, x)
    return lax.cond(done, lambda: length, rest), bound


def rounding_of(fn, jac, f, x):
    """Of each equation, and whether all of them are within the range of floats."""
    eps = jnp.finfo(x.dtype).eps
    # Terms of the size of x that cancel in J too scatter f between neighbouring floats;
    # in a tail there are none, and f is much smaller than eps |x| without being 0.
    signs = jnp.asarray([[1.0], [-2.0], [3.0], [-5.0]], x.dtype)
    near = 4 * eps * signs * x[None, :]
    scatter = jnp.abs(jax.vmap(lambda d: fn(x + d) - f - jac @ d)(near))
    scatter = jnp.minimum(jnp.max(scatter, axis=0), eps * jnp.abs(x))
    rounding = 8 * (eps * (jnp.abs(jac) @ jnp.abs(x)) + scatter)
    return rounding, ~jnp.any(_out_of_range(fn, jac, f, x))


def _contracts(fn, f, x, rounding, solve):
    """Length of the step by `solve`, and whether a second one is clearly shorter."""
    # Equation by equation: the stiffest one must not excuse the softest.
    rounded = lambda g: jnp.where(jnp.abs(g) <= rounding, 0, g)
    step = solve(rounded(f))
    length, second = norm(step), norm(solve(rounded(fn(x - step))))
    # Whatever comes after the length comes after both solves: see `after`.
    return after(second, length), second <= 0.2 * length


def _by_factors(fn, jac, f, x):
    """`distance_to_root` by an LU, which costs a fraction of singular vectors; whether
    it is sure, far from singular; and the bound of the condition number."""
    rounding, within = rounding_of(fn, jac, f, x)
    factors = jax.scipy.linalg.lu_factor(jac)
    solve = lambda g: jax.scipy.linalg.lu_solve(factors, g)
    probes = solve(_probes(x))
    bound = norm(jac) * norm(probes) * (1 if x.size <= PROBES else 3 / PROBES**0.5)
    regular = bound * jnp.finfo(x.dtype).eps <= 1e-4
    f = after(bound, f)  # in turn, see `after`
    length, converges = _contracts(fn, f, x, rounding, solve)
    return length, regular & converges & within, bound


def _by_singular_vectors(fn, jac, f, x):
    eps = jnp.finfo(x.dtype).eps
    rounding, within = rounding_of(fn, jac, f, x)
    plain = tuple(jnp.linalg.svd(jac))
    # An equation and its multiples have the same roots: where a gate has closed, tiny
    # equations are no singular directions.
    unit = row_units(jac)
    again = lambda: tuple(jnp.linalg.svd(after(plain[1][0], unit[:, None] * jac)))
    u, sigma, vh = lax.cond(jnp.any(unit != 1), again, lambda: plain)
    regular = sigma > 4 * eps * sigma[0]
    inverse = jnp.where(regular, 1 / jnp.where(regular, sigma, 1), 0)
    solve = lambda g: vh.T @ (inverse * (u.T @ (unit * g)))
    rounded = jnp.where(jnp.abs(f) <= rounding, 0, f)
    left = jnp.abs(u.T @ (unit * rounded)) <= jnp.abs(u.T) @ (unit * rounding)
    length, converges = _contracts(fn, f, x, rounding, solve)
    direct = norm(solve(f))
    turns = _changes_sign(fn, plain, x, direct)
    converges = converges & within & jnp.all(left | regular)
    # Also large where anything is NaN.
    return jnp.where(converges, length, jnp.where(turns, direct, 1 / eps**2))


def row_units(jac):
    """1, but for rows of `jac` that are not 0 and tiny beside the largest what makes
    them as large as that."""
    size = jnp.max(jnp.abs(jac), axis=1)
    tiny = (size > 0) & (size < 1e-13 * jnp.max(size))
    return jnp.where(tiny, jnp.max(size) / jnp.where(tiny, size, 1), 1)


def _probes(x):
    """Vectors v of which the mean of |A v|^2 estimates |A|^2; for few unknowns a basis,
    where the sum is it."""
    if x.size <= PROBES:
        return jnp.eye(x.size, dtype=x.dtype)
    probes = np.random.default_rng(0).standard_normal((x.size, PROBES))
    return jnp.asarray(probes, x.dtype)


def _changes_sign(fn, vectors, x, length):
    """Whether u.f changes sign along the softest direction, all other equations solved
    by one Newton step: a root of odd order, such as one at a pitchfork."""
    eps = jnp.finfo(x.dtype).eps
    u, sigma, vh = vectors
    regular = sigma > 4 * eps * sigma[0]
    others = jnp.where(regular, 1 / jnp.where(regular, sigma, 1), 0).at[-1].set(0)
    # Rounding may make the step a few times too short.
    reach = jnp.minimum(16 * length, 4 * eps**0.25 * jnp.maximum(1, norm(x)))

    def along(sign):
        y = x + sign * reach * vh[-1]
        y = y - vh.T @ (others * (u.T @ fn(y)))
        f = u.T @ fn(y)
        return f[-1], jnp.max(jnp.abs(f[:-1]), initial=0) <= 0.5 * jnp.abs(f[-1])

    value, reduced = jax.vmap(along)(jnp.asarray([1.0, -1.0], x.dtype))
    # One other equation that is singular as well, and nothing is known about it.
    only = jnp.all(regular[:-1])
    return (value[0] * jnp.sign(value[1]) < 0) & jnp.all(reduced) & only


def _out_of_range(fn, jac, f, x):
    """Equations that are exactly 0 with their derivatives, like exp(-x^2) at x = 40,
    and neither grow on both sides of x nor vanish everywhere."""
    flat = (f == 0) & jnp.all(jac == 0, axis=1)
    size = jnp.maximum(1, norm(x))
    h = jnp.cbrt(jnp.finfo(x.dtype).eps) * size
    direction = jnp.where(jnp.arange(x.size) % 2 == 0, 1.0, -0.7).astype(x.dtype)
    beside = jax.vmap(fn)(jnp.stack([x + h * direction, x - h * direction]))
    elsewhere = jax.vmap(fn)(jnp.stack([0.5 * direction, -0.3 * direction, 0.5 * x]))
    grows, vanishes = jnp.all(beside != 0, axis=0), jnp.all(elsewhere == 0, axis=0)
    return flat & ~grows & ~vanishes


@eqx.filter_custom_jvp
def _eigenvalues(fn, x, select, shift):
    def body(carry):
        open_, values = carry
        i = jnp.argmax(open_)
        jac = after(jnp.abs(values[0, 0]), _finite(jax.jacfwd(fn)(x[i])))
        new = jnp.linalg.eigvals(jac) + shift
        return open_.at[i].set(False), values.at[i].set(_sorted(new, shift == 1))

    complex_dtype = jnp.result_type(x.dtype, jnp.complex64)
    values = jnp.zeros(x.shape, complex_dtype)
    return lax.while_loop(lambda c: jnp.any(c[0]), body, (select, values))[1]


@jax.custom_jvp
def _eig(jac):
    """Eigenvalues and vectors, differentiable where the eigenvalues are distinct. The
    length of a vector is arbitrary; only what does not depend on it may be used."""
    return tuple(jnp.linalg.eig(jac))


@_eig.defjvp
def _eig_jvp(primals, tangents):
    w, v = _eig(*primals)
    turned = jnp.linalg.inv(v) @ (tangents[0].astype(v.dtype) @ v)
    gap = w[None, :] - w[:, None]
    apart = gap != 0
    rates = jnp.where(apart, 1 / jnp.where(apart, gap, 1), 0)
    return (w, v), (jnp.diag(turned), v @ (rates * turned))


@_eigenvalues.def_jvp
@precise
def _eigenvalues_jvp(primals, tangents):
    # d lambda = diag(V^-1 dJ V), row by row, skipping the rows that were not selected.
    fn, x, select, shift = primals
    t_fn, t_x, _, _ = tangents
    values = _eigenvalues(fn, x, select, shift)
    t_x = jnp.zeros_like(x) if t_x is None else t_x

    def tangent(row):
        x_i, t_i, chosen = row

        def work(x_i, t_i):
            jac_at = lambda fn, y: jax.jacfwd(fn)(y)
            jac, t_jac = eqx.filter_jvp(jac_at, (fn, x_i), (t_fn, t_i))
            w, v = _eig(_finite(jac))
            size = jnp.abs(w + shift) if shift == 1 else jnp.real(w)
            v = v[:, jnp.lexsort((-jnp.imag(w), -size))]
            inverse = _finite(jnp.linalg.inv(v))
            return jnp.sum(inverse * (t_jac.astype(v.dtype) @ v).T, axis=1)

        skip = lambda x_i, t_i: jnp.zeros(x_i.shape, values.dtype)
        return lax.cond(chosen, work, skip, x_i, t_i)

    return values, lax.map(tangent, (x, t_x, select))


def _finite(a: Array) -> Array:
    return jnp.where(jnp.isfinite(a), a, 0)
