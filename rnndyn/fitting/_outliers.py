"""What a sample that a network cannot explain does to a fit."""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class AbstractOutliers(eqx.Module):
    """How errors `d - tanh z` enter the normal equations of a fit.

    Implement `error`, `keep`, `limit` and `curvature`, and name `rescale` and
    `freeze_after`; the rest works.
    """

    rescale: eqx.AbstractVar[bool]
    freeze_after: eqx.AbstractVar[Any]

    @abc.abstractmethod
    def error(
        self, d: Float[Array, "row neuron"], predicted: Float[Array, "row neuron"]
    ) -> Float[Array, "row neuron"]:
        """The error `E` before outliers are dealt with."""

    @abc.abstractmethod
    def keep(self, error: Float[Array, "row neuron"]) -> Bool[Array, "row neuron"]:
        """Which samples are no outliers."""

    @abc.abstractmethod
    def limit(
        self, error: Float[Array, "row neuron"], kept: Bool[Array, "row neuron"]
    ) -> Float[Array, "row neuron"]:
        """The error that enters: minus the derivative of a sample's loss in `z`."""

    @abc.abstractmethod
    def curvature(
        self,
        d: Float[Array, "row neuron"],
        predicted: Float[Array, "row neuron"],
        kept: Bool[Array, "row neuron"],
    ) -> Float[Array, "row neuron"]:
        """Second derivative of a sample's loss in `z`, the kept set held."""


class Reject(AbstractOutliers):
    r"""Weighted errors, and those above a threshold are left out.

        E = (d - tanh z) / (1 - d^2)   where |E| <= threshold, otherwise 0

    `E` is, to first order, the error of a neuron's current. The choice is made again
    in every step, so that the objective has no unique minimum: solvers that take other
    steps end elsewhere. With `freeze_after=k` the choice made after `k` steps stays,
    and what follows is a convex problem. If `threshold <= 1/2`, no kept sample's
    curvature was above `1 + 2 threshold <= 2` when it was chosen, below which the
    fixed-Hessian step converges.

    **Attributes:**

    - `threshold`: largest error kept; published 0.2 to 1.
    - `rescale`: whether a neuron's sum of errors is scaled by (all rows)/(kept rows).
    - `freeze_after`: steps after which the choice stays, or `None` for never.

    **Reference:** Dinc, Shai, Schnitzer & Tanaka 2023, arXiv:2311.10200.
    """

    threshold: Any = 1.0
    rescale: bool = eqx.field(static=True, default=True)
    freeze_after: Any = None

    def error(self, d, predicted):
        return (d - predicted) / (1 - d * d)

    def keep(self, error):
        return jnp.abs(error) <= jnp.asarray(self.threshold, error.dtype)

    def limit(self, error, kept):
        return jnp.where(kept, error, 0)

    def curvature(self, d, predicted, kept):
        return jnp.where(kept, _weighted(d, predicted), 0)


class Clip(AbstractOutliers):
    """Weighted errors, clipped to `+-threshold`; a convex, Huber-like loss. `threshold`
    is as in `Reject`."""

    threshold: Any = 1.0
    rescale: bool = eqx.field(static=True, default=False, init=False)
    freeze_after: Any = eqx.field(default=None, init=False)

    def error(self, d, predicted):
        return (d - predicted) / (1 - d * d)

    def keep(self, error):
        return jnp.abs(error) <= jnp.asarray(self.threshold, error.dtype)

    def limit(self, error, kept):
        bound = jnp.asarray(self.threshold, error.dtype)
        return jnp.clip(error, -bound, bound)

    def curvature(self, d, predicted, kept):
        return jnp.where(kept, _weighted(d, predicted), 0)


class Keep(AbstractOutliers):
    """Weighted errors of all samples. Convex, but a saturated sample with conversion
    noise weighs up to 5e5: expect no convergence without damping, and poor weights."""

    rescale: bool = eqx.field(static=True, default=False, init=False)
    freeze_after: Any = eqx.field(default=None, init=False)

    def error(self, d, predicted):
        return (d - predicted) / (1 - d * d)

    def keep(self, error):
        return jnp.ones(error.shape, bool)

    def limit(self, error, kept):
        return error

    def curvature(self, d, predicted, kept):
        return _weighted(d, predicted)


class Plain(AbstractOutliers):
    """Unweighted errors `d - tanh z`: the plain cross-entropy. Every full step lowers
    the loss, but slowly, since the curvature `1 - tanh^2 z` is far below 1."""

    rescale: bool = eqx.field(static=True, default=False, init=False)
    freeze_after: Any = eqx.field(default=None, init=False)

    def error(self, d, predicted):
        return d - predicted

    def keep(self, error):
        return jnp.ones(error.shape, bool)

    def limit(self, error, kept):
        return error

    def curvature(self, d, predicted, kept):
        return 1 - predicted * predicted


def _weighted(d, predicted):
    """Curvature of the weighted loss."""
    return (1 - predicted * predicted) / (1 - d * d)
