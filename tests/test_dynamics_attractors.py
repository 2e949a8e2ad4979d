"""Attractors and basins of flows and maps with known ends."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import lorenz, van_der_pol

from rnndyn import Map, Verdict
from rnndyn.dynamics import (
    Box,
    attractors,
    invariant_circle,
    settle,
    verdict_of,
    wilson,
)


def normal(shape, scale=1.0, seed=0):
    return scale * np.random.default_rng(seed).standard_normal(shape)


def network(t, x, W):
    return -x + jnp.tanh(W @ x)


def rotor_matrix(a, b):
    return jnp.array([[a, -b], [b, a]])


def turn(z):
    return jnp.stack([-z[1], z[0]])


def clock(t, z, c):
    """Radius by c0 + c1 r^2 + c2 r^4, angle by w0 + w1 sin."""
    r2 = z[0] ** 2 + z[1] ** 2
    radial = c[0] + c[1] * r2 + c[2] * r2**2
    return radial * z + (c[3] + c[4] * z[1] / jnp.sqrt(r2 + 1e-30)) * turn(z)


logistic = Map(lambda x, r: r * x * (1 - x))


def test_wilson():
    # Published example: 15 of 148 gives (0.0624, 0.1605).
    np.testing.assert_allclose(wilson(15, 148), (0.10135, 0.0624, 0.1605), atol=1e-4)
    assert wilson(0, 0)[1:] == (0.0, 1.0)
    for bad in ((5, 3), (-1, 3)):
        with pytest.raises(ValueError, match="expected 0 <= k <= n"):
            wilson(*bad)
    with pytest.raises(ValueError, match="level = 1.5"):
        wilson(1, 3, 1.5)
    assert wilson(0, 10)[1] < 1e-15 and wilson(10, 10)[2] > 1 - 1e-15


def test_eight_equal_basins():
    """x' = x - x^3 in each of three coordinates."""
    x0s = np.random.default_rng(1).uniform(-2, 2, (400, 3))
    found = attractors(lambda t, x, args: x - x**3, x0s)
    assert found.names == ["root"] * 8 and found.undecided == 0
    assert np.all((found.low < 1 / 8) & (1 / 8 < found.high))
    np.testing.assert_allclose(np.abs(found.state), 1, atol=1e-12)
    np.testing.assert_allclose(found.exponents, -2, atol=1e-3)
    # Every start goes where its signs say.
    np.testing.assert_array_equal(np.sign(x0s), np.sign(found.state[found.label]))
    assert found.count.sum() == 400 and found.caveats == ()


def test_six_patterns():
    """Three orthogonal patterns at g = 1.5: only the six pure states are stable."""
    hadamard = np.array([[1.0]])
    for _ in range(3):
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    xi = hadamard[1:4]
    W = jnp.asarray(1.5 / 8 * xi.T @ xi)
    found = attractors(network, normal((240, 8)), W)
    assert found.names == ["root"] * 6
    assert np.all((found.low < 1 / 6) & (1 / 6 < found.high))
    m = 0.85855963664011036
    np.testing.assert_allclose(np.abs(found.state), m, rtol=1e-12)
    np.testing.assert_allclose(found.exponents, m**2 * -1.5 + 0.5, rtol=1e-12)


@pytest.mark.parametrize(
    "mu,period,exponent",
    [
        (1.0, 6.66328685932313, -1.0593769948418549),
        (5.0, 11.61223066771957, -7.3587962),
    ],
)
def test_van_der_pol_is_one_cycle(mu, period, exponent):
    found = attractors(van_der_pol, normal((8, 2), 2.0), jnp.asarray(mu))
    assert found.names == ["limit_cycle"] and found.count.tolist() == [8]
    np.testing.assert_allclose(found.period, period, rtol=1e-7)
    np.testing.assert_allclose(found.exponents[0, :2], [0, exponent], atol=5e-3)
    assert np.isnan(found.exponents[0, 2])
    assert list(found.to_dict()["verdict_name"]) == ["limit_cycle"]


