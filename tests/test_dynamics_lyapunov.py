"""Lyapunov spectra against closed forms and published numbers."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import lorenz, tree_allclose, van_der_pol

from rnndyn import Map, flows
from rnndyn.dynamics import kaplan_yorke, lyapunov_spectrum


def test_linear_flow_gives_the_real_parts():
    A = jnp.array([[-0.5, 2.0, 0.3], [-2.0, -0.5, 0.1], [0.0, 0.0, -3.0]])
    lam = lyapunov_spectrum(
        lambda t, x, args: A @ x, jnp.ones(3), t_transient=10.0, t_total=40.0, dt=0.01
    )
    np.testing.assert_allclose(lam.exponents, [-0.5, -0.5, -3.0], atol=2e-2)
    np.testing.assert_allclose(jnp.sum(lam.exponents), -4.0, rtol=1e-6)
    assert float(lam.kaplan_yorke) == 0 and bool(lam.finite)
    assert lam.history.shape[1] == 3 and lam.times.shape == lam.history.shape[:1]


def test_cycle_of_van_der_pol():
    # (0, ln|m|/T) with the certified multiplier of mu = 1.
    lam = lyapunov_spectrum(
        van_der_pol,
        jnp.array([2.0, 0.0]),
        t_transient=30.0,
        t_total=6.66328685932313 * 60,
        dt=6.66328685932313 / 640,
        qr_every=8,
    )
    np.testing.assert_allclose(lam.exponents, [0.0, -1.0593769948418549], atol=3e-3)


def test_lorenz_from_a_batch_of_trajectories():
    x0s = jnp.array([[1.0, 1.0, 20.0]]) + jax.random.normal(jax.random.key(0), (24, 3))
    lam = jax.jit(
        lambda x0s: lyapunov_spectrum(
            lorenz, x0s, t_transient=20.0, t_total=200.0, dt=0.01
        )
    )(x0s)
    error = np.abs(lam.exponents - np.array([0.9057, 0.0, -14.5724]))
    assert np.all(error < 3 * lam.stderr) and np.all(lam.stderr < 0.02)
    np.testing.assert_allclose(jnp.sum(lam.exponents), -41 / 3, atol=3e-4)
    assert abs(float(lam.kaplan_yorke) - 2.062) < 0.01
    assert np.all(np.abs(lam.drift) < 4) and np.all(lam.step_error < 3e-4)


@pytest.mark.parametrize("name", ["logistic", "Lorenz", "Henon"])
def test_standard_errors_are_those_of_other_starts(name):
    """Logarithms of growth are anticorrelated in the first two, where means over
    stretches say too much, and independent in Henon's map."""
    draw = lambda low, high, size: jax.random.uniform(
        jax.random.key(3), (48, size), minval=low, maxval=high
    )
    if name == "Lorenz":
        system, starts = lorenz, draw(-5.0, 5.0, 3) + jnp.array([[0.0, 0.0, 25.0]])
        options = {"t_transient": 20.0, "t_total": 320.0, "dt": 0.01}
    elif name == "logistic":
        system, starts = Map(lambda x, a: 4 * x * (1 - x)), draw(0.1, 0.9, 1)
        options = {"t_transient": 100, "t_total": 6400}
    else:
        system = Map(lambda x, a: jnp.stack([1 - 1.4 * x[0] ** 2 + x[1], 0.3 * x[0]]))
        starts, options = draw(0.0, 0.2, 2), {"t_transient": 100, "t_total": 3200}
    run = jax.jit(jax.vmap(lambda x: lyapunov_spectrum(system, x, **options)))
    found = run(starts)
    spread = np.std(found.exponents, axis=0, ddof=1)
    ratio = np.mean(found.stderr, axis=0) / spread
    assert np.all((ratio > 0.75) & (ratio < 1.75))
    sums = np.asarray(found.history * found.times[..., None])[:, :, 0]
    ends = sums.reshape(len(sums), 32, -1)[:, :, -1]
    stretches = np.diff(ends, axis=1, prepend=0) * 32 / np.asarray(found.times)[:, -1:]
    plain = np.mean(np.std(stretches, axis=1, ddof=1)) / 32**0.5 / spread[0]
    low, high = {"Lorenz": (2, 6), "logistic": (4, 8), "Henon": (0.75, 1.5)}[name]
    assert low < plain < high


