"""Questions one can ask of any flow `f(t, x, args)` or map `F(x, args)`."""

from ._certify import certify as certify
from ._cycles import LimitCycle as LimitCycle, limit_cycle as limit_cycle
from ._fixed_points import fixed_points as fixed_points, slow_points as slow_points
from ._floquet import Floquet as Floquet, floquet as floquet
from ._linear import (
    eigenvalues as eigenvalues,
    jacobian as jacobian,
    stability as stability,
)
from ._lyapunov import (
    LyapunovSpectrum as LyapunovSpectrum,
    kaplan_yorke as kaplan_yorke,
    lyapunov_spectrum as lyapunov_spectrum,
)
from ._points import FixedPoints as FixedPoints
from ._search import Tolerances as Tolerances
from ._solver import LevenbergMarquardt as LevenbergMarquardt
from ._starts import (
    AbstractSampler as AbstractSampler,
    AfterPulses as AfterPulses,
    Box as Box,
    FromTrajectories as FromTrajectories,
    Gaussian as Gaussian,
    MultiStart as MultiStart,
    NearStates as NearStates,
)
