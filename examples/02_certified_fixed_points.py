"""How many fixed points has a Hopfield network, and which of them are stable?

Three orthogonal patterns at gain 1.5 have exactly 27 fixed points, 6 of them stable.
Plain starts near the origin find one; the default search finds all.

    python examples/02_certified_fixed_points.py
"""

from rnndyn import _bootstrap


_bootstrap.configure(x64=True)

import jax
import jax.numpy as jnp
import numpy as np

import rnndyn as rd


def hadamard(n):
    H = np.ones((1, 1))
    while len(H) < n:
        H = np.block([[H, H], [H, -H]])
    return H


def main():
    xi = hadamard(64)[1:4]
    W = jnp.asarray(1.5 * xi.T @ xi / 64)
    f = lambda t, x, args: -x + jnp.tanh(W @ x)
    x0s = jax.random.uniform(jax.random.key(0), (256, 64), minval=-1.0)

    points = rd.dynamics.certify(rd.dynamics.fixed_points(f, x0s))
    mask = np.asarray(points.mask)
    overlaps = np.asarray(points.x)[mask] @ xi.T / 64
    order = np.lexsort(np.abs(overlaps).T)
    print(
        f"{mask.sum()} certified fixed points, largest speed "
        f"{np.asarray(points.speed)[mask].max():.1e}"
    )
    print(f"{np.sum(np.asarray(points.stability)[mask] == -1)} of them stable")
    print(np.round(overlaps[order] + 0.0, 5))

    # The derivative of a root with respect to the gain, without differencing.
    def overlap(g):
        f = lambda t, x, args: -x + jnp.tanh(g * (xi.T @ (xi @ x)) / 64)
        root = rd.dynamics.fixed_points(f, jnp.asarray(0.8 * xi[:1])).x[0]
        return jnp.mean(root * xi[0])

    print(
        "overlap and its derivative in the gain:", overlap(1.5), jax.grad(overlap)(1.5)
    )


if __name__ == "__main__":
    main()
