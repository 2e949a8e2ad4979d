"""Newton steps without a Jacobian, for networks of effectively low rank."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._core._masks import after, norm
from ..._core._verdicts import Verdict


MOST_STEPS = 32
"""Steps after which a start is left to `LevenbergMarquardt`."""
UNSOLVED = 0.3
"""Largest share of f that a step may leave unsolved."""


class KrylovState(eqx.Module):
    """What one problem carries from step to step.

    **Attributes:**

    - `damping`: relative damping of the next step.
    - `speed`: |f| at the present point.
    - `unsolved`: |f + J v| / |f| of the best v in the Krylov space.
    - `slope`: |V^T J^T f| max(1, |x|) / |f|^2 in that space V: of the relative decrease
        of |f|^2 / 2 over a distance of the size of the state, what it can see.
    """

    damping: Float[Array, ""]
    speed: Float[Array, ""]
    unsolved: Float[Array, ""]
    slope: Float[Array, ""]


class NewtonKrylov(eqx.Module):
    """Newton's method in the Krylov space of f, damped within it ("hookstep").

    Arnoldi's method gives J V = V' H with V = (f, J f, J^2 f, ...) orthonormal; the
    step is v = V y with (H^T H + mu I) y = -H^T V'^T f, a direction of descent for any
    mu. It takes `dimension` products with J, which for all lanes together are one
    product of matrices, and no N x N matrix of its own. Where J is a multiple of the
    identity and something of rank r, r + 1 dimensions solve the equations; beside a
    random part of J whose spectrum has the radius g they are solved up to about
    g^dimension. Where the space does not hold the solution, the point does not move.

    **Reference:** D. Viswanath 2007, doi:10.1017/S0022112007005459 (hookstep);
    C. Kelley 2003, doi:10.1137/1.9780898718898 (Newton-Krylov methods).
    """

    dimension: int
    damping: float = 1e-3
    shrink: float = 1 / 3
    grow: float = 3.0

    def start(self, x: Float[Array, " state"]) -> KrylovState:
        """The state before the first step at the flat vector `x`."""
        one = jnp.ones((), x.dtype)
        return KrylovState(self.damping * one, jnp.inf * one, 0 * one, one)

    def advance(
        self, fn: Callable, x: Float[Array, " state"], state: KrylovState
    ) -> tuple[Float[Array, " state"], KrylovState]:
        """One damped step of `fn`: vector -> vector; the point moves only downhill."""
        eps = jnp.finfo(x.dtype).eps
        f, push = jax.linearize(fn, x)
        speed = norm(f)
        basis, hessenberg = self._arnoldi(push, f / jnp.where(speed > 0, speed, 1))
        normal = hessenberg.T @ hessenberg
        gradient = speed * hessenberg[0]
        scale = jnp.max(jnp.diag(normal))
        mu = state.damping * jnp.minimum(1, speed) * scale
        least = 8 * eps * scale + jnp.finfo(x.dtype).tiny
        identity = jnp.eye(self.dimension, dtype=x.dtype)

        def solve(mu):
            factor = jax.scipy.linalg.cho_factor(normal + (mu + least) * identity)
            return -jax.scipy.linalg.cho_solve(factor, gradient)

        best = solve(0 * mu)
        y = solve(after(norm(best), mu))  # in turn, see `after`
        defect = (hessenberg @ best).at[0].add(speed)
        unsolved = norm(defect) / speed

        v = sum(c * b for c, b in zip(y, basis, strict=False))
        trial = x + v
        trial_speed = norm(fn(trial))
        gain = (speed**2 - trial_speed**2) / jnp.vdot(y, mu * y - gradient)
        accept = (trial_speed < speed) & (gain > 1e-3) & (unsolved <= UNSOLVED)
        change = jnp.where(gain > 0.75, self.shrink, self.grow).astype(x.dtype)
        change = jnp.where((gain > 0.25) & (gain <= 0.75), 1, change)
        state = KrylovState(
            jnp.clip(state.damping * change, eps, 1 / eps**2),
            jnp.where(accept, trial_speed, speed),
            unsolved,
            norm(gradient) * jnp.maximum(1, norm(x)) / speed**2,
        )
        return jnp.where(accept, trial, x), state

    def _arnoldi(self, push, first):
        """Orthonormal vectors, and J in them; 0 where the space is exhausted."""
        basis, columns = [first], []
        for _ in range(self.dimension):
            w = push(basis[-1])
            whole, column = norm(w), []
            for b in basis:
                # A sum of products is one pass over all lanes, a dot one for each.
                column.append(jnp.sum(b * w))
                w = w - column[-1] * b
            rest = norm(w)
            goes_on = rest > 1e3 * jnp.finfo(first.dtype).eps * whole
            column.append(jnp.where(goes_on, rest, 0))
            basis.append(jnp.where(goes_on, w / jnp.where(goes_on, rest, 1), 0))
            missing = self.dimension + 1 - len(column)
            columns.append(jnp.stack(column + [jnp.zeros_like(rest)] * missing))
        return basis, jnp.stack(columns, axis=1)


def judge_krylov(tol, x0, x, state, num_steps, max_steps):
    """Whether a lane has ended, and how; `undetermined` is left to the dense solver."""
    small = jnp.isfinite(state.speed) & (state.speed <= tol.speed_at(x))
    # Not small, and nothing more to be had here: `LevenbergMarquardt` sees all of J.
    leave = ~(state.unsolved <= UNSOLVED) | ~(state.slope > 1e-2)
    # The other solver must have a step left, if only to confirm a root.
    leave = (leave | (num_steps + 1 >= jnp.minimum(MOST_STEPS, max_steps))) & ~small
    verdict = jnp.where(small, int(Verdict.root), int(Verdict.undetermined))
    return small | leave, verdict.astype(jnp.int32)
