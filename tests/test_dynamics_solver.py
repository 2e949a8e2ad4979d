"""The Levenberg-Marquardt solver on its own, and the masks."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest

import rnndyn.dynamics as rdd
from rnndyn import Verdict
from rnndyn._core._masks import first_indices, norm, unique_mask
from rnndyn.dynamics.points._search import LARGE, judge


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


def of_condition(size, condition):
    """A cubic system with a root at `root`, whose Jacobian there is ill-conditioned."""
    rng = np.random.default_rng(size)
    left, right = (np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in "ab")
    A = jnp.asarray(left * np.geomspace(1, 1 / condition, size) @ right)
    root = jnp.asarray(rng.standard_normal(size))
    return lambda x: A @ (x - root + 0.1 * (x - root) ** 3), root


@pytest.mark.parametrize("scale", [1.0, 1e30])
def test_mixed_precision_keeps_quadratic_convergence(scale):
    plain, root = of_condition(12, 30.0)
    fn = lambda x: scale * plain(x)
    solver = rdd.LevenbergMarquardt()
    x, state = root + 0.3, solver.start(root)
    # Residuals of 1e30 are minimised too, but the damping then has another unit.
    for _ in range(10 if scale == 1 else 40):
        x, state = solver.advance(fn, x, state, mixed=True)
    np.testing.assert_allclose(x, root, atol=1e-13)
    assert bool(state.precise) and not state.too_soft


def test_mixed_precision_says_where_it_does_not_suffice():
    fn, root = of_condition(12, 1e6)
    solver = rdd.LevenbergMarquardt()
    x, state = root + 1e-3, solver.start(root)
    soft = []
    for _ in range(12):
        x, state = solver.advance(fn, x, state, mixed=True)
        soft.append(bool(state.too_soft))
    assert any(soft)
    x, state = root + 1e-3, solver.start(root)
    for _ in range(12):
        x, state = solver.advance(fn, x, state)
        assert bool(state.precise) and not state.too_soft


def test_search_finds_an_ill_conditioned_root_of_a_large_state():
    fn, root = of_condition(LARGE, 1e5)
    starts = root[None] + 0.1 * jax.random.normal(jax.random.key(0), (3, root.size))
    none = rdd.MultiStart(num_large=0, rounds=0, detect_odd=False)
    pts = rdd.fixed_points(
        lambda t, x, a: fn(x), starts, strategy=none, spectrum=False, tol_unique=1e-5
    )
    assert np.all(pts.verdict == Verdict.root) and int(pts.mask.sum()) == 1
    np.testing.assert_allclose(pts.x[0], root, atol=1e-8)


def test_a_lane_that_can_no_longer_move_ends():
    solver, tol = rdd.LevenbergMarquardt(), rdd.Tolerances(jnp.float64, 2)
    x = jnp.ones(2)
    fields = lambda s: (s.speed, s.slope, s.step)
    where = lambda *v: eqx.tree_at(fields, solver.start(x), tuple(map(jnp.asarray, v)))
    ends = lambda *v: judge(tol, x, x, where(*v), jnp.asarray(9), 128)
    done, verdict = ends(0.1, 1e-4, 1e-13)
    assert bool(done) and verdict == Verdict.undetermined
    # Still moving; or steep, as on the way to a root.
    assert not ends(0.1, 1e-4, 1e-9)[0] and not ends(0.1, 1e-2, 1e-15)[0]


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
