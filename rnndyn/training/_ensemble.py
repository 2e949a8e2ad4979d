"""Training an ensemble: the host loop around the compiled epochs."""

import dataclasses
import functools
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._core._batch import (
    default_lanes,
    device_mesh,
    member_keys,
    to_host,
)
from .._core._checks import check_count, check_ids, check_step_ratio
from .._core._export import Result
from .._core._types import KeyLike
from ..models import Constraints, num_members, trainable
from ..tasks import AbstractTask, per_member
from ..tasks._base import check_fit
from ._log import TrainLog, empty_log
from ._recipe import Recipe, check_rates
from ._scores import OUTCOMES
from ._slots import (
    advance_slots,
    collect,
    fill_slots,
    round_up,
    unfinished,
)
from ._step import TrainInfo, TrainState, init


_BLOCK = 50
"""Epochs between two looks of the host: long enough to hide dispatch (about 0.1 s of a
network of 100 units), short enough for progress and for refilling finished slots."""


class Progress(NamedTuple):
    """What `on_chunk` is told after every block of epochs.

    `done` of `members` networks have finished, `diverged` of them by diverging;
    `epochs` were run in `seconds`. `state` is the ensemble's state on the host, the
    thing to store for resuming together with `log`; both change with the next block.
    """

    done: int
    members: int
    diverged: int
    epochs: int
    seconds: float
    state: TrainState
    log: TrainLog


class TrainResult(Result):
    """A trained ensemble and how it got there; arrays lead with the member axis.

    - `state`: pass it to `train` in place of the models to go on.
    - `log`: everything recorded, see `TrainLog`.
    - `record_every`: stride of the history, in epochs.
    - `seconds`: wall time.
    """

    state: TrainState = eqx.field(metadata={"export": False})
    log: TrainLog = eqx.field(metadata={"export": False})
    constraints: Constraints | None = eqx.field(metadata={"export": False})
    record_every: int = eqx.field(static=True)
    seconds: float = eqx.field(static=True)

    def headline(self) -> str:
        """How the networks ended, and after how many epochs."""
        counts = Counter(OUTCOMES[code] for code in self.outcome).most_common()
        line = ", ".join(f"{n} {name}" for name, n in counts)
        ended = f"{np.sum(self.diverged)} diverged, {np.sum(self.stopped)} stopped"
        few, many = np.min(self.steps), np.max(self.steps)
        epochs = f"{few}" if few == many else f"{few} to {many}"
        return f"{line}; {ended}; {epochs} epochs in {self.seconds:.1f} s"

    @property
    def history(self) -> TrainInfo:
        """A `TrainInfo` of arrays `(members, records)`. Record `r` is the last epoch of
        `[r, r+1) record_every` that was run; NaN after a network has stopped."""
        return self.log.history

    @property
    def models(self) -> Any:
        """The trained networks, constraints applied."""
        if self.constraints is None:
            return self.state.model
        return eqx.filter_vmap(self.constraints)(self.state.model)

    @property
    def losses(self) -> Float[Array, "members records"]:
        """Loss history."""
        return self.history.loss

    @property
    def accuracies(self) -> Float[Array, "members records"]:
        """History of the accuracy in the paper's window, see `TrainInfo`."""
        return self.history.accuracy

    @property
    def steps(self) -> Int[Array, " members"]:
        """Updates made by each network."""
        return self.state.step

    @property
    def diverged(self) -> Bool[Array, " members"]:
        """Networks frozen at their last finite weights."""
        return self.state.diverged

    @property
    def stopped(self) -> Bool[Array, " members"]:
        """Networks that met the stop criterion."""
        return self.state.stopped

    @property
    def outcome(self) -> Int[np.ndarray, " members"]:
        """The paper's verdict of every network, codes of `rnndyn.training.OUTCOMES`,
        from every epoch whatever `record_every` is; a network that diverged has not
        learned. After resuming without the earlier `log` it knows the later epochs
        only."""
        return self.log.outcome_of(self.state.diverged)