def test_numbers_of_numpy_are_numbers():
    f = lambda t, x, a: jnp.stack([-x[0], -2 * x[1]])
    # Past the type checker of the tests: users have none.
    bare = lyapunov_spectrum.__wrapped__
    run = lambda whole, real, flag: bare(
        f, jnp.ones(2), k=whole(1), qr_every=whole(2), project=flag(False),
        t_transient=real(1.0), t_total=real(9.0), dt=real(0.1),
    ).exponents  # fmt: skip
    numpy = run(np.int64, np.float64, np.bool_)
    np.testing.assert_array_equal(numpy, run(int, float, bool))


def test_maps_with_known_exponents():
    logistic = Map(lambda x, args: 4 * x * (1 - x))
    starts = jnp.linspace(0.11, 0.83, 16)[:, None]
    lam = lyapunov_spectrum(logistic, starts, t_transient=100, t_total=4000, qr_every=5)
    assert abs(float(lam.exponents[0]) - np.log(2)) < 3 * float(lam.stderr[0]) + 1e-3

    def henon(x, args):
        return jnp.stack([1 - 1.4 * x[0] ** 2 + x[1], 0.3 * x[0]])

    lam = lyapunov_spectrum(
        Map(henon), jnp.zeros(2), t_transient=100, t_total=3200, qr_every=5
    )
    np.testing.assert_allclose(jnp.sum(lam.exponents), np.log(0.3), rtol=1e-9)
    # The unit is the second if the map has a step.
    timed = Map(henon, dt=0.1)
    again = lyapunov_spectrum(
        timed, jnp.zeros(2), t_transient=100, t_total=3200, qr_every=5
    )
    np.testing.assert_allclose(again.exponents, 10 * lam.exponents, rtol=1e-9)


def test_a_map_that_stretches_much_in_one_step():
    # The dissipative standard map; the exponents add up to the volume's, ln .8.
    def standard(x, args):
        p = 0.8 * x[1] + 6 * jnp.sin(x[0])
        return jnp.stack([jnp.mod(x[0] + p, 2 * jnp.pi), p])

    lam = lyapunov_spectrum(Map(standard), jnp.ones(2), t_transient=100, t_total=9600)
    np.testing.assert_allclose(jnp.sum(lam.exponents), np.log(0.8), rtol=1e-12)
    assert abs(lam.exponents[0] - 1.142) < 5 * lam.stderr[0] + 0.02


def test_invariant_circle_of_the_tanh_rotor_map():
    # Stable as a flow, an invariant circle as a map: zero leading exponent.
    W = jnp.array([[0.8, -2.0], [2.0, 0.8]])
    rotor = Map(lambda x, args: x + 0.5 * (-x + W @ jnp.tanh(x)))
    lam = lyapunov_spectrum(
        rotor, jnp.array([0.3, 0.1]), t_transient=2000, t_total=8000
    )
    assert abs(float(lam.exponents[0])) < 2e-3 and float(lam.exponents[1]) < -0.01


def test_leading_exponents_of_a_network_equal_the_full_spectrums(getkey):
    n = 16
    W = 2.0 * jax.random.normal(getkey(), (n, n)) / 4
    f = lambda t, x, args: -x + W @ jnp.tanh(x)
    run = lambda k: lyapunov_spectrum(
        f, 0.1 * jnp.ones(n), k=k, t_transient=20.0, t_total=200.0, dt=0.1,
        method=flows.RK4(), key=jax.random.key(3),
    )  # fmt: skip
    full, part = run(None), run(3)
    np.testing.assert_allclose(part.exponents, full.exponents[:3], atol=0.05)


def test_dimension_of_a_cycle_is_one():
    hopf = lambda t, x, a: x * (1 - x @ x) + jnp.stack([-x[1], x[0]])
    for seed in range(3):
        x0 = jax.random.normal(jax.random.key(seed), (2,))
        lam = lyapunov_spectrum(hopf, x0, t_transient=20.0, t_total=100.0, dt=0.05)
        np.testing.assert_allclose(lam.kaplan_yorke, 1, atol=1e-2)


