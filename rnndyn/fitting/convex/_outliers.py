r"""What a sample that a network cannot explain does to a fit.

Weighted errors are computed as

    (d - tanh z) / (1 - d^2) = t / (1 - d t) ,   t = tanh(arctanh d - z) ,

which, unlike the left side, loses no digits where `d` is near 1: float32 suffices.
"""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..._core._checks import is_concrete


class AbstractOutliers(eqx.Module):
    """How errors `d - tanh z` enter the normal equations of a fit.

    Implement `error`, `keep` and `limit`, and name `rescale` and
    `freeze_after`; the rest works.
    """

    rescale: eqx.AbstractVar[bool]
    freeze_after: eqx.AbstractVar[Any]

    @abc.abstractmethod
    def error(
        self,
        d: Float[Array, "row neuron"],
        goal: Float[Array, "row neuron"],
        z: Float[Array, "row neuron"],
    ) -> Float[Array, "row neuron"]:
        """The error `E` before outliers are dealt with; `goal` is `arctanh d`."""

    @abc.abstractmethod
    def keep(self, error: Float[Array, "row neuron"]) -> Bool[Array, "row neuron"]:
        """Which samples are no outliers."""

    @abc.abstractmethod
    def limit(
        self, error: Float[Array, "row neuron"], kept: Bool[Array, "row neuron"]
    ) -> Float[Array, "row neuron"]:
        """The error that enters: minus the derivative of a sample's loss in `z`."""


class Reject(AbstractOutliers):
    r"""Weighted errors, and those above a threshold are left out.

        E = (d - tanh z) / (1 - d^2)   where |E| <= threshold, otherwise 0

    `E` is, to first order, the error of a neuron's current. The choice is made again
    in every step, so that the objective has no unique minimum: solvers that take other
    steps end elsewhere. With `freeze_after=k` the choice made after `k` steps stays,
    and what follows is a convex problem. A kept sample's curvature is at most
    `1 + 2 threshold` when it is chosen; full steps converge where that, times
    (all rows)/(kept rows), is below 2, and with `damping=Backtrack()` they always do.

    **Attributes:**

    - `threshold`: largest error kept, a number or one a neuron; published 0.2 to 1.
    - `rescale`: whether a neuron's sum of errors is scaled by (all rows)/(kept rows).
    - `freeze_after`: steps after which the choice stays, or `None` for never.

    **Reference:** Dinc, Shai, Schnitzer & Tanaka 2023, arXiv:2311.10200.
    """

    threshold: Any
    rescale: bool = eqx.field(static=True)
    freeze_after: Any

    def __init__(
        self, threshold: Any = 1.0, *, rescale: bool = True, freeze_after: Any = None
    ):
        self.threshold, self.rescale = threshold, rescale
        self.freeze_after = freeze_after

    def error(self, d, goal, z):
        return _weighted_error(d, goal, z)

    def keep(self, error):
        return jnp.abs(error) <= _bound(self.threshold, error)

    def limit(self, error, kept):
        return jnp.where(kept, error, 0)


class Clip(AbstractOutliers):
    """Weighted errors, clipped to `+-threshold`; a convex, Huber-like loss. `threshold`
    is as in `Reject`."""

    threshold: Any
    rescale: bool = eqx.field(static=True)
    freeze_after: Any

    def __init__(self, threshold: Any = 1.0):
        self.threshold, self.rescale, self.freeze_after = threshold, False, None

    def error(self, d, goal, z):
        return _weighted_error(d, goal, z)

    def keep(self, error):
        return jnp.abs(error) <= _bound(self.threshold, error)

    def limit(self, error, kept):
        bound = _bound(self.threshold, error)
        return jnp.clip(error, -bound, bound)


class Keep(AbstractOutliers):
    """Weighted errors of all samples. Convex, but a saturated sample with conversion
    noise weighs up to 5e5: expect no convergence without damping, and poor weights."""

    rescale: bool = eqx.field(static=True)
    freeze_after: Any

    def __init__(self):
        self.rescale, self.freeze_after = False, None

    def error(self, d, goal, z):
        return _weighted_error(d, goal, z)

    def keep(self, error):
        return jnp.ones(error.shape, bool)

    def limit(self, error, kept):
        return error


class Plain(AbstractOutliers):
    """Unweighted errors `d - tanh z`: the plain cross-entropy. Every full step lowers
    the loss, but slowly, since the curvature `1 - tanh^2 z` is far below 1."""

    rescale: bool = eqx.field(static=True)
    freeze_after: Any

    def __init__(self):
        self.rescale, self.freeze_after = False, None

    def error(self, d, goal, z):
        return d - jnp.tanh(z)

    def keep(self, error):
        return jnp.ones(error.shape, bool)

    def limit(self, error, kept):
        return error


def _bound(threshold, error):
    return jnp.asarray(threshold, error.dtype).reshape(1, -1)


def _weighted_error(d, goal, z):
    t = jnp.tanh(goal - z)
    return t / (1 - d * t)


def check_outliers(outliers: Any, num_neurons: int) -> None:
    """Raise a `ValueError` unless `outliers` is a rule with usable concrete numbers."""
    if not isinstance(outliers, AbstractOutliers):
        raise ValueError(
            f"outliers = {outliers!r}, expected a rule: pass Reject(0.2), Clip(0.5), "
            "Keep() or Plain()."
        )
    name = type(outliers).__name__
    threshold = getattr(outliers, "threshold", None)
    if threshold is not None and is_concrete(threshold):
        values = np.asarray(threshold)
        right = values.shape in ((), (num_neurons,)) and values.dtype.kind in "fiu"
        if not right or not np.all(values > 0):
            raise ValueError(
                f"threshold of {name} = {threshold}, expected a number > 0, or one a "
                f"neuron ({num_neurons},): the largest error kept. Pass 0.2 to 1, or "
                "np.inf to keep all samples."
            )
    freeze = outliers.freeze_after
    if freeze is not None and is_concrete(freeze):
        if np.asarray(freeze).dtype.kind not in "fiu" or not np.all(freeze >= 0):
            raise ValueError(
                f"freeze_after = {freeze}, expected a number of steps >= 0. Pass None "
                "to choose anew in every step."
            )
