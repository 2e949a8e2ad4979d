"""The fixed-Hessian Newton iteration, plain or split by ADMM."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ._blocks import Blocks
from ._constraints import AbstractConstraint
from ._factor import Cholesky
from ._outliers import AbstractOutliers


class Backtrack(eqx.Module):
    """Steps shortened neuron by neuron until they help.

    A step is taken back where the Newton decrement `g^T A^-1 g` of a neuron's gradient
    `g` has grown, and tried again at `shrink` times its length; after a step that
    helped, the length doubles up to 1. With a convex loss or a frozen kept set, short
    enough steps always help, and no pass over the data is needed to find out.
    """

    shrink: Any = 0.5


class Momentum(eqx.Module):
    """`beta` times the last move is added to every step (heavy ball).

    With hard rejection `beta = 0.3` to `0.5` reaches the same weights' accuracy in
    about two thirds of the steps; above, steps overshoot. It ends in another minimum.
    """

    beta: Any = 0.3


class Admm(eqx.Module):
    """How hard weights are pulled to the set they are confined to.

    **Attributes:**

    - `rho`: penalty relative to the ridge; published 10 to 100.
    - `shifted`: whether the multiplier starts at `-theta_0 / rho` (published for
      recordings with inputs) or at 0 (for the three-bit task).
    """

    rho: Any = 100.0
    shifted: bool = eqx.field(static=True, default=True)


class Sweep(eqx.Module):
    """What one pass over the data tells about weights."""

    gradient: Float[Array, "predictor neuron"]
    kept: Float[Array, " neuron"]
    changed: Int[Array, " neuron"]
    mask: Bool[Array, "block row neuron"]


class Iterate(eqx.Module):
    """State of the iteration. `chi` are the confined weights, `dual` the scaled
    multipliers, `move` the last move (with momentum), `length` that of steps."""

    step: Int[Array, ""]
    theta: Float[Array, "predictor neuron"]
    chi: Float[Array, "predictor neuron"] | None
    dual: Float[Array, "predictor neuron"] | None
    move: Float[Array, "predictor neuron"] | None
    sweep: Sweep
    length: Float[Array, " neuron"]
    rms: Float[Array, " neuron"]
    failed: Bool[Array, " neuron"]


class Normal(eqx.Module):
    """`X^T X + (lambda T + penalty) I`, factorised, and the ridge regression on
    currents with it, which is where the iteration starts. `smallest_pivot` is the
    smallest share of a predictor's square, load included, that those before it leave
    unexplained; NaN if the matrix is not positive."""

    factor: Cholesky
    start: Float[Array, "predictor neuron"]
    smallest_pivot: Float[Array, ""]

    @property
    def regular(self) -> Bool[Array, ""]:
        """Whether the weights are determined to more than rounding."""
        lower = self.factor.lower
        eps = jnp.finfo(lower.dtype).eps
        return self.smallest_pivot > 4 * lower.shape[0] ** 0.5 * eps

    def __init__(self, blocks: Blocks, ridge: Any, penalty: Any):
        def moments(block):
            return block.xt @ block.x, block.xt @ block.goal

        gram, cross = blocks.sum(moments)
        size = jnp.diag(gram) + ridge * blocks.num_rows + penalty
        # The row of a silent neuron, or input without a ridge, is empty; any diagonal
        # will do.
        silent = jnp.zeros(gram.shape[0], bool)
        silent = silent.at[: blocks.alive.shape[0]].set(~blocks.alive) | (size == 0)
        load = ridge * blocks.num_rows + penalty + silent
        self.factor = Cholesky(jnp.linalg.cholesky(gram + jnp.diag(load)))
        pivots = jnp.diag(self.factor.lower) ** 2 / (size + silent)
        self.smallest_pivot = jnp.min(pivots)
        self.start = self.factor.solve(cross)


def sweep(
    blocks: Blocks,
    theta: Float[Array, "predictor neuron"],
    ridge: Any,
    outliers: AbstractOutliers,
    mask: Bool[Array, "block row neuron"],
    held: Any = False,
) -> Sweep:
    """Gradient of every neuron's mean loss, in one pass over the data.

    `mask` is the kept set so far, with which the new one is compared; if `held`, it is
    the kept set.
    """
    weights = theta.astype(blocks.dtype)

    def one(block, before):
        error = outliers.error(block.d, block.goal, block.x @ weights)
        kept = jnp.where(held, before, outliers.keep(error))
        # In int64, the default, counting would take a third of the step.
        count = lambda mask: jnp.sum(mask, axis=0, dtype=jnp.int32)
        limited = outliers.limit(error, kept)
        return (block.xt @ limited, count(kept), count(kept != before)), kept

    (total, kept, changed), mask = blocks.scan(one, mask)
    kept = (kept - blocks.num_blank).astype(theta.dtype)
    rows = blocks.num_rows
    scale = rows / jnp.maximum(kept, 1) if outliers.rescale else jnp.ones_like(kept)
    gradient = ridge * theta - total.astype(theta.dtype) * (scale / rows)[None, :]
    return Sweep(gradient, kept / rows, changed, mask)


def rms(a: Float[Array, "predictor neuron"]) -> Float[Array, " neuron"]:
    """Root mean square of every column."""
    return jnp.sqrt(jnp.mean(a * a, axis=0))


class Solver(eqx.Module):
    """One fit: everything the iteration does not change."""

    normal: Normal
    ridge: Any
    penalty: Any
    outliers: AbstractOutliers
    constraint: AbstractConstraint | None
    damping: Any
    shifted: bool = eqx.field(static=True)

    def begin(self, blocks: Blocks, theta: Array) -> Iterate:
        """The state before the first step."""
        chi = dual = move = None
        if self.constraint is not None:
            chi, dual = theta, jnp.zeros_like(theta)
            if self.shifted:
                dual = -self.ridge * blocks.num_rows / self.penalty * theta
        if isinstance(self.damping, Momentum):
            move = jnp.zeros_like(theta)
        shape = (blocks.num_blocks, blocks.size, theta.shape[1])
        swept = self.look(blocks, theta, jnp.zeros(shape, bool), 0)
        rows = jnp.full_like(swept.changed, blocks.num_rows)
        swept = eqx.tree_at(lambda s: s.changed, swept, rows)
        ones = jnp.ones(theta.shape[1], theta.dtype)
        adapts = isinstance(self.damping, (Backtrack, Momentum))
        state = Iterate(
            step=jnp.asarray(0),
            theta=theta,
            chi=chi,
            dual=dual,
            move=move,
            sweep=swept,
            length=ones if adapts else ones * jnp.asarray(self.damping, ones.dtype),
            rms=ones,
            failed=jnp.zeros(theta.shape[1], bool),
        )
        return self._measured(blocks, state)

    def run(self, blocks: Blocks, state: Iterate, max_steps: Any, tol: Any) -> Iterate:
        """Steps until every neuron's residual is below `tol`, or `max_steps` in all."""
        going = lambda s: (s.step < max_steps) & jnp.any(s.rms > tol)
        return lax.while_loop(going, lambda s: self._step(blocks, s), state)

    def look_again(self, blocks: Blocks, state: Iterate) -> Iterate:
        """The same weights, looked at in the precision of these blocks."""
        swept = self.look(blocks, state.theta, state.sweep.mask, state.step)
        changed = jnp.maximum(swept.changed, state.sweep.changed)
        swept = eqx.tree_at(lambda s: s.changed, swept, changed)
        return self._measured(blocks, eqx.tree_at(lambda s: s.sweep, state, swept))

    def look(self, blocks: Blocks, theta: Array, mask: Any, step: Any) -> Sweep:
        """A pass over the data; the kept set is `mask` once it is frozen."""
        freeze = self.outliers.freeze_after
        held = False if freeze is None else step > freeze
        return sweep(blocks, theta, self.ridge, self.outliers, mask, held)

    def _slope(self, blocks, state):
        """Gradient of the augmented Lagrangian; of the loss without a constraint."""
        if self.constraint is None:
            return state.sweep.gradient
        pull = self.penalty / blocks.num_rows
        return state.sweep.gradient + pull * (state.theta - state.chi + state.dual)

    def bend(self, blocks: Blocks, gap: Array) -> Float[Array, " neuron"]:
        """Change of the slope over a distance between weights, by the Hessian."""
        lower = self.normal.factor.lower
        return rms(lower @ (lower.T @ gap)) / blocks.num_rows

    def _measured(self, blocks, state):
        size = rms(self._slope(blocks, state))
        if self.constraint is not None:
            # The residual is that of the confined weights.
            size = size + self.bend(blocks, state.theta - state.chi)
        return eqx.tree_at(lambda s: s.rms, state, size)

    def _step(self, blocks, old):
        move = -blocks.num_rows * self.normal.factor.solve(self._slope(blocks, old))
        step = old.length[None, :] * move
        if old.move is not None:
            beta = jnp.asarray(self.damping.beta, step.dtype)
            step = step + beta * old.move
        finite = jnp.all(jnp.isfinite(step), axis=0)
        step = jnp.where(finite[None, :], step, 0)
        theta, chi, dual = old.theta + step, old.chi, old.dual
        if self.constraint is not None:
            chi = self.constraint.project(theta + dual)
            dual = dual + theta - chi
        swept = self.look(blocks, theta, old.sweep.mask, old.step + 1)
        new = Iterate(
            step=old.step + 1,
            theta=theta,
            chi=chi,
            dual=dual,
            move=None if old.move is None else step,
            sweep=swept,
            length=old.length,
            rms=old.rms,
            failed=old.failed | ~finite,
        )
        if isinstance(self.damping, Backtrack):
            new = self._judged(blocks, old, new, move)
        return self._measured(blocks, new)

    def _judged(self, blocks, old, new, move):
        """The new state for neurons whose decrement fell, the old one for others."""
        after = self._slope(blocks, new)
        step = self.normal.factor.solve(after)
        merit = blocks.num_rows * jnp.sum(after * step, axis=0)
        better = merit <= -jnp.sum(self._slope(blocks, old) * move, axis=0)
        pick = lambda a, b: jnp.where(better[(None,) * (a.ndim - 1)], a, b)
        shrink = jnp.asarray(self.damping.shrink, old.length.dtype)
        return eqx.tree_at(
            lambda s: (s.theta, s.sweep, s.length),
            new,
            (
                pick(new.theta, old.theta),
                jax.tree.map(pick, new.sweep, old.sweep),
                pick(jnp.minimum(2 * old.length, 1), shrink * old.length),
            ),
        )
