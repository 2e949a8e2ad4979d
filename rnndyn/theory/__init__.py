"""What theory predicts: toy models in closed form, and the fits compared with them."""

from ._bootstrap import (
    Crossings as Crossings,
    Resampled as Resampled,
    effective_rate as effective_rate,
    first_crossing as first_crossing,
    resample_exponent as resample_exponent,
)
from ._descent import (
    Descent as Descent,
    MeasuredRate as MeasuredRate,
    descend as descend,
    lost_fraction as lost_fraction,
    measure_critical_rate as measure_critical_rate,
)
from ._fits import (
    BoundaryFit as BoundaryFit,
    fit_no_memory_boundary as fit_no_memory_boundary,
    fit_no_solution_boundary as fit_no_solution_boundary,
    fit_slow_point_boundary as fit_slow_point_boundary,
)
from ._likelihood import (
    AbstractCurve as AbstractCurve,
    Decline as Decline,
    LikelihoodFit as LikelihoodFit,
    Onset as Onset,
    fit_boundary as fit_boundary,
)
from ._limit_cycle import LimitCycle as LimitCycle
from ._scaling import (
    Response as Response,
    ScalingLaw as ScalingLaw,
    crossover as crossover,
    local_exponent as local_exponent,
    mean_exponent as mean_exponent,
    scaling_law as scaling_law,
)
from ._simulate import (
    simulated_loss as simulated_loss,
    simulated_switch_time as simulated_switch_time,
)
from ._slow_point import SlowPoint as SlowPoint
from ._toy import AbstractToy as AbstractToy, System as System


slow_point = SlowPoint()
"""The published toy model of a slow point, `x' = x^2 + r`."""

limit_cycle = LimitCycle()
"""The published toy model of a limit cycle."""
