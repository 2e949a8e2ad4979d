"""Fixed points and cycles of piecewise-linear maps against brute force and counts."""

import itertools
import time

import jaxtyping
import numpy as np
import pytest

from rnndyn.dynamics import plrnn_cycles, plrnn_fixed_points
from rnndyn.dynamics.maps import _patterns


def step(A, W, h, z):
    return A * z + W @ np.maximum(z, 0) + h


def brute_force(A, W, h, order):
    """Every sequence of patterns as one linear system; one rotation of each cycle."""
    n = len(h)
    patterns = [np.array(p, float) for p in itertools.product([0, 1], repeat=n)]
    cycles = []
    for seq in itertools.product(patterns, repeat=order):
        P, q = np.eye(n), np.zeros(n)
        for d in seq:
            J = np.diag(A) + W * d[None]
            P, q = J @ P, J @ q + h
        z = [np.linalg.solve(np.eye(n) - P, q)]
        for _ in range(order - 1):
            z.append(step(A, W, h, z[-1]))
        z = np.array(z)
        if not all(np.all((zi > 0) == (d > 0)) for zi, d in zip(z, seq, strict=True)):
            continue
        if any(np.allclose(z, np.roll(z, s, axis=0)) for s in range(1, order)):
            continue
        rotations = [np.roll(z, s, axis=0) for s in range(order)]
        if not any(np.allclose(r, c) for r in rotations for c in cycles):
            cycles.append(z)
    return cycles


def network(seed, n, gain):
    rng = np.random.default_rng(seed)
    A = rng.uniform(-0.5, 0.9, n)
    return A, gain * rng.standard_normal((n, n)) / n**0.5, rng.standard_normal(n)


CASES = [(2, 1), (2, 2), (2, 3), (2, 4), (3, 1), (3, 2), (3, 3), (4, 1), (4, 2), (4, 3)]


@pytest.mark.parametrize("n,order", CASES)
def test_agrees_with_brute_force(n, order):
    total = 0
    for seed in range(24 if n * order < 7 else 4):
        A, W, h = network(seed, n, 3.0)
        expected = brute_force(A, W, h, order)
        found = plrnn_cycles(A, W, h, order)
        assert found.complete and found.num_singular == 0
        assert found.z.shape == (len(expected), order, n)
        for z in found.z:
            rotations = [np.roll(z, s, axis=0) for s in range(order)]
            assert any(np.allclose(r, c) for r in rotations for c in expected)
        assert found.residual.max(initial=0) < 1e-11
        total += len(expected)
    assert total > 0 or (n, order) == (2, 4)


def tent(slope):
    """x -> 1 - slope |x|, as the sum of a linear part and a relu."""
    return [slope], [[-2 * slope]], [1.0]


# Aperiodic necklaces of k bits: orbits of the full shift on two symbols.
@pytest.mark.parametrize(
    "k,count", [(1, 2), (2, 1), (3, 2), (4, 3), (5, 6), (6, 9), (10, 99)]
)
def test_full_tent_map(k, count):
    found = plrnn_cycles(*tent(2.0), k)
    assert found.complete and len(found.z) == count
    np.testing.assert_allclose(np.abs(found.eigenvalues[:, 0]), 2.0**k, rtol=1e-12)
    assert np.all(found.stability == 1) and found.residual.max() < 1e-12


@pytest.mark.parametrize("k,count", [(1, 2), (2, 1), (3, 2), (4, 3), (5, 6), (6, 9)])
def test_horseshoe_of_the_lozi_map(k, count):
    """x' = 1 - a |x| + y, y' = b x: a full horseshoe at large a; det J = -b."""
    a, b = 4.0, 0.5
    found = plrnn_cycles([[a, 1.0], [b, 0.0]], [[-2 * a, 0], [0, 0]], [1.0, 0.0], k)
    assert found.complete and len(found.z) == count
    np.testing.assert_allclose(np.prod(found.eigenvalues, axis=1), (-b) ** k, rtol=1e-6)
    if k == 1:
        x = np.sort([1 / (1 + a - b), 1 / (1 - a - b)])
        np.testing.assert_allclose(np.sort(found.z[:, 0, 0]), x, rtol=1e-14)


