"""Training low-rank networks in their latent coordinates, many in one program."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._core._batch import take, to_host
from .._core._checks import check_count
from ..models import num_members
from ..tasks import AbstractTask
from ._latent import _check_fit, _loss_fn, _trial, _with_weights
from ._latent_state import RATIOS, LatentHistory, LatentResult, LatentState
from ._recipe import check_rates


_RECORDS = 256
"""Most records between two looks of the host."""

_EPOCHS = 20_000
"""Epochs between two looks of the host, one to five seconds of 64 networks."""


def train_latent(
    models: Any,
    task: AbstractTask,
    *,
    learning_rate: Any = None,
    steps: int,
    record_every: int = 100,
    stop_ratio: float | int = 0.0,
    checkpoints: Sequence[int] = (),
    lanes: int = 64,
    progress: bool = False,
    on_chunk: Callable[[LatentResult], Any] | None = None,
) -> LatentResult:
    """Train low-rank networks on a task without input by plain gradient descent.

    A network in rate form without input is exactly a map of its `rank` latent
    variables (`latent_outputs`), so that an epoch costs `4 N K` products and `N` tanh a
    step instead of a pass through time in `N` dimensions. There is one trial and no
    noise: the gradient is full and training deterministic,

        p <- p - learning_rate dL/dp    for p in m, n, b, W_out, b_out.

    All epochs of many networks run in one compiled program; every network has its own
    learning rate.

    ```python
    task = rd.tasks.DelayedActivation(delay=0.03)
    result = rd.training.train_latent(
        nets, task, learning_rate=5e-3, steps=500_000, record_every=1000
    )
    result = rd.training.train_latent(result, task, steps=1_000_000)     # goes on
    ```

    **Arguments:**

    - `models`: `LowRankRNN(0, N, outputs, form="rate", latent_readout=True, ...)` with
        a leading ensemble axis and no fixed random part; or a `LatentResult`, which is
        trained on up to `steps`, with the stride and learning rates it has.
    - `task`: a task without input and with one condition, such as `DelayedActivation`.
    - `learning_rate`: a number, or shape `(members,)`.
    - `steps`: epochs in total, a multiple of `record_every`.
    - `record_every`: stride of the history in epochs.
    - `stop_ratio`: a network stops below this share of its initial loss; 0 for never.
    - `checkpoints`: epochs at which weights are kept, multiples of `record_every`. When
        a result goes on these must be the ones it has.
    - `lanes`: most networks that one program advances together.
    - `progress`: show a bar.
    - `on_chunk`: called with the `LatentResult` so far after every block of epochs: the
        thing to store for resuming. Its arrays are written to later.

    **Returns:** a `LatentResult`. Not guaranteed: that anything was learned. Rounding
    depends on `lanes` and machine, and at large learning rates training is chaotic.

    **Raises:** a `ValueError` for networks or tasks that have no such reduction, and
    for impossible numbers.

    **Reference:** Kurtkaya, Dinc et al. 2025, arXiv:2502.17433.
    """
    check_count("lanes", lanes)
    if isinstance(models, LatentResult):
        result = _extended(models, steps, tuple(checkpoints))
    else:
        result = _initial(
            models, task, learning_rate, steps, record_every, tuple(checkpoints)
        )
    _check_fit(result.models, task)
    state, every = result.state, result.record_every
    count = num_members(state.models)
    arrays = jax.tree.leaves(eqx.filter(task, eqx.is_array))
    if arrays and all(a.shape[:1] == (count,) for a in arrays):
        raise ValueError(
            f"got one task for each of {count} networks, expected one for all. Train "
            "the networks of each task by a call of their own, or use train."
        )
    # Groups of equal size.
    lanes = -(-count // -(-count // lanes))
    advance = functools.partial(_advance, every=every, step=task.dt)
    trial = _trial(task, state.models.m.dtype)
    stop = np.asarray(stop_ratio, state.models.m.dtype)
    marks = sorted({*result.checkpoint_epochs, steps})
    bar = _bar(count, steps) if progress else None
    while (waiting := np.flatnonzero(result.unfinished)).size:
        # Networks of one group must be equally far.
        first = state.epoch[waiting[0]]
        group = waiting[state.epoch[waiting] == first][:lanes]
        rows = np.resize(group, lanes)
        inside = take(state, rows)
        # Repeated rows idle, so that the program keeps its shape.
        inside = eqx.tree_at(
            lambda s: s.stopped,
            inside,
            inside.stopped | (np.arange(lanes) >= len(group)),
        )
        until = next(m for m in marks if m > first)
        records = min(_RECORDS, max(1, _EPOCHS // every), (until - first) // every)
        out, buffers = to_host(
            advance(inside, trial, np.asarray(records, np.int32), stop)
        )
        for whole, part in zip(_leaves(state), _leaves(out), strict=True):
            whole[group] = part[: len(group)]
        at = slice(first // every, first // every + records)
        for whole, part in zip(_leaves(result.history), buffers, strict=True):
            whole[group, at] = part[:records, : len(group)].T
        _keep(result, group, first + records * every)
        if bar is not None:
            bar.update(np.mean(np.where(state.running, state.epoch, steps)) - bar.n)
        if on_chunk is not None:
            on_chunk(result)
    if bar is not None:
        bar.close()
    return result


@eqx.filter_jit
def _advance(state, trial, records, stop, *, every, step):
    """`records` times `every` epochs of a group of networks."""
    static, (targets, mask) = state.models, trial
    setting = lambda model: _loss_fn(model, targets, mask, step)[0]
    weights = eqx.filter_vmap(setting)(static)
    dtype, count = static.m.dtype, static.m.shape[0]
    ratios = jnp.asarray(RATIOS, dtype)

    def gradient(weights):
        def one(model, weights):
            fn = _loss_fn(model, targets, mask, step)[1]
            return jax.value_and_grad(fn)(weights)

        return eqx.filter_vmap(one)(static, weights)

    def epoch(i, carry):
        weights, state, (first, norm, low, high) = carry
        loss, grad = gradient(weights)
        size = sum(_squares(g) for g in grad)
        running = ~(state.stopped | state.diverged)
        finite = jnp.isfinite(loss) & jnp.isfinite(size)
        loss_0 = jnp.where(state.epoch == 0, loss, state.loss_0)
        below = loss[:, None] < ratios[None] * loss_0[:, None]
        new = (running & finite)[:, None] & below & (state.reached < 0)
        stopped = running & finite & (loss < stop * loss_0)
        move = running & finite & ~stopped

        def update(p, g):
            shape = (-1,) + (1,) * (p.ndim - 1)
            # A select, since 0 * inf is no number.
            stepped = p - state.learning_rate.reshape(shape) * g
            return jnp.where(move.reshape(shape), stepped, p)

        state = LatentState(
            models=state.models,
            learning_rate=state.learning_rate,
            epoch=state.epoch + move,
            loss_0=loss_0,
            reached=jnp.where(new, state.epoch[:, None], state.reached),
            stopped=state.stopped | stopped,
            diverged=state.diverged | (running & ~finite),
        )
        rows = (
            jnp.where(i == 0, loss, first),
            jnp.where(i == 0, jnp.sqrt(size), norm),
            jnp.where(running, jnp.minimum(low, loss), low),
            jnp.where(running, jnp.maximum(high, loss), high),
        )
        return jax.tree.map(update, weights, grad), state, rows

    def record(r, carry):
        weights, state, buffers = carry
        running = ~(state.stopped | state.diverged)
        infinite = jnp.full(count, jnp.inf, dtype)
        start = (weights, state, (infinite, infinite, infinite, -infinite))
        weights, state, rows = lax.fori_loop(0, every, epoch, start)
        put = lambda b, v: b.at[r].set(jnp.where(running, v, jnp.nan))
        buffers = [put(b, v) for b, v in zip(buffers, rows, strict=True)]
        return weights, state, buffers

    buffers = [jnp.full((_RECORDS, count), jnp.nan, dtype) for _ in range(4)]
    with jax.default_matmul_precision("highest"):
        weights, state, buffers = lax.fori_loop(
            0, records, record, (weights, state, buffers)
        )
    models = jax.vmap(_with_weights)(state.models, weights)
    return eqx.tree_at(lambda s: s.models, state, models), buffers


def _squares(a):
    return jnp.sum(a.reshape(a.shape[0], -1) ** 2, axis=1)


def _initial(models, task, learning_rate, steps, every, checkpoints):
    """A result before the first epoch, checked."""
    _check_fit(models, task)
    count = num_members(models)
    check_rates(learning_rate, count)
    _check_epochs(steps, every, checkpoints)
    models = to_host(models)
    for name in ("m", "n", "b", "W_out", "b_out", "x0"):
        flat = np.asarray(getattr(models, name)).reshape(count, -1)
        bad = np.flatnonzero(~np.all(np.isfinite(flat), axis=1))
        if bad.size:
            raise ValueError(
                f"networks {bad[:5].tolist()} have non-finite entries in {name}, "
                "expected finite numbers. Remove them or rebuild."
            )
    dtype = models.m.dtype
    state = LatentState(
        models=models,
        learning_rate=jnp.broadcast_to(jnp.asarray(learning_rate, dtype), (count,)),
        epoch=jnp.zeros(count, jnp.int32),
        loss_0=jnp.zeros(count, dtype),
        reached=jnp.full((count, len(RATIOS)), -1, jnp.int32),
        stopped=jnp.zeros(count, bool),
        diverged=jnp.zeros(count, bool),
    )
    empty = lambda: np.full((count, steps // every), np.nan, dtype)
    kept = None
    if checkpoints:
        blank = lambda a: np.zeros((count, len(checkpoints), *a.shape[1:]), a.dtype)
        kept = jax.tree.map(lambda a: blank(a) if eqx.is_array(a) else a, models)
    return LatentResult(
        state=to_host(state),
        history=LatentHistory(*(empty() for _ in range(4))),
        checkpoints=kept,
        checkpoint_epochs=checkpoints,
        record_every=every,
        steps=steps,
    )


def _extended(result, steps, checkpoints):
    """A copy of a result with room for `steps` epochs."""
    if checkpoints not in ((), result.checkpoint_epochs):
        raise ValueError(
            f"checkpoints = {checkpoints}, expected those of the result that goes on, "
            f"{result.checkpoint_epochs}, or none."
        )
    every = result.record_every
    _check_epochs(steps, every, result.checkpoint_epochs)
    if steps < result.steps and np.any(np.asarray(result.state.epoch) > steps):
        raise ValueError(
            f"steps = {steps}, expected at least the {result.steps} epochs that the "
            "result has room for."
        )
    more = steps // every - result.history.loss.shape[1]

    def widen(a):
        a = np.array(a)[:, : steps // every]
        return np.pad(a, ((0, 0), (0, max(more, 0))), constant_values=np.nan)

    return LatentResult(
        state=to_host(result.state),
        history=jax.tree.map(widen, result.history),
        checkpoints=to_host(result.checkpoints),
        checkpoint_epochs=result.checkpoint_epochs,
        record_every=every,
        steps=steps,
    )


def _keep(result, group, epoch):
    """Weights at a checkpoint; those of networks that have stopped stay as they are."""
    if result.checkpoints is None:
        return
    marks = result.checkpoint_epochs
    alive = np.asarray(result.state.running)
    for slot, mark in enumerate(marks):
        for i in group:
            if mark == epoch or (mark > epoch and not alive[i]):
                pairs = zip(
                    _leaves(result.checkpoints),
                    _leaves(result.state.models),
                    strict=True,
                )
                for kept, now in pairs:
                    kept[i, slot] = now[i]


def _leaves(tree):
    return jax.tree.leaves(eqx.filter(tree, eqx.is_array))


def _check_epochs(steps, every, checkpoints):
    for name, epochs in (("record_every", (every,)), ("checkpoints", checkpoints)):
        for value in epochs:
            check_count(name, value)
    check_count("steps", steps)
    if steps % every:
        raise ValueError(
            f"steps = {steps}, expected a positive multiple of record_every = {every}."
        )
    wrong = [c for c in checkpoints if c % every or not 0 < c <= steps]
    if wrong or list(checkpoints) != sorted(set(checkpoints)):
        raise ValueError(
            f"checkpoints = {tuple(checkpoints)}, expected rising multiples of "
            f"record_every = {every} up to steps = {steps}."
        )


def _bar(count, steps):
    from tqdm import tqdm

    return tqdm(total=steps, unit=" epochs", desc=f"{count} networks", mininterval=0.5)
