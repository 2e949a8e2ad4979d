"""Constraints on weights, kept outside the model: `constraints(model)` is the network
that is run, the raw model is what the optimiser moves."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._core._checks import check_shape, is_concrete


FIXED_LEAVES = ("tau", "noise", "x0", "W_fixed")
"""Fields that are arrays but are not trained unless asked for."""


class AbstractConstraint(eqx.Module):
    """A differentiable map from a raw weight array to an allowed one. Implement
    this one method; `Constraints` applies it by field name."""

    @abc.abstractmethod
    def __call__(self, weight: Float[Array, "..."]) -> Float[Array, "..."]:
        """The allowed weights."""


class Masked(AbstractConstraint):
    """Weights outside `mask` are zero (sparsity, no self-connections, no
    long-range inhibition); `mask` is boolean, of the shape of the weight."""

    mask: Bool[Array, "..."]

    def __call__(self, weight):
        check_shape("mask", self.mask, weight.shape, "One entry a weight.")
        return jnp.where(self.mask, weight, 0)


class Dale(AbstractConstraint):
    """Every presynaptic unit (column) has one sign: `W = |raw| * signs`, where `mask`
    may remove connections. `signs` `(state,)` is +1 or -1."""

    signs: Float[Array, " state"]
    mask: Bool[Array, "..."] | None = None

    def __call__(self, weight):
        check_shape("weight", weight, (None, None), "A Dale weight is a matrix.")
        check_shape("signs", self.signs, weight.shape[-1:], "One sign a column.")
        if self.mask is not None:
            check_shape("mask", self.mask, weight.shape, "One entry a weight.")
        if is_concrete(self.signs) and np.any(np.abs(self.signs) != 1):
            raise ValueError(f"signs = {self.signs}, expected +1 or -1 for each unit.")
        weight = jnp.abs(weight) * self.signs[None, :]
        return weight if self.mask is None else jnp.where(self.mask, weight, 0)


class Constraints(eqx.Module):
    """Constraints by field name, applied to a model.

    !!! example

        ```python
        signs = rd.models.DaleBalanced().signs(100)
        constraints = rd.models.Constraints(W=rd.models.Dale(signs))
        allowed = constraints(model)
        ```
    """

    by_name: dict[str, AbstractConstraint]

    def __init__(self, **by_name: AbstractConstraint):
        self.by_name = by_name

    def __call__(self, model: Any) -> Any:
        """The model with every named field replaced by its allowed value."""
        for name, constraint in self.by_name.items():
            if not eqx.is_array(getattr(model, name, None)):
                fields = [k for k, v in vars(model).items() if eqx.is_array(v)]
                raise ValueError(
                    f"constraint on {name!r}, but the model has no such array. "
                    f"Use one of {fields}."
                )
            model = eqx.tree_at(
                lambda m, name=name: getattr(m, name),
                model,
                constraint(getattr(model, name)),
            )
        return model


def trainable(model: Any, *, fixed: tuple[str, ...] = FIXED_LEAVES) -> Any:
    """Which leaves are trained: a pytree of booleans like `model`, false for the
    fields named in `fixed` and for everything that is not a float array.

    **Raises:** a `ValueError` if `fixed` is a string or names what the model lacks.
    """
    missing = [k for k in fixed if k not in FIXED_LEAVES and not hasattr(model, k)]
    if isinstance(fixed, str) or missing:
        known = [k for k in vars(model) if eqx.is_inexact_array(getattr(model, k))]
        raise ValueError(
            f"fixed = {fixed!r}, expected a tuple of fields such as {known}. Pass "
            f"(*{FIXED_LEAVES}, ...) to leave these untrained as well."
        )

    def decide(path, leaf):
        name = getattr(path[0], "name", None)
        return eqx.is_inexact_array(leaf) and name not in fixed

    return jax.tree_util.tree_map_with_path(decide, model)