def test_period_beside_a_saddle():
    """A cycle near a homoclinic orbit: steps short enough everywhere but at the
    saddle, where it lingers, gave a period too short by 0.5 %."""

    def field(t, x, mu):
        return jnp.stack([x[1], mu * x[1] + x[0] - x[0] ** 2 + x[0] * x[1]])

    found = attractors(field, np.array([[0.8, 0.1]]), jnp.asarray(-0.865))
    assert found.names == ["limit_cycle"]
    # DOP853 of SciPy, and a certified `limit_cycle`.
    np.testing.assert_allclose(found.period, 14.924855354, rtol=1e-7)
    assert 0 < found.period_error[0] < 1e-6
    # One step is all there is: the period is still measured with shorter ones.
    coarse = attractors(field, np.array([[0.8, 0.1]]), jnp.asarray(-0.865), dt=0.4)
    np.testing.assert_allclose(coarse.period, 14.924855354, rtol=1e-6)


def test_relaxation_oscillator_is_one_cycle():
    found = attractors(van_der_pol, normal((8, 2)), jnp.asarray(20.0))
    assert found.names == ["limit_cycle"] and found.count.tolist() == [8]
    np.testing.assert_allclose(found.period, 34.6823233117, rtol=1e-7)


def test_clocks():
    """Bistable, just before and just after a saddle-node on the cycle."""
    x0s = np.array(
        [[0.1, 0.2], [-0.3, 0.1], [0.0, 0.4], [1.0, 1.0], [-0.6, 0.3], [2, 0]]
    )
    bistable = attractors(clock, x0s, jnp.array([-0.5, 2.0, -1.0, 1.0, 0.0]))
    assert bistable.names == ["root", "limit_cycle"]
    # The basins meet at r^2 = 1 - sqrt(1/2).
    inside = np.linalg.norm(x0s, axis=1) < (1 - 0.5**0.5) ** 0.5
    np.testing.assert_array_equal(bistable.label == 0, inside)
    np.testing.assert_allclose(bistable.period[1], 2 * np.pi, rtol=1e-8)
    assert np.isnan(bistable.period[0]) and bistable.extent[0] == 0
    # w - sin(angle): period 2 pi / sqrt(w^2 - 1), with a bottleneck.
    slow = attractors(clock, x0s, jnp.array([1.0, -1.0, 0.0, 1.001, -1.0]))
    assert slow.names == ["limit_cycle"]
    np.testing.assert_allclose(slow.period, 2 * np.pi / 0.002001**0.5, rtol=1e-5)
    below = attractors(clock, x0s, jnp.array([1.0, -1.0, 0.0, 0.999, -1.0]))
    assert below.names == ["root"]
    np.testing.assert_allclose(below.state[0, 1], 0.999, rtol=1e-12)
    # A passage longer than the run is no attractor.
    bottleneck = jnp.array([1.0, -1.0, 0.0, 1 + 1e-9, -1.0])
    ghost = attractors(clock, x0s, bottleneck, rounds=3)
    assert ghost.names == [] and ghost.undecided == 6
    ends = {Verdict.undetermined, Verdict.slow_point}
    assert set(ghost.start_verdict) <= ends and len(ghost.caveats) >= 1
    # A centre: every orbit is closed, none attracts.
    centre = attractors(clock, x0s, jnp.array([0.0, 0.0, 0.0, 1.0, 0.0]), rounds=2)
    assert centre.names == [] and centre.undecided == 6


@pytest.mark.slow
def test_saddle_node_ghost_and_blow_up():
    field = lambda t, x, mu: mu + x**2
    x0s = np.linspace(-1, -0.1, 6)[:, None]
    passed = attractors(field, x0s, jnp.asarray(1e-4))
    assert passed.names == [] and np.all(passed.start_verdict == Verdict.diverged)
    assert np.all(np.isfinite(passed.final))
    slowly = attractors(field, x0s, jnp.asarray(1e-10))
    assert np.all(slowly.start_verdict == Verdict.diverged)
    np.testing.assert_allclose(slowly.time, np.pi / 1e-5, rtol=1e-3)
    stuck = attractors(field, x0s, jnp.asarray(0.0))  # attracts from one side only
    assert stuck.names == [] and stuck.undecided == 6
    stable = attractors(field, x0s, jnp.asarray(-1e-4))
    assert stable.names == ["root"]
    np.testing.assert_allclose(stable.state, -1e-2, rtol=1e-9)


def test_cycling_between_saddles_is_no_attractor():
    """May & Leonard 1975: the dwell times at three saddles grow for ever."""

    def field(t, x, ab):
        return x * (1 - x - ab[0] * jnp.roll(x, -1) - ab[1] * jnp.roll(x, -2))

    x0s = np.random.default_rng(0).uniform(0.05, 1, (6, 3))
    cycling = attractors(field, x0s, jnp.array([0.8, 1.3]), rounds=3)
    assert cycling.names == [] and cycling.undecided == 6
    coexisting = attractors(field, x0s, jnp.array([0.8, 0.9]))
    assert coexisting.names == ["root"]
    np.testing.assert_allclose(coexisting.state, 1 / 2.7, rtol=1e-12)


