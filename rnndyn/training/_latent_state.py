"""What training in latent coordinates returns, and what resumes it."""

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..models import LowRankRNN


RATIOS = (0.5, 0.1, 1e-2, 1e-3, 1e-4)
"""Shares of the initial loss whose first crossing is noted."""


class LatentState(eqx.Module):
    """Everything needed to go on; arrays lead with the member axis.

    **Attributes:**

    - `models`: the networks with their current weights.
    - `learning_rate`: of each network.
    - `epoch`: updates made; `loss_0`: loss before the first.
    - `reached`: epoch at which the loss first fell below each of `RATIOS` times
        `loss_0`, -1 for never, shape `(members, ratios)`.
    - `stopped`: the stop ratio was reached; `diverged`: loss or gradient became
        non-finite. Both freeze the network, the latter at its last finite weights.
    """

    models: LowRankRNN
    learning_rate: Float[Array | np.ndarray, "*members"]
    epoch: Int[Array | np.ndarray, "*members"]
    loss_0: Float[Array | np.ndarray, "*members"]
    reached: Int[Array | np.ndarray, "*members ratios"]
    stopped: Bool[Array | np.ndarray, "*members"]
    diverged: Bool[Array | np.ndarray, "*members"]

    @property
    def running(self) -> Bool[Array | np.ndarray, "*members"]:
        """Neither stopped nor diverged."""
        return ~(self.stopped | self.diverged)


class LatentHistory(eqx.Module):
    """One record for every `record_every` epochs, NaN where a network did not run.

    **Attributes:** shape `(members, records)`

    - `loss`, `gradient`: loss and 2-norm of its gradient at the first epoch of the
        record.
    - `low`, `high`: smallest and largest loss of all its epochs: spikes are not lost.
    """

    loss: Float[Array | np.ndarray, "..."]
    gradient: Float[Array | np.ndarray, "..."]
    low: Float[Array | np.ndarray, "..."]
    high: Float[Array | np.ndarray, "..."]


class LatentResult(eqx.Module):
    """Networks trained in latent coordinates, finished or not.

    Host level, NumPy. It is what resumes: `train_latent` takes it in place of models.

    **Attributes:**

    - `state`: a `LatentState`; `history`: a `LatentHistory`.
    - `checkpoints`: the networks at the epochs of `checkpoint_epochs`, arrays
        `(members, checkpoints, ...)`; zero where a network is not yet that far, its
        weights at the end if it stopped before; `None` without checkpoints.
    - `record_every`, `steps`: stride of the history, and epochs in total.
    """

    state: LatentState
    history: LatentHistory
    checkpoints: LowRankRNN | None
    checkpoint_epochs: tuple[int, ...] = eqx.field(static=True)
    record_every: int = eqx.field(static=True)
    steps: int = eqx.field(static=True)

    @property
    def models(self) -> LowRankRNN:
        """The networks with their current weights."""
        return self.state.models

    @property
    def done(self) -> bool:
        """Whether every network has stopped, diverged, or made all its updates."""
        return not np.any(self.unfinished)

    @property
    def unfinished(self) -> Bool[np.ndarray, " members"]:
        """Networks that still have updates to make."""
        state = self.state
        return np.asarray(state.running) & (np.asarray(state.epoch) < self.steps)