def train(
    models: Any,
    task: AbstractTask,
    *,
    optimiser: Callable,
    learning_rate: Any,
    steps: Any,
    batch: int,
    key: KeyLike,
    record_every: int = 1,
    last: int = 1000,
    log: TrainLog | None = None,
    ids: Any = None,
    chunk: int | None = None,
    lanes: int | None = None,
    devices: Any = None,
    progress: bool = False,
    on_chunk: Callable[[Progress], Any] | None = None,
    **recipe: Any,
) -> TrainResult:
    """Train an ensemble of networks by full back-propagation through time.

    Networks are independent. They pass through a fixed number of slots of one
    compiled program; a slot whose network is done, stopped or diverged takes the next
    one, so neither the number of networks, nor learning rates, nor delays compile
    anything anew.

    **Arguments:**

    - `models`: networks with a leading ensemble axis (`rnndyn.models.ensemble`), or
      the `state` of an earlier result, which is then trained on up to `steps`.
    - `task`: one task, or one a network (arrays with a leading ensemble axis, such as
      `DelayedCueDiscrimination.stack`).
    - `optimiser`: callable `lr -> optax.GradientTransformation`: `sgd()` is the
      paper's, `optax.adam` works.
    - `learning_rate`: a number, or shape `(members,)`. A resumed state keeps its own.
    - `steps`: epochs in total, one number or shape `(members,)`.
    - `batch`: trials an epoch, conditions alternating from the first: a multiple of
        their number shows all equally often.
    - `key`: PRNG key; a resumed state keeps its own. Member `i` uses
        `fold_in(key, ids[i])` and the epoch, nothing else: results do not depend on
        `chunk`, devices, or who trains beside it.
    - `record_every`: stride of the history in epochs.
    - `last`: how many of the last epochs to keep at every epoch (`log.last()`).
    - `log`: of the earlier training of a resumed state, interrupted before its `steps`
      were done; it is gone on with. To train on beyond these, leave it out: the new
      log holds the later epochs.
    - `ids`: member numbers, `0 .. members - 1` by default.
    - `chunk`: slots, rounded up to a multiple of the devices; four a device on CPUs.
    - `lanes`: networks that a device advances together; one on CPUs.
    - `devices`: all by default.
    - `progress`: show a bar.
    - `on_chunk`: called with a `Progress` after every block of epochs.
    - `**recipe`: further fields of `Recipe`: `start`, `readout`, `constraints`,
      `fixed`, `stop`.

    **Returns:** a `TrainResult`. A diverged network is marked and keeps its last
    finite weights. Nothing here says that a network has learned: see `outcome`.

    **Raises:** a `ValueError` for impossible numbers, shapes or NaN weights.

    !!! example

        ```python
        task = rd.tasks.DelayedCueDiscrimination(delay=0.1)
        result = rd.training.train(
            nets, task, optimiser=rd.training.sgd(), learning_rate=0.03,
            steps=1000, batch=128, key=jax.random.key(1),
        )
        ```
    """
    if not np.all((np.asarray(steps) >= 1) & (np.asarray(steps) % 1 == 0)):
        raise ValueError(f"steps = {steps}, expected whole epochs, at least one.")
    check_count("record_every", record_every)
    check_count("last", last)
    for name, value in (("chunk", chunk), ("lanes", lanes)):
        if value is not None:
            check_count(name, value)
    known = {f.name for f in dataclasses.fields(Recipe)} - {"optimiser", "batch"}
    if unknown := sorted(set(recipe) - known):
        raise ValueError(f"train got {unknown}, expected some of {sorted(known)}.")
    recipe_ = Recipe(optimiser=optimiser, batch=batch, **recipe)
    states = _initial(models, recipe_, learning_rate, key, ids)
    count = num_members(states)
    steps = _per_member_steps(steps, count)
    tasks = per_member(task, count)
    check_fit(states.model, task)
    if batch < task.num_conditions:
        raise ValueError(
            f"batch = {batch}, but the task has {task.num_conditions} conditions, of "
            "which every epoch would show the same, expected at least one trial each."
        )
    check_step_ratio(task.dt, states.model.tau)

    mesh = device_mesh(devices)
    slots = round_up(chunk or _default_chunk(mesh, count), mesh.size)
    lanes = lanes or default_lanes(mesh, slots)
    slots = round_up(slots, lanes * mesh.size)
    states, tasks = to_host(states), to_host(tasks)
    blank = empty_log(count, steps, record_every, last, states.learning_rate)
    kept = blank if log is None else _continued(log, blank)
    advance = functools.partial(
        advance_slots,
        recipe=recipe_,
        block=round_up(_BLOCK, record_every),
        lanes=lanes,
        mesh=mesh,
    )
    waiting = np.flatnonzero(unfinished(states, steps)).tolist()[::-1]
    active: list[int] = []
    bar = _bar(count, int(steps.max())) if progress else None
    began, epochs = time.perf_counter(), 0
    while waiting or active:
        while waiting and len(active) < slots:
            active.append(waiting.pop())
        inside = fill_slots(states, active, slots)
        rest = fill_slots((tasks, steps), active, slots)
        advanced, records = to_host(advance(inside, *rest))
        epochs += collect(states, kept, inside, advanced, records, active, record_every)
        going = unfinished(states, steps)
        active = [i for i in active if going[i]]
        if bar is not None:
            share = np.where(states.running, states.step / steps, 1)
            bar.update(np.sum(share) - bar.n)
        if on_chunk is not None:
            done = count - len(waiting) - len(active)
            diverged = int(np.sum(states.diverged))
            seconds = time.perf_counter() - began
            on_chunk(Progress(done, count, diverged, epochs, seconds, states, kept))
    if bar is not None:
        bar.close()
    on_device = lambda a: jnp.asarray(a) if isinstance(a, np.ndarray) else a
    states = jax.tree.map(on_device, states)
    history = jax.tree.map(on_device, kept.history)
    kept = eqx.tree_at(lambda log: log.history, kept, history)
    seconds = time.perf_counter() - began
    return TrainResult(states, kept, recipe_.constraints, record_every, seconds)