def test_lorenz():
    x0s = normal((8, 3), 5.0)
    found = attractors(lorenz, x0s)
    assert found.names == ["chaotic"] and found.count.tolist() == [8]
    np.testing.assert_allclose(found.exponents[0], [0.906, 0, -14.572], atol=0.06)


def test_chaotic_attractors_that_differ_in_one_small_unit_are_two():
    # Chaos of extent 30 beside a bistable unit at +-.9575.
    step = lambda x, a: jnp.stack([3.8 * x[0] * (1 - x[0] / 60), jnp.tanh(2 * x[1])])
    sign = np.where(np.arange(20) % 2, -1.0, 1.0)
    ends = attractors(Map(step), np.stack([np.linspace(3, 57, 20), sign], axis=1))
    assert ends.names == ["chaotic"] * 2 and ends.count.tolist() == [10, 10]
    assert np.all(np.sign(ends.final[:, 1]) == sign)
    np.testing.assert_array_equal(ends.label, ends.label[0] ^ (sign != sign[0]))


def test_long_cycles_of_a_cascade_are_found_or_left_open():
    # At the accumulation of period doublings states near the critical point return to
    # 1e-6 extents after 2048 steps; the cycles have periods of 16384 and 65536.
    logistic = Map(lambda x, r: r * x * (1 - x))
    x0s = jax.random.uniform(jax.random.key(0), (8, 1))
    for r, period in ((3.569945671, 16384), (3.5699456718, 65536)):
        ends = attractors(logistic, x0s, r)
        assert set(ends.names) <= {"k_cycle"} and set(ends.period) <= {period}
    ends = attractors(logistic, x0s, 3.5699456)
    assert ends.names == ["k_cycle"] and ends.period[0] == 2048
    # No circle lies on a line, and this one of the plane is a cascade as well.
    henon = Map(lambda x, a: jnp.stack([1 - a * x[0] ** 2 + x[1], 0.3 * x[0]]))
    assert attractors(henon, 0.1 * jnp.ones((1, 2)), 1.0580459).undecided == 1


def test_cycles_that_have_just_vanished_are_none():
    # At 1 + 8^.5 a stable 3-cycle is born in a fold; before, orbits pass the place so
    # slowly that they seem to converge.
    x0s = jax.random.uniform(jax.random.key(1), (16, 1), minval=0.05, maxval=0.95)
    one = lambda x, r: invariant_circle(logistic, x, r).verdict
    circles = eqx.filter_jit(lambda r: jax.vmap(lambda x: one(x, r))(x0s))
    for before in (1e-13, 1e-12, 1e-10, 1e-8):
        r = 1 + 8**0.5 - before
        assert "k_cycle" not in attractors(logistic, x0s, r).names
        assert not np.any(circles(jnp.asarray(r)) == Verdict.k_cycle)
    for after in (1e-12, 1e-8, 1e-5):  # approached as slowly, from many sides
        ends = attractors(logistic, x0s, 1 + 8**0.5 + after)
        assert ends.names == ["k_cycle"] and ends.period[0] == 3


def test_a_cycle_of_many_units_is_one():
    # Exactly two-dimensional: x tends to the plane of Q, and turns there.
    size, gain = 30, 1.5
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((size, 2)))[0]
    W = jnp.asarray(gain * Q @ np.array([[1.5, -1.5], [1.5, 1.5]]) @ Q.T)
    f = lambda t, x, W: (-x + jnp.tanh(W @ x)) / 0.1
    ends = attractors(f, normal((16, size)), W)
    assert ends.names == ["limit_cycle"] and ends.count.tolist() == [16]
    np.testing.assert_allclose(ends.period, 0.63040203, rtol=1e-7)  # in the plane


def test_a_cycle_of_many_loops_is_one():
    rossler = lambda t, x, c: jnp.stack(
        [-x[1] - x[2], x[0] + 0.2 * x[1], 0.2 + x[2] * (x[0] - c)]
    )
    ends = attractors(rossler, 3 * normal((8, 3)), 4.15)
    assert ends.names == ["limit_cycle"] and ends.count.tolist() == [8]
    # DOP853 of SciPy at 1e-11: 8 loops.
    np.testing.assert_allclose(ends.period, 46.4161249, rtol=1e-8)


