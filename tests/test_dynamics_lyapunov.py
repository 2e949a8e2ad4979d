"""Lyapunov spectra against closed forms and published numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import lorenz, van_der_pol

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
    known = np.array([0.9057, 0.0, -14.5724])
    assert np.all(np.abs(lam.exponents - known) < 3 * lam.stderr + 1e-3)
    np.testing.assert_allclose(jnp.sum(lam.exponents), -41 / 3, atol=1e-3)
    assert abs(float(lam.kaplan_yorke) - 2.062) < 0.01


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


def test_kaplan_yorke_in_closed_form():
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
        ({"t_total": 100.0}, "step of integration"),
        ({"t_total": 100.0, "dt": 0.1, "k": 3}, "expected 1 to 2"),
        ({"t_total": 100.0, "dt": 0.1, "qr_every": 0}, "at least 1 step"),
    ]:
        with pytest.raises(ValueError, match=message):
            lyapunov_spectrum(f, jnp.ones(2), t_transient=0.0, **options)
    with pytest.raises(ValueError, match="expected floats"):
        lyapunov_spectrum(f, jnp.ones(2, int), t_transient=0.0, t_total=9.0, dt=0.1)
