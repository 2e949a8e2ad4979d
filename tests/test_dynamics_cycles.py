"""Limit cycles and Floquet multipliers against certified and closed-form answers.

Digits marked hp come from 26-40-digit Taylor integration with variational equations;
the Lorenz orbit is Viswanath's AB (2003, doi:10.1088/0951-7715/16/3/314).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import lorenz
from scipy.special import ellipk

import rnndyn.dynamics as rdd
from rnndyn import Map, Verdict


def van_der_pol(t, x, mu):
    return jnp.stack([x[1], mu * (1 - x[0] ** 2) * x[1] - x[0]])


def ring(t, x, g):
    return -x + jnp.tanh(-g * jnp.roll(x, 1))


def rotor(t, x, ab):
    a, b = ab
    r = jnp.tanh(x)
    return -x + jnp.stack([a * r[0] - b * r[1], b * r[0] + a * r[1]])


def stuart_landau(t, z, mu):
    r2 = z[0] ** 2 + z[1] ** 2
    # z' = (mu + i) z - (1 + .5 i) |z|^2 z
    real = mu * z[0] - z[1] - r2 * (z[0] - 0.5 * z[1])
    imag = mu * z[1] + z[0] - r2 * (z[1] + 0.5 * z[0])
    return jnp.stack([real, imag])


def snic(t, z, w):
    """r' = r (1 - r^2), theta' = w - sin theta."""
    r = jnp.sqrt(z[0] ** 2 + z[1] ** 2)
    speed = w - z[1] / r
    return (1 - r**2) * z + speed * jnp.stack([-z[1], z[0]])


@eqx.filter_jit
def solve(f, x0, period, args, segments=1, floquet_segments=64):
    return rdd.limit_cycle(
        f, x0, period, args, segments=segments, floquet_segments=floquet_segments
    )


LANDAU = 7.1807832082052416879
CASES = {  # field, guess, period guess, args, period, other log-multipliers
    "van der Pol .1": (van_der_pol, [2.0, 0.0], 6.2, 0.1, 6.28711127228872680605,
                       [np.log(0.53306925920967383592)]),
    "van der Pol 1": (van_der_pol, [2.0, 0.0], 6.6, 1.0, 6.66328685932313018969968,
                      [np.log(8.596950636038051862e-4)]),
    "van der Pol 5": (van_der_pol, [2.02, 0.0], 11.6, 5.0, 11.6122306677195700345551,
                      [-85.4520185448835407]),
    "ring": (ring, [0.0, 0.51, -0.41], 3.37, 4.0, 3.37513634868507685245,
             [np.log(0.05282574932447664670), np.log(7.581324014257488956e-4)]),
    "rotor": (rotor, [1.6, 0.0], 4.8, (1.5, 2.0), 4.81915999394242663164,
              [np.log(0.06529870502953048124)]),
    "Stuart-Landau": (stuart_landau, [0.5, 0.1], 7.0, 0.25, LANDAU, [-0.5 * LANDAU]),
    "SNIC": (snic, [1.0, 0.1], 13.5, 1.1, 13.711034416945150746,
             [-2 * 13.711034416945150746]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_period_and_multipliers(name):
    f, x0, guess, args, period, others = CASES[name]
    cycle = solve(f, jnp.array(x0), guess, jax.tree.map(jnp.asarray, args))
    assert cycle.check() is cycle and int(cycle.verdict) == Verdict.limit_cycle
    np.testing.assert_allclose(cycle.period, period, rtol=1e-10)
    logs = np.delete(np.asarray(cycle.log_multipliers), int(cycle.trivial))
    assert np.max(np.abs(logs.imag)) == 0
    expected = np.sort(others)[::-1]
    error = np.abs(logs.real - expected) / np.maximum(1, np.abs(expected))
    assert error.max() < 1e-8 and float(cycle.accuracy) < 1e-8
    assert int(cycle.stability) == -1
    np.testing.assert_allclose(cycle.margin, expected[0], rtol=1e-8)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "segments",
    [1, pytest.param(3, marks=SLOW), 5, pytest.param(40, marks=SLOW)],
)
def test_unstable_orbit_of_lorenz_whatever_the_segments(segments):
    x0 = jnp.array([-13.7636106821342005, -19.5787519424517955, 27.0])
    cycle = solve(lorenz, x0 + 1e-3, 1.5586, None, segments, 40)
    np.testing.assert_allclose(cycle.period, 1.558652210716174727568, rtol=1e-10)
    expected = np.log([4.7129472734240821825, 1.0, 1.1900046996682778e-10])
    error = np.abs(cycle.log_multipliers - expected) / np.maximum(1, abs(expected))
    assert error.max() < 1e-8
    assert int(cycle.stability) == 1


@pytest.mark.slow
def test_logarithms_do_not_depend_on_the_pieces():
    one = [
        solve(van_der_pol, jnp.array([2.02, 0.0]), 11.6, 5.0, 1, pieces)
        for pieces in (40, 64, 160)
    ]
    for other in one[1:]:
        np.testing.assert_allclose(
            other.log_multipliers.real,
            one[0].log_multipliers.real,
            rtol=1e-8,
            atol=1e-8,
        )


GRADIENTS = {  # field, guess, period, args, dT/dargs, d ln m/dargs (of the last one)
    "van der Pol 1": (van_der_pol, [2.0, 0.0], 6.6, 1.0, 0.73159659776592525374,
                      -8.57624922051774),
    "van der Pol 5": (van_der_pol, [2.02, 0.0], 11.6, 5.0, 1.431902755099267387, None),
    "ring": (ring, [0.0, 0.51, -0.41], 3.37, 4.0, -0.13448015236831883706, None),
    "rotor": (lambda t, x, a: rotor(t, x, (a, 2.0)), [1.6, 0.0], 4.8, 1.5,
              3.6237029716449193245, -4.85680761998181),
    "Stuart-Landau": (stuart_landau, [0.5, 0.1], 7.0, 0.25, 4.1033046904029952502,
                      -0.45280008158859778 / 0.027587524919707901879),
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [n if n == "van der Pol 1" else pytest.param(n, marks=SLOW) for n in GRADIENTS],
)
def test_gradients_in_both_modes(name):
    f, x0, guess, args, d_period, d_log = GRADIENTS[name]

    def numbers(args):
        cycle = rdd.limit_cycle(f, jnp.array(x0), guess, args)
        return jnp.stack([cycle.period, cycle.log_multipliers.real[-1]])

    forward = jax.jit(jax.jacfwd(numbers))(args)
    reverse = jax.jit(jax.jacrev(numbers))(args)
    np.testing.assert_allclose(forward, reverse, rtol=1e-8)
    np.testing.assert_allclose(forward[0], d_period, rtol=1e-7)
    if d_log is not None:
        np.testing.assert_allclose(forward[1], d_log, rtol=1e-7)


@pytest.mark.slow
def test_gradient_with_respect_to_weights_and_closures():
    W = jnp.array([[1.5, -2.0], [2.0, 1.5]])
    D = jnp.array([[0.3, -0.2], [0.5, 0.1]])

    def amplitude(W):
        f = lambda t, x, args: -x + W @ jnp.tanh(x)
        cycle = rdd.limit_cycle(f, jnp.array([1.6, 0.0]), 4.8)
        return cycle.period + jnp.sum(cycle.orbit[:-1] ** 2)

    gradient = jax.jit(jax.grad(amplitude))(W)
    value = jax.jit(amplitude)
    h = 1e-5
    central = (value(W + h * D) - value(W - h * D)) / (2 * h)
    np.testing.assert_allclose(jnp.sum(gradient * D), central, rtol=1e-7)


def test_batch_of_parameters_equals_the_loop():
    mus = jnp.array([0.5, 1.0, 1.5])
    run = lambda mu: rdd.limit_cycle(van_der_pol, jnp.array([2.0, 0.0]), 6.6, mu).period
    np.testing.assert_allclose(
        jax.jit(jax.vmap(run))(mus),
        jnp.stack([jax.jit(run)(m) for m in mus]),
        rtol=1e-10,
    )


def test_nothing_to_find_is_said():
    # A stable focus: the only periodic orbit is the constant one, or none is found.
    f = lambda t, x, args: jnp.stack([-0.5 * x[0] - x[1], x[0] - 0.5 * x[1]])
    cycle = solve(f, jnp.array([1.0, 0.0]), 6.0, None)
    assert int(cycle.verdict) != Verdict.limit_cycle
    with pytest.raises(ValueError, match="the search ended as"):
        cycle.check()
    drift = solve(lambda t, x, args: jnp.ones(2), jnp.zeros(2), 1.0, None)
    assert int(drift.verdict) != Verdict.limit_cycle


def test_float32_says_what_it_can():
    x0 = jnp.array([2.0, 0.0], jnp.float32)
    cycle = solve(van_der_pol, x0, 6.6, jnp.float32(1.0))
    assert cycle.period.dtype == jnp.float32
    np.testing.assert_allclose(cycle.period, 6.6632868, rtol=1e-4)


def test_bad_input():
    with pytest.raises(ValueError, match="got a Map"):
        rdd.limit_cycle(Map(lambda x, a: x), jnp.ones(2), 1.0)
    with pytest.raises(ValueError, match="expected floats"):
        rdd.limit_cycle(lorenz, jnp.ones(3, int), 1.0)
    with pytest.raises(ValueError, match="Pass segments=4"):
        rdd.limit_cycle(lorenz, jnp.ones((4, 3)), 1.0)
    for shape in ((2, 2), (2, 2, 3), (0, 2, 2)):
        with pytest.raises((ValueError, TypeError), match="jacobians"):
            rdd.floquet(jnp.ones(shape))


@pytest.mark.parametrize("size, segments", [(1, 5), (2, 7), (3, 10), (5, 8)])
def test_floquet_of_random_products(size, segments):
    rng = np.random.default_rng(size)
    A = 0.4 * rng.standard_normal((segments, size, size)) + np.eye(size)
    product = np.eye(size)
    for a in A:
        product = a @ product
    result = jax.jit(rdd.floquet)(jnp.asarray(A))
    got = np.exp(np.asarray(result.log_multipliers))
    expected = np.linalg.eigvals(product)
    distance = np.abs(got[:, None] - expected[None]) / np.abs(expected)[None]
    assert distance.min(axis=0).max() < 1e-8 and distance.min(axis=1).max() < 1e-8
    assert float(result.defect) < 1e-8


def test_floquet_over_three_hundred_orders_of_magnitude():
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((41, 3, 3)) + 2 * np.eye(3)
    basis[-1] = basis[0]
    stretch = np.diag([1.6, 1.0, 1e-8])
    A = [basis[k + 1] @ stretch @ np.linalg.inv(basis[k]) for k in range(40)]
    result = rdd.floquet(jnp.asarray(np.stack(A)))
    expected = 40 * np.log([1.6, 1.0, 1e-8])  # down to 1e-320
    np.testing.assert_allclose(result.log_multipliers.real, expected, atol=1e-6)


def test_multipliers_of_many_states():
    # Segments that are diagonal in turning bases: the logarithms are sums.
    size, count = 60, 60
    rng = np.random.default_rng(0)
    bases = [np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(count)]
    rates = np.linspace(0.02, -2.5, size) + 0.3 * rng.standard_normal((count, size))
    skew = np.eye(size) + 0.1 * np.triu(rng.standard_normal((size, size)), 1)
    inside = lambda k: skew @ np.diag(np.exp(rates[k])) @ np.linalg.inv(skew)
    turn = lambda k: bases[(k + 1) % count] @ inside(k) @ bases[k].T
    segments = jnp.asarray(np.stack([turn(k) for k in range(count)]))
    found = rdd.floquet(segments)
    logs = np.sort(rates.sum(axis=0))[::-1]
    error = np.abs(found.log_multipliers.real - logs) / np.maximum(1, np.abs(logs))
    assert error.max() < 1e-9
    assert found.uncertainty < 1e-8 and found.defect < 1e-6
    # One of the rates raised, its logarithm grows by as much.
    total = lambda c: jnp.sum(
        rdd.floquet(segments.at[7].multiply(c)).log_multipliers.real
    )
    np.testing.assert_allclose(jax.grad(total)(1.0), size, rtol=1e-8)


def test_multipliers_of_many_states_under_strong_contraction():
    size, count = 48, 60
    rng = np.random.default_rng(0)
    logs = np.concatenate([[0.0], np.linspace(20, -300, size - 1)])
    bases = [np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(count)]
    bases.append(bases[0])
    growth = np.diag(np.exp(logs / count))
    turn = lambda k: bases[k + 1] @ growth @ bases[k].T
    found = rdd.floquet(jnp.asarray(np.stack([turn(k) for k in range(count)])))
    error = np.abs(found.log_multipliers.real - np.sort(logs)[::-1])
    assert error.max() < 1e-10 and found.uncertainty < 1e-9


@pytest.mark.parametrize("h", [-0.01, -1e-4])
@pytest.mark.parametrize("off", [0.97, 0.999, 1.03])
def test_a_wrong_period_near_a_homoclinic_orbit(h, off):
    """The cycle H = h of y' = x - x^3 - (H - h) y / 2: where the period depends on the
    orbit strongly, an error of it is not to be taken for one of the orbit."""

    def field(t, z, h):
        x, y = z
        energy = y**2 / 2 - x**2 / 2 + x**4 / 4
        return jnp.stack([y, x - x**3 - 0.5 * y * (energy - h)])

    far, near = 1 + (1 + 4 * h) ** 0.5, 1 - (1 + 4 * h) ** 0.5
    period = 2 * (2 / far) ** 0.5 * ellipk(1 - near / far)
    guess = jnp.array([far**0.5, 0.0])
    cycle = rdd.limit_cycle(field, guess, off * period, jnp.asarray(h))
    assert cycle.verdict == Verdict.limit_cycle and cycle.num_steps <= 6
    np.testing.assert_allclose(cycle.period, period, rtol=1e-10)


@pytest.mark.parametrize("w", [1.01, 1.0001])
def test_a_wrong_period_near_a_saddle_node_on_a_cycle(w):
    period = 2 * np.pi / (w**2 - 1) ** 0.5
    guesses = period * jnp.array([0.82, 0.9, 0.97, 1.0, 1.05, 1.15])
    start, w = jnp.array([1.0, 0.0]), jnp.asarray(w)
    found = jax.vmap(lambda guess: solve(snic, start, guess, w))(guesses)
    assert np.all(found.mask)
    np.testing.assert_allclose(found.period, period, rtol=1e-9)


@pytest.mark.parametrize("unit", [1e-6, 1e3])
def test_variables_in_units_far_apart(unit):
    def field(t, x, u):
        fast = van_der_pol(t, jnp.stack([x[0], x[1] / u]), 1.0)
        return jnp.stack([fast[0], u * fast[1]])

    cycle = solve(field, jnp.array([2.0, 0.0]), 6.6, jnp.asarray(unit))
    assert cycle.verdict == Verdict.limit_cycle
    np.testing.assert_allclose(cycle.period, CASES["van der Pol 1"][4], rtol=1e-12)
    np.testing.assert_allclose(cycle.margin, CASES["van der Pol 1"][5][0], rtol=1e-9)
