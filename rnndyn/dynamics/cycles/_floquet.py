"""Floquet multipliers in the log domain, from the Jacobians of short segments."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Complex, Float, Int

from ..._core._export import Result


class Floquet(Result):
    """Multipliers of a periodic product `A_K ... A_1` and their vectors.

    - `log_multipliers` `(state,)`: complex logarithms, real part descending;
        differentiable in the segments' Jacobians wherever the multiplier is simple.
    - `vectors` `(segment, state, state)`: columns are the Floquet vectors at the start
        of each segment; rows of `inverse` are the adjoint ones.
    - `uncertainty`: estimated error of the logarithms from rounding: of the
        eigenvalues of the blocks that the iteration does not separate, and of their
        sum against the determinant. 1e-4 where multipliers are defective (vectors and
        derivatives then mean nothing).
    - `defect`: how far the vectors are from being mapped onto themselves.
    """

    log_multipliers: Complex[Array, " state"]
    vectors: Complex[Array, "segment state state"]
    inverse: Complex[Array, "segment state state"]
    uncertainty: Float[Array, ""]
    defect: Float[Array, ""]


ROUNDS = 12
"""Largest number of rounds of `cycles` iterations each."""


def floquet(
    jacobians: Float[Array, "segment state state"], cycles: int = 60
) -> Floquet:
    """Eigenvalues of the product of the segments' Jacobians, never formed.

    Subspace iteration by QR around the orbit gives the flag of invariant subspaces.
    Where it does not separate neighbours (complex pairs, equal or close moduli), the
    product restricted to their block, divided by its mean growth, goes to a dense
    eigensolver; the iteration goes on until no block spans more than a factor e^10. A
    backward iteration turns the flag into Floquet vectors. Multipliers may thus span
    any range, and their derivative is that of the simple eigenvalue.

    ```python
    spectrum = floquet(jacobians)  # of 40 short pieces of an orbit
    spectrum.log_multipliers, spectrum.uncertainty
    ```

    **Arguments:**

    - `jacobians`: `A_1 .. A_K` in the order of time; each should be well conditioned
        (short segments) and regular.
    - `cycles`: iterations a round.

    **Raises:** a `ValueError` for another shape, or no segments.

    **Reference:** Ginelli et al. 2007, doi:10.1103/PhysRevLett.99.130601; Lust 2001,
    doi:10.1142/S0218127401003486.
    """
    shape = jnp.shape(jacobians)
    if len(shape) != 3 or shape[1] != shape[2] or 0 in shape:
        raise ValueError(
            f"`jacobians` has shape {shape}, expected (segment, state, state), at "
            "least one. Pass a single one as jacobian[None]."
        )
    frozen = lax.stop_gradient(jacobians)
    q, closing, triangular, block, sweeps = _flag(frozen, cycles)
    eigen, values, uncertainty = _block_eigen(closing, triangular, block)
    vectors = _vectors(q, closing, triangular, block, eigen, sweeps)
    inverse = jnp.linalg.inv(vectors)
    following = jnp.roll(inverse, -1, axis=0)
    # Row j of V^-1 and column j of V at both ends of a segment give its stretch.
    stretch = jnp.einsum(
        "kji,kil,klj->kj", following, jacobians.astype(vectors.dtype), vectors
    )
    pushed = following @ (frozen.astype(vectors.dtype) @ vectors)
    off = pushed - jax.vmap(jnp.diag)(jax.vmap(jnp.diag)(pushed))
    size = jnp.abs(lax.stop_gradient(stretch))
    defect = jnp.max(jnp.abs(off) / jnp.maximum(size[:, :, None], size[:, None, :]))
    # The values are those of the blocks; the stretches carry the derivatives.
    sums = jnp.sum(jnp.log(stretch), axis=0)
    change = sums - lax.stop_gradient(sums)
    logs = values + jnp.where(jnp.isfinite(sums), change, 0)
    order = jnp.lexsort((-values.imag, -values.real))
    return Floquet(
        logs[order],
        vectors[:, :, order],
        inverse[:, order, :],
        uncertainty,
        lax.stop_gradient(defect),
    )


def _flag(jacobians, cycles):
    """Orthonormal bases at the starts of the segments that the product leaves
    invariant, the rotation that closes the orbit, the triangular factors, the block of
    every direction, and the iterations made."""
    size = jacobians.shape[-1]
    dtype = jacobians.dtype
    eps = jnp.finfo(dtype).eps
    start = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (size, size)))[0]
    widest = 10.0 if eps < 1e-12 else 3.0

    def segment(q, a):
        after, r = jnp.linalg.qr(a @ q)
        # Positive diagonals: signs belong to the closing rotation.
        sign = jnp.where(jnp.diag(r) < 0, -1.0, 1.0).astype(r.dtype)
        return after * sign[None, :], (q, r * sign[:, None])

    def cycle(_, carry):
        return lax.scan(segment, carry[0], jacobians)

    def one_round(carry):
        q, kept, _, count = carry
        # The last sweep is kept; one loop for all of them halves the compilation.
        last, (q, r) = lax.fori_loop(0, cycles, cycle, (q, kept))
        block, span = _blocks(q[0].T @ last, r, eps**0.62)
        return last, (q, r), (block, span), count + 1

    def going(carry):
        _, _, (_, span), count = carry
        return (span > widest) & (count < ROUNDS)

    zeros = jnp.zeros_like(jacobians)
    nothing = (jnp.zeros(size, jnp.int32), jnp.asarray(jnp.inf, dtype))
    carry = (start.astype(dtype), (zeros, zeros), nothing, jnp.zeros((), jnp.int32))
    last, (q, r), (block, _), count = lax.while_loop(going, one_round, carry)
    return q, q[0].T @ last, r, block, count * cycles


def _blocks(
    closing: Float[Array, "state state"], triangular, tol
) -> tuple[Int[Array, " state"], Float[Array, ""]]:
    """Directions that the closing rotation still mixes share a block; and the largest
    range of growth (logarithm) within one."""
    size = closing.shape[0]
    below = lax.cummax(jnp.abs(closing), axis=1)
    below = lax.cummax(below, axis=0, reverse=True)
    cut = jnp.diag(below, -1) <= tol
    block = jnp.concatenate([jnp.zeros(1, bool), cut]).cumsum(dtype=jnp.int32)
    growth = jnp.sum(jnp.log(jax.vmap(jnp.diag)(triangular)), axis=0)
    same = block[:, None] == block[None, :]
    lowest = jnp.min(jnp.where(same, growth[None, :], jnp.inf), axis=1)
    span = jnp.max(growth - lowest) if size > 1 else jnp.zeros((), growth.dtype)
    # Rounding or NaN: more rounds would not help.
    return block, jnp.where(jnp.isfinite(span), span, 0)


def _block_eigen(closing, triangular, block):
    """Eigenvectors of the product within its blocks (columns, in the order of the
    blocks), logarithms of its eigenvalues, and their uncertainty."""
    dtype = closing.dtype
    eps = jnp.finfo(dtype).eps
    same = block[:, None] == block[None, :]
    share = same / jnp.sum(same, axis=1, keepdims=True).astype(dtype)
    logs = jnp.log(jax.vmap(jnp.diag)(triangular))
    means = logs @ share.T

    def multiply(product, step):
        r, mean = step
        return (jnp.where(same, r, 0) * jnp.exp(-mean)[:, None]) @ product, None

    eye = jnp.eye(closing.shape[0], dtype=dtype)
    product, _ = lax.scan(multiply, eye, (triangular, means))
    matrix = _closed(closing, same) @ product
    values, vectors = _eig(jnp.where(jnp.isfinite(matrix), matrix, 0))
    # Blocks do not couple, so each vector lives in one of them.
    home = block[jnp.argmax(jnp.abs(vectors), axis=0)]
    order = jnp.argsort(home, stable=True)
    values, vectors = values[order], jnp.where(same, vectors[:, order], 0)
    total = jnp.log(values) + jnp.sum(means, axis=0)
    total = total.real + 1j * jnp.angle(values)
    # First-order errors of the eigenvalues, and of their product.
    adjoint = jnp.linalg.norm(jnp.linalg.inv(vectors), axis=1)
    scale = jnp.max(jnp.where(same, jnp.abs(matrix), 0), axis=1)
    error = 10 * eps * scale * adjoint / jnp.abs(values)
    error = jnp.where(error <= 1e-4, error, 1e-4)  # also NaN
    mismatch = jnp.abs(jnp.sum(total.real) - jnp.sum(logs))
    finite = jnp.all(jnp.isfinite(matrix)) & jnp.all(jnp.isfinite(total))
    total = jnp.where(finite, total, jnp.nan)
    return vectors, total, jnp.where(finite, jnp.max(error) + mismatch, jnp.inf)


def _closed(closing, same: Bool[Array, "state state"]):
    """The closing rotation without what leaks between blocks, which the ratio of the
    multipliers would amplify."""
    alone = jnp.sum(same, axis=1) == 1
    signs = jnp.diag(jnp.sign(jnp.diag(closing)))
    return jnp.where(same, jnp.where(alone[:, None], signs, closing), 0)


def _eig(matrix):
    if jax.default_backend() in ("cpu", "gpu"):
        return jnp.linalg.eig(matrix)
    kind = jnp.result_type(matrix.dtype, jnp.complex64)
    shapes = (
        jax.ShapeDtypeStruct(matrix.shape[:1], kind),
        jax.ShapeDtypeStruct(matrix.shape, kind),
    )

    def on_host(a):
        return tuple(np.asarray(v, kind) for v in np.linalg.eig(np.asarray(a)))

    return jax.pure_callback(on_host, shapes, matrix, vmap_method="sequential")


def _vectors(q, closing, triangular, block, eigen, sweeps):
    """Floquet vectors: eigenvectors of (closing rotation) x (triangular product)."""
    kind = eigen.dtype
    index = jnp.arange(q.shape[-1])
    same = block[:, None] == block[None, :]
    above = (index[:, None] <= index[None, :]) & ~same
    turn = _closed(closing, same).T.astype(kind)

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
        c, at = lax.scan(back, turn @ carry[0], triangular, reverse=True)
        return impose(c), at

    start = (eigen, jnp.zeros_like(triangular, kind))
    _, at = lax.fori_loop(0, sweeps + 1, cycle, start)
    return q.astype(kind) @ at
