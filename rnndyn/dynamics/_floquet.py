"""Floquet multipliers in the log domain, from the Jacobians of short segments."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from .._core._export import Result


class Floquet(Result):
    """Multipliers of a periodic product `A_K ... A_1` and their vectors.

    - `log_multipliers` `(state,)`: complex logarithms, real part descending;
        differentiable in the segments' Jacobians wherever the multiplier is simple.
    - `vectors` `(segment, state, state)`: columns are the Floquet vectors at the start
        of each segment; rows of `inverse` are the adjoint ones.
    - `defect`: how far the vectors are from being mapped onto themselves; large where
        multipliers are defective or more than two share their modulus.
    """

    log_multipliers: Complex[Array, " state"]
    vectors: Complex[Array, "segment state state"]
    inverse: Complex[Array, "segment state state"]
    defect: Float[Array, ""]


def floquet(
    jacobians: Float[Array, "segment state state"], cycles: int = 60
) -> Floquet:
    """Eigenvalues of the product of the segments' Jacobians, never formed.

    Subspace iteration by QR around the orbit gives the invariant flag; a backward
    iteration with the triangular factors turns it into Floquet vectors. Each logarithm
    is then a sum over segments, so multipliers may span any range, and their
    derivative is that of the simple eigenvalue.

    **Arguments:**

    - `jacobians`: `A_1 .. A_K` in the order of time; each should be well conditioned
        (short segments).
    - `cycles`: rounds of the iteration. Multipliers whose moduli differ by less than a
        factor `exp(30 / cycles)` are separated as pairs; more than two of them only
        to first order in the difference.

    **Reference:** Ginelli et al. 2007, doi:10.1103/PhysRevLett.99.130601; Lust 2001,
    doi:10.1142/S0218127401003486.
    """
    frozen = jax.lax.stop_gradient(jacobians)
    q, block, triangular = _flag(frozen, cycles)
    vectors = _vectors(q, block, triangular, cycles)
    inverse = jnp.linalg.inv(vectors)
    following = jnp.roll(inverse, -1, axis=0)
    # Row j of V^-1 and column j of V at both ends of a segment give its stretch.
    stretch = jnp.einsum(
        "kji,kil,klj->kj", following, jacobians.astype(vectors.dtype), vectors
    )
    pushed = following @ (frozen.astype(vectors.dtype) @ vectors)
    off = pushed - jax.vmap(jnp.diag)(jax.vmap(jnp.diag)(pushed))
    size = jnp.abs(jax.lax.stop_gradient(stretch))
    defect = jnp.max(jnp.abs(off) / jnp.maximum(size[:, :, None], size[:, None, :]))
    logs = jnp.sum(jnp.log(stretch), axis=0)
    logs = logs.real + 1j * _principal(logs.imag)
    order = jnp.lexsort((-jax.lax.stop_gradient(logs.imag), -logs.real))
    return Floquet(
        logs[order],
        vectors[:, :, order],
        inverse[:, order, :],
        jax.lax.stop_gradient(defect),
    )


def _principal(angle):
    turns = jax.lax.stop_gradient(jnp.round(angle / (2 * jnp.pi)))
    return angle - 2 * jnp.pi * turns


def _flag(jacobians, cycles):
    """Orthonormal bases at the starts of the segments that the product leaves
    invariant, the rotation that closes the orbit, and the triangular factors."""
    size = jacobians.shape[-1]
    start = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (size, size)))[0]

    def segment(q, a):
        after, r = jnp.linalg.qr(a @ q)
        # Positive diagonals: signs belong to the closing rotation.
        sign = jnp.where(jnp.diag(r) < 0, -1.0, 1.0).astype(r.dtype)
        return after * sign[None, :], (q, r * sign[:, None])

    # The last round is kept; one loop for all rounds halves the compilation.
    def cycle(_, carry):
        return jax.lax.scan(segment, carry[0], jacobians)

    zeros = jnp.zeros_like(jacobians)
    carry = (start.astype(jacobians.dtype), (zeros, zeros))
    last, (q, triangular) = jax.lax.fori_loop(0, cycles + 1, cycle, carry)
    return q, q[0].T @ last, triangular


def _vectors(q, block, triangular, cycles):
    """Floquet vectors: eigenvectors of (closing rotation) x (triangular product)."""
    kind = jnp.result_type(q.dtype, jnp.complex64)
    size = q.shape[-1]
    upper, half = _normalised_blocks(triangular)
    # A pair is two directions that QR does not separate: complex, or of close moduli.
    # Of two overlapping pairs the better closed one is taken for separated.
    coupling = jnp.abs(jnp.diag(block, -1))
    before = jnp.concatenate([jnp.zeros(1, q.dtype), coupling[:-1]])[: size - 1]
    after = jnp.concatenate([coupling[1:], jnp.zeros(1, q.dtype)])[: size - 1]
    is_pair = (coupling > 1e-7) & (coupling >= before) & (coupling > after)
    none = jnp.zeros(1, bool)
    second, first = jnp.concatenate([none, is_pair]), jnp.concatenate([is_pair, none])
    # The closing rotation, with everything but its blocks removed: leaks below the
    # diagonal would be amplified by the ratio of the multipliers.
    index = jnp.arange(size)
    partner = jnp.where(first, index + 1, jnp.where(second, index - 1, index))
    same = (index[:, None] == index[None, :]) | (partner[:, None] == index[None, :])
    alone = jnp.sign(jnp.diag(block))
    closing = jnp.where(same, block, 0)
    closing = jnp.where(
        jnp.eye(size, dtype=bool) & ~(first | second)[:, None], alone[:, None], closing
    )
    eigen = jnp.eye(size, dtype=q.dtype).astype(kind)
    for_pair = jax.vmap(lambda j: _pair(closing, upper, half, j, kind))
    if size > 1:
        pairs = for_pair(jnp.arange(size - 1))

        def place(j, eigen):
            old = jax.lax.dynamic_slice(eigen, (j, j), (2, 2))
            new = jnp.where(is_pair[j], pairs[j], old)
            return jax.lax.dynamic_update_slice(eigen, new, (j, j))

        eigen = jax.lax.fori_loop(0, size - 1, place, eigen)
    above = (index[:, None] <= index[None, :]) & ~same

    def impose(c):
        # Within its own block each column is the known eigenvector, up to a factor.
        overlap = jnp.sum(jnp.where(same, jnp.conj(eigen) * c, 0), axis=0)
        overlap = overlap / jnp.sum(jnp.abs(eigen) ** 2, axis=0)
        return jnp.where(same, overlap[None, :] * eigen, jnp.where(above, c, 0))

    def back(c, r):
        c = jax.scipy.linalg.solve_triangular(r.astype(kind), c)
        c = c / jnp.linalg.norm(c, axis=0, keepdims=True)
        return c, c

    def cycle(_, carry):
        c = closing.T.astype(kind) @ carry[0]
        c, at = jax.lax.scan(back, c, triangular, reverse=True)
        return impose(c), at

    start = (eigen, jnp.zeros_like(triangular, kind))
    _, at = jax.lax.fori_loop(0, cycles + 1, cycle, start)
    return q.astype(kind) @ at


def _normalised_blocks(triangular):
    """For each 2 x 2 diagonal block of the triangular product, divided by the root of
    its determinant: the upper entry, and the logarithm of the first one."""

    def advance(carry, r):
        upper, half = carry
        d, up = jnp.diag(r), jnp.diag(r, 1)
        a, b = d[:-1], d[1:]
        mean = jnp.sqrt(a) * jnp.sqrt(b)
        upper = (a / mean) * upper + (up / mean) * jnp.exp(-half)
        return (upper, half + 0.5 * (jnp.log(a) - jnp.log(b))), None

    zero = jnp.zeros(triangular.shape[-1] - 1, triangular.dtype)
    return jax.lax.scan(advance, (zero, zero), triangular)[0]


def _pair(block, upper, half, j, kind) -> Any:
    """Eigenvectors of the 2 x 2 block at (j, j + 1), as columns."""
    rotation = jax.lax.dynamic_slice(block, (j, j), (2, 2))
    grow = jnp.exp(half[j])
    matrix = rotation @ jnp.array([[grow, upper[j]], [0.0, 1 / grow]], rotation.dtype)
    trace, det = jnp.trace(matrix), jnp.linalg.det(matrix)
    root = jnp.sqrt((trace**2 / 4 - det).astype(kind))
    values = trace / 2 + jnp.stack([root, -root])
    first = jnp.stack([matrix[0, 1] + 0 * values, values - matrix[0, 0]])
    second = jnp.stack([values - matrix[1, 1], matrix[1, 0] + 0 * values])
    longer = jnp.linalg.norm(first, axis=0) >= jnp.linalg.norm(second, axis=0)
    vectors = jnp.where(longer[None, :], first, second)
    norm = jnp.linalg.norm(vectors, axis=0, keepdims=True)
    return vectors / jnp.where(norm > 0, norm, 1)