def test_kaplan_yorke_in_closed_form():
    assert np.isnan(kaplan_yorke(jnp.array([jnp.nan, jnp.nan])))
    spectrum = jnp.array([0.9057, 0.0, -14.5724])
    np.testing.assert_allclose(kaplan_yorke(spectrum), 2 + 0.9057 / 14.5724)
    assert float(kaplan_yorke(jnp.array([-1.0, -2.0]))) == 0
    assert np.isnan(float(kaplan_yorke(jnp.array([1.0, -0.5]))))


def test_divergence_is_said_and_bad_input_refused():
    lam = lyapunov_spectrum(
        Map(lambda x, a: 3 * x**3), jnp.ones(1), t_transient=0, t_total=400
    )
    assert not bool(lam.finite)
    f = lambda t, x, args: -x
    for options, message in [
        ({"t_total": 1.0, "dt": 0.1}, "error estimate"),
        ({"t_total": 100.0}, "`dt` = None, expected one number > 0"),
        ({"t_total": 100.0, "dt": 0.1, "k": 3}, "expected 1 to 2"),
        ({"t_total": 100.0, "dt": 0.1, "qr_every": 0}, "whole number >= 1"),
        ({"t_total": float("nan"), "dt": 0.1}, "`t_total` = nan"),
    ]:
        with pytest.raises(ValueError, match=message):
            lyapunov_spectrum(f, jnp.ones(2), t_transient=0.0, **options)
    with pytest.raises(ValueError, match="only flows have a direction"):
        lyapunov_spectrum(
            Map(lambda x, a: x), jnp.ones(2), t_transient=0, t_total=400, project=True
        )
    with pytest.raises(ValueError, match="expected floats"):
        lyapunov_spectrum(f, jnp.ones(2, int), t_transient=0.0, t_total=9.0, dt=0.1)


PERIOD = 6.66328685932313
ON_CYCLE = jnp.array([2.0086198608748431, 0.0])


def test_high_order_method_with_long_steps():
    # Ten times the step of Runge-Kutta 4, at least its accuracy, and it says so.
    options = dict(t_transient=2 * PERIOD, t_total=32 * PERIOD)
    for method, dt, qr_every, tol in (
        (flows.RK4(), PERIOD / 200, 10, 1e-4),
        (flows.Dopri8(), PERIOD / 40, 2, 2e-5),
    ):
        lam = lyapunov_spectrum(
            van_der_pol, ON_CYCLE, dt=dt, method=method, qr_every=qr_every, **options
        )
        error = jnp.abs(jnp.sum(lam.exponents) + 1.0593769948418549)
        assert float(error) < tol and float(lam.step_error[1]) < 10 * tol
        np.testing.assert_allclose(lam.times[-1], 32 * PERIOD)


def test_step_error_is_of_the_size_of_the_error():
    rate = -2.0
    f = lambda t, x, args: rate * x
    for method, dt in ((flows.Euler(), 0.01), (flows.RK4(), 0.2)):
        lam = lyapunov_spectrum(
            f, jnp.ones(1), t_transient=0, t_total=100, dt=dt, method=method, qr_every=5
        )
        error = abs(float(lam.exponents[0]) - rate)
        assert 0.4 * error < float(lam.step_error[0]) < 2 * error
    lam = lyapunov_spectrum(Map(lambda x, a: x / 2), jnp.ones(1), t_transient=0,
        t_total=400)  # fmt: skip
    assert float(lam.step_error[0]) == 0


