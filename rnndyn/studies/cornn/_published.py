"""Published numbers of the CORNN paper, for the table of its study.

Numbers of arrays that the official repository ships are exact; those read off figures
are good to half a percent.

**Reference:** Dinc, Shai, Schnitzer & Tanaka 2023, arXiv:2311.10200;
github.com/schnitzer-lab/CORNN-public.
"""

RECOVERY = {
    "1a": {
        "cornn": (0.8736, 0.9608, 0.9723, 0.9819, 0.9835),
        "newton weighted": (0.8736, 0.9684, 0.9810, 0.9847, 0.9837),
        "newton": (0.8736, 0.9903, 0.9910, 0.9911, 0.9911),
        "adam cross-entropy": (0.8966, 0.9216, 0.9384, 0.9663, 0.9879),
        "adam square": (0.8966, 0.9156, 0.9288, 0.9543, 0.9752),
        "force currents": (0.8786, 0.8786, 0.8785, 0.8779, 0.8755),
        "force rates": (0.8786, 0.8820, 0.8841, 0.8898, 0.9011),
    },
    "1b": {
        "cornn": (0.9598, 0.9682, 0.9691, None, 0.9691),
        "newton weighted": (0.9598, 0.9684, None, None, 0.9692),
        "newton": (0.9598, 0.9412, None, None, 0.9419),
        "adam cross-entropy": (0.9663, 0.9679, None, 0.9531, 0.9327),
        "adam square": (None, None, None, None, 0.8572),
        "force currents": (0.9617, None, None, None, 0.9585),
        "force rates": (None, None, None, None, 0.9422),
    },
}
"""Experiments 1a and 1b: mean `r` of each method at the records `RECORD`; 1a from the
arrays of the official repository, 100 networks."""

RECORD = (0, 1, 2, 6, 20)

RIDGE = {
    "cornn": (0.974, 0.974, 0.974, 0.975, 0.974, 0.977, 0.982, 0.935),
    "fixed point": (0.856, 0.856, 0.856, 0.856, 0.857, 0.861, 0.887, 0.901),
    "force currents": (0.848, 0.848, 0.849, 0.849, 0.851, 0.863, 0.887, 0.775),
    "force rates": (0.046, 0.064, 0.087, 0.176, 0.542, 0.890, 0.906, 0.869),
}
"""Experiment 2: mean `r` at the ridge times `MULTIPLIERS`, read off the figure."""

MULTIPLIERS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)

FORCED = {
    "square": (0.173, 0.688, 0.734, 0.748, 0.733),
    "cross-entropy": (0.190, 0.721, 0.773, 0.789, 0.778),
}
"""Experiment 3b: mean `r` at forced shares 0, 1/4, 1/2, 3/4, 1, from arrays."""

FLIP_FLOP = {
    100: {25: 0.963, 50: 0.987, 100: 0.997, 200: 0.999, 400: 1.0},
    1000: {25: 0.271, 50: 0.338, 100: 0.424, 200: 0.599, 400: 0.879, 1000: 0.991}
    | {2000: 0.997},
}
"""Experiment 5: correlation of weights by neurons and trials, read off the figure."""

SCORES = {1000: {25: 0.36, 50: 0.39, 100: 0.41, 200: 0.81, 400: 0.999, 1000: 1.0}}
"""Experiment 5: correlation of outputs."""

POISSON = {
    "cornn": (0.323, 0.729, 0.945, 0.993, 0.995),
    "newton weighted": (0.323, 0.495, 0.797, 0.995, 0.995),
    "newton": (0.323, None, None, None, 0.379),
    "adam cross-entropy": (None, None, None, None, 0.375),
    "force currents": (0.322, None, None, None, 0.279),
    "force rates": (None, None, None, None, 0.199),
}
"""Experiment 8: median `r` at the records `RECORD`, read off the figure."""