def test_two_cycles_of_many_loops_are_two():
    # A fast oscillator locks to a slow one at the phases 0 and pi: same period, mean
    # and extent.
    n = 24

    def field(t, z, _):
        slow, fast = z[:2], z[2:]
        phase = jnp.arctan2(fast[1], fast[0]) - n * jnp.arctan2(slow[1], slow[0])
        radial = lambda z: (1 - z[0] ** 2 - z[1] ** 2) * z
        rate = n - 0.3 * jnp.sin(2 * phase)
        return jnp.concatenate(
            [radial(slow) + turn(slow), radial(fast) + rate * turn(fast)]
        )

    ends = attractors(field, normal((8, 4)))
    assert ends.names == ["limit_cycle"] * 2 and ends.count.sum() == 8
    np.testing.assert_allclose(ends.period, 2 * np.pi, rtol=1e-10)


def test_small_cycles_far_from_zero():
    # The logistic map's 4-cycle in other coordinates, close to a root that repels.
    moved = Map(lambda x, p: p[0] + p[1] * logistic((x - p[0]) / p[1], 3.5))
    for shift, width in ((1e4, 1.0), (100.0, 0.02), (1.0, 1e-4)):
        p, x0 = jnp.array([shift, width]), jnp.array([shift + 0.3 * width])
        circle = invariant_circle(moved, x0, p)
        assert int(circle.verdict) == Verdict.k_cycle and float(circle.period) == 4
        ends = attractors(moved, x0[None], p)
        assert ends.names == ["k_cycle"] and ends.period[0] == 4


@pytest.mark.slow
def test_a_near_return_is_no_period():
    # Of 256 maxima; after a part of them the orbit comes as near as 1e-4 extents.
    starts = 10 * normal((16, 3)) + jnp.array([0.0, 0.0, 100.0])
    field = lambda t, x, r: jnp.stack(
        [10 * (x[1] - x[0]), x[0] * (r - x[2]) - x[1], x[0] * x[1] - 8 / 3 * x[2]]
    )
    ends = attractors(field, starts, 215.364)
    cycles = ends.verdict == Verdict.limit_cycle
    assert cycles.any() and cycles.sum() <= 2
    np.testing.assert_allclose(ends.period[cycles], 63.671120792, rtol=1e-9)


def test_a_strange_attractor_of_small_amplitude_is_no_circle():
    # Grebogi, Ott, Pelikan & Yorke 1984: forced by the golden rotation.
    turn = 2 * np.pi * (5**0.5 - 1) / 2
    c, s = np.cos(turn), np.sin(turn)

    def forced(z, e):
        pushed = 3 * e * jnp.tanh(z[2] / e) * z[0]
        return jnp.stack([c * z[0] - s * z[1], s * z[0] + c * z[1], pushed])

    for e in (1.0, 1e-2):
        x0 = jnp.array([1.0, 0.0, 0.5 * e])
        circle = invariant_circle(Map(forced), x0, e, window=16384)
        assert not bool(circle.mask)


@pytest.mark.slow
def test_torus():
    def field(t, z, w):
        radial = lambda r: 1 - r[0] ** 2 - r[1] ** 2
        a, b = z[:2], z[2:]
        parts = [radial(a) * a + w[0] * turn(a), radial(b) * b + w[1] * turn(b)]
        return jnp.concatenate(parts)

    found = attractors(field, normal((6, 4)), jnp.array([1.0, (5**0.5 - 1) / 2]))
    assert found.names == ["torus"] and found.count.tolist() == [6]
    np.testing.assert_allclose(found.exponents[0], [0, 0, -2], atol=1e-3)


def test_flow_and_map_of_the_rotor():
    """a = .8, b = 2: the origin attracts in the flow and repels in its Euler map."""
    W = rotor_matrix(0.8, 2.0)
    flow = attractors(network, normal((6, 2)), W)
    assert flow.names == ["root"] and flow.kind == "flow"
    np.testing.assert_allclose(flow.state, 0, atol=1e-12)
    euler = Map(lambda x, W: x + 0.5 * network(0.0, x, W))
    # A start at rest on the unstable origin is not decided.
    x0s = np.concatenate([normal((6, 2)), np.zeros((1, 2))])
    found = attractors(euler, x0s, W, rounds=2)
    assert found.names == ["invariant_circle"] and found.kind == "map"
    assert found.label.tolist() == [0] * 6 + [-1] and np.isnan(found.period[0])
    assert abs(found.exponents[0, 0]) < 1e-8 and found.exponents[0, 1] < -0.1


