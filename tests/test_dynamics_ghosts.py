"""Ghosts of saddle-nodes: verdicts, normal forms and passage times."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import rnndyn as rd
import rnndyn.dynamics as rdd
from rnndyn import Verdict
from rnndyn.dynamics import certify, ghost_passage, ghosts, passage_time


PLAIN = rdd.MultiStart(num_large=0, rounds=0, detect_odd=False)
# A generic basis and three contracting directions for the embedded saddle-node.
Q = jnp.asarray(np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0])
RATES = jnp.array([1.0, 3.0, 9.0])
# x' = mu + x^2 from -1 to 1 takes 2 atan(1/sqrt mu)/sqrt mu.
TIMES = {
    1e-2: 29.422553486074691837,
    1e-4: 312.1593320216462762,
    1e-6: 3139.5926542564595051,
}


def scalar(t, x, mu):
    return mu + x**2


def embedded(t, x, mu):
    z = Q.T @ x
    return Q @ jnp.concatenate([(mu + z[:1] ** 2), -RATES * (z[1:] - 0.3 * z[0] ** 2)])


def verdicts(f, x0s, args=None):
    found = certify(rdd.slow_points(f, jnp.asarray(x0s), args, strategy=PLAIN))
    return found, np.asarray(found.verdict)[np.asarray(found.mask)].tolist()


def test_certify_names_ghosts_and_finds_their_normal_form():
    x0s = 0.1 * np.random.default_rng(1).standard_normal((4, 4))
    found, codes = verdicts(embedded, x0s, jnp.asarray(1e-4))
    assert codes == [Verdict.ghost]
    np.testing.assert_allclose(found.slow(), np.zeros((1, 4)), atol=1e-10)
    passing = ghosts(found)
    assert passing.x.shape == (1, 4) and passing.verdict.tolist() == [Verdict.ghost]
    np.testing.assert_allclose(passing.passage_time, np.pi / 1e-2, rtol=1e-9)
    np.testing.assert_allclose(passing.eigenvalue, 0, atol=1e-12)
    np.testing.assert_allclose(passing.next_eigenvalue, -1, atol=1e-9)
    np.testing.assert_allclose(passing.right[0], Q[:, 0], atol=1e-9)
    np.testing.assert_allclose(np.sum(passing.left * passing.right, 1), 1, rtol=1e-12)
    # Certified once more, nothing changes.
    again = certify(found)
    np.testing.assert_array_equal(again.verdict, found.verdict)


def test_speed_minimum_is_exact():
    found, _ = verdicts(scalar, [[0.02]], jnp.asarray(1e-4))
    slot = np.flatnonzero(np.asarray(found.mask))[0]
    assert abs(found.x[slot, 0]) < 1e-15
    np.testing.assert_allclose(found.q[slot], 1e-8 / 2, rtol=1e-12)
    assert abs(found.eigenvalues[slot, 0]) < 1e-12


def bottleneck(t, x, p):
    """Half-length 0.1 and rate 0.1 if quadratic, with cubic and quartic terms."""
    quadratic, cubic, quartic, rate = p
    s = x[0]
    along = 0.01 + quadratic * s**2 + cubic * s**3 + quartic * s**4
    return jnp.stack([along, -rate * x[1]])


# Each condition of the decision, on its two sides.
@pytest.mark.parametrize(
    "p, ghost",
    [
        # The next eigenvalue against that at the ends of the bottleneck, 0.2.
        ((1.0, 0.0, 0.0, 0.25), True),
        ((1.0, 0.0, 0.0, 0.15), False),
        # A quartic term of 0.5 and 2 drifts at the ends; nothing but a quartic one.
        ((1.0, 0.0, 50.0, 5.0), True),
        ((1.0, 0.0, 200.0, 5.0), False),
        ((0.0, 0.0, 1.0, 5.0), False),
        # Roots near -1 and -0.22; three half-lengths are 0.3.
        ((1.0, 1.0, 0.0, 5.0), True),
        ((1.0, 5.5, 0.0, 5.0), False),
    ],
)
def test_both_sides_of_every_threshold(p, ghost):
    found, codes = verdicts(bottleneck, [[0.02, 0.02]], jnp.array(p))
    assert codes == [Verdict.ghost if ghost else Verdict.slow_point]
    assert len(ghosts(found).x) == ghost


def test_below_the_fold_are_roots_and_no_ghost():
    found, codes = verdicts(scalar, [[0.2], [-0.2]], jnp.asarray(-1e-4))
    assert codes == [Verdict.root, Verdict.root]
    assert ghosts(found).x.shape == (0, 1)
    at_root = ghost_passage(scalar, jnp.array([0.01]), jnp.asarray(-1e-4))
    assert at_root.verdict == Verdict.root


def test_ghost_passage_differentiates_through_the_moving_minimum():
    # Minimum at c(p) with curvature and drift that depend on p.
    def f(t, x, p):
        s = x[0] - p
        return jnp.stack([1e-3 * (1 + p) + (1 + p**2) * s**2, -x[1] + 0.5 * p * x[0]])

    x0 = jnp.array([0.52, 0.2])

    def summary(p):
        g = ghost_passage(f, x0, p)
        return jnp.concatenate(
            [g.x, g.right, jnp.stack([g.speed, g.drift, g.curvature, g.passage_time])]
        )

    p, h = jnp.asarray(0.5), 1e-5
    assert ghost_passage(f, x0, p).verdict == Verdict.ghost
    forward, reverse = jax.jacfwd(summary)(p), jax.jacrev(summary)(p)
    central = (summary(p + h) - summary(p - h)) / (2 * h)
    np.testing.assert_allclose(forward, reverse, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(forward, central, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(forward[0], 1, rtol=1e-6)


def test_ghost_passage_under_jit_vmap_float32_and_for_maps():
    x0s = jnp.asarray(0.05 * np.random.default_rng(2).standard_normal((3, 4)))
    mu = jnp.asarray(1e-3)
    batch = jax.jit(jax.vmap(lambda x: ghost_passage(embedded, x, mu)))(x0s)
    assert batch.verdict.tolist() == [Verdict.ghost] * 3
    loop = [ghost_passage(embedded, x, mu).passage_time for x in x0s]
    np.testing.assert_allclose(batch.passage_time, loop, rtol=1e-9)
    small = ghost_passage(scalar, jnp.array([0.05], jnp.float32), jnp.float32(1e-3))
    assert small.passage_time.dtype == jnp.float32
    np.testing.assert_allclose(small.passage_time, np.pi / 1e-3**0.5, rtol=1e-4)
    step = rd.Map(lambda x, mu: x + mu + x**2)
    mapped = ghost_passage(step, jnp.array([0.02]), jnp.asarray(1e-4))
    np.testing.assert_allclose(mapped.passage_time, np.pi / 1e-2, rtol=1e-9)
    broken = ghost_passage(scalar, jnp.array([jnp.nan]), mu)
    assert broken.verdict == Verdict.undetermined


def test_time_scale_is_the_unit():
    fast = lambda t, x, mu: 100 * (mu + x**2)
    ghost = ghost_passage(fast, jnp.array([0.01]), jnp.asarray(1e-4), time_scale=0.01)
    np.testing.assert_allclose(ghost.passage_time, np.pi / 1e-2 / 100, rtol=1e-9)
    np.testing.assert_allclose(ghost.speed, 1e-4, rtol=1e-9)
    np.testing.assert_allclose(ghost.drift, 1e-2, rtol=1e-9)


def test_scalar_passage_times_and_derivative():
    one = jnp.ones(1)
    time = eqx.filter_jit(lambda mu: passage_time(scalar, -one, one, mu).time)
    slope = eqx.filter_jit(jax.value_and_grad(time))
    for mu, expected in TIMES.items():
        value, derivative = slope(jnp.asarray(mu))
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        exact = -1 / (mu * (1 + mu)) - np.arctan(mu**-0.5) / mu**1.5
        np.testing.assert_allclose(derivative, exact, rtol=1e-10)


def test_passage_in_a_rotated_basis_with_contraction():
    start = Q @ jnp.array([-1.0, 0.3, -0.2, 0.1])
    many = jnp.array(list(TIMES))
    run = jax.vmap(
        lambda mu: passage_time(
            embedded, start, Q[:, 0], mu, normal=Q[:, 0], max_steps=16384
        )
    )
    way = run(many)
    assert way.arrived.all()
    np.testing.assert_allclose(way.time, list(TIMES.values()), rtol=1e-10)
    np.testing.assert_allclose(way.x @ Q[:, 0], 1, rtol=1e-12)


@pytest.mark.slow
def test_forward_and_reverse_derivatives_agree_in_several_dimensions():
    start = Q @ jnp.array([-1.0, 0.3, -0.2, 0.1])
    time = lambda mu: passage_time(embedded, start, Q[:, 0], mu, normal=Q[:, 0]).time
    mu = jnp.asarray(1e-2)
    exact = -1 / (mu * (1 + mu)) - np.arctan(mu**-0.5) / mu**1.5
    np.testing.assert_allclose(jax.jacfwd(time)(mu), exact, rtol=1e-9)
    np.testing.assert_allclose(jax.grad(time)(mu), exact, rtol=1e-9)


@pytest.mark.parametrize("mu", [1e-3, 1e-6])
def test_a_ghost_where_nothing_but_the_curvature_is_left(mu):
    # In one dimension the Jacobian is 0 at the minimum of |mu + x^2|.
    starts = jnp.linspace(-0.9, 0.9, 7)[:, None]
    points = rdd.slow_points(lambda t, x, m: m + x**2, starts, jnp.asarray(mu))
    found = certify(points)
    assert np.any(found.verdict == Verdict.ghost)
    np.testing.assert_allclose(ghosts(found).passage_time, np.pi / mu**0.5, rtol=1e-8)


def test_a_trajectory_that_does_not_arrive_says_so():
    one = jnp.ones(1)
    for f in (lambda t, x, a: -x, lambda t, x, a: 0 * x):
        way = passage_time(f, one, -one, max_steps=256)
        assert not way.arrived and np.isinf(way.time) and np.isfinite(way.x).all()


def test_a_small_speed_without_a_root_is_no_root():
    cases = (
        (lambda t, x, a: jnp.exp(x), Verdict.undetermined),  # small far to the left
        (lambda t, x, a: 1e-13 + x**2, Verdict.undetermined),
        (lambda t, x, a: x - 0.2, Verdict.root),
        (lambda t, x, a: jnp.ones_like(x), Verdict.slow_point),
    )
    for f, verdict in cases:
        found = ghost_passage(f, jnp.array([0.3]))
        assert found.verdict == verdict and np.all(np.isfinite(found.x))


@pytest.mark.parametrize(
    "field, count",
    [
        (lambda t, x, a: jnp.where(x > 0.3, 1.0, -1.0) + 0 * x, 0),
        (lambda t, x, a: jnp.ones_like(x), 0),
        (lambda t, x, a: jnp.exp(-x) + 1e-9, 0),
        (lambda t, x, a: x**4 + 1e-4, 1),  # flat to third order, and yet a minimum
    ],
)
def test_a_plateau_is_no_slow_point(field, count):
    x0s = 3 * jax.random.normal(jax.random.key(0), (32, 1))
    assert len(certify(rdd.slow_points(field, x0s)).slow()) == count


def test_one_unit_has_no_second_eigenvalue():
    rate = np.sqrt(0.5)
    b = np.array([2 * rate - np.arctanh(rate) + 1e-3])
    unit = rd.models.RateRNN.from_arrays(np.array([[2.0]]), b=b, tau=0.1)
    found = ghost_passage(unit, jnp.array([-rate]), jnp.zeros(0))
    assert found.verdict == Verdict.ghost
    assert np.isposinf(found.next_eigenvalue.real) and found.next_eigenvalue.imag == 0


def test_bad_input(monkeypatch):
    one = jnp.ones(1)
    with pytest.raises(ValueError, match="Map"):
        passage_time(rd.Map(lambda x, a: x), one, one)
    with pytest.raises(ValueError, match=r"expected floats of shape \(state,\)"):
        passage_time(scalar, jnp.ones((1, 1)), jnp.ones((1, 1)), 1e-2)
    with pytest.raises(ValueError, match="state"):
        ghost_passage(scalar, jnp.ones((2, 1)), 1e-2)
    with pytest.raises(ValueError, match="`time_scale` = -1.0"):
        ghost_passage(scalar, jnp.ones(1), 1e-2, time_scale=-1.0)
    with pytest.raises(ValueError, match="other than `x0`"):
        passage_time(scalar, jnp.ones(1), jnp.ones(1), 1e-2)
    with pytest.raises(ValueError, match="`rtol` = 0.0"):
        passage_time(scalar, -jnp.ones(1), jnp.ones(1), 1e-2, rtol=0.0)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match="expected the result of"):
        ghosts(jnp.ones((2, 1)))


def test_slow_points_move_with_the_parameters():
    """x' = 1 + (x - p)^2 + y^2...: the minimum of the speed sits at p."""

    def field(t, x, p):
        return jnp.stack([0.1 + (x[0] - p) ** 2, -x[1] + p**2])

    def both(p):
        found = rd.slow_points(field, jnp.array([[0.3, 0.1]]), p, strategy=PLAIN)
        return jnp.append(found.x[0], found.speed[0])

    for derivative in (jax.jacfwd, jax.jacrev):
        got = derivative(both)(jnp.asarray(0.5))
        np.testing.assert_allclose(got, [1, 1, 0], atol=1e-4)


