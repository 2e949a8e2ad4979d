"""Networks from recordings."""

from ._attractors import (
    AttractorCheck as AttractorCheck,
    Match as Match,
    attractor_check as attractor_check,
)
from ._cosmoothing import (
    CoSmoothing as CoSmoothing,
    bits_per_spike as bits_per_spike,
    co_smoothing as co_smoothing,
)
from ._estimator import CORNN as CORNN
from ._evaluation import (
    ActivityDistance as ActivityDistance,
    HeldOut as HeldOut,
    compare_activity as compare_activity,
    free_run as free_run,
    held_out as held_out,
    one_step_residuals as one_step_residuals,
    power_spectrum as power_spectrum,
)
from ._generators import (
    CorrelatedNoise as CorrelatedNoise,
    GaussianNoise as GaussianNoise,
    LaplaceNoise as LaplaceNoise,
    PoissonNoise as PoissonNoise,
    jittered_alpha as jittered_alpha,
    random_network as random_network,
    record as record,
    restrict as restrict,
)
from ._metrics import (
    OneStepR2 as OneStepR2,
    one_step_r2 as one_step_r2,
    rmse as rmse,
    slope as slope,
    stack_weights as stack_weights,
    weight_correlation as weight_correlation,
)
from ._problem import (
    Rows as Rows,
    regression_rows as regression_rows,
    targets as targets,
)
from ._trained import (
    FlipFlop as FlipFlop,
    TimedResponse as TimedResponse,
    TrainedNetworks as TrainedNetworks,
    train_flip_flop as train_flip_flop,
    train_timed_response as train_timed_response,
)
from .baselines._baseline import (
    BaselineFit as BaselineFit,
    CrossEntropy as CrossEntropy,
    FixedPointStart as FixedPointStart,
    GivenWeights as GivenWeights,
    MeanSquare as MeanSquare,
    RandomWeights as RandomWeights,
    XavierWeights as XavierWeights,
)
from .baselines._force import (
    CurrentError as CurrentError,
    RateError as RateError,
    force as force,
)
from .baselines._gradient import adam as adam, lbfgs as lbfgs
from .baselines._newton import newton as newton
from .baselines._teacher_forcing import teacher_forced_bptt as teacher_forced_bptt
from .convex._constraints import no_self_connections as no_self_connections
from .convex._cornn import cornn as cornn
from .convex._cornn_fit import CornnFit as CornnFit, NeuronFlag as NeuronFlag
from .convex._iteration import (
    Admm as Admm,
    Backtrack as Backtrack,
    Momentum as Momentum,
)
from .convex._outliers import (
    AbstractOutliers as AbstractOutliers,
    Clip as Clip,
    Keep as Keep,
    Plain as Plain,
    Reject as Reject,
)
from .convex._stream import (
    StreamState as StreamState,
    stream as stream,
    update as update,
)
from .recordings._binning import (
    ExponentialKernel as ExponentialKernel,
    GaussianKernel as GaussianKernel,
)
from .recordings._recordings import (
    Events as Events,
    Fluorescence as Fluorescence,
    Recording as Recording,
    Spikes as Spikes,
    read_nwb as read_nwb,
)
from .recordings._scaling import Scaling as Scaling, z_scale as z_scale