@pytest.mark.parametrize(
    "r,name,period",
    [
        (2.9, "root", np.nan),
        (3.2, "k_cycle", 2),
        (3.5, "k_cycle", 4),
        (3.83, "k_cycle", 3),
        (4.0, "chaotic", np.nan),
    ],
)
def test_logistic(r, name, period):
    x0s = np.random.default_rng(0).uniform(0.05, 0.95, (10, 1))
    found = attractors(logistic, x0s, jnp.asarray(r))
    assert found.names == [name] and found.count.tolist() == [10]
    np.testing.assert_array_equal(found.period, [period])
    exponent = {2.9: np.log(0.9), 3.2: np.log(0.16) / 2, 4.0: np.log(2)}
    if r in exponent:
        np.testing.assert_allclose(found.exponents[0, 0], exponent[r], atol=0.02)


def test_bad_starts_do_not_spoil_the_rest():
    x0s = np.array([[2.0], [np.nan], [0.3], [np.inf], [0.6]])
    x0s = np.concatenate([x0s, [[0.4]] * 5])
    found = attractors(logistic, x0s, jnp.asarray(3.2))
    assert found.names == ["k_cycle"] and found.count.tolist() == [7]
    assert found.label.tolist()[:5] == [-1, -1, 0, -1, 0]
    assert np.sum(found.start_verdict == Verdict.diverged) == 3
    assert np.all(np.isfinite(found.final)) and "diverged" in found.caveats[0]
    np.testing.assert_allclose(found.share, 0.7)
    # At the period doubling itself the approach is algebraic: not decided.
    inside = np.linspace(0.1, 0.9, 10)[:, None]
    neutral = attractors(logistic, inside, jnp.asarray(3.0), rounds=2)
    assert neutral.names == [] and neutral.undecided == 10


X0S = np.array([[1.5, 0.5], [2.5, 0.1], [-1.5, 0.2], [-2.2, 0.5], [1.5, -0.5]])


@pytest.mark.slow
def test_a_line_of_roots_is_one_continuum():
    line = attractors(lambda t, x, a: jnp.stack([0 * x[0], -x[1]]), X0S)
    assert line.names == ["continuum"] and line.count.tolist() == [5]


@pytest.mark.slow
def test_continua_of_networks_whose_jacobian_is_singular_but_for_rounding():
    """The kernel of the ring depends on differences of angles alone, and tanh of a
    cosine has odd harmonics only: from 60 units on it feels no lattice."""
    v = np.array([1, 2, -1]) / np.sqrt(6)
    angles = 2 * np.pi * np.arange(60) / 60
    kernel = 3 / 60 * np.cos(angles[:, None] - angles[None])
    line = lambda t, x, W: -x + W @ x
    ring = lambda t, x, W: -x + jnp.tanh(W @ x)
    for f, W in ((line, np.outer(v, v)), (ring, kernel)):
        x0s = np.random.default_rng(0).normal(size=(6, len(W)))
        found = attractors(f, x0s, jnp.asarray(W))
        assert found.names == ["continuum"] and found.share[0] == 1
        assert found.undecided == 0 and found.caveats == ()


def test_mirror_images_are_two():

    def pair(t, x, args):
        # A clock around (2, 0) for x > 0, its mirror image for x < 0.
        side = jnp.where(x[0] >= 0, 1.0, -1.0)
        z = jnp.stack([side * x[0] - 2, x[1]])
        f = (1 - z[0] ** 2 - z[1] ** 2) * z + turn(z)
        return jnp.stack([side * f[0], f[1]])

    found = attractors(pair, X0S)
    assert found.names == ["limit_cycle"] * 2 and found.count.tolist() == [3, 2]
    assert found.label.tolist() == [0, 0, 1, 1, 0]


def test_a_long_k_cycle_is_one():
    k = 300  # more than are stored

    def turning(x, a):
        angle, r = jnp.arctan2(x[1], x[0]), jnp.linalg.norm(x)
        angle = angle + 2 * jnp.pi * 7 / k - 0.5 * jnp.sin(k * angle) / k
        r = 1 + 0.5 * (r - 1)
        return r * jnp.stack([jnp.cos(angle), jnp.sin(angle)])

    x0s = jax.random.normal(jax.random.key(0), (8, 2))
    found = attractors(Map(turning), x0s, rounds=2)
    assert found.names == ["k_cycle"] and found.period.tolist() == [k]


