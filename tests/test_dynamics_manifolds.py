"""Slow manifolds: dimension, normal hyperbolicity, drift, and the flow on rings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import van_der_pol

import rnndyn as rd
from rnndyn import Verdict
from rnndyn.dynamics import ring_flow, slow_manifold
from rnndyn.flows import ScanFlow


RNG = np.random.default_rng(0)
PLANE = np.eye(2)


def trajectories(f, x0s, t1=20.0):
    flow, ts = ScanFlow(dt=0.05), np.linspace(0, t1, 41)
    return jax.jit(jax.vmap(lambda x: flow.trajectory(f, x, ts).xs))(jnp.asarray(x0s))


def line(t, x, eps):
    W = jnp.array([[0.0, -1.0], [-1.0, 0.0]])
    return -x + jax.nn.relu(W @ x + 1 + eps)


def ring(drift):
    """r' = r (1 - r^2), theta' = drift(theta)."""

    def f(t, x, args):
        turn = drift(jnp.arctan2(x[1], x[0]))
        return x * (1 - x @ x) + turn * jnp.stack([-x[1], x[0]])

    return f


def circle(count=200):
    angle = np.sort(RNG.uniform(0, 2 * np.pi, count))
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def test_line_attractor_has_one_slow_direction_and_no_drift():
    eps = jnp.zeros(2)
    fixed = lambda t, x, a: line(t, x, eps)
    slow = slow_manifold(fixed, trajectories(fixed, RNG.uniform(0, 1, (6, 2))))
    assert slow.mask.any() and not slow.mask[:, 0].any()
    np.testing.assert_allclose(slow.x.sum(1), 1, atol=1e-2)
    np.testing.assert_allclose(slow.eigenvalues.real, [[0, -2]] * len(slow.x))
    assert set(slow.dimension) == {1} and slow.gap.min() > 1e6
    tangent = np.abs(slow.tangent[:, :, 0])
    np.testing.assert_allclose(tangent, 0.5**0.5, rtol=1e-9)
    assert slow.uniform_norm < 1e-12 and slow.memory_error_bound(100.0) < 1e-10


def test_perturbed_line_drifts_at_the_tangential_speed():
    # The input (e, -e) pushes along the line at speed e sqrt 2.
    eps = jnp.array([1e-4, -1e-4])
    moved = lambda t, x, a: line(t, x, a)
    run = trajectories(lambda t, x, a: line(t, x, eps), RNG.uniform(0.3, 0.7, (4, 2)))
    slow = slow_manifold(moved, run, eps, rel_speed=1e-2)
    np.testing.assert_allclose(slow.uniform_norm, 1e-4 * 2**0.5, rtol=1e-6)
    np.testing.assert_allclose(slow.memory_error_bound(5.0), 5e-4 * 2**0.5, rtol=1e-6)


def test_slow_plane_and_slow_spiral():
    plane = lambda t, x, a: jnp.stack([0 * x[0], -1e-3 * x[1], -x[2]])
    slow = slow_manifold(plane, trajectories(plane, RNG.standard_normal((3, 3)), 15))
    assert set(slow.dimension) <= {1, 2}
    A = jnp.asarray(np.diag([-1e-3, -1e-3, -2.0]))
    A = A.at[0, 1].set(1e-3).at[1, 0].set(-1e-3)
    Q = jnp.asarray(np.linalg.qr(RNG.standard_normal((3, 3)))[0])
    spiral = lambda t, x, a: Q @ (A @ (Q.T @ x))
    start = np.asarray(RNG.standard_normal((3, 3)) + 5 * np.asarray(Q)[:, 2])
    slow = slow_manifold(spiral, trajectories(spiral, start), rel_speed=0.01)
    assert set(slow.dimension) == {2}
    np.testing.assert_allclose(slow.gap, 2000, rtol=1e-6)
    basis = np.asarray(Q)[:, :2]
    projected = np.einsum("ij,pjk->pik", basis @ basis.T, slow.tangent[:, :, :2])
    np.testing.assert_allclose(projected, slow.tangent[:, :, :2], atol=1e-9)


def test_time_scale_maps_and_point_limit():
    tau = 0.1
    f = lambda t, x, a: jnp.stack([-1e-3 * x[0], -x[1]]) / tau
    run = trajectories(f, RNG.standard_normal((4, 2)) + 3, 2.0)
    slow = slow_manifold(f, run, time_scale=tau, num_points=8, rel_speed=0.01)
    assert len(slow.x) == 8 and set(slow.dimension) == {1}
    np.testing.assert_allclose(slow.eigenvalues[0].real, [-1e-2, -10], rtol=1e-9)
    np.testing.assert_allclose(slow.tangential, 1e-2 * np.abs(slow.x[:, 0]), rtol=1e-6)
    step = rd.Map(lambda x, a: x * jnp.array([0.999, 0.5]))
    path = np.stack([[[0.999**k, 5 * 0.5**k] for k in range(30)]])
    slow = slow_manifold(step, path, rel_speed=0.01)
    assert set(slow.dimension) == {1}
    np.testing.assert_allclose(slow.gap, np.log(0.5) / np.log(0.999), rtol=1e-6)


def test_nothing_slow_and_nothing_to_decide():
    turning = lambda t, x, a: jnp.stack([-x[1], x[0]])
    slow = slow_manifold(turning, trajectories(turning, RNG.standard_normal((2, 2))))
    assert not slow.mask.any() and slow.x.shape == (0, 2)
    assert slow.uniform_norm == 0 and slow.tangent.shape == (0, 2, 2)
    even = lambda t, x, a: -x
    slow = slow_manifold(even, trajectories(even, RNG.standard_normal((2, 2))))
    assert len(slow.x) and set(slow.dimension) == {0}
    lost = slow_manifold(even, np.full((2, 3, 2), np.nan))
    assert not lost.mask.any()


@pytest.mark.parametrize("count", [1, 2])
def test_perturbed_ring_has_alternating_fixed_points(count):
    f = ring(lambda theta: -1e-3 * jnp.sin(count * (theta - 0.4)))
    found = ring_flow(f, circle(), PLANE)
    assert found.verdict == Verdict.root
    # Angles count from the mean of the points: compare the states.
    angle = np.mod(np.arctan2(found.fixed_x[:, 1], found.fixed_x[:, 0]), 2 * np.pi)
    want = np.mod(0.4 + np.pi * np.arange(2 * count) / count, 2 * np.pi)
    order = np.argsort(angle)
    np.testing.assert_allclose(angle[order], np.sort(want), atol=1e-10)
    assert found.offset.max() < 0.1
    code = found.stability[order][np.argsort(np.argsort(want))]
    assert code.tolist() == [-1, 1] * count
    np.testing.assert_allclose(found.uniform_norm, 1e-3, rtol=0.05)


@pytest.mark.parametrize("count", [12, 40])
def test_points_still_on_their_way_to_the_ring_do_not_bend_it(count):
    angle = np.sort(RNG.uniform(0, 0.2, count) + np.arange(count) * 2 * np.pi / count)
    f = ring(lambda theta: -1e-3 * jnp.sin(3 * theta))
    starts = 1.5 * np.stack([np.cos(angle), np.sin(angle)], 1)
    slow = slow_manifold(f, trajectories(f, starts), rel_speed=1e-2)
    found = ring_flow(f, slow.x, PLANE)
    assert np.linalg.norm(slow.x, axis=1).max() > 1.001
    assert found.verdict == Verdict.root and len(found.stability) == 6
    np.testing.assert_allclose(found.uniform_norm, 1e-3, rtol=0.05)
    np.testing.assert_allclose(np.linalg.norm(found.x, axis=1), 1, atol=1e-2)


def test_ring_that_stands_goes_round_or_is_none():
    still = ring_flow(ring(lambda theta: 0 * theta), circle(), PLANE, tol=1e-3)
    assert still.verdict == Verdict.continuum and len(still.fixed_angle) == 0
    turning = ring_flow(ring(lambda theta: 0.01 + 0 * theta), circle(), PLANE)
    assert turning.verdict == Verdict.limit_cycle
    np.testing.assert_allclose(turning.angular_velocity.mean(), 0.01, rtol=0.05)
    half = circle()[:80]
    assert ring_flow(ring(lambda s: s), half, PLANE).verdict == Verdict.undetermined


def test_a_curve_that_the_flow_leaves_is_nothing_of_its_own():
    fine = np.linspace(0, 2 * np.pi, 4096, endpoint=False)
    dense = np.stack([np.cos(fine), np.sin(fine)], axis=1)
    for system in (lambda t, x, a: -x, rd.Map(lambda x, a: -x)):
        found = ring_flow(system, dense, PLANE, num_knots=1024)
        assert found.verdict == Verdict.undetermined
        np.testing.assert_allclose(found.invariance_error, 1, rtol=1e-3)
    focus = lambda t, x, a: jnp.stack([-0.01 * x[0] - x[1], x[0] - 0.01 * x[1]])
    found = ring_flow(focus, dense[::16], PLANE)
    assert found.verdict == Verdict.undetermined and found.invariance_error > 0.9
    for size in (2, 5):  # nothing moves, and nothing would bring it back
        basis = np.linalg.qr(np.random.default_rng(0).normal(size=(size, 2)))[0]
        plane = lambda t, x, basis: -x + basis @ (basis.T @ x)
        found = ring_flow(plane, dense[::16] @ basis.T, basis.T, basis)
        assert found.verdict == Verdict.continuum and found.invariance_error == 0
    # Around a stable circle of radius .9 with two roots on it.
    inside = lambda t, x, a: jnp.stack([0.81 - x[0] ** 2, -x[0] * x[1]])
    assert ring_flow(inside, 0.95 * dense[::16], PLANE).verdict == Verdict.root
    assert ring_flow(inside, 2.0 * dense[::16], PLANE).verdict == Verdict.undetermined
    centre = ring_flow(lambda t, x, a: jnp.stack([-x[1], x[0]]), dense[::16], PLANE)
    assert centre.verdict == Verdict.limit_cycle and centre.invariance_error < 1e-9


@pytest.mark.parametrize("mu", [1.0, 3.0])
def test_a_cycle_that_draws_in_here_and_pushes_out_there_is_one(mu):
    cycle = rd.limit_cycle(van_der_pol, jnp.array([2.0, 0.0]), 3 + 2 * mu, mu)
    points = np.asarray(jax.vmap(cycle.at)(jnp.linspace(0, cycle.period, 2000)))
    found = ring_flow(van_der_pol, points, PLANE, mu, num_knots=256, max_hole=1.5)
    assert found.verdict == Verdict.limit_cycle and found.invariance_error < 0.05


@pytest.mark.parametrize("a", [1 - 4e-6, 1 - 1e-7, 1 + 1e-6])
def test_two_roots_between_two_angles_of_the_grid_are_seen(a):
    f = ring(lambda theta: a - jnp.cos(theta - 0.003))
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    found = ring_flow(f, np.stack([np.cos(angle), np.sin(angle)], axis=1), PLANE)
    if a > 1:
        assert found.verdict == Verdict.limit_cycle and len(found.fixed_angle) == 0
        return
    want = 0.003 + np.arccos(a) * np.array([-1, 1])
    assert found.verdict == Verdict.root and found.stability.tolist() == [-1, 1]
    np.testing.assert_allclose(found.fixed_angle, want, atol=1e-6)


def test_a_sign_change_without_a_root_is_undetermined():
    base = ring(lambda theta: 1e-3 * jnp.sin(theta))
    lifted = lambda t, x, a: jnp.append(base(t, x[:2], a), 1 + 0 * x[0])
    flat = np.pad(circle(), ((0, 0), (0, 1)))
    found = ring_flow(lifted, flat, np.eye(3)[:2])
    assert found.verdict == Verdict.undetermined
    assert len(found.offset) == 2 and np.all(np.isinf(found.offset))


def test_nothing_passes_where_the_flow_stands_still():
    # A saddle-node on a circle, at angle 0.
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    points = np.stack([np.cos(angle), np.sin(angle)], 1)
    found = ring_flow(ring(lambda theta: 0.1 * (1 - jnp.cos(theta))), points, PLANE)
    assert found.verdict == Verdict.undetermined and len(found.fixed_angle) == 0


def test_bad_input():
    f = lambda t, x, a: -x
    holed = circle()
    holed[3] = np.nan
    with pytest.raises(ValueError, match="non-finite"):
        ring_flow(f, holed, PLANE)
    for few in ({"num_knots": 1}, {"grid": 0}):
        with pytest.raises(ValueError, match=">= 4"):
            ring_flow(f, circle(), PLANE, **few)
    with pytest.raises(ValueError, match="num_points"):
        slow_manifold(f, np.ones((1, 3, 2)), num_points=0)
    with pytest.raises(ValueError, match="traj, time, state"):
        slow_manifold(f, np.ones((3, 2)))
    with pytest.raises(ValueError, match="rel_speed"):
        slow_manifold(f, np.ones((1, 3, 2)), rel_speed=2.0)
    with pytest.raises(ValueError, match="same shape"):
        slow_manifold(lambda t, x, args: x[:1], np.ones((1, 3, 2)))
    with pytest.raises(ValueError, match="plane has 4 non-finite"):
        ring_flow(f, circle(), np.full((2, 2), np.nan))
    with pytest.raises(ValueError, match="plane"):
        ring_flow(f, np.ones((3, 2)), np.ones((3, 2)))
