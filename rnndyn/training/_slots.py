"""Slots of one compiled program, through which the networks of an ensemble pass.

The program has a fixed number of slots and advances each by a block of epochs. The
host puts networks in, takes finished ones out, and files their records.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._core._batch import map_members, take, to_host
from ._step import TrainInfo, TrainState, step


@eqx.filter_jit
def advance_slots(states, tasks, *, recipe, until, block, every, lanes, mesh):
    """Up to `block` epochs of every slot. A slot ends early when its network has made
    `until` updates, has stopped or has diverged.

    **Returns:** the states, and for each slot a `TrainInfo` of records: record `r`
    belongs to epochs `[r, r+1) every`, counted from the window the block starts in.
    """

    def member(state, task):
        arrays, static = eqx.partition(state, eqx.is_array)
        first = state.step // every
        end = jnp.minimum(state.step + block, until)

        def unfinished(carry):
            state = eqx.combine(carry[0], static)
            return state.running & (state.step < end)

        def epoch(carry):
            state = eqx.combine(carry[0], static)
            record = state.step // every - first
            state, info = step(state, task, recipe)
            records = jax.tree.map(lambda r, a: r.at[record].set(a), carry[1], info)
            return eqx.filter(state, eqx.is_array), records

        info = eqx.filter_eval_shape(step, state, task, recipe)[1]
        # One more than fit into a block, which may start inside a window.
        blank = lambda a: jnp.zeros((block // every + 1, *a.shape), a.dtype)
        records = jax.tree.map(blank, info)
        arrays, records = jax.lax.while_loop(unfinished, epoch, (arrays, records))
        return eqx.combine(arrays, static), records

    return map_members(member, states, tasks, lanes=lanes, mesh=mesh)


def fill_slots(whole: Any, active: list[int], slots: int) -> Any:
    """The members `active` of a host pytree, and copies of the first in empty slots;
    copies of states are marked stopped, so that they cost nothing."""
    index = np.asarray(active + [active[0]] * (slots - len(active)))
    part = take(whole, index)
    if isinstance(part, TrainState):
        part.stopped[len(active) :] = True
    return part


def collect(states, history, before, after, records, active, every) -> int:
    """File what a block has done to the members `active`; returns epochs run."""
    start = before.step
    # The epoch in which a network stops or diverges has a record but no update.
    end = after.step + (after.diverged | after.stopped)

    def write_state(whole, part):
        if isinstance(whole, np.ndarray):
            whole[active] = part[: len(active)]

    jax.tree.map(write_state, states, after)
    for slot, member in enumerate(active):
        first, last = start[slot] // every, -(-end[slot] // every)

        def write_records(whole, part, rows=(slot, member, first, last)):
            slot, member, first, last = rows
            whole[member, first:last] = part[slot, : last - first]

        jax.tree.map(write_records, history, records)
    n = len(active)
    return int(np.sum((end - start)[:n]))


def unfinished(states: TrainState, steps: int) -> np.ndarray:
    """Members that still have epochs to run."""
    return np.asarray(states.running & (states.step < steps))


def empty_history(count: int, records: int, like: Any) -> TrainInfo:
    """Records of no epoch yet: NaN, and not finite."""
    blank = jnp.full((count, records), jnp.nan, like.dtype)
    names = [f for f in TrainInfo.__dataclass_fields__ if f != "finite"]
    return to_host(TrainInfo(**dict.fromkeys(names, blank), finite=blank == 0))


def round_up(n: int, multiple: int) -> int:
    """The next multiple."""
    return -(-n // multiple) * multiple
