"""Starts far from, and much stiffer or slower than, what they lead to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import van_der_pol
from scipy.integrate import solve_ivp

from rnndyn import Verdict
from rnndyn.dynamics import attractors
from rnndyn.dynamics.long_run._approach import approach, shared_steps


def normal(shape, scale=1.0, seed=0):
    return scale * np.random.default_rng(seed).standard_normal(shape)


def nested(t, z, args):
    """Cycles of radius 1 to 5; 1, 3 and 5 attract, the last by far the most."""
    r2, k = z @ z, jnp.arange(1, 6.0)
    return -jnp.prod(r2 / k**2 - 1) * z + jnp.stack([-z[1], z[0]])


def test_far_starts_under_steep_forces():
    """x' = x - x^5 from |x| up to 100: 1e9 times faster there than at its roots."""
    x0s = normal((64, 1), 50.0)
    found = attractors(lambda t, x, args: x - x**5, x0s)
    assert found.names == ["root", "root"] and found.undecided == 0
    np.testing.assert_array_equal(found.state[found.label], np.sign(x0s))


def test_nested_cycles_each_at_its_pace():
    x0s = normal((40, 2), 2.0)
    found = attractors(nested, x0s)
    assert found.names == ["limit_cycle"] * 3 and found.undecided == 0
    np.testing.assert_allclose(found.period, 2 * np.pi, rtol=1e-6)
    radius = np.linalg.norm(x0s, axis=1)
    wanted = np.select([radius < 2, radius < 4], [1.0, 3.0], 5.0)
    ends = np.linalg.norm(found.state, axis=1)[found.label]
    np.testing.assert_allclose(ends, wanted, rtol=1e-5)
    # One step for all that lead to one cycle, shorter where it is faster.
    steps = [np.unique(found.dt[wanted == r]) for r in (1.0, 3.0, 5.0)]
    assert [len(s) for s in steps] == [1, 1, 1] and steps[2] < steps[0] / 4


def test_slow_starts_before_fast_ends_do_not_diverge():
    """A passage 1e4 times slower than the root behind it."""
    field = lambda t, x, mu: jnp.where(x < 5, mu + x**2, 25 + mu - 100 * (x - 5))
    found = attractors(field, -(normal((16, 1)) ** 2), jnp.asarray(1e-8))
    assert found.names == ["root"] and found.undecided == 0
    np.testing.assert_allclose(found.state, 5.25, rtol=1e-9)
    assert np.all(found.time > np.pi / 2 / 1e-4)


def test_what_leaves_leaves_and_what_stays_stays():
    """x' = x^2 - 1: to infinity in finite time above 1, to -1 below."""
    x0s = normal((64, 1), 3.0)
    found = attractors(lambda t, x, args: x**2 - 1, x0s)
    assert found.names == ["root"] and found.undecided == 0
    np.testing.assert_array_equal(found.label == 0, x0s[:, 0] < 1)
    # Times at which they leave: artanh(1 / x0).
    gone = x0s[:, 0] > 1
    np.testing.assert_allclose(
        found.time[gone], np.arctanh(1 / x0s[gone, 0]), rtol=1e-3
    )


def test_not_a_number_at_the_start():
    found = attractors(lambda t, x, args: -x, np.array([[np.nan], [1.0], [np.inf]]))
    assert found.names == ["root"] and found.label.tolist() == [-1, 0, -1]
    assert found.caveats == ("2 of 3 starts diverged (t <= 0)",)


def test_relaxation_oscillator_from_afar():
    """From x = 4 it creeps along the outer branch, mu^2 stiffer than linear decay."""
    x0s = np.array([[4.0, -1.0], [-3.0, 2.0], [0.1, 0.0], [0.0, 30.0]])
    found = attractors(van_der_pol, x0s, jnp.asarray(10.0))
    assert found.names == ["limit_cycle"] and found.count.tolist() == [4]
    np.testing.assert_allclose(found.period, 19.0783695693902, rtol=1e-7)


@pytest.mark.parametrize("mu", [1.0, 8.0])
def test_the_approach_is_the_trajectory(mu):
    x0 = jnp.array([0.5, -1.5])
    run = lambda x: approach(van_der_pol, x, jnp.asarray(mu), 200)
    out = jax.jit(run)(x0)
    wanted = solve_ivp(
        lambda t, x: np.array(van_der_pol(t, jnp.asarray(x), mu)),
        (0, float(out.time)),
        np.array(x0),
        rtol=1e-10,
        atol=1e-10,
    ).y[:, -1]
    np.testing.assert_allclose(out.x, wanted, atol=1e-5)
    assert out.time > 2 and not out.away


def test_steps_are_shared_in_groups_of_like_pace():
    rate = np.array([1.0, 1.3, 2.4, 100.0, 90.0, 0.0])
    steps = shared_steps(rate, np.array([]))
    slow = 0.5 / 2.4
    np.testing.assert_allclose(steps, [slow, slow, slow, 0.005, 0.005, slow])
    again = shared_steps(np.array([2.5, 40.0]), np.unique(steps))
    np.testing.assert_allclose(again, [slow, 0.0125])


def test_a_relay_has_no_time_constant_to_choose_steps_by():
    found = attractors(lambda t, x, args: -jnp.sign(x), jnp.array([[1.0], [-0.3]]))
    assert not len(found.verdict)
    assert np.all(found.start_verdict == Verdict.undetermined)
    assert np.all(found.dt <= 0.5)
