"""First-order baselines on the one-step problem: L-BFGS and Adam."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ..._core._checks import check_count
from .._problem import check_descent, check_ridge
from ..convex._outliers import Keep, Plain
from ._baseline import (
    AbstractWeightStart,
    BaselineFit,
    CrossEntropy,
    FixedPointStart,
    MeanSquare,
    check_kind,
    first_weights,
    free_entries,
    gram,
    mean_of_good,
    precision,
    problem,
    repeat,
)


def lbfgs(
    rates: Any,
    inputs: Any = None,
    *,
    alpha: Any,
    dt: Any = 1.0,
    ridge: Any = 1e-5,
    outliers: Any = None,
    mask: Any = None,
    start: AbstractWeightStart | None = None,
    num_steps: int = 200,
    tol_gradient: Any = 1e-9,
    memory: int = 10,
    whiten: bool = False,
    record_every: int | None = None,
) -> BaselineFit:
    r"""Fit a network to rates by L-BFGS, every neuron with its own memory.

    Lowers the convex `(1/T) sum_t c_t (ln 2cosh z_t - d_t z_t) + (ridge/2)|theta|^2`,
    with `c = 1` for `Plain()` and `c = 1/(1 - d^2)` for `Keep()`, by a zoom line search
    (strong Wolfe). All neurons advance in one program; a neuron that has converged
    stays where it is.

    ```python
    exact = lbfgs(rates, alpha=0.1, whiten=True)
    assert exact.converged.all()
    ```

    **Arguments:**

    - `rates`, `inputs`, `alpha`, `dt`, `ridge`, `mask`, `start`, `record_every`: as in
      `newton`.
    - `outliers`: `Plain()` by default, or `Keep()`.
    - `num_steps`: at most.
    - `tol_gradient`: root mean square gradient at which a neuron has converged.
    - `memory`: pairs kept.
    - `whiten`: work in the coordinates in which `X^T X / T + ridge I` is the identity.
      Without it the smoothness of the activity (conditions of 1e3 to 1e4) costs
      hundreds of steps. Not together with `mask`.

    **Returns:** a `BaselineFit`. Not guaranteed: convergence within `num_steps`.

    **Raises:** a `ValueError` for bad data or options, or other outlier rules.

    **Reference:** Liu & Nocedal 1989, doi:10.1007/BF01589116.
    """
    outliers = Plain() if outliers is None else outliers
    if not isinstance(outliers, Plain | Keep):
        raise ValueError(
            f"outliers = {outliers}, expected Plain() or Keep(): rejection makes the "
            "loss discontinuous. Use newton or cornn."
        )
    if whiten and mask is not None:
        raise ValueError(
            "whiten = True with a mask, expected one of them: the mask does not hold "
            "in the whitened coordinates. Pass whiten=False, or use newton."
        )
    check_ridge(ridge)
    check_descent(tol_gradient)
    check_count("memory", memory)
    with precision(rates):
        _, given = problem(rates, inputs, alpha, dt)
        dtype = given.x.dtype
        free = free_entries(mask, (given.x.shape[1], given.d.shape[1]))
        start = FixedPointStart(ridge) if start is None else start
        found = _lbfgs(
            given,
            first_weights(start, given),
            free,
            jnp.asarray(ridge, dtype),
            jnp.asarray(tol_gradient, dtype),
            isinstance(outliers, Keep),
            num_steps,
            memory,
            whiten,
            record_every,
        )
        return _fit(given, found, dt)


@eqx.filter_jit
def _lbfgs(given, theta, free, ridge, tol, weighted, num_steps, memory, whiten, every):
    x, d = given.x, given.d
    p = x.shape[1]
    weight = 1 / (1 - d**2) if weighted else jnp.ones_like(d)
    entries = jnp.ones(theta.shape, bool) if free is None else free
    theta = jnp.where(entries, theta, 0)
    # theta = back phi
    back = factor = jnp.eye(p, dtype=x.dtype)
    if whiten:
        factor = jnp.linalg.cholesky(gram(x, ridge))
        back = jax.scipy.linalg.solve_triangular(factor, back, lower=True).T
        x, theta = x @ back, factor.T @ theta
    search = optax.scale_by_zoom_linesearch(max_linesearch_steps=15)
    solver = optax.lbfgs(memory_size=memory, linesearch=search)

    def loss(phi, d, weight, entries):
        phi = jnp.where(entries, phi, 0)
        z = x @ phi
        entropy = jnp.mean(weight * (jnp.logaddexp(z, -z) - d * z))
        original = back @ phi if whiten else phi
        return entropy + ridge / 2 * jnp.sum(original**2)

    def one(phi, state, d, weight, entries, done):
        grad: Any
        fn = lambda phi: loss(phi, d, weight, entries)
        value, grad = optax.value_and_grad_from_state(fn)(phi, state=state)
        updates, new = solver.update(
            grad, state, phi, value=value, grad=grad, value_fn=fn
        )
        moved = optax.apply_updates(phi, updates)
        done = done | (_rms(factor @ grad if whiten else grad) <= tol)
        hold = lambda a, b: jax.tree.map(lambda a, b: jnp.where(done, b, a), a, b)
        return hold(moved, phi), hold(new, state), done, value

    step_all = jax.vmap(one)
    columns = (d.T, weight.T, entries.T)

    def step(carry):
        phi, state, done, count, value = carry
        going = ~jnp.all(done)

        def move():
            new, state_, done_, value = step_all(phi, state, *columns, done)
            return new, state_, done_, count + 1, mean_of_good(value, given.good)

        carry = jax.lax.cond(going, move, lambda: carry)
        # The value is that of the weights before the step.
        return carry, carry[-1]

    phi = theta.T
    state = jax.vmap(solver.init)(phi)
    done = jnp.zeros(d.shape[1], bool)
    zero = jnp.zeros((), x.dtype)
    carry = (phi, state, done, jnp.zeros((), jnp.int32), zero)
    original = lambda phi: (phi @ back.T if whiten else phi).T
    carry, losses, kept = repeat(
        step, carry, num_steps, every, lambda c: original(c[0])
    )
    phi = carry[0]
    last, grad = jax.vmap(jax.value_and_grad(loss))(phi, *columns)
    norm = jax.vmap(_rms)(grad @ factor.T if whiten else grad)
    losses = jnp.concatenate([losses, mean_of_good(last, given.good)[None]])
    return original(phi), losses, norm, norm <= tol, carry[3], kept


def adam(
    rates: Any,
    inputs: Any = None,
    *,
    alpha: Any,
    dt: Any = 1.0,
    loss: CrossEntropy | MeanSquare | None = None,
    learning_rate: Any = 0.01,
    weight_decay: Any = 1e-8,
    mask: Any = None,
    start: AbstractWeightStart | None = None,
    num_steps: int = 1000,
    tol_gradient: Any = 0.0,
    record_every: int | None = None,
) -> BaselineFit:
    r"""Fit a network to rates by Adam on all rows at once.

    Lowers the mean over rows and neurons of a loss between `(1 + tanh z)/2` and
    `(1 + d)/2`. The decay enters through the gradient. Runs in float32, as published,
    if the rates are float32.

    ```python
    fit = adam(rates.astype(np.float32), alpha=0.1, num_steps=5000)
    fit.loss[-1]
    ```

    **Arguments:**

    - `rates`, `inputs`, `alpha`, `dt`, `mask`, `record_every`: as in `newton`.
    - `loss`: `CrossEntropy()` by default, or `MeanSquare()`.
    - `learning_rate`, `weight_decay`: of Adam.
    - `start`: `FixedPointStart(1e4 weight_decay)` by default, as published.
    - `num_steps`: number of updates, all of them made.
    - `tol_gradient`: root mean square gradient, of the mean over rows and with the
      decay's part, times the number of neurons fitted, at which a neuron counts as
      converged; nothing stops there.

    **Returns:** a `BaselineFit`. Not guaranteed: convergence, or even a loss that
    falls.

    **Raises:** a `ValueError` for bad data or options.

    **Reference:** Kingma & Ba 2015, arXiv:1412.6980; settings of Dinc et al. 2023,
    arXiv:2311.10200.
    """
    loss = CrossEntropy() if loss is None else loss
    kinds = CrossEntropy | MeanSquare
    check_kind("loss", loss, kinds, "CrossEntropy() or MeanSquare()")
    check_descent(tol_gradient, learning_rate=learning_rate, weight_decay=weight_decay)
    with precision(rates):
        _, given = problem(rates, inputs, alpha, dt)
        dtype = given.x.dtype
        free = free_entries(mask, (given.x.shape[1], given.d.shape[1]))
        start = FixedPointStart(1e4 * weight_decay) if start is None else start
        found = _adam(
            given,
            first_weights(start, given),
            free,
            jnp.asarray(learning_rate, dtype),
            jnp.asarray(weight_decay, dtype),
            jnp.asarray(tol_gradient, dtype),
            loss,
            num_steps,
            record_every,
        )
        return _fit(given, found, dt)


@eqx.filter_jit
def _adam(given, theta, free, rate, decay, tol, loss, num_steps, every):
    x, d = given.x, given.d
    if free is not None:
        theta = jnp.where(free, theta, 0)
    solver = optax.chain(optax.add_decayed_weights(decay), optax.adam(rate))
    count = jnp.maximum(jnp.sum(given.good), 1).astype(d.dtype)
    share = 1 / (d.shape[0] * count)

    def gradient(theta):
        z = x @ theta
        predicted = jnp.tanh(z)
        error = predicted - d
        if isinstance(loss, CrossEntropy):
            # With P = (1 + d)/2 this is the binary cross-entropy.
            value = jnp.logaddexp(z, -z) - d * z
            slope = error
        else:
            value = loss.scale * error**2 / 4
            slope = loss.scale * error * (1 - predicted**2) / 2
        grad = x.T @ (slope * share)
        grad = grad if free is None else jnp.where(free, grad, 0)
        return mean_of_good(value, given.good), grad

    def step(carry):
        theta, state = carry
        value, grad = gradient(theta)
        updates, state = solver.update(grad, state, theta)
        return (optax.apply_updates(theta, updates), state), value

    carry = (theta, solver.init(theta))
    (theta, _), losses, kept = repeat(step, carry, num_steps, every, lambda c: c[0])
    last, grad = gradient(theta)
    # Per neuron, of the mean over rows; zero where the optimiser would rest.
    slope = count * (grad + decay * theta)
    norm = jnp.sqrt(jnp.mean(slope**2, axis=0))
    losses = jnp.concatenate([losses, last[None]])
    return theta, losses, norm, norm <= tol, jnp.asarray(num_steps, jnp.int32), kept


def _rms(a: Float[Array, "..."]) -> Float[Array, ""]:
    return jnp.sqrt(jnp.mean(a**2))


def _fit(given, found, dt) -> BaselineFit:
    theta, losses, norm, converged, steps, kept = found
    good = given.good & jnp.all(jnp.isfinite(theta), axis=0)
    return BaselineFit(
        theta=theta,
        loss=losses,
        gradient_norm=norm,
        converged=converged & good,
        diverged=~good,
        num_steps=steps,
        snapshots=kept,
        alpha=given.alpha,
        dt=jnp.asarray(dt, given.x.dtype),
    )
