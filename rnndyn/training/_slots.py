"""Slots of one compiled program, through which the networks of an ensemble pass.

The program has a fixed number of slots and advances each by a block of epochs. The
host puts networks in, takes finished ones out, and files their records.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._core._batch import map_members, take
from ._log import write_block
from ._step import TrainState, step


@eqx.filter_jit
def advance_slots(states, tasks, until, *, recipe, block, lanes, mesh):
    """Up to `block` epochs of every slot. A slot ends early when its network has made
    `until` updates, has stopped or has diverged.

    **Returns:** the states, and for each slot a `TrainInfo` of `block` records, one an
    epoch, of which those that were run are filled.
    """

    def member(state, task, until):
        arrays, static = eqx.partition(state, eqx.is_array)
        first = state.step
        end = jnp.minimum(first + block, until)

        def unfinished(carry):
            state = eqx.combine(carry[0], static)
            return state.running & (state.step < end)

        def epoch(carry):
            state = eqx.combine(carry[0], static)
            record = state.step - first
            state, info = step(state, task, recipe)
            records = jax.tree.map(lambda r, a: r.at[record].set(a), carry[1], info)
            return eqx.filter(state, eqx.is_array), records

        info = eqx.filter_eval_shape(step, state, task, recipe)[1]
        blank = lambda a: jnp.zeros((block, *a.shape), a.dtype)
        records = jax.tree.map(blank, info)
        arrays, records = jax.lax.while_loop(unfinished, epoch, (arrays, records))
        return eqx.combine(arrays, static), records

    return map_members(member, states, tasks, until, lanes=lanes, mesh=mesh)


def fill_slots(whole: Any, active: list[int], slots: int) -> Any:
    """The members `active` of a host pytree, and copies of the first in empty slots;
    copies of states are marked stopped, so that they cost nothing."""
    index = np.asarray(active + [active[0]] * (slots - len(active)))
    part = take(whole, index)
    if isinstance(part, TrainState):
        part.stopped[len(active) :] = True
    return part


def collect(states, log, before, after, records, active, every) -> int:
    """File what a block has done to the members `active`; returns epochs run."""
    n = len(active)
    start = before.step[:n]
    # The epoch in which a network stops or diverges has a record but no update.
    end = (after.step + (after.diverged | after.stopped))[:n]

    def write_state(whole, part):
        if isinstance(whole, np.ndarray):
            whole[active] = part[:n]

    jax.tree.map(write_state, states, after)
    write_block(log, active, start, end - start, records, every)
    return int(np.sum(end - start))


def unfinished(states: TrainState, steps: Any) -> np.ndarray:
    """Members that still have epochs to run."""
    return np.asarray(states.running & (states.step < steps))


def round_up(n: int, multiple: int) -> int:
    """The next multiple."""
    return -(-n // multiple) * multiple