def test_projection_makes_the_zero_exponent_exact():
    lam = lyapunov_spectrum(
        van_der_pol, ON_CYCLE, t_transient=5 * PERIOD, t_total=32 * PERIOD,
        dt=PERIOD / 320, project=True,
    )  # fmt: skip
    assert float(lam.exponents[0]) == 0 == float(lam.stderr[0])
    # Without the angle between tangent vectors nothing fluctuates from cycle to cycle.
    np.testing.assert_allclose(lam.exponents[1], -1.0593769948418549, atol=1e-6)
    x0s = jnp.array([[1.0, 1.0, 20.0]]) + jax.random.normal(jax.random.key(0), (8, 3))
    run = lambda k: lyapunov_spectrum(
        lorenz, x0s, k=k, t_transient=20, t_total=100, dt=0.01, project=True
    )
    lam, part = run(None), run(2)
    assert float(lam.exponents[1]) == 0
    assert abs(float(lam.exponents[0]) - 0.9057) < 4 * float(lam.stderr[0])
    np.testing.assert_allclose(jnp.sum(lam.exponents), -41 / 3, atol=0.02)
    np.testing.assert_allclose(part.exponents, lam.exponents[:2], rtol=1e-6)
    # A fixed point has no direction of motion: no number rather than a wrong one.
    f = lambda t, x, args: -x * jnp.array([1.0, 2.0])
    lam = lyapunov_spectrum(
        f, jnp.ones(2), t_transient=0, t_total=60, dt=0.05, project=True
    )
    assert np.all(np.isnan(lam.exponents)) and bool(lam.finite)


def test_collapsed_vectors_are_not_exponents():
    A = jnp.array([-0.1, -200.0])
    f = lambda t, x, args: A * x
    run = lambda qr_every: (
        lyapunov_spectrum(
            f, jnp.ones(2), t_transient=1, t_total=40, dt=0.01, qr_every=qr_every
        ).exponents
    )
    # Runge-Kutta 4 at a step of 2 time constants divides by 3.
    np.testing.assert_allclose(run(10), [-0.1, -np.log(3) / 0.01], rtol=1e-3)
    lam = run(100)
    np.testing.assert_allclose(lam[0], -0.1, rtol=1e-6)
    assert np.isnan(lam[1])


def test_exponents_that_were_lost_have_no_drift_either():
    f = lambda t, x, a: jnp.stack([-x[0], -500 * x[1]])
    lost = lyapunov_spectrum(
        f, jnp.ones(2), t_transient=0.0, t_total=40.0, dt=0.002, qr_every=500
    )
    assert np.isnan(lost.exponents[1]) and np.isnan(lost.drift[1])


def test_drift_shows_a_short_transient():
    f = lambda t, x, args: -0.02 * x**3
    run = lambda t_transient: lyapunov_spectrum(
        f, jnp.ones(1), t_transient=t_transient, t_total=100, dt=0.1
    )
    assert float(run(0).drift[0]) > 3
    # One that is slower than the run shows in the exponent, not in the drift alone.
    assert float(run(1000).exponents[0]) < 0


def cubic(t, x, g):
    # Attracts to sqrt(g), where the exponent is -2 g.
    return g * x - x**3


