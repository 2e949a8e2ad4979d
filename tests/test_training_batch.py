"""Mapping a function over members on several devices."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from rnndyn._core import _batch


@pytest.mark.parametrize(("lanes", "devices"), [(None, 0), (2, 0), (1, 2), (3, 2)])
def test_map_members_is_vmap(lanes, devices):
    xs = jr.normal(jr.key(0), (6, 4))
    shift = jnp.arange(4.0)

    def fn(x, pair):
        return jnp.sum(x * shift) * pair["scale"], {"x": x, "name": pair["name"]}

    pairs = {"scale": jnp.arange(6.0), "name": "static"}
    mesh = _batch.device_mesh(jax.devices()[:devices]) if devices else None
    run = jax.jit(lambda xs, scale: _batch.map_members(
        fn, xs, {**pairs, "scale": scale}, lanes=lanes, mesh=mesh
    ))  # fmt: skip
    total, out = run(xs, pairs["scale"])
    np.testing.assert_allclose(total, (xs @ shift) * pairs["scale"], rtol=1e-12)
    np.testing.assert_array_equal(out["x"], xs)
    assert out["name"] is None


def test_members_that_devices_cannot_share_are_refused():
    mesh = _batch.device_mesh(jax.devices()[:2])
    with pytest.raises(ValueError, match="3 members on a mesh of 2 devices"):
        _batch.map_members(lambda x: x, jnp.ones((3, 1)), mesh=mesh)


def test_member_keys_depend_on_the_member_only():
    ids = jnp.asarray([3, 0, 7])
    keys = _batch.member_keys(jr.key(0), ids)
    for key, i in zip(keys, ids, strict=True):
        want = jr.key_data(jr.fold_in(jr.key(0), i))
        np.testing.assert_array_equal(jr.key_data(key), want)
