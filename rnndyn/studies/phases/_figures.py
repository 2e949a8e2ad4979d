"""The figures of the phases study, numbered as in the paper."""

from typing import Any

from ...plots import figure
from ._panels import (
    curves,
    example_fits,
    fractions,
    index_histogram,
    kind_map,
    no_memory_map,
    phase_map,
    scaling,
    toy_curves,
    toy_flow,
    toy_loss,
)


def phases_figures(study: Any) -> dict[str, Any]:
    """Every figure for which there are networks, by name: `figure_4`, `figure_S2`,
    `figure_S3`, `figure_S5`, `figure_S6` and `certified`. Figures 2 and 3 are those of
    the rank-2 study.

    **Arguments:** `study`: a `PhasesStudy`.

    **Returns:** matplotlib figures by name.
    """
    found = {"figure_S2": _figure_s2()}
    sweeps = study.sweeps
    if "nopost" in sweeps:
        found["figure_4"] = _figure_4(study)
        found["figure_S3"] = _figure_s3(study)
        if sweeps["nopost"].agreement is not None:
            found["certified"] = _certified(study)
    if "longtau" in sweeps:
        found["figure_S5"] = _figure_s5(sweeps["longtau"])
    if "nomemory" in sweeps:
        found["figure_S6"] = _figure_s6(study)
    return found


def _figure_4(study):
    """A, D loss; B, E shares; C, F critical rates; G theory; H, I phase diagrams."""
    fig, axes = figure(3, 5, size=(3.4, 2.9))
    for row, name in enumerate(("nopost", "post")):
        summary = study.sweeps.get(name)
        said = "no post-response period" if name == "nopost" else "post-response period"
        if summary is None:
            for ax in axes[row]:
                ax.set_axis_off()
            continue
        curves(axes[row, 0], summary.loss, what="loss")
        for column in range(3):
            fractions(axes[row, 1 + column], summary, column)
        axes[row, 0].set_title(f"loss, {said}", fontsize=9, loc="left")
        scaling(
            axes[row, 4], study.boundaries.get(name), title="no solution",
            x="critical delay (ms)",
        )  # fmt: skip
    toy_curves(axes[2, 0])
    phase_map(axes[2, 1], study.sweeps["nopost"], title="no post-response period")
    if "post" in study.sweeps:
        phase_map(axes[2, 2], study.sweeps["post"], title="post-response period")
    else:
        axes[2, 2].set_axis_off()
    for ax in axes[2, 3:]:
        ax.set_axis_off()
    key = "red: limit cycle\ngreen: slow point\nblue: not learned"
    axes[2, 3].text(0, 0.9, key, fontsize=9, va="top")
    return fig


def _figure_s2():
    fig, axes = figure(1, 2)
    toy_flow(axes[0, 0])
    toy_loss(axes[0, 1])
    return fig


def _figure_s3(study):
    summary = study.sweeps["nopost"]
    fig, axes = figure(2, 3)
    curves(axes[0, 0], summary.loss, what="loss", merged=False)
    curves(axes[0, 1], summary.accuracy, what="accuracy", merged=False)
    index_histogram(axes[0, 2], summary)
    example_fits(axes[1, 0], summary, study.boundaries.get("nopost"), 0)
    example_fits(axes[1, 1], summary, study.boundaries.get("slow_point"), 2)
    scaling(
        axes[1, 2], study.boundaries.get("slow_point"), title="slow points",
        x="critical delay (ms)",
    )  # fmt: skip
    return fig


def _figure_s5(summary):
    fig, axes = figure(1, 5, size=(3.4, 2.9))
    curves(axes[0, 0], summary.loss, what="loss", merged=False)
    for column in range(3):
        fractions(axes[0, 1 + column], summary, column)
    phase_map(axes[0, 4], summary, title="tau = 20 ms")
    return fig


def _figure_s6(study):
    summary = study.sweeps["nomemory"]
    fig, axes = figure(1, 3)
    named = {"slow_point": "learned", "not_learned": "not learned"}
    curves(axes[0, 0], summary.loss, what="loss", named=named)
    no_memory_map(axes[0, 1], summary)
    scaling(
        axes[0, 2], study.boundaries.get("nomemory"), title="critical learning rate",
        x="response (ms)",
    )  # fmt: skip
    return fig


def _certified(study):
    """What the paper does not show: where the cues really end."""
    named = [k for k in ("nopost", "post") if k in study.sweeps]
    named = [k for k in named if study.sweeps[k].agreement is not None]
    fig, axes = figure(1, 2 * len(named))
    for i, name in enumerate(named):
        phase_map(axes[0, 2 * i], study.sweeps[name], title=f"{name}, as published")
        kind_map(
            axes[0, 2 * i + 1],
            study.sweeps[name],
            title="certified; bright: mixed",
        )
    return fig
