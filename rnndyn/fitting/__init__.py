"""Networks from recordings."""

from ._constraints import no_self_connections as no_self_connections
from ._cornn import CornnFit as CornnFit, NeuronFlag as NeuronFlag, cornn as cornn
from ._iteration import Admm as Admm, Backtrack as Backtrack, Momentum as Momentum
from ._metrics import (
    OneStepR2 as OneStepR2,
    one_step_r2 as one_step_r2,
    rmse as rmse,
    slope as slope,
    stack_weights as stack_weights,
    weight_correlation as weight_correlation,
)
from ._outliers import (
    AbstractOutliers as AbstractOutliers,
    Clip as Clip,
    Keep as Keep,
    Plain as Plain,
    Reject as Reject,
)
from ._problem import Rows as Rows, regression_rows as regression_rows, targets as targets
from ._stream import (
    StreamState as StreamState,
    stream as stream,
    update as update,
)
