"""A shard: members that share one compiled program, trained by a pure function."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.random as jr
import numpy as np

from ..training import Progress, Recipe, TrainLog, TrainState, init, train
from ..training._log import empty_log
from ._config import SweepConfig
from ._grid import DATA, Members, id_keys, seed_keys
from ._protocol import Shape


class Shard(NamedTuple):
    """Which members a shard holds.

    - `index`: its number.
    - `shape`: what its program depends on.
    - `rows`: its members, as positions in the grid.
    """

    index: int
    shape: Shape
    rows: np.ndarray


class Trained(NamedTuple):
    """A shard after (or during) training, as NumPy arrays."""

    state: TrainState
    log: TrainLog


def plan(config: SweepConfig, members: Members | None = None) -> list[Shard]:
    """The shards of a sweep: members grouped by program, long trainings together."""
    members = config.members() if members is None else members
    shapes = _shapes(config, members)
    groups: dict[Shape, list[int]] = {}
    for row, shape in enumerate(shapes):
        groups.setdefault(shape, []).append(row)
    shards = []
    for shape in sorted(groups, key=lambda s: s.num_steps):
        rows = np.asarray(groups[shape])
        # Longest first: slots that fall free at the end of a shard stay empty.
        rows = rows[np.argsort(-members.epochs[rows], kind="stable")]
        for first in range(0, len(rows), config.shard_size):
            part = rows[first : first + config.shard_size]
            shards.append(Shard(len(shards), shape, part))
    return shards


def untrained(config: SweepConfig, shard: Shard, members: Members | None = None):
    """The networks and tasks of a shard before training, in float32."""
    members = (config.members() if members is None else members).rows(shard.rows)
    with jax.enable_x64(False):
        networks = _networks(config, shard.shape, _padded(config, members))
        tasks = config.rules.tasks(shard.shape, members.values)
        return _first(networks, len(shard.rows)), tasks


def start(config: SweepConfig, shard: Shard, members: Members | None = None):
    """State before the first epoch, and tasks."""
    members = (config.members() if members is None else members).rows(shard.rows)
    padded = _padded(config, members)
    with jax.enable_x64(False):
        networks = _networks(config, shard.shape, padded)
        recipe = Recipe(**config.rules.recipe(shard.shape))
        keys = id_keys(jr.key(config.root_seed), padded.id, DATA)
        rates = np.asarray(padded.values["learning_rate"], np.float32)
        states = _states(networks, recipe, rates, keys)
        tasks = config.rules.tasks(shard.shape, members.values)
        return _first(states, len(shard.rows)), tasks


def _networks(config, shape, members):
    keys = seed_keys(jr.key(config.root_seed), members.values["seed"])
    tau, noise = (np.asarray(members.values[k], np.float32) for k in ("tau", "noise"))
    return config.rules.networks(shape, tau, noise, keys)


def _padded(config, members):
    """Members repeated up to a power of two, or a full shard: a few sizes, so that
    shards of odd sizes do not compile their own programs."""
    count = len(members.id)
    size = max(count, min(config.shard_size, 1 << (count - 1).bit_length()))
    return members.rows(np.arange(size) % count)


def _first(tree, count):
    cut = lambda a: a[:count] if eqx.is_array(a) else a
    return jax.tree.map(cut, tree)


def train_shard(
    config: SweepConfig,
    shard: Shard,
    *,
    members: Members | None = None,
    resume: Callable[["Trained"], "Trained | None"] = lambda like: None,
    on_chunk: Callable[[Progress], Any] | None = None,
    chunk: int | None = None,
    lanes: int | None = None,
    devices: Any = None,
) -> Trained:
    """Train the networks of a shard.

    What comes out depends on the configuration and the shard only: up to rounding not
    on `chunk`, `lanes` or `devices`, and not on interruptions.

    **Arguments:**

    - `config`, `shard`: what to train.
    - `members`: the table of the configuration, if it is at hand.
    - `resume`: given state and log before the first epoch, those to go on from, or
        `None`.
    - `on_chunk`, `chunk`, `lanes`, `devices`: as in `rnndyn.training.train`.
    """
    members = config.members() if members is None else members
    states, tasks = start(config, shard, members)
    steps = members.epochs[shard.rows]
    with jax.enable_x64(False):
        rates = np.asarray(states.learning_rate)
        blank = empty_log(len(steps), steps, config.record_every, config.last, rates)
        states, log = resume(Trained(states, blank)) or (states, None)
        if devices is None:
            devices = jax.devices()
        result = train(
            states,
            tasks,
            learning_rate=None,
            steps=steps,
            key=jr.key(0),  # a state brings its own
            log=log,
            on_chunk=on_chunk,
            chunk=chunk or fitting_chunk(config, shard, devices),
            lanes=lanes,
            devices=devices,
            record_every=config.record_every,
            last=config.last,
            **config.rules.recipe(shard.shape),
        )
    host = lambda tree: jax.tree.map(
        lambda a: np.asarray(a) if eqx.is_array(a) else a, tree
    )
    return Trained(host(result.state), host(result.log))


def fitting_chunk(config: SweepConfig, shard: Shard, devices: Any) -> int | None:
    """How many networks an accelerator trains at once: what fits in half of its memory,
    the same for every shard of a shape; the default on CPUs."""
    device = devices[0]
    if device.platform == "cpu":
        return None
    shape = shard.shape
    stats = device.memory_stats() or {}
    memory = stats.get("bytes_limit", 16 << 30)
    # Currents, noise, states and their gradients: about eight copies of a trajectory.
    trajectory = 8 * 4 * shape.num_steps * int(shape["batch"]) * int(shape["units"])
    weights = 6 * 4 * int(shape["units"]) ** 2
    fits = max(1, int(0.5 * memory / (trajectory + weights)))
    wanted = min(config.shard_size, fits * len(devices))
    return max(len(devices), wanted)


def _shapes(config: SweepConfig, members: Members) -> list[Shape]:
    """The shape of every member; computed once for each that differs in what counts."""
    rules = config.rules
    names = [k for k in members.values if k not in ("learning_rate", "seed")]
    rows = zip(*(members.values[k].tolist() for k in names), strict=True)
    cache: dict[tuple, Shape] = {}
    shapes = []
    for row in rows:
        if row not in cache:
            values = dict(zip(names, row, strict=True))
            cache[row] = rules.shape_of(values, config.pad_steps)
        shapes.append(cache[row])
    return shapes


@eqx.filter_jit
def _states(networks, recipe, rates, keys):
    one = lambda net, rate, key: init(net, recipe, learning_rate=rate, key=key)
    return eqx.filter_vmap(one)(networks, rates, keys)
