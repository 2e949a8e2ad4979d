"""The Levenberg-Marquardt solver on its own, and the masks."""

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest

import rnndyn.dynamics as rdd
from rnndyn._core._masks import first_indices, norm, unique_mask


def rosenbrock(y, args):
    return {"a": 10 * (y["v"] - y["u"] ** 2), "b": 1 - y["u"]}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_in_optimistix(dtype):
    start = {"u": jnp.asarray(-1.2, dtype), "v": jnp.asarray(1.0, dtype)}
    solver = rdd.LevenbergMarquardt(atol=1e-5 if dtype == jnp.float32 else 1e-12)
    sol = optx.least_squares(rosenbrock, solver, start)
    np.testing.assert_allclose([sol.value["u"], sol.value["v"]], 1.0, rtol=1e-5)
    if dtype == jnp.float64:
        sol = optx.root_find(rosenbrock, solver, start)
        np.testing.assert_allclose([sol.value["u"], sol.value["v"]], 1.0, rtol=1e-12)


def test_minimum_that_is_no_root():
    # More equations than unknowns: least squares of (x - 1, x - 3) is x = 2.
    fn = lambda y, args: jnp.stack([y - 1, y - 3])
    sol = optx.least_squares(fn, rdd.LevenbergMarquardt(), jnp.asarray(0.0))
    np.testing.assert_allclose(sol.value, 2.0, rtol=1e-5)


def test_quadratic_convergence_at_a_root():
    fn = lambda x: jnp.tanh(2 * x) - x + 0.1
    solver = rdd.LevenbergMarquardt()
    x, state = jnp.array([1.5, -1.5, 1.0]), None
    state, speeds = solver.start(x), []
    for _ in range(8):
        x, state = solver.advance(fn, x, state)
        speeds.append(float(state.speed))
    assert speeds[-1] < 1e-14
    assert min(np.diff(np.log10(np.maximum(speeds, 1e-16)))) < -3


def test_unique_is_greedy_by_order_and_static():
    x = jnp.array([[0.0], [0.6], [1.2], [5.0], [5.1], [9.0]])
    mask = jnp.array([True, True, True, True, True, False])
    # 0.6 is swallowed by 0, and then may not swallow 1.2.
    got = jax.jit(unique_mask)(x, mask, 1.0)
    assert list(got) == [True, False, True, True, False, False]
    bad = jnp.array([[jnp.nan], [1.0], [1.0]])
    assert list(unique_mask(bad, jnp.ones(3, bool), 0.1)) == [True, True, False]
    index, real = first_indices(got, 5)
    assert list(index[real]) == [0, 2, 3] and int(real.sum()) == 3


def test_norm_is_safe_at_zero_and_honest_about_nan():
    assert jax.grad(norm)(jnp.zeros(3)).tolist() == [0, 0, 0]
    assert np.isnan(norm(jnp.array([jnp.nan, 1.0])))
    np.testing.assert_allclose(norm(jnp.array([3.0, 4.0])), 5.0)
