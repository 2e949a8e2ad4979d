"""Ensembles as one program: member keys, and a function mapped over members that are
spread over devices."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Integer, Key

from ._checks import check_key
from ._types import KeyLike


def member_keys(
    key: KeyLike, ids: Integer[Array | np.ndarray, " members"]
) -> Key[Array, " members"]:
    """`fold_in(key, id)` for every member, so that a member's randomness does not
    depend on which others run beside it."""
    check_key(key)
    return jax.vmap(lambda i: jr.fold_in(key, i))(ids)


def map_members(
    fn: Callable, *per_member: Any, lanes: int | None = None, mesh: Any = None
) -> Any:
    """`jax.vmap(fn)(*per_member)` in bounded memory and on several devices.

    Members are split over the devices of `mesh`; each device takes `lanes` at a time,
    vectorised, and goes through its share in a loop. Small networks on a CPU are
    fastest with one lane, whose states then stay in cache.

    **Arguments:**

    - `fn`: pure function of one member's pytrees. Reverse-mode derivatives need one
      without `while_loop`.
    - `*per_member`: pytrees with a leading member axis; non-arrays are shared. With
      a `mesh` the number of members is a multiple of that of its devices.
    - `lanes`: members advanced together on one device, 1 by default.
    - `mesh`: devices, see `device_mesh`; `None` is the default device.

    **Returns:** `fn`'s arrays with a leading member axis. Equal to the unbatched ones
    up to rounding; exactly equal between calls of the same `lanes`.
    """
    arrays, static = eqx.partition(per_member, eqx.is_array)

    def one(arrays):
        return eqx.filter(fn(*eqx.combine(arrays, static)), eqx.is_array)

    def share(arrays):
        if lanes is None or lanes == 1:
            return jax.lax.map(one, arrays)
        return jax.lax.map(one, arrays, batch_size=lanes)

    if mesh is None:
        return share(arrays)
    count = jax.tree.leaves(arrays)[0].shape[0]
    if count % mesh.size:
        raise ValueError(
            f"{count} members on a mesh of {mesh.size} devices, expected a multiple of "
            "these: repeat some members and drop their results."
        )
    return jax.shard_map(
        share, mesh=mesh, in_specs=P("members"), out_specs=P("members"), check_vma=False
    )(arrays)


def device_mesh(devices: Any = None) -> jax.sharding.Mesh:
    """A one-dimensional mesh over `devices` (default: all of the default backend),
    with the axis name `members`."""
    devices = np.asarray(jax.devices() if devices is None else list(devices))
    # Auto axes: optimistix and diffrax fail under the default Explicit ones.
    return jax.sharding.Mesh(
        devices, ("members",), axis_types=(jax.sharding.AxisType.Auto,)
    )


def default_lanes(mesh: jax.sharding.Mesh, members: int) -> int:
    """Members to advance together on one device: one on a CPU, whose caches hold one
    network's trials, all of a device's share on an accelerator."""
    if mesh.devices.flat[0].platform == "cpu":
        return 1
    return max(1, -(-members // mesh.size))


def take(tree: Any, index: Any) -> Any:
    """Rows of every NumPy array of a host pytree, other leaves unchanged."""
    return jax.tree.map(lambda a: a[index] if isinstance(a, np.ndarray) else a, tree)


def to_host(tree: Any) -> Any:
    """JAX arrays as NumPy arrays that may be written to."""
    return jax.tree.map(lambda a: np.array(a) if eqx.is_array(a) else a, tree)


def to_double(tree: Any) -> Any:
    """Every float array in float64; inside `jax.enable_x64(True)`."""
    cast = lambda a: jnp.asarray(a, jnp.float64) if eqx.is_inexact_array(a) else a
    return jax.tree.map(cast, tree)


@contextlib.contextmanager
def in_double() -> Iterator[None]:
    """Float64 on the CPU, whatever the process allows and the accelerator can do."""
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        yield
