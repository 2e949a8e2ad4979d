"""Cycles and invariant circles of maps against closed forms."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnndyn import Map, Verdict
from rnndyn.dynamics import invariant_circle, k_cycles


logistic = Map(lambda x, r: r * x * (1 - x))
henon = Map(lambda x, a: jnp.stack([1 - a * x[0] ** 2 + x[1], 0.3 * x[0]]))
delayed = Map(lambda x, a: jnp.stack([a * x[0] * (1 - x[1]), x[0]]))
STARTS = jnp.linspace(0.01, 0.99, 12)[:, None]


def rotor(x, ab):
    a, b = ab
    r = jnp.tanh(x)
    # The Euler map at dt/tau = .5.
    return x + 0.5 * (-x + jnp.stack([a * r[0] - b * r[1], b * r[0] + a * r[1]]))


def clock(z, turns, pull=0.5):
    """Turn by a given share of a circle; the radius is drawn to 1."""
    angle = 2 * jnp.pi * turns
    c, s = jnp.cos(angle), jnp.sin(angle)
    radial = 1 + pull * (1 - z[0] ** 2 - z[1] ** 2)
    return radial * jnp.stack([c * z[0] - s * z[1], s * z[0] + c * z[1]])


def two_cycle(r):
    """Points of the logistic 2-cycle."""
    root = jnp.sqrt((r - 3) * (r + 1))
    return (r + 1 - root) / (2 * r), (r + 1 + root) / (2 * r)


@pytest.mark.parametrize("r,stable", [(3.2, -1), (3.4, -1), (3.83, 1), (4.0, 1)])
def test_logistic_two_cycle(r, stable):
    found = k_cycles(logistic, STARTS, 2, jnp.asarray(r))
    assert int(found.mask.sum()) == 1 and bool(found.mask[0])
    np.testing.assert_allclose(jnp.sort(found.x[0, :, 0]), two_cycle(r), rtol=1e-12)
    np.testing.assert_allclose(found.multipliers[0, 0], 4 + 2 * r - r**2, rtol=1e-10)
    assert int(found.stability[0]) == stable
    # Fixed points are found too, and are said to be that.
    constant = found.verdict == Verdict.constant
    assert bool(jnp.all(found.period[constant] == 1))
    assert int(jnp.sum(constant & found.unique)) <= 2


def test_logistic_three_cycles():
    found = k_cycles(logistic, STARTS, 3, jnp.asarray(3.83))
    stability = np.asarray(found.stability[found.mask])
    assert sorted(stability) == [-1, 1]  # born together at r = 1 + sqrt 8
    stable = found.x[found.mask][stability == -1][0, :, 0]
    x = 0.5
    for _ in range(3000):
        x = 3.83 * x * (1 - x)
    assert np.min(np.abs(stable - x)) < 1e-12
    before = k_cycles(logistic, STARTS, 3, jnp.asarray(3.8))
    assert not bool(before.mask.any())
    assert bool(jnp.all(before.period <= 1))


@pytest.mark.slow
def test_four_cycle_and_all_cycles_of_full_chaos():
    many = jnp.linspace(0.001, 0.999, 60)[:, None]
    found = k_cycles(logistic, many, 4, jnp.asarray(3.5))
    assert int(found.mask.sum()) == 1 and int(found.stability[0]) == -1
    product = jnp.prod(3.5 * (1 - 2 * found.x[0, :, 0]))
    np.testing.assert_allclose(found.multipliers[0, 0], product, rtol=1e-9)
    # r = 4: 3 orbits of period 4, 1 of period 2, conjugate to the tent map by sin^2.
    full = k_cycles(logistic, many, 4, jnp.asarray(4.0))
    periods = np.asarray(full.period[full.unique])
    assert [int(np.sum(periods == p)) for p in (4, 2)] == [3, 1]
    np.testing.assert_allclose(jnp.abs(full.multipliers[full.mask]), 16, rtol=1e-9)
    # Angles of the tent map's points are even multiples of 1/15 or 1/17.
    angle = jnp.arcsin(jnp.sqrt(full.x[full.mask][..., 0])) * 2 / jnp.pi
    miss = lambda n: jnp.abs(angle * n / 2 - jnp.round(angle * n / 2))
    assert float(jnp.max(jnp.minimum(miss(15), miss(17)))) < 1e-10


@pytest.mark.parametrize("steep", [1.0, 1e2, 1e4])
def test_a_double_root_of_a_map_is_no_cycle(steep):
    fold = Map(lambda x, p: x + p[0] * (x**2 + p[1]))
    starts = jnp.linspace(-5e-3, 5e-3, 16)[:, None]
    for gap in (0.0, 1e-17 / steep):
        found = k_cycles(fold, starts, 1, jnp.array([steep, gap]))
        assert int(found.mask.sum()) == 0
    found = k_cycles(fold, starts, 1, jnp.array([steep, -1e-8 / steep]))
    np.testing.assert_array_equal(jnp.sort(found.stability[found.mask]), [-1, 1])


@pytest.mark.slow
def test_long_search_reduces_to_the_minimal_period():
    """k = 20 uses the log-domain multipliers; the orbit has period 4."""
    many = jnp.linspace(0.001, 0.999, 60)[:, None]
    short = k_cycles(logistic, many, 4, jnp.asarray(3.53))
    long = k_cycles(logistic, STARTS[:4], 20, jnp.asarray(3.53))
    assert not bool(long.mask.any())
    row = int(jnp.argmax(long.unique & (long.period == 4)))
    assert int(long.period[row]) == 4 and int(long.verdict[row]) == Verdict.k_cycle
    np.testing.assert_allclose(
        long.log_multipliers[row, 0].real, short.log_multipliers[0, 0].real, rtol=1e-8
    )


def test_henon_two_cycle():
    a, b = 1.4, 0.3
    starts = jax.random.uniform(jax.random.key(0), (24, 2), minval=-1.5, maxval=1.5)
    found = k_cycles(henon, starts, 2, jnp.asarray(a))
    assert int(found.mask.sum()) == 1
    root = np.sqrt(4 * a - 3 * (1 - b) ** 2)
    x = np.array([1 - b - root, 1 - b + root]) / (2 * a)
    np.testing.assert_allclose(jnp.sort(found.x[0, :, 0]), x, rtol=1e-12)
    values = found.multipliers[0]
    np.testing.assert_allclose(jnp.prod(values).real, b**2, rtol=1e-10)
    trace = 4 * ((1 - b) ** 2 - a) + 2 * b
    np.testing.assert_allclose(jnp.sum(values).real, trace, rtol=1e-10)


def test_gradients_and_transformations():
    def numbers(r):
        found = k_cycles(logistic, STARTS, 2, r)
        return jnp.stack([found.x[0, :, 0].max(), found.multipliers[0, 0].real])

    r = jnp.asarray(3.3)
    forward = jax.jacfwd(numbers)(r)
    reverse = jax.grad(lambda r: numbers(r)[1])(r)
    np.testing.assert_allclose(forward[1], reverse, rtol=1e-10)
    expected = [jax.grad(lambda r: two_cycle(r)[1])(r), 2 - 2 * r]
    np.testing.assert_allclose(forward, expected, rtol=1e-9)
    h = 1e-5
    central = (numbers(r + h) - numbers(r - h)) / (2 * h)
    np.testing.assert_allclose(forward, central, rtol=1e-6)


@pytest.mark.slow
def test_vmap_is_a_loop():
    rs = jnp.array([3.2, 3.5])
    batch = eqx.filter_vmap(lambda r: k_cycles(logistic, STARTS, 2, r))(rs)
    for i, r in enumerate(rs):
        one = k_cycles(logistic, STARTS, 2, r)
        np.testing.assert_allclose(batch.x[i, 0], one.x[0], rtol=1e-12)
        assert int(batch.verdict[i, 0]) == int(one.verdict[0])


@pytest.mark.slow
def test_float32_and_bad_starts():
    starts = jnp.array([[0.2], [jnp.nan], [1e30], [0.7]], jnp.float32)
    found = k_cycles(logistic, starts, 2, jnp.asarray(3.3, jnp.float32))
    assert found.x.dtype == jnp.float32 and int(found.mask.sum()) == 1
    np.testing.assert_allclose(jnp.sort(found.x[0, :, 0]), two_cycle(3.3), rtol=1e-5)
    assert bool(jnp.all(jnp.isfinite(found.x)))
    assert int(jnp.sum(found.verdict == Verdict.diverged)) >= 2


def test_bad_input():
    with pytest.raises(ValueError, match="expected a rnndyn.Map"):
        k_cycles(lambda t, x, args: x, STARTS, 2)
    with pytest.raises(ValueError, match="starts, state"):
        k_cycles(logistic, STARTS[0], 2, 3.2)
    for wrong in (dict(lanes=0), dict(settled=-1), dict(max_steps=0), dict(tol=-1.0)):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            k_cycles(logistic, STARTS, 2, 3.2, **wrong)
    with pytest.raises(ValueError, match="k = 0, expected a whole number >= 1"):
        k_cycles(logistic, STARTS, 0, 3.2)
    for wrong in (dict(transient=-1), dict(window=0), dict(samples=8)):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            invariant_circle(logistic, STARTS[0], 3.2, **wrong)
    with pytest.raises(ValueError, match="expected a rnndyn.Map"):
        invariant_circle(lambda t, x, args: x, STARTS[0])
    with pytest.raises(ValueError, match="jax.vmap"):
        invariant_circle(logistic, STARTS, 3.2)


GOLDEN = (5**0.5 - 1) / 2


def test_rotation_number():
    """An exact turn, a turn with a slow spiral, and two turns at once."""
    turn = Map(lambda z, a: clock(z, a[0], a[1]))
    x0 = jnp.array([0.5, 0.2])
    circle = invariant_circle(turn, x0, jnp.array([GOLDEN, 0.5]))
    assert bool(circle.mask) and int(circle.pieces) == 1
    np.testing.assert_allclose(circle.rotation, 1 - GOLDEN, rtol=1e-12)
    assert float(circle.rotation_error) < 1e-12
    assert abs(float(circle.exponents[0])) < 1e-10
    # dr'/dr = 1 - 2 pull.
    circle = invariant_circle(turn, x0, jnp.array([0.2**0.5 / 3, 0.25]))
    np.testing.assert_allclose(circle.rotation, 0.2**0.5 / 3, rtol=1e-10)
    np.testing.assert_allclose(circle.exponents[1], np.log(0.5), rtol=1e-8)
    # Neutral circles, every one invariant: not an attractor.
    neutral = invariant_circle(turn, x0, jnp.array([GOLDEN, 0.0]))
    assert int(neutral.verdict) == Verdict.undetermined
    # So slowly drawn in that the end is not in sight.
    spiral = invariant_circle(turn, x0, jnp.array([GOLDEN, 1e-6]))
    assert int(spiral.verdict) == Verdict.undetermined
    locked = invariant_circle(turn, x0, jnp.array([2 / 7, 0.25]))
    assert int(locked.verdict) != Verdict.invariant_circle


def test_euler_map_of_the_rotor():
    """Stable as a flow (a < 1); the map's origin has multiplier |.9 + i| > 1."""
    system = Map(rotor)
    ab = (jnp.asarray(0.8), jnp.asarray(2.0))
    circle = invariant_circle(system, jnp.array([0.5, 0.1]), ab)
    assert bool(circle.mask) and int(circle.pieces) == 1
    assert abs(float(circle.exponents[0])) < 1e-9 and float(circle.exponents[1]) < -0.1
    other = invariant_circle(system, jnp.array([-1.5, 2.1]), ab)
    np.testing.assert_allclose(circle.rotation, other.rotation, rtol=1e-9)
    assert 0 < float(circle.rotation) < 0.5


