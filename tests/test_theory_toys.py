"""The toy models: closed forms, against integration and published constants."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tree_allclose

from rnndyn import theory


SP, LC = theory.slow_point, theory.limit_cycle
TOYS = [SP, LC]
ids = lambda toy: type(toy).__name__ if isinstance(toy, theory.AbstractToy) else None


@pytest.mark.parametrize("T_d, T_r", [(60.0, 10.0), (100.0, 40.0)])
@pytest.mark.parametrize("toy", TOYS, ids=ids)
def test_loss_equals_the_integral_of_the_vector_field(toy, T_d, T_r):
    r = jnp.linspace(0, 1 / T_d, 42)[1:-1]
    if toy is SP:  # its optimum is thirty times lower
        r = jnp.concatenate([r[::2], jnp.geomspace(0.3, 3, 20) * toy.optimum(T_d)])
    simulate = lambda r: theory.simulated_loss(toy, r, T_d, T_r, dt=0.01)
    seen = eqx.filter_jit(jax.vmap(simulate))(r)
    np.testing.assert_allclose(seen, toy.loss(r, T_d, T_r), atol=5e-3)


def test_published_values_of_the_cycle():
    r = jnp.array([1 / 140, 1 / 120, 1 / 70, 1 / 60])
    got = LC.loss(r, 60.0, 10.0)
    np.testing.assert_allclose(got, [1, 0, 1 - 70 / 120, 1.5], atol=1e-12)
    grid = jnp.linspace(1e-4, 1 / 60, 5001)
    best = grid[jnp.argmin(LC.loss(grid, 60.0, 10.0))]
    assert abs(best - 1 / 120) < 1e-5
    # equal periods: 3 - 3/(2 T_d r)
    r = jnp.linspace(1 / 120, 3 / 240, 9)
    np.testing.assert_allclose(LC.loss(r, 60.0, 60.0), 3 - 1 / (40 * r), atol=1e-12)
    # backwards
    np.testing.assert_allclose(LC.loss(-r, 60.0, 9.0), 2 - LC.loss(r, 60.0, 9.0))
    # the pieces in print, and beyond 1/T_d the last one continued
    r = jnp.linspace(1 / 70, 2 / 60, 11)
    last = 2 + 60 / 10 - 1 / (120 * r) - 1 / (10 * r)
    first_turn = theory.LimitCycle(first_turn=True)
    np.testing.assert_allclose(first_turn.loss(r, 60.0, 10.0), last, rtol=1e-12)


@pytest.mark.parametrize("x_max", [1e3, 1e4])
def test_switch_time_by_event(x_max):
    for toy in TOYS if x_max == 1e4 else [SP]:
        r = jnp.geomspace(1e-5 if toy is SP else 1e-3, 1e-1, 9)
        seen = jax.vmap(
            lambda r, toy=toy: theory.simulated_switch_time(
                toy, r, horizon=1e5, x_max=x_max
            )
        )(r)
        np.testing.assert_allclose(seen, toy.switch_time(r), rtol=1e-2)
        early = 1.05 / x_max if toy is SP else 0.0
        assert jnp.all(jnp.abs(seen - toy.switch_time(r)) <= early + 2e-7 * seen)


def test_switch_time_of_flat_bottlenecks_and_its_derivative():
    toy = theory.SlowPoint(order=4)
    seen = theory.simulated_switch_time(toy, 1e-3, horizon=1e3)
    np.testing.assert_allclose(seen, toy.switch_time(1e-3), rtol=1e-6)
    for toy in TOYS:
        late = lambda r, toy=toy: theory.simulated_switch_time(
            toy, r, horizon=1e2, adjoint=dfx.ForwardMode()
        )
        slope = -toy.passage[1] * toy.switch_time(0.1) / 0.1
        np.testing.assert_allclose(jax.grad(toy.switch_time)(0.1), slope, rtol=1e-12)
        np.testing.assert_allclose(jax.jacfwd(late)(0.1), slope, rtol=1e-4)


def test_no_switch_is_infinite():
    for r in (0.0, -0.1):
        assert jnp.isinf(SP.switch_time(r)) and jnp.isinf(LC.switch_time(r))
        assert SP.loss(r, 20.0, 5.0) == 1 and SP.gradient(r, 20.0, 5.0) == 0
    assert jnp.isinf(theory.simulated_switch_time(SP, -0.1, horizon=100.0))
    assert jnp.isinf(theory.simulated_switch_time(LC, 4e-3, horizon=100.0))
    assert LC.loss(0.0, 20.0, 5.0) == 1 and LC.gradient(0.0, 20.0, 5.0) == 0
    assert jax.grad(SP.switch_time)(-1.0) == 0


def test_nan_stays_nan():
    for toy in (SP, LC):
        assert jnp.isnan(toy.switch_time(jnp.nan))
        assert jnp.isnan(toy.loss(jnp.nan, 20.0, 5.0))
        assert jnp.isnan(toy.gradient(jnp.nan, 20.0, 5.0))


def test_mean_exponent_of_lists_and_of_bad_numbers():
    got = theory.mean_exponent([1.0, 2.0, 4.0], [8.0, 2.0, 0.5])
    np.testing.assert_allclose(got, 2, rtol=1e-6)
    with pytest.raises(ValueError, match="rates ="):
        theory.mean_exponent([1.0, 2.0], [0.0, 1.0])
    with pytest.raises(ValueError, match=r"delays has shape \(1,\)"):
        theory.mean_exponent([2.0], [1.0])
    with pytest.raises(ValueError, match="3 delays and 2 rates"):
        theory.mean_exponent([1.0, 2.0, 4.0], [8.0, 2.0])


@pytest.mark.parametrize("toy", [*TOYS, theory.SlowPoint(6)], ids=ids)
def test_gradient_equals_that_of_the_loss(toy):
    T_d, T_r = jnp.array([[20.0], [33.0], [7.0]]), jnp.array([[5.0], [33.0], [20.0]])
    r = toy.optimum(T_d) * jnp.linspace(0.2, 7, 101)[None]
    if toy is LC:
        r = jnp.concatenate([r, -r], axis=1)
    args = [a.ravel() for a in jnp.broadcast_arrays(r, T_d, T_r)]
    want = jax.vmap(jax.grad(toy.loss))(*args)
    got = toy.gradient(*args)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)
    h = 1e-7 * args[0]
    up, down = (toy.loss(args[0] + s * h, *args[1:]) for s in (1, -1))
    central = (up - down) / (2 * h)
    close = jnp.isclose(got, central, rtol=1e-4, atol=1e-4 * jnp.max(jnp.abs(got)))
    assert jnp.mean(close) > 0.98  # but for kinks


@pytest.mark.parametrize("toy", TOYS, ids=ids)
def test_slopes_at_the_kink(toy):
    T_d, T_r = 49.0, 5.0  # 1/(2 T_d) times T_d rounds to less than one half
    r = toy.optimum(T_d)
    right = {SP: 2 * T_d**2 / np.pi**2, LC: 2 * T_d}[toy]
    left = {SP: -2 * T_d**3 / (np.pi**2 * T_r), LC: -2 * T_d**2 / T_r}[toy]
    for grad in (toy.gradient, eqx.filter_jit(toy.gradient)):
        np.testing.assert_allclose(grad(r, T_d, T_r), right, rtol=1e-12)
        np.testing.assert_allclose(grad(r * (1 - 1e-12), T_d, T_r), left, rtol=1e-9)
    assert toy.loss(r, T_d, T_r) < 1e-14
    dead = toy.dead_zone(T_d, T_r)
    assert toy.gradient(dead * (1 - 1e-12), T_d, T_r) == 0
    np.testing.assert_allclose(toy.loss(dead, T_d, T_r), 1, atol=1e-12)


def test_published_prefactors():
    pi = np.pi
    for toy, power, limit, at_200 in ((SP, 5, pi**4 / 4, 23.5), (LC, 3, 0.25, 0.244)):
        got = toy.critical_learning_rate(200.0, 5.0) * 200**power / 5
        np.testing.assert_allclose(got, at_200, rtol=2e-3)
        T_d = jnp.array([200.0, 400.0, 1e3, 1e6])
        got = toy.critical_learning_rate(T_d, 5.0) * T_d**power / 5
        np.testing.assert_allclose(got, limit, rtol=0.05)
        np.testing.assert_allclose(got[-1], limit, rtol=2e-5)
    np.testing.assert_allclose(
        SP.critical_learning_rate(7.0, 7.0) * 7**4, 3 * pi**4 / 32, rtol=1e-13
    )
    np.testing.assert_allclose(
        LC.critical_learning_rate(7.0, 7.0) * 7**2, 1 / 24, rtol=1e-13
    )


def test_critical_rate_is_the_printed_formula_without_its_cancellation():
    T_d = jnp.array([3.0, 20.0, 1e3])
    printed = np.pi**4 / (8 * T_d**2) * (1 / T_d**2 - 1 / (T_d + 2.0) ** 2)
    got = SP.critical_learning_rate(T_d, 2.0)
    np.testing.assert_allclose(got, printed, rtol=1e-12)
    printed = 2.0 / (4 * T_d**2 * (T_d + 2.0))
    np.testing.assert_allclose(LC.critical_learning_rate(T_d, 2.0), printed, rtol=1e-14)
    # T_r/T_d = 1e-14, where the difference of the printed formula is all rounding
    tiny = SP.critical_learning_rate(1e3, 1e-11)
    np.testing.assert_allclose(tiny, np.pi**4 / 4 * 1e-26, rtol=1e-12)
    # (r* - r_c)/L'(r*+), whatever the switches in the response
    for toy in TOYS:
        for T_r in (3.0, 10.0, 15.0, 20.0, 30.0, 47.0):
            edge = toy.optimum(10.0)
            want = (edge - toy.dead_zone(10.0, T_r)) / toy.gradient(edge, 10.0, T_r)
            got = toy.critical_learning_rate(10.0, T_r)
            np.testing.assert_allclose(got, want, rtol=1e-12)


def test_cycles_outlast_slow_points_beyond_ten():
    T_d = jnp.array([50.0, 100.0])
    upper, lower = (toy.critical_learning_rate(T_d, 5.0) for toy in (LC, SP))
    np.testing.assert_allclose(upper / lower, [26.9, 105], rtol=2e-3)
    cross = theory.crossover(LC, SP, lambda T_d: 5.0)
    assert 8 < cross < 11
    np.testing.assert_allclose(  # T_r << T_d: pi^2
        theory.crossover(LC, SP, lambda T_d: 1e-6), np.pi**2, rtol=1e-6
    )
    assert jnp.isnan(theory.crossover(SP, LC, lambda T_d: 5.0))


def test_bounce_rate():
    ratio = LC.bounce_learning_rate(10.0, 5.0) / LC.critical_learning_rate(10.0, 5.0)
    np.testing.assert_allclose(ratio, 0.711, atol=5e-4)
    T_d = jnp.array([20.0, 60.0, 200.0])
    np.testing.assert_allclose(
        LC.bounce_learning_rate(T_d, 5.0), LC.critical_learning_rate(T_d, 5.0)
    )
    near = LC.bounce_learning_rate(1.0, jnp.array([1 - 1e-9, 1, 1 + 1e-9]))
    np.testing.assert_allclose(near, 1 / 24, rtol=1e-6)
    assert jnp.isnan(LC.bounce_learning_rate(1.0, 2.0))


@pytest.mark.parametrize("toy", TOYS, ids=ids)
def test_pure_functions(toy):
    r = toy.optimum(20.0) * jnp.array([0.5, 0.9, 1.0, 1.3, 4.0])
    for method in (toy.loss, toy.gradient):
        eager = method(r, 20.0, 5.0)
        assert tree_allclose(
            eqx.filter_jit(method)(r, 20.0, 5.0), eager, rtol=1e-12, atol=1e-15
        )
        each = jnp.stack([method(x, 20.0, 5.0) for x in r])
        assert tree_allclose(
            jax.vmap(lambda x, method=method: method(x, 20.0, 5.0))(r),
            each,
            rtol=1e-12,
            atol=1e-15,
        )
        assert method(r.astype(jnp.float32), 20.0, 5).dtype == jnp.float32
    rate = toy.critical_learning_rate
    slope = jax.grad(rate)(20.0, 5.0)
    central = (rate(20.001, 5.0) - rate(19.999, 5.0)) / 0.002
    np.testing.assert_allclose(slope, central, rtol=1e-6)
    assert rate(jnp.ones((4, 1)), jnp.ones(3)[None]).shape == (4, 3)
    single = toy.critical_learning_rate(jnp.float32(50), jnp.float32(5))
    np.testing.assert_allclose(single, rate(50.0, 5.0), rtol=2e-6)


def test_bad_input():
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="T_d"):
            SP.loss(0.1, bad, 5.0)
        with pytest.raises(ValueError, match="T_r"):
            LC.critical_learning_rate(20.0, bad)
    with pytest.raises(ValueError, match="even"):
        theory.SlowPoint(order=3)
    with pytest.raises((ValueError, TypeError), match="order"):
        theory.SlowPoint(order="2")
    with pytest.raises(ValueError, match="multiple"):
        theory.simulated_loss(LC, 0.1, 1.005, 1.0)
    with pytest.raises(ValueError, match="horizon"):
        theory.simulated_switch_time(LC, 0.1, horizon=-1.0)
    with pytest.raises(ValueError, match="Use jax.vmap"):
        theory.simulated_switch_time(LC, jnp.ones(2), horizon=1.0)
    with pytest.raises(ValueError, match="Use jax.vmap"):
        theory.simulated_loss(LC, jnp.ones(2), 1.0, 1.0)
