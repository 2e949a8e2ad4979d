"""Continuous families of roots: dimension, connectedness, transversal stability."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd
import rnndyn.dynamics as rdd
from rnndyn import Verdict
from rnndyn.dynamics import certify


PLAIN = rdd.MultiStart(num_large=0, rounds=0, detect_odd=False)
RNG = np.random.default_rng(0)


def certified(f, x0s):
    return certify(rdd.fixed_points(f, jnp.asarray(x0s), strategy=PLAIN))


def radial(t, x, args):
    return x * (1 - x @ x)


def members(found, radius=None):
    """Slots of continuum members, of those at a distance from the origin if given."""
    chosen = np.asarray(found.mask) & (found.verdict == Verdict.continuum)
    if radius is not None:
        size = np.linalg.norm(found.x, axis=1)
        chosen &= np.abs(size - radius) < 1e-6
    return chosen


@pytest.mark.parametrize("size", [2, 3, 4])
def test_ring_and_spheres_are_one_family_and_the_centre_is_isolated(size):
    x0s = np.concatenate([RNG.standard_normal((24, size)), np.zeros((1, size))])
    found = certified(radial, x0s)
    on = members(found)
    assert on.sum() == 24
    assert set(found.dimension[on]) == {size - 1} and set(found.family[on]) == {0}
    assert set(found.stability[on]) == {-1}
    np.testing.assert_allclose(found.margin[on], -2, rtol=1e-9)
    assert set(found.num_marginal[on]) == {size - 1}
    centre = np.asarray(found.mask) & (found.verdict == Verdict.root)
    assert found.dimension[centre] == [0] and found.family[centre] == [-1]
    assert found.stability[centre] == [1]
    assert found.roots(families=True).shape == (2, size)
    assert found.roots().shape == (25, size)


def test_separate_rings_stay_apart_and_have_their_own_stability():
    def rings(t, x, args):
        s = x @ x
        return -x * (1 - s) * (2 - s) * (4 - s)

    angle = np.linspace(0, 2 * np.pi, 30, endpoint=False)
    radius = np.tile([0.97, 1.42, 2.01], 10)
    x0s = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    found = certified(rings, x0s)
    families = set()
    for r, sign in [(1, 1), (2**0.5, -1), (2, 1)]:
        on = members(found, r)
        assert on.sum() > 5 and len(set(found.family[on])) == 1
        assert set(found.stability[on]) == {sign}
        families |= set(found.family[on])
    assert len(families) == 3


def test_parallel_lines_that_are_near_stay_apart():
    f = lambda t, x, a: jnp.stack([0 * x[0], -1e4 * x[1] * (x[1] ** 2 - 1e-4)])
    x0s = np.stack([np.linspace(0, 10, 18), np.tile([-0.0101, 1e-4, 0.0099], 6)], 1)
    found = certified(f, x0s)
    assert set(found.family[members(found)]) == {0, 1, 2}
    assert found.roots(families=True).shape == (3, 2)


def test_two_members_on_opposite_sides_are_linked_by_walking():
    found = certified(radial, [[1.0, 0.1], [-1.0, -0.1]])
    assert set(found.family[members(found)]) == {0}


def test_torus_and_plane_have_dimension_two():
    def torus(t, x, args):
        return jnp.concatenate([radial(t, x[:2], args), radial(t, x[2:], args)])

    angle = RNG.uniform(0, 2 * np.pi, (2, 40))
    x0s = 1.02 * np.concatenate([[np.cos(a), np.sin(a)] for a in angle]).T
    found = certified(torus, x0s)
    on = members(found)
    assert on.sum() == 40 and set(found.dimension[on]) == {2}
    assert found.roots(families=True).shape == (1, 4)
    plane = lambda t, x, a: jnp.stack([0 * x[0], 0 * x[1], -x[2]])
    found = certified(plane, RNG.standard_normal((8, 3)))
    assert set(found.dimension[members(found)]) == {2}
    assert set(found.family[members(found)]) == {0}
    assert set(found.num_marginal[members(found)]) == {2}


def test_line_attractor_of_threshold_linear_units():
    W = jnp.array([[0.0, -1.0], [-1.0, 0.0]])
    f = lambda t, x, a: -x + jax.nn.relu(W @ x + 1)
    found = certified(f, RNG.uniform(0.1, 0.9, (12, 2)))
    on = members(found)
    np.testing.assert_allclose(found.x[on].sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(found.eigenvalues[on].real, [[0, -2]] * on.sum())
    assert set(found.dimension[on]) == {1} and set(found.family[on]) == {0}
    assert set(found.stability[on]) == {-1}


def test_ring_in_a_low_rank_network_and_as_a_map():
    U = jnp.asarray(np.linalg.qr(RNG.standard_normal((16, 2)))[0])

    def f(t, x, args):
        z = U.T @ x
        return -x + U @ (z * (2 - z @ z))

    x0s = RNG.standard_normal((16, 16))
    for system in (f, rd.Map(lambda x, a: x + 0.1 * f(0.0, x, a))):
        found = certified(system, x0s)
        on = members(found)
        assert on.sum() > 10 and set(found.family[on]) == {0}
        assert set(found.dimension[on]) == {1} and set(found.stability[on]) == {-1}


def test_degenerate_directions_add_no_dimension():
    cubic = certified(lambda t, x, a: -(x**3), np.linspace(-1, 1, 6)[:, None])
    assert not members(cubic).any() and set(cubic.dimension) == {0}
    beside = lambda t, x, a: jnp.stack([0 * x[0], -(x[1] ** 3)])
    found = certified(beside, RNG.standard_normal((6, 2)))
    assert set(found.dimension[members(found)]) <= {1}
    assert set(found.stability[members(found)]) <= {0}


def test_batches_duplicates_and_uncertified_points():
    class Net(eqx.Module):
        radius: jax.Array

        def __call__(self, t, x, args):
            return x * (self.radius - x @ x)

    x0s = jnp.asarray(np.concatenate([RNG.standard_normal((6, 2))] * 2))
    nets = Net(jnp.array([1.0, -1.0, 4.0]))
    search = eqx.filter_vmap(lambda net: rdd.fixed_points(net, x0s, strategy=PLAIN))
    raw = eqx.filter_jit(search)(nets)
    assert raw.dimension is None and raw.family is None
    found = certify(raw)
    assert found.dimension.shape == found.verdict.shape
    assert np.all(found.dimension[[0, 2]].max(axis=1) == 1)
    assert np.all(found.dimension[1] == 0) and np.all(found.family[1] == -1)
    on = found.verdict[0] == Verdict.continuum
    assert on.sum() > found.mask[0].sum() - 1 and set(found.family[0][on]) == {0}
    one = jax.tree.map(lambda a: a[0], found)
    assert {"dimension", "family", "num_marginal"} <= set(one.to_dict())
    again = certify(found)
    np.testing.assert_array_equal(again.dimension, found.dimension)


def test_the_ends_of_a_segment_at_kinks_belong_to_it():
    # x1 + x2 = 1 with both >= 0; at the ends relu' is that of the other side.
    W = jnp.array([[0.0, -1.0], [-1.0, 0.0]])
    field = lambda t, x, b: -x + jax.nn.relu(W @ x + b)
    x0s = 2 * jax.random.normal(jax.random.key(0), (64, 2))
    found = certify(rdd.fixed_points(field, x0s, jnp.ones(2)))
    assert set(found.verdict[found.mask].tolist()) == {Verdict.continuum}
    assert np.all(found.dimension[found.mask] == 1)
    assert len(found.roots(families=True)) == 1 and "0 roots" in repr(found)
    assert "1 families" in repr(found)


def test_a_surface_of_roots_has_its_dimension_everywhere():
    """Where a step along it is straight the residual is rounding, and small in the
    equations that hold identically."""

    def f(t, x, args):
        still = 0 * x[0]
        return jnp.stack([still, still, x[0] ** 2 - x[2], x[0] * x[1] - 2 * x[3]])

    starts = jnp.asarray(np.random.default_rng(1).normal(size=(64, 4)))
    found = rdd.certify(rdd.fixed_points(f, starts))
    members = found.unique & (found.verdict == Verdict.continuum)
    assert members.sum() > 100 and np.all(found.dimension[members] == 2)
    assert np.all(found.stability[members] == -1)
