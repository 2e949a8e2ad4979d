"""Finding weights: ensembles of networks trained on a task."""

from ._ensemble import Progress as Progress, TrainResult as TrainResult, train as train
from ._latent import latent_loss as latent_loss, latent_outputs as latent_outputs
from ._latent_state import (
    RATIOS as RATIOS,
    LatentHistory as LatentHistory,
    LatentResult as LatentResult,
    LatentState as LatentState,
)
from ._latent_train import train_latent as train_latent
from ._log import TrainLog as TrainLog
from ._loss import masked_loss as masked_loss, run_trials as run_trials
from ._noise import gaussian as gaussian
from ._recipe import (
    AbstractStart as AbstractStart,
    AbstractStop as AbstractStop,
    LossBelow as LossBelow,
    ModelStart as ModelStart,
    RandomStart as RandomStart,
    Recipe as Recipe,
    sgd as sgd,
)
from ._scores import (
    OUTCOMES as OUTCOMES,
    Scores as Scores,
    clean_window as clean_window,
    outcome as outcome,
    paper_window as paper_window,
    scores as scores,
)
from ._step import (
    TrainInfo as TrainInfo,
    TrainState as TrainState,
    init as init,
    step as step,
)