@pytest.mark.parametrize("height", [0.2, 0.04])
def test_what_differs_by_little_against_its_extent_is_two(height):
    rise = lambda z: z * (1 - (z / height) ** 2)

    def flow(t, x, a):
        r2 = (x[0] ** 2 + x[1] ** 2) / 1e4
        return jnp.append((1 - r2) * x[:2] + turn(x[:2]), rise(x[2]))

    flip = lambda x, a: jnp.stack([-100 * jnp.tanh(x[0] / 50), x[1] + rise(x[1]) / 2])
    x0s = np.array([[80.0, 0, 0.01], [9, 90.0, 0.02], [80.0, 3, -0.01]])
    for found in (attractors(flow, x0s), attractors(Map(flip), x0s[:, ::2])):
        assert found.count.tolist() == [2, 1]


def test_one_cycle_seen_for_a_few_periods_is_one():
    """Either half of the window holds 4 periods: their averages agree, on a value that
    depends on the phase. Cycles of slow networks were split by it."""
    flow = lambda t, x, a: (1 - jnp.vdot(x, x)) * x + turn(x)
    dt = 2 * jnp.pi * 4 / 1024
    found = attractors(flow, normal((8, 2)), dt=float(dt), rounds=1)
    assert found.names == ["limit_cycle"] and found.count.tolist() == [8]


def test_one_cycle_in_long_steps_is_one():
    """Subcritical Hopf beside its fold, r^2 = (1 + sqrt(1 + 4 mu)) / 2."""
    mu = -0.2499

    def flow(t, x, a):
        r2 = jnp.vdot(x, x)
        return (mu + r2 - r2**2) * x + turn(x)

    x0s = np.array([[0.8, 0.1], [-0.1, 0.9], [1.0, 0.9], [-0.9, -0.2], [0.1, 0]])
    found = attractors(flow, x0s, dt=0.19)
    assert found.names == ["limit_cycle", "root"] and found.count.tolist() == [4, 1]
    np.testing.assert_allclose(found.extent[0] ** 2, 1 + (1 + 4 * mu) ** 0.5, rtol=1e-3)


@eqx.filter_jit
def late(x0, r):
    run = settle(logistic, x0, r, transient=2000, window=2000)
    return run, verdict_of(run)


def test_settle_jit_is_eager():
    r, x0 = jnp.asarray(3.2), jnp.array([0.3])
    run, code = late(x0, r)
    assert int(code) == Verdict.k_cycle and float(run.period) == 2
    eager = settle(logistic, x0, r, transient=2000, window=2000)
    np.testing.assert_allclose(run.orbit, eager.orbit, rtol=1e-9)


@pytest.mark.slow
def test_settle_in_float32_and_in_a_batch():
    r, x0 = jnp.asarray(3.2), jnp.array([0.3])
    batch = jax.vmap(lambda r: late(x0, r)[1])(jnp.array([2.9, 3.2, 4.0]))
    assert batch.tolist() == [Verdict.root, Verdict.k_cycle, Verdict.chaotic]
    run, code = late(x0.astype(jnp.float32), r.astype(jnp.float32))
    assert run.orbit.dtype == jnp.float32 and int(code) == Verdict.k_cycle


def test_samplers_and_bad_input():
    box = Box(jnp.array([0.1]), jnp.array([0.9]), 10)
    found = attractors(logistic, box, jnp.asarray(3.2))
    assert found.count.tolist() == [10]
    with pytest.raises(ValueError, match="starts, state"):
        attractors(logistic, np.zeros(3), 3.2)
    with pytest.raises(ValueError, match="`dt` = -1"):
        attractors(network, np.zeros((2, 2)), jnp.eye(2), dt=-1.0)
    with pytest.raises(ValueError, match="rounds = 0"):
        attractors(logistic, np.zeros((2, 1)), 3.2, rounds=0)
    with pytest.raises(ValueError, match="`dt` = None"):
        settle(network, jnp.zeros(2), jnp.eye(2), transient=10, window=10)


def test_maps_are_not_integrated():
    halve = Map(lambda x, args: 0.5 * x)
    with pytest.raises(ValueError, match="a map is not integrated"):
        attractors(halve, np.ones((2, 1)), dt=0.1)
