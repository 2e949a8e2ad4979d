"""Steps in Krylov spaces: networks of low rank without Jacobians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq, root as scipy_root

import rnndyn.dynamics as rdd
from rnndyn import Verdict
from rnndyn.dynamics.points._krylov import UNSOLVED, NewtonKrylov


GIVEN = rdd.MultiStart(num_large=0, rounds=0, detect_odd=False)


def low_rank(size, rank, seed=0):
    """x' = -x + m n^T tanh(x) / N + bias, and its parts."""
    rng = np.random.default_rng(seed)
    m = rng.standard_normal((size, rank))
    n = 2.5 * m + rng.standard_normal((size, rank))
    return m, n, lambda t, x, b: -x + m @ (n.T @ jnp.tanh(x)) / size + b


def test_a_step_is_newtons_where_the_rank_is_low():
    _, _, f = low_rank(40, 2)
    x = jnp.asarray(0.3 * np.random.default_rng(1).standard_normal(40))
    fn = lambda x: f(0.0, x, 0.0)
    krylov = NewtonKrylov(dimension=4, damping=1e-15)
    moved, state = krylov.advance(fn, x, krylov.start(x))
    newton = jnp.linalg.solve(jax.jacfwd(fn)(x), -fn(x))
    assert float(state.unsolved) < 1e-6
    assert float(state.speed) < float(jnp.linalg.norm(fn(x)))
    np.testing.assert_allclose(moved - x, newton, rtol=1e-6, atol=1e-8)


def test_a_point_whose_equations_it_cannot_solve_stays():
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.standard_normal((128, 128)) * 2 / 128**0.5)
    x = jnp.asarray(0.1 * rng.standard_normal(128))
    krylov = NewtonKrylov(dimension=6)
    fn = lambda x: -x + jnp.tanh(weights @ x)
    moved, state = krylov.advance(fn, x, krylov.start(x))
    assert float(state.unsolved) > UNSOLVED
    np.testing.assert_array_equal(moved, x)


def test_all_roots_of_a_rank_one_network():
    m, n, f = low_rank(200, 1)
    m, n = m[:, 0], n[:, 0]
    latent = lambda k: -k + n @ np.tanh(m * k) / 200
    kappa = brentq(latent, 0.1, 10)
    x0s = np.random.default_rng(1).standard_normal((48, 200)) * 1.5
    x0s = x0s + np.outer(x0s[:, 0], m)
    points = rdd.certify(rdd.fixed_points(f, x0s, 0.0, strategy=GIVEN))
    got = sorted(points.roots() @ m / (m @ m))
    np.testing.assert_allclose(got, [-kappa, 0, kappa], atol=1e-10)
    np.testing.assert_allclose(
        points.roots(), np.outer(points.roots() @ m / (m @ m), m), atol=1e-10
    )
    assert np.all(points.verdict == Verdict.root)


def test_finds_what_the_dense_solver_and_scipy_find():
    _, _, f = low_rank(64, 3, seed=4)
    x0s = 2 * np.random.default_rng(2).standard_normal((200, 64))
    dense = rdd.LevenbergMarquardt()
    quick, slow = (
        rdd.certify(rdd.fixed_points(f, x0s, 0.1, solver=solver)).roots()
        for solver in (None, dense)
    )
    assert len(quick) == len(slow) > 3
    apart = np.linalg.norm(quick[:, None] - slow[None], axis=2)
    assert np.all(apart.min(axis=1) < 1e-9)
    for x in quick:
        one = scipy_root(lambda y: np.asarray(f(0.0, y, 0.1)), x + 1e-4)
        np.testing.assert_allclose(one.x, x, atol=1e-7)


def test_where_nothing_is_to_be_found_no_start_is_a_root():
    # 1 + x_i + s^2 with s the mean of x: s^2 + s + 1 has no zero.
    f = lambda t, x, a: 1 + x + jnp.mean(x) ** 2
    x0s = np.random.default_rng(0).standard_normal((24, 64))
    points = rdd.fixed_points(f, x0s, strategy=GIVEN)
    assert not np.any(points.verdict == Verdict.root)
    assert len(rdd.certify(points).roots()) == 0


def test_starts_keep_to_their_steps_and_broken_ones_are_named():
    _, _, f = low_rank(64, 2)
    x0s = 2 * np.random.default_rng(3).standard_normal((16, 64))
    x0s[3] = np.inf
    points = rdd.fixed_points(f, x0s, 0.0, strategy=GIVEN, max_steps=5)
    assert int(np.max(points.stats["num_steps"])) == 5
    points = rdd.fixed_points(f, x0s, 0.0, strategy=GIVEN)
    broken = ~np.all(np.isfinite(points.x_init), axis=1)
    assert np.all(points.verdict[broken] == Verdict.diverged)
    assert np.all(points.verdict[~broken] == Verdict.root)


def test_vmap_is_a_loop_and_gradients_are_differences():
    _, _, f = low_rank(48, 2)
    x0s = jnp.asarray(2 * np.random.default_rng(3).standard_normal((12, 48)))
    find = lambda b: rdd.fixed_points(f, x0s, b, strategy=GIVEN, spectrum=False)
    inputs = jnp.asarray([0.0, 0.1, 0.3])
    many = jax.vmap(lambda b: find(b).x)(inputs)
    for x, b in zip(many, inputs, strict=True):
        np.testing.assert_allclose(x, find(b).x, atol=1e-9)
    first = lambda b: jnp.sum(find(b).x[0] ** 2)
    want = (first(0.1 + 1e-5) - first(0.1 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(first)(0.1), want, rtol=1e-7)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_roots_of_both_precisions(dtype):
    _, _, f = low_rank(80, 2)
    x0s = jnp.asarray(2 * np.random.default_rng(3).standard_normal((20, 80)), dtype)
    g = lambda t, x, a: f(t, x, a).astype(dtype)
    points = rdd.fixed_points(g, x0s, jnp.zeros((), dtype), strategy=GIVEN)
    roots = points.x[points.mask]
    assert len(roots) >= 2 and points.x.dtype == dtype
    speed = np.linalg.norm(jax.vmap(lambda x: f(0.0, x, 0.0))(roots), axis=1)
    assert np.all(speed < (1e-4 if dtype == jnp.float32 else 1e-11))


def test_a_network_of_full_rank_is_searched_as_by_the_dense_solver():
    weights = np.random.default_rng(64).standard_normal((64, 64)) * 1.5 / 8
    f = lambda t, x, a: -x + jnp.tanh(weights @ x)
    x0s = 2 * np.random.default_rng(1).standard_normal((40, 64))
    quick, dense = (
        rdd.fixed_points(f, x0s, strategy=GIVEN, spectrum=False, solver=solver)
        for solver in (None, rdd.LevenbergMarquardt())
    )
    np.testing.assert_array_equal(quick.verdict, dense.verdict)
    np.testing.assert_array_equal(quick.stats["num_steps"], dense.stats["num_steps"])
    np.testing.assert_allclose(quick.x, dense.x, atol=1e-6)