@pytest.mark.parametrize(
    "a,verdict",
    [
        (1.9, "constant"),
        (2.0, "undetermined"),  # the Neimark-Sacker point itself
        (2.05, "invariant_circle"),
        (2.18, "k_cycle"),  # 1:7 locking
        (2.27, "chaotic"),
        (2.5, "diverged"),
    ],
)
def test_delayed_logistic_map(a, verdict):
    found = invariant_circle(delayed, jnp.array([0.5, 0.4]), jnp.asarray(a))
    assert Verdict(int(found.verdict)).name == verdict
    assert bool(jnp.all(jnp.isfinite(found.orbit)))
    if verdict == "k_cycle":
        assert float(found.period) == 7


@pytest.mark.slow
def test_torus_and_two_pieces():
    two = Map(lambda x, w: jnp.concatenate([clock(x[:2], w[0]), clock(x[2:], w[1])]))
    x0 = jnp.array([0.5, 0.1, 0.2, 0.3])
    torus = invariant_circle(two, x0, jnp.array([GOLDEN, 2**0.5 - 1]))
    assert int(torus.verdict) == Verdict.torus
    flip = lambda s: -(1.25 * s - 0.25 * s**3)
    pair = Map(lambda x, w: jnp.concatenate([clock(x[:2], w), flip(x[2:])]))
    found = invariant_circle(
        pair, jnp.array([0.5, 0.1, 0.7]), jnp.asarray(0.05 * GOLDEN)
    )
    assert bool(found.mask) and int(found.pieces) == 2
    np.testing.assert_allclose(found.rotation, 0.1 * GOLDEN, rtol=1e-9)