def test_gradient_on_a_fixed_point_is_exact_and_silent():
    exponent = lambda g: lyapunov_spectrum(
        cubic, jnp.ones(1), g, t_transient=20, t_total=40, dt=0.05
    ).exponents[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for derivative in (jax.grad, jax.jacfwd):
            slope = jax.jit(derivative(exponent))(jnp.asarray(0.7))
            jax.effects_barrier()
            np.testing.assert_allclose(slope, -2.0, rtol=1e-4)


def test_gradient_on_a_cycle_is_silent():
    def exponent(mu):
        lam = lyapunov_spectrum(
            van_der_pol, ON_CYCLE, mu, t_transient=10 * PERIOD, t_total=64 * PERIOD,
            dt=PERIOD / 80, project=True,
        )  # fmt: skip
        return lam.exponents[1]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        slope = jax.jit(jax.jacfwd(exponent))(jnp.asarray(1.0))
        jax.effects_barrier()
    # d(ln m / T)/d mu from the certified derivatives of ln m and T.
    exact = -8.57624922051774 / PERIOD
    exact += 1.0593769948418549 * 0.73159659776592525 / PERIOD
    # The phase at the end moves with mu, which no length of the run makes small.
    np.testing.assert_allclose(slope, exact, rtol=0.2)


@pytest.mark.parametrize("mode", ["jacfwd", "vmap"])
def test_gradient_on_chaos_warns(mode):
    def exponent(r):
        f = lambda t, x, r: jnp.stack(
            [10 * (x[1] - x[0]), x[0] * (r - x[2]) - x[1], x[0] * x[1] - 8 / 3 * x[2]]
        )
        lam = lyapunov_spectrum(
            f, jnp.array([1.0, 1.0, 20.0]), r, k=1, t_transient=5, t_total=20, dt=0.01
        )
        return lam.exponents[0]

    r = jnp.asarray(28.0)
    with warnings.catch_warnings():  # the value alone is silent
        warnings.simplefilter("error")
        jax.block_until_ready(jax.jit(exponent)(r))
        jax.effects_barrier()
    fn = {
        "jacfwd": jax.jit(jax.jacfwd(exponent)),
        "vmap": lambda r: jax.vmap(jax.grad(exponent))(jnp.stack([r, r + 1])),
    }[mode]
    with pytest.warns(UserWarning, match="positive exponent"):
        jax.block_until_ready(fn(r))
        jax.effects_barrier()


# Seven Euler steps in one: methods of many stages take another path on a CPU.
SEVENTH = flows.ExplicitRungeKutta(
    tuple((1 / 7,) * i for i in range(7)),
    (1 / 7,) * 7,
    tuple(i / 7 for i in range(7)),
    1,
)


@pytest.mark.parametrize(
    "n, method, dt, qr_every", [(6, flows.RK4(), 0.1, 5), (17, SEVENTH, 0.5, 2)]
)
def test_transforms_agree(getkey, n, method, dt, qr_every):
    W = 2.0 * jax.random.normal(getkey(), (n, n)) / n**0.5
    f = lambda t, x, args: -x + W @ jnp.tanh(x) + args
    x0s, u = jax.random.normal(getkey(), (2, n)), jnp.zeros(n)
    run = lambda x0, u: lyapunov_spectrum(
        f, x0, u, t_transient=5, t_total=64, dt=dt, method=method, qr_every=qr_every
    )
    loop = [run(x0, u) for x0 in x0s]
    if n == 6:
        assert tree_allclose(loop[0], jax.jit(run)(x0s[0], u), rtol=1e-6, atol=1e-8)
        # The sum of a batch is the mean of those of its trajectories.
        batch = jnp.sum(run(x0s, u).exponents)
        sums = [jnp.sum(lam.exponents) for lam in loop]
        np.testing.assert_allclose(batch, np.mean(sums), rtol=1e-6)
    both = jax.vmap(run, in_axes=(0, None))(x0s, u)
    for i, lam in enumerate(loop):
        np.testing.assert_allclose(both.exponents[i], lam.exponents, atol=1e-6)


def test_large_networks_run_one_after_another_on_a_cpu(getkey):
    n = 36  # more than 1024 numbers in the tangent vectors
    W = 1.5 * jax.random.normal(getkey(), (n, n)) / 6
    f = lambda t, x, args: -x + W @ jnp.tanh(x)
    x0s = jax.random.normal(getkey(), (2, n))
    run = lambda x0: lyapunov_spectrum(
        f, x0, t_transient=1, t_total=32, dt=0.25, qr_every=4
    )
    loop = [jnp.sum(run(x0).exponents) for x0 in x0s]
    np.testing.assert_allclose(jnp.sum(run(x0s).exponents), np.mean(loop), rtol=1e-9)


def test_float32_keeps_its_dtype():
    x0 = jnp.array([1.0, 1.0, 20.0], jnp.float32)
    lam = lyapunov_spectrum(lorenz, x0, t_transient=10, t_total=100, dt=0.01)
    assert {a.dtype for a in jax.tree.leaves(lam)} == {
        jnp.dtype("float32"),
        jnp.dtype("bool"),
    }
    np.testing.assert_allclose(jnp.sum(lam.exponents), -41 / 3, rtol=1e-3)


@pytest.mark.parametrize("total", [200.0, 333.0, 2000.0])
def test_what_a_cycle_leaves_of_a_turn_is_in_the_error(total):
    flow = lambda t, x, a: jnp.stack([x[1], (1 - x[0] ** 2) * x[1] - x[0]])
    x0 = jnp.array([2.0, 0.0])
    found = lyapunov_spectrum(flow, x0, t_transient=50.0, t_total=total, dt=0.05)
    known = np.array([0.0, np.log(8.596950636038051862e-4) / 6.66328685932313])
    error = np.abs(np.asarray(found.exponents) - known)
    assert np.all(error < 2 * found.stderr + found.step_error)
    assert np.all(np.asarray(found.stderr) < 1 / total)