def test_stable_cycle_and_its_absence():
    A, W, h = [0.5], [[-2.0]], [1.0]  # slopes .5 left of 0 and -1.5 right of it
    pair = plrnn_cycles(A, W, h, 2)
    # x > 0: 1 - 1.5 x; the partner is negative: x = .5 (1 - 1.5 x) + 1.
    x = 1.5 / 1.75
    np.testing.assert_allclose(np.sort(pair.z.ravel()), [1 - 1.5 * x, x], rtol=1e-14)
    np.testing.assert_allclose(pair.eigenvalues, [[-0.75]], rtol=1e-14)
    assert pair.stability.tolist() == [-1]
    assert plrnn_fixed_points(A, W, h).stability.tolist() == [1]
    none = plrnn_fixed_points([1.0], [[-2.0]], [-1.0])  # below the tent's diagonal
    assert none.z.shape == (0, 1) and none.eigenvalues.shape == (0, 1)
    assert none.num_singular == 1 and len(none.continua) == 0 and none.complete
    assert plrnn_cycles([0.5], [[0.0]], [1.0], 3).z.shape == (0, 3, 1)


def test_line_attractor_is_reported_not_enumerated():
    """z1 stays where it is and z2 = [z1]+ / 2 - 1: one line, with a kink."""
    A, W, h = [1.0, 0.0], [[0.0, 0.0], [0.5, 0.0]], [0.0, -1.0]
    found = plrnn_fixed_points(A, W, h)
    # z1 < 0 < z2 is excluded by signs; the line runs through the other three patterns.
    assert found.num_singular == 3 and found.num_unresolved == 0
    assert len(found.continua) == 3
    for z in found.continua[:, 0]:
        np.testing.assert_allclose(step(np.array(A), np.array(W), h, z), z, atol=1e-12)
    # Every state is on a cycle of period 2, but for 0.
    flip = plrnn_cycles([-1.0], [[0.0]], [0.0], 2)
    assert len(flip.z) == 0 and len(flip.continua) == 1
    # A whole plane of fixed points.
    plane = plrnn_fixed_points([1.0, 1.0, 0.5], np.zeros((3, 3)), [0.0, 0.0, 1.0])
    assert len(plane.continua) == 4 and plane.num_singular == 8


def test_a_family_of_2_cycles_around_a_fixed_point():
    """z -> -z - 1 below 0: the middle of the family is the fixed point -1/2."""
    found = plrnn_cycles(np.array([-1.0]), np.array([[2.0]]), np.array([-1.0]), 2)
    assert len(found.continua) == 1 and found.complete
    z = found.continua[0, :, 0]
    np.testing.assert_allclose(z.sum(), -1, atol=1e-9)
    assert -1 < z.min() < -0.5 < z.max() < 0


