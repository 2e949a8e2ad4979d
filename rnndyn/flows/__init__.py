"""Flows: advancing a vector field in time."""

from ._base import AbstractFlow as AbstractFlow, Trajectory as Trajectory
from ._diffrax import DiffraxFlow as DiffraxFlow
from ._inputs import HeldInput as HeldInput, PulseInput as PulseInput
from ._scan import (
    RK4 as RK4,
    AbstractMethod as AbstractMethod,
    Dop853 as Dop853,
    Dopri8 as Dopri8,
    Euler as Euler,
    EulerMaruyama as EulerMaruyama,
    ExplicitRungeKutta as ExplicitRungeKutta,
    Heun as Heun,
    ScanFlow as ScanFlow,
    iterate as iterate,
)
