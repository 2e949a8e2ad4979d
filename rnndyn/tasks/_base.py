"""Trials as pure functions of a condition and a key."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._core._checks import check_count, check_key, is_concrete
from .._core._types import KeyLike


class Trial(eqx.Module):
    """One trial (or a batch of them, with a leading axis).

    - `inputs` `(time, input)`, `targets` `(time, output)`.
    - `mask` `(time,)`: loss weight of each step. The loss of a trial is
      `sum_t mask_t mean_o (y_to - target_to)^2`; weights already contain the `1/T` of
      a time average, and are zero in padding.
    - `period` `(time,)`: index into the task's `periods`, -1 in padding.
    - `condition`: which condition was drawn.
    """

    inputs: Float[Array, "*batch time input"]
    targets: Float[Array, "*batch time output"]
    mask: Float[Array, "*batch time"]
    period: Int[Array, "*batch time"]
    condition: Int[Array, "*batch"]


class Score(eqx.Module):
    """How well a trial was answered, both in [0, 1]: `accuracy` is the share of
    answered steps that are right, `reliability` the confidence in the right answer."""

    accuracy: Float[Array, "*batch"]
    reliability: Float[Array, "*batch"]


class AbstractTask(eqx.Module):
    """A task: what is shown, what is wanted, when it counts.

    Durations are in seconds. Sizes and `num_steps` are static, so that one compiled
    program serves every value of the array fields (delays, amplitudes). Implement
    `trial` and `score`; `sample` and `batch` work.
    """

    input_size: eqx.AbstractVar[int]
    output_size: eqx.AbstractVar[int]
    num_conditions: eqx.AbstractVar[int]
    num_steps: eqx.AbstractVar[int]
    dt: eqx.AbstractVar[float]
    periods: eqx.AbstractClassVar[tuple[str, ...]]
    reference: eqx.AbstractClassVar[str]

    @abc.abstractmethod
    def trial(self, condition: Int[Array, ""], *, key: KeyLike) -> Trial:
        """The trial of one condition; `key` for everything else that is random."""

    @abc.abstractmethod
    def score(
        self, trial: Trial, outputs: Float[Array, "time output"], *, lag: int = 0
    ) -> Score:
        """How well `outputs` answer `trial`; `lag` steps after the onset of the answer
        are left out, 1 for networks whose output is read before the update. None are if
        the answer has no more steps than that."""

    def sample(self, key: KeyLike) -> Trial:
        """One trial with a condition drawn uniformly."""
        k_condition, k_trial = jr.split(check_key(key))
        condition = jr.randint(k_condition, (), 0, self.num_conditions)
        return self.trial(condition, key=k_trial)

    def batch(self, size: int, *, key: KeyLike) -> Trial:
        """`size` trials in which conditions alternate, `0, 1, .., 0, 1, ..`."""
        check_count("size", size, least=0)
        conditions = jnp.arange(size) % self.num_conditions
        keys = jr.split(check_key(key), size)
        return jax.vmap(lambda c, k: self.trial(c, key=k))(conditions, keys)


def check_condition(name: str, condition: Any, count: int) -> None:
    """Raise a `ValueError` unless a condition that is known is one of a task's."""
    if is_concrete(condition) and not np.all(np.isin(condition, np.arange(count))):
        raise ValueError(
            f"{name} = {condition}, expected 0 .. {count - 1}, a condition of the task."
        )


def period_at(ends: Int[Array, " period"], num_steps: int) -> Int[Array, " time"]:
    """Index of the period each step belongs to, given the steps at which the periods
    end; -1 after the last."""
    steps = jnp.arange(num_steps)
    index = jnp.sum(steps[:, None] >= ends[None, :], axis=1)
    return jnp.where(index < ends.shape[0], index, -1).astype(jnp.int32)


def balanced_mask(
    late: Float[Array, " time"], valid: Float[Array, " time"]
) -> Float[Array, " time"]:
    """Weights that give the late and the early part of a trial equal total weight.

    With `k` late steps of `T`: `(1 - k/T)/T` on the late ones, `(k/T)/T` before, so
    that the loss is `(k/T)(1 - k/T) (MSE_early + MSE_late)`.
    """
    total = jnp.sum(valid)
    share = jnp.sum(late) / total
    return valid * jnp.where(late > 0, 1 - share, share) / total


def answered(
    trial: Trial, period: int, lag: int, ends: Int[Array, " period"]
) -> Bool[Array, " time"]:
    """Steps that count in the score: those of `period` but its first `lag`, or all of
    them if there are no others."""
    inside = trial.period == period
    after = inside & (jnp.arange(trial.mask.shape[0]) >= ends[period - 1] + lag)
    return jnp.where(jnp.any(after), after, inside)


def masked_mean(
    values: Float[Array, " time"], mask: Bool[Array, " time"]
) -> Float[Array, ""]:
    """Mean over the steps in `mask`, 0 if there is none."""
    return jnp.sum(jnp.where(mask, values, 0)) / jnp.maximum(jnp.sum(mask), 1)


def check_fit(models: Any, task: AbstractTask, *, outputs: bool = True) -> None:
    """Raise a `ValueError` unless networks have the inputs, and the outputs, of a
    task."""
    if not isinstance(task, AbstractTask):
        raise ValueError(
            f"task is a {type(task).__name__}, expected an object such as "
            "rnndyn.tasks.DelayedCueDiscrimination(delay=0.1)."
        )
    for name in ("input_size", "output_size")[: 1 + outputs]:
        if getattr(models, name) != getattr(task, name):
            raise ValueError(
                f"the networks have {name} = {getattr(models, name)}, the task "
                f"{getattr(task, name)}, expected the same. Build the networks with "
                f"{name}={getattr(task, name)}."
            )


def per_member(task: AbstractTask, count: int) -> AbstractTask:
    """The task with a leading axis of `count` on every array: one row a network.

    **Raises:** a `ValueError` if its arrays already have another leading axis.
    """
    arrays, static = eqx.partition(task, eqx.is_array)
    shapes = {a.shape[:1] for a in jax.tree.leaves(arrays)}
    if shapes == {()}:
        repeat = lambda a: jnp.broadcast_to(a, (count, *a.shape))
        arrays = jax.tree.map(repeat, arrays)
    elif not shapes <= {(count,)}:
        raise ValueError(
            f"the task's arrays have leading axes {sorted(shapes)}, expected one task, "
            f"or one for each of {count} networks (Task.stack, eqx.filter_vmap)."
        )
    return eqx.combine(arrays, static)