def test_a_fixed_point_with_a_component_0_is_no_2_cycle():
    A = np.array([[1.0, 1.0, -1.0], [0.0, 0.0, 0.0], [1.0, 0.0, -1.0]])
    W = np.array([[-2.0, -1.0, -1.0], [0.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
    found = plrnn_cycles(A, W, np.array([1.0, -1.0, 0.0]), 2)
    assert all(np.abs(z[0] - z[1]).max() > 1e-3 for z in found.z)


def test_points_on_a_boundary_are_found_once():
    rng = np.random.default_rng(3)
    W = rng.standard_normal((4, 4))
    found = plrnn_fixed_points(np.full(4, 0.5), W, np.zeros(4))
    at_zero = np.all(found.z == 0, axis=1)
    assert at_zero.sum() == 1 and found.boundary[at_zero].all()
    assert found.stability[at_zero].tolist() == [0]
    # One component exactly at its kink, the others inside.
    A, z = np.full(4, 0.3), np.array([0.0, 1.0, -2.0, 0.5])
    h = z - step(A, W, np.zeros(4), z)
    found = plrnn_fixed_points(A, W, h)
    near = np.abs(found.z - z).max(axis=1) < 1e-9
    assert near.sum() == 1 and found.boundary[near].all()


def test_units_of_one_component_do_not_hide_another():
    # z_2 = z_2 / 2 - 3 relu(z_2) + 1: 1 / 3.5, and 2 only with the wrong sign.
    for large in (1.0, 1e10, 1e12):
        found = plrnn_fixed_points([0.0, 0.5], [[0, 0], [0, -3.0]], [large, 1.0])
        assert found.complete
        np.testing.assert_allclose(found.z, [[large, 1 / 3.5]], rtol=1e-12)


def test_a_plane_that_touches_its_orthant_in_one_point_is_no_family():
    u = np.array([1.0, 2.0, 3.0])
    W = 0.5 * np.eye(3) - 0.1 * np.outer(u, u)
    found = plrnn_fixed_points(np.full(3, 0.5), W, np.zeros(3))
    assert found.z.tolist() == [[0, 0, 0]] and len(found.continua) == 0


def test_full_A_scale_and_similar_systems():
    A, W, h = network(1, 5, 2.0)
    base = plrnn_cycles(A, W, h, 2)
    full = plrnn_cycles(np.diag(A), W, h, 2)
    np.testing.assert_array_equal(base.z, full.z)
    # z -> s z is a symmetry of the family: units do not matter.
    for s in (1e-12, 1e12):
        scaled = plrnn_cycles(A, W, s * h, 2)
        np.testing.assert_allclose(scaled.z, s * base.z, rtol=1e-9)


def test_exhaustive_fixed_points_of_twelve_units():
    A, W, h = network(1, 12, 3.0)
    begin = time.process_time()
    found = plrnn_fixed_points(A, W, h)
    assert time.process_time() - begin < 10
    assert found.complete and found.num_systems <= 2**12 and len(found.z) > 0
    for z in found.z:
        np.testing.assert_allclose(step(A, W, h, z), z, atol=1e-10)


@pytest.mark.parametrize("order", [1, 2])
def test_search_finds_what_enumeration_finds(order):
    for seed in range(3):
        A, W, h = network(seed, 8, 2.0)
        exact = plrnn_cycles(A, W, h, order)
        tried = plrnn_cycles(A, W, h, order, max_systems=10)
        assert exact.complete and not tried.complete
        assert len(tried.z) <= len(exact.z)
        for z in tried.z:
            rotations = [np.roll(z, s, axis=0) for s in range(order)]
            assert any(np.allclose(r, c) for r in rotations for c in exact.z)
        assert len(tried.z) >= 0.7 * len(exact.z)


def test_large_network_is_searched_and_says_so():
    A, W, h = network(2, 40, 1.2)
    found = plrnn_fixed_points(A, W, h)
    assert not found.complete and len(found.z) >= 1
    assert found.residual.max() < 1e-10


def test_rotations():
    seq = np.array(list(itertools.product([0, 1], repeat=4)))
    assert _patterns._is_first_rotation(seq).sum() == 6  # necklaces, periodic ones too


@pytest.mark.parametrize(
    "A,W,h,order,message",
    [
        ([0.5], [[1.0, 2.0]], [1.0], 1, "W has shape"),
        ([0.5, 1, 2], np.eye(2), [1.0, 1], 1, "A has shape"),
        ([0.5, 1], np.eye(2), [1.0], 1, "h has shape"),
        ([0.5, np.nan], np.eye(2), [1.0, 1], 1, "non-finite"),
        ([0.5, 1], np.eye(2), [1.0, 1], 0, "order = 0"),
        ([0.5, 1], np.eye(2), [1.0, 1], 2.5, "order = 2.5"),
        ([0.5, 1], 1j * np.eye(2), [1.0, 1], 1, "W has dtype complex128"),
        ("a", np.eye(2), [1.0, 1], 1, "A has dtype"),
    ],
)
def test_bad_input(A, W, h, order, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        plrnn_cycles(A, W, h, order)
