"""Derivatives of fitted weights against differences of fits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn.fitting as fi
from rnndyn.fitting.convex._implicit import conjugate_gradients, solve_dense


def record(seed, n, frames, std, *, alpha=0.3, gain=2.0):
    """Frames and inputs of a driven rate network."""
    rng = np.random.default_rng(seed)
    W = rng.normal(0, gain / np.sqrt(n), (n, n))
    u = rng.normal(size=(frames + 1, 1))
    r = np.empty((frames + 1, n))
    r[0] = rng.uniform(-1, 1, n)
    for t in range(frames):
        z = W @ r[t] + 0.5 * u[t] + std * rng.normal(size=n)
        r[t + 1] = (1 - alpha) * r[t] + alpha * np.tanh(z)
    return jnp.asarray(r), jnp.asarray(u)


N, FRAMES = 6, 80
R, U = record(0, N, FRAMES, 0.2)
COTANGENT = jnp.asarray(np.random.default_rng(1).normal(size=(N + 1, N)))
EXACT = dict(max_steps=400, tol=1e-14)


def objective(outliers, **kwargs):
    def fn(data):
        r, u, ridge, alpha = data
        fit = fi.cornn(
            r, u, alpha=alpha, ridge=ridge, outliers=outliers, **(EXACT | kwargs)
        )
        return jnp.sum(COTANGENT * fit.theta)

    return fn


def directions():
    rng = np.random.default_rng(2)
    draw = lambda x: jnp.asarray(rng.normal(size=x.shape))
    zero = (jnp.zeros_like(R), jnp.zeros_like(U), jnp.zeros(()), jnp.zeros(N))
    for k, move in enumerate((draw(R), draw(U), jnp.ones(()), draw(zero[3]))):
        yield k, tuple(move if i == k else z for i, z in enumerate(zero))


DATA = (R, U, jnp.asarray(1e-3), jnp.full(N, 0.3))
CASES = {
    "keep": (fi.Keep(), {}),
    "clip": (fi.Clip(0.2), {}),
    "reject": (fi.Reject(0.4, freeze_after=5), {}),
    "diagonal": (
        fi.Reject(0.4, freeze_after=5),
        dict(mask=fi.no_self_connections(N, 1), max_steps=3000),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_gradient_of_the_fit(name):
    outliers, kwargs = CASES[name]
    fn = jax.jit(objective(outliers, **kwargs))
    gradient = jax.jit(jax.grad(objective(outliers, **kwargs)))(DATA)
    forward = jax.jit(
        lambda t: jax.jvp(objective(outliers, **kwargs), (DATA,), (t,))[1]
    )
    for k, move in directions():
        step = (1e-6, 1e-6, 1e-7, 1e-6)[k]
        shifted = [
            fn(jax.tree.map(lambda a, b, s=s: a + s * b, DATA, move))
            for s in (step, -step)
        ]
        difference = (shifted[0] - shifted[1]) / (2 * step)
        pairs = zip(gradient, move, strict=True)
        product = sum(float(jnp.sum(g * m)) for g, m in pairs)
        np.testing.assert_allclose(product, difference, rtol=2e-5, atol=1e-6)
        if name == "reject":
            np.testing.assert_allclose(forward(move), product, rtol=1e-7, atol=1e-9)


def test_flags_say_which_derivatives_hold():
    run = lambda **kw: fi.cornn(R, U, alpha=0.3, ridge=1e-3, **kw)
    frozen = run(outliers=fi.Reject(0.4, freeze_after=5), **EXACT | dict(tol=1e-11))
    assert np.all(frozen.differentiable) and np.any(frozen.kept < 1)
    early = run(outliers=fi.Reject(0.4), max_steps=2)
    assert not np.any(early.differentiable)


def test_ridges_in_one_program():
    fn = lambda ridge: objective(fi.Keep())((R, U, ridge, DATA[3]))
    ridges = jnp.asarray([1e-4, 1e-3, 1e-2])
    many = jax.jit(jax.vmap(jax.grad(fn)))(ridges)
    for k in range(3):
        one = (fn(ridges[k] * (1 + 1e-5)) - fn(ridges[k] * (1 - 1e-5))) / 2e-5
        np.testing.assert_allclose(many[k] * ridges[k], one, rtol=1e-6)


def test_no_derivative_under_a_rank():
    fn = lambda ridge: jnp.sum(
        fi.cornn(R, U, alpha=0.3, ridge=ridge, rank=2, max_steps=5).theta
    )
    assert np.isfinite(fn(1e-3)) and np.isnan(jax.grad(fn)(1e-3))


def test_held_out_score_is_differentiable():
    test = fi.regression_rows(*record(3, N, FRAMES, 0.2), alpha=0.3)

    def score(log_ridge):
        fit = fi.cornn(
            R, U, alpha=0.3, ridge=jnp.exp(log_ridge), outliers=fi.Keep(), **EXACT
        )
        return fi.one_step_r2(fit.theta, test).d

    slope = jax.grad(score)(-5.0)
    difference = (score(jnp.asarray(-5 + 1e-4)) - score(jnp.asarray(-5 - 1e-4))) / 2e-4
    np.testing.assert_allclose(slope, difference, rtol=1e-5)


def test_ill_conditioned_curvature():
    """Plain cross-entropy of saturated neurons, hardly any ridge: against the Hessian
    of every neuron, formed and solved."""
    size, ridge = 40, 1e-9
    r, _ = record(3, size, 300, 0.02, gain=6.0)
    best = fi.newton(
        r, alpha=0.3, ridge=ridge, outliers=fi.Plain(), num_steps=100, tol_gradient=0.0
    ).theta
    start = dict(alpha=0.3, outliers=fi.Plain(), init=best, max_steps=0)
    slopes = jax.jacfwd(lambda k: fi.cornn(r, ridge=k, **start).theta)(ridge)
    x = np.asarray(r[:-1])
    for i in range(size):
        bend = 1 - np.tanh(x @ best[:, i]) ** 2
        hessian = x.T @ (bend[:, None] * x) / len(x) + ridge * np.eye(size)
        exact = np.linalg.solve(hessian, -best[:, i])
        assert np.linalg.norm(slopes[:, i] - exact) < 1e-6 * np.linalg.norm(exact)


def test_linear_equations_of_all_neurons():
    rng = np.random.default_rng(4)
    roots = rng.normal(size=(3, 12, 12))
    matrices = jnp.asarray(roots @ roots.transpose(0, 2, 1) + 0.1 * np.eye(12))
    right = jnp.asarray(rng.normal(size=(12, 3))).at[:, 1].set(0)
    product = lambda v, a=matrices: jnp.einsum("nij,jn->in", a, v)
    exact = np.linalg.solve(matrices, np.asarray(right).T[:, :, None])[:, :, 0].T
    same = lambda v: v
    np.testing.assert_allclose(solve_dense(product, right), exact, atol=1e-10)
    found = conjugate_gradients(product, right, same)
    np.testing.assert_allclose(found, exact, atol=1e-10)
    # What cannot be solved is no number.
    lost = matrices.at[2].multiply(-1)
    found = conjugate_gradients(lambda v: product(v, lost), right, same)
    assert np.isnan(found[:, 2]).all() and np.isfinite(found[:, :2]).all()
