"""What every fitted network has."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float

from .._core._checks import is_concrete
from .._core._export import Result
from .._core._verdicts import Verdict
from ..models import RateRNN
from ._problem import Real


class AbstractWeights(eqx.Module):
    """Weights `theta` `(predictor, neuron)`, recurrent ones first."""

    theta: eqx.AbstractVar[Any]

    @property
    def W(self) -> Float[Real, "neuron presynaptic"]:
        """Recurrent weights, postsynaptic neuron first."""
        return self.theta[: self.theta.shape[1]].T

    @property
    def W_in(self) -> Float[Real, "neuron input"]:
        """Input weights."""
        return self.theta[self.theta.shape[1] :].T


class AbstractFit(AbstractWeights, Result):
    """Weights with `alpha` and `dt`; the network is derived."""

    alpha: eqx.AbstractVar[Any]
    dt: eqx.AbstractVar[Any]

    @property
    def network(self) -> RateRNN:
        """The fitted `RateRNN`, `tau = dt / alpha`, in JAX's default precision; its
        `map(fit.dt)` is the map that was fitted."""
        # JAX warns of float64 arrays of its own in a float32 process, not of NumPy's.
        W, W_in, alpha, dt = (
            np.asarray(a) if is_concrete(a) else a
            for a in (self.W, self.W_in, self.alpha, self.dt)
        )
        return RateRNN.from_arrays(W, W_in, tau=dt / alpha, activation="tanh")


def verdicts_in_words(theta: Any, verdict: Any) -> str:
    """Sizes, and how many neurons ended with which verdict."""
    codes = np.asarray(verdict)
    kinds = [f"{int(np.sum(codes == v))} {v.name}" for v in Verdict if v in codes]
    p, n = theta.shape[-2:]
    return f"{n} neurons, {p - n} inputs: " + ", ".join(kinds)
