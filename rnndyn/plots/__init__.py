"""Figures: functions take axes and return them, whole reports return a figure.

Needs matplotlib: `pip install "rnndyn[plot]"`.
"""

from ._dynamics import (
    basins as basins,
    cycle as cycle,
    exponents as exponents,
    multipliers as multipliers,
    phase_portrait as phase_portrait,
)
from ._ensembles import loss_curves as loss_curves, phase_diagram as phase_diagram
from ._latent import (
    latent_flow as latent_flow,
    loss_range as loss_range,
    rate_map as rate_map,
)
from ._planes import (
    Plane as Plane,
    fixed_points as fixed_points,
    latent_plane as latent_plane,
    pca_plane as pca_plane,
    points as points,
    spectrum as spectrum,
    speed_field as speed_field,
    trajectories as trajectories,
)
from ._report import ensemble_report as ensemble_report, report as report
from ._style import COLOURS as COLOURS, figure as figure