def _per_member_steps(steps, count):
    steps = np.asarray(steps)
    if steps.shape not in ((), (count,)):
        raise ValueError(
            f"steps has shape {steps.shape}, expected () or ({count},): one number of "
            "epochs, or one for each network."
        )
    return np.broadcast_to(steps, (count,)).astype(np.int32)


def _continued(log, blank):
    """A writable copy of an earlier log, which must be for as long a training."""
    log = to_host(jax.tree.map(np.array, log))
    for name, have, want in zip(
        ("history", "seen", "loss", "accuracy"),
        (log.history.loss, log.seen, log.loss, log.accuracy),
        (blank.history.loss, blank.seen, blank.loss, blank.accuracy),
        strict=True,
    ):
        if have.shape != want.shape:
            raise ValueError(
                f"the log's {name} has shape {have.shape}, expected {want.shape}. Pass "
                "the same members, steps, record_every and last as before."
            )
    return log


def _initial(models, recipe, learning_rate, key, ids):
    """The state before the first epoch, or a state to go on from, checked."""
    if isinstance(models, TrainResult):
        raise ValueError(
            "got a TrainResult, expected networks, or a state to go on from. Pass "
            "result.state."
        )
    if isinstance(models, TrainState):
        _check_optimiser(models, recipe)
        return models
    count = num_members(models)
    if count == 0:
        raise ValueError("the ensemble is empty, expected at least one network.")
    check_rates(learning_rate, count)
    ids = check_ids(ids, count)
    if not jax.tree.leaves(eqx.filter(models, trainable(models, fixed=recipe.fixed))):
        raise ValueError(f"fixed = {recipe.fixed}: nothing is left to train.")
    _check_weights(models, count)
    rates = jnp.broadcast_to(jnp.asarray(learning_rate, models.x0.dtype), (count,))
    return _init_all(models, recipe, rates, key, ids)


@eqx.filter_jit
def _init_all(models, recipe, rates, key, ids):
    start = lambda model, rate, key: init(model, recipe, learning_rate=rate, key=key)
    return eqx.filter_vmap(start)(models, rates, member_keys(key, ids))


def _check_optimiser(state, recipe):
    """Raise a `ValueError` unless the optimiser goes on from this state."""
    params = eqx.filter(state.model, trainable(state.model, fixed=recipe.fixed))
    fresh = lambda p, rate: recipe.optimiser(rate).init(p)
    wanted = eqx.filter_eval_shape(
        eqx.filter_vmap(fresh), params, jnp.asarray(state.learning_rate)
    )
    if jax.tree.structure(wanted) != jax.tree.structure(state.opt_state):
        raise ValueError(
            "the state belongs to another optimiser, or to other fixed fields, "
            "expected the same. Pass these, or result.models to start anew."
        )


def _check_weights(models, count):
    bad = np.zeros(count, bool)
    for leaf in jax.tree.leaves(eqx.filter(models, trainable(models, fixed=()))):
        flat = np.asarray(leaf).reshape(count, -1)
        bad |= ~np.all(np.isfinite(flat), axis=1)
    if bad.any():
        raise ValueError(
            f"networks {np.flatnonzero(bad)[:5].tolist()} have non-finite weights, "
            "expected finite numbers. Remove them (rnndyn.models.member) or rebuild."
        )


def _default_chunk(mesh, count):
    # On a CPU idle slots are free, so the number is fixed and one program serves all.
    if mesh.devices.flat[0].platform == "cpu":
        return 4 * mesh.size
    return min(1024, 2 ** max(count - 1, 0).bit_length())


def _bar(count, steps):
    from tqdm import tqdm

    return tqdm(
        total=count,
        unit=" networks",
        desc=f"training, {steps} epochs",
        mininterval=0.5,
        bar_format="{desc}: {n:.1f}/{total} |{bar}| {elapsed}<{remaining}, "
        "{rate_noinv_fmt}",
    )