@pytest.mark.parametrize("drift", [1e-3, 1e-5])
def test_ghosts_of_networks_and_circles_are_not_lost_in_rounding(drift):
    """f there is a difference of numbers of size 1: descent of the speed ends above the
    rounding of the speed itself."""
    rng = np.random.default_rng(0)
    m = rng.standard_normal(64)
    m = m / np.linalg.norm(m)
    velocity = lambda k, b: -k + np.tanh(2 * np.multiply.outer(k, m) + b * m) @ m
    k = np.linspace(-8, -0.05, 20_000)

    # The bias at which the slowest place left of 0 has this drift.
    low, high = 0.0, 8.0
    for _ in range(50):
        b = (low + high) / 2
        low, high = (low, b) if velocity(k, b).min() > drift else (b, high)
    slowest = k[velocity(k, b).argmin()]
    network = lambda t, x, a: -x + m * (m @ jnp.tanh(2 * x + a * m))
    starts = np.outer(slowest + np.linspace(-0.5, 0.5, 6), m)
    starts = starts + 0.02 * rng.standard_normal(starts.shape)
    found, codes = verdicts(network, starts, jnp.asarray(b))
    assert codes == [Verdict.ghost]
    speed = float(found.speed[np.asarray(found.mask)][0])
    assert abs(speed / velocity(np.array([slowest]), b)[0] - 1) < 0.1

    def circle(t, x, w):
        r = jnp.sqrt(x @ x)
        turn = w - x[1] / r
        return x * (1 - r) + turn * jnp.stack([-x[1], x[0]])

    angles = np.pi / 2 + np.linspace(-0.4, 0.4, 6)
    starts = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found, codes = verdicts(circle, starts, jnp.asarray(1 + drift))
    assert codes == [Verdict.ghost]
    np.testing.assert_allclose(np.asarray(found.speed)[0], drift, rtol=1e-6)
