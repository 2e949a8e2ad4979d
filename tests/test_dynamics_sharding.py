"""Searches of several networks that are spread over devices."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import rnndyn.dynamics as rdd
from rnndyn._core._batch import device_mesh, map_members


STARTS = jnp.asarray(np.random.default_rng(0).standard_normal((8, 6)))
STRATEGY = rdd.MultiStart(num_large=8, rounds=1, per_round=8)
FIELDS = ("x", "speed", "verdict", "unique", "stability", "margin", "eigenvalues")


class Net(eqx.Module):
    W: jax.Array

    def __call__(self, t, x, args):
        return -x + self.W @ jnp.tanh(x)


def networks(count=6):
    W = np.random.default_rng(1).standard_normal((count, 6, 6)) / 6**0.5
    return Net(jnp.asarray(np.linspace(0.8, 2.5, count)[:, None, None] * W))


def search(net):
    pts = rdd.fixed_points(net, STARTS, strategy=STRATEGY)
    return {name: getattr(pts, name) for name in FIELDS} | {"mask": pts.mask}


@pytest.fixture(scope="module")
def one_by_one():
    nets = networks()
    rows = [search(jax.tree.map(lambda a, i=i: a[i], nets)) for i in range(6)]
    return jax.tree.map(lambda *a: np.stack(a), *rows)


def assert_same(got, want):
    assert np.array_equal(got["mask"], want["mask"]) and want["mask"].sum() > 6
    for name in ("verdict", "unique", "stability"):
        assert np.array_equal(got[name], want[name]), name
    mask = want["mask"]
    for name in ("x", "speed", "margin", "eigenvalues"):
        a, b = np.asarray(got[name])[mask], want[name][mask]
        np.testing.assert_allclose(a, b, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("lanes", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_mapped_over_devices_equals_the_loop(lanes, one_by_one):
    assert len(jax.devices()) == 2
    traces = []

    def counted(net):
        traces.append(0)
        return search(net)

    program = jax.jit(
        lambda nets: map_members(counted, nets, mesh=device_mesh(), lanes=lanes)
    )
    got = program(networks())
    assert_same(got, one_by_one)
    seen = len(traces)
    program(networks())
    # Tracing once is compiling once.
    assert len(traces) == seen


def test_placed_networks_under_plain_jit_equal_the_loop(one_by_one):
    nets = networks()
    place = NamedSharding(device_mesh(), PartitionSpec("members"))
    placed = jax.tree.map(lambda a: jax.device_put(a, place), nets)
    program = eqx.filter_jit(eqx.filter_vmap(search))
    got = program(placed)
    assert_same(jax.tree.map(np.asarray, got), one_by_one)


@pytest.mark.slow
def test_certify_takes_sharded_results():
    place = NamedSharding(device_mesh(), PartitionSpec("members"))
    placed = jax.tree.map(lambda a: jax.device_put(a, place), networks(2))
    pts = eqx.filter_jit(
        eqx.filter_vmap(lambda n: rdd.fixed_points(n, STARTS, strategy=STRATEGY))
    )(placed)
    certified = rdd.certify(pts)
    assert np.all(certified.q[certified.mask] < 1e-24)
