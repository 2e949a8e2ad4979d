"""A data-constrained network of a real recording: what it predicts, and what it holds.

The recording is two-photon calcium imaging of spontaneous activity in the larval
zebrafish tectum (114 cells, 4,245 frames, dF/F, no frame rate in the file): Triplett,
Avitan & Goodhill 2018, doi:10.1371/journal.pcbi.1006421, data
doi:10.6084/m9.figshare.6943265.v1. It is not part of this package.

1. The recording is written to an NWB file and read back: are the rates identical?
2. For several dt/tau: held-out one-step R2 of d, and skill against persistence, of
   `cornn`, ridge, Adam (cross-entropy and squares). Everything that can be chosen is
   chosen on a validation part; the numbers are of a later test part.
3. With the dt/tau that predicts the validation part best: free runs with and without
   noise against the test part, and co-smoothing.
4. Certified attractors and fixed points of the fitted networks, and whether two halves
   of the training part agree on them.

    python benchmarks/recording.py zf_20151104-f1.mat [--quick]
"""

from rnndyn import _bootstrap


_bootstrap.configure(devices=1, x64=True)

import argparse
import datetime
import json
import pathlib
import platform
import tempfile
import time

import jax
import numpy as np
import scipy.io

import rnndyn as rd
from rnndyn.dynamics import MultiStart
from rnndyn.fitting import Plain, Reject, cornn, regression_rows
from rnndyn.fitting._attractors import attractor_check
from rnndyn.fitting._cosmoothing import co_smoothing
from rnndyn.fitting._evaluation import (
    compare_activity,
    free_run,
    held_out,
    one_step_residuals,
    ridge_weights,
)
from rnndyn.fitting.baselines._baseline import (
    CrossEntropy,
    FixedPointStart,
    MeanSquare,
    RandomWeights,
)
from rnndyn.fitting.baselines._gradient import adam
from rnndyn.fitting.recordings._recordings import read_nwb
from rnndyn.fitting.recordings._scaling import z_scale


HERE = pathlib.Path(__file__).parent
ALPHAS = (1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02)
RIDGES = (1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)
# The published rule, weighted errors with rejection, apart from plain cross-entropy.
OUTLIERS = {
    "reject_1": ("cornn_weighted", Reject(1.0)),
    "reject_0.2": ("cornn_weighted", Reject(0.2)),
    "plain": ("cornn_plain", Plain()),
}
NETWORKS = ("cornn_weighted", "cornn_plain")
ADAMS = {
    "ce_fixed_point": (CrossEntropy(), FixedPointStart(1e-4)),
    "mse_fixed_point": (MeanSquare(), FixedPointStart(1e-4)),
    "ce_random": (CrossEntropy(), RandomWeights(jax.random.key(0), 0.1)),
}


def to_nwb(activity, path):
    """`activity` `(time, cell)` as dF/F; one frame is called a second."""
    import pynwb
    from pynwb.ophys import DfOverF, ImageSegmentation, OpticalChannel

    start = datetime.datetime(2015, 11, 4, tzinfo=datetime.UTC)
    file = pynwb.NWBFile("spontaneous activity, larval zebrafish tectum", "zf", start)
    plane = file.create_imaging_plane(
        name="plane",
        optical_channel=OpticalChannel(
            name="channel", description="not in the source", emission_lambda=np.nan
        ),
        description="not in the source",
        device=file.create_device("microscope"),
        excitation_lambda=np.nan,
        indicator="not in the source",
        location="tectum",
    )
    module = file.create_processing_module("ophys", "dF/F as published")
    segmentation = ImageSegmentation()
    cells = segmentation.create_plane_segmentation(
        name="cells", description="published cells", imaging_plane=plane
    )
    module.add(segmentation)
    for i in range(activity.shape[1]):
        cells.add_roi(pixel_mask=[(i, 0, 1.0)])
    rois = cells.create_roi_table_region(
        region=list(range(activity.shape[1])), description="all"
    )
    container = DfOverF()
    module.add(container)
    container.create_roi_response_series(
        name="RoiResponseSeries",
        data=activity,
        rois=rois,
        unit="dF/F",
        rate=1.0,
        comments="The frame rate is not known: times are frame numbers.",
    )
    with pynwb.NWBHDF5IO(path, "w") as io:
        io.write(file)


def chosen(train, valid, alpha, quick):
    """The best candidate of every kind on the validation part, and its settings."""
    rows = regression_rows(train, alpha=alpha)
    kinds = (*NETWORKS, "cornn_low_rank", "ridge", "adam_ce", "adam_mse")
    table = {kind: {} for kind in kinds}
    seconds = dict.fromkeys(table, 0.0)
    states = {}
    for ridge in RIDGES:
        begin = time.process_time()
        table["ridge"][f"ridge={ridge:g}"] = ("linear", ridge_weights(rows, ridge))
        seconds["ridge"] += time.process_time() - begin
        for name, (kind, outliers) in OUTLIERS.items():
            begin = time.process_time()
            fit = cornn(train, alpha=alpha, ridge=ridge, outliers=outliers)
            seconds[kind] += time.process_time() - begin
            label = f"{name}, ridge={ridge:g}"
            if not bool(fit.diverged):
                table[kind][label] = ("tanh", np.asarray(fit.theta))
                states[label] = {
                    "kept": float(np.mean(fit.kept)),
                    "converged": bool(fit.converged),
                    "gradient": float(np.max(fit.gradient_norm)),
                }
    for rank in (2, 8, 32):
        for ridge in (1e-3,):
            begin = time.process_time()
            fit = cornn(train, alpha=alpha, ridge=ridge, rank=rank)
            seconds["cornn_low_rank"] += time.process_time() - begin
            if not bool(fit.diverged):
                label = f"rank={rank}, ridge={ridge:g}"
                table["cornn_low_rank"][label] = ("tanh", np.asarray(fit.theta))
    steps = 400 if quick else 1600
    for name, (loss, start) in ADAMS.items():
        kind = "adam_" + name.split("_")[0]
        begin = time.process_time()
        fit = adam(  # in float32, as published
            train.astype(np.float32),
            alpha=alpha,
            loss=loss,
            start=start,
            num_steps=steps,
            learning_rate=3e-3,
            record_every=steps // 20,
        )
        jax.block_until_ready(fit.theta)
        seconds[kind] += time.process_time() - begin
        for i, theta in enumerate(np.asarray(fit.snapshots)):
            table[kind][f"{name}, {(i + 1) * (steps // 20)} steps"] = ("tanh", theta)
    best = {}
    for kind, candidates in table.items():
        if not candidates:  # all diverged
            continue
        scores = {
            label: pooled(theta, valid, alpha, form)["r2_d"]
            for label, (form, theta) in candidates.items()
        }
        label = max(scores, key=scores.get)
        best[kind] = {
            "chosen": label,
            "validation_r2_d": scores[label],
            "candidates": len(scores),
            "cpu_s_all_candidates": seconds[kind],
            "theta": candidates[label][1],
            "form": candidates[label][0],
        } | ({"fit": states[label]} if label in states else {})
    return best


def pooled(theta, rates, alpha, form="tanh"):
    """Pooled scores of a network or of a linear regression."""
    if form == "tanh":
        return held_out(theta, rates, alpha=alpha)["model"]
    r, ahead = rates[:-1], rates[1:]
    d = np.clip((ahead - (1 - alpha) * r) / alpha, -1 + 1e-6, 1 - 1e-6)
    predicted = r @ theta
    missed_r = ((ahead - (1 - alpha) * r - alpha * predicted) ** 2).sum()
    share = lambda missed, x: float(1 - missed / ((x - x.mean(axis=0)) ** 2).sum())
    return {
        "r2_d": share(((d - predicted) ** 2).sum(), d),
        "skill": float(1 - missed_r / ((ahead - r) ** 2).sum()),
        "r2_rates": share(missed_r, ahead),
    }


def scan(train, valid, test, quick):
    """Scores by alpha on the test part; settings were chosen on the validation part."""
    out, best = {}, {}
    for alpha in (0.5, 0.1) if quick else ALPHAS:
        best[alpha] = chosen(train, valid, alpha, quick)
        networks = {k: best[alpha][k]["theta"] for k in NETWORKS if k in best[alpha]}
        scores = held_out(networks, test, alpha=alpha)
        row = {"clipped_targets": float(scores.clipped)}
        row["persistence"] = scores["persistence"]
        for kind, item in best[alpha].items():
            theta, form = item["theta"], item["form"]
            row[kind] = {k: v for k, v in item.items() if k not in ("theta", "form")}
            row[kind] |= pooled(theta, test, alpha, form)
            row[kind]["validation_skill"] = pooled(theta, valid, alpha, form)["skill"]
        # On ten stretches: is a difference between network and regression real?
        blocks = np.array_split(test, 10)
        linear = best[alpha]["ridge"]["theta"]
        for i, (kind, theta) in enumerate(networks.items()):
            gain = [
                pooled(theta, b, alpha)["skill"]
                - pooled(linear, b, alpha, "linear")["skill"]
                for b in blocks
            ]
            row[kind]["skill_minus_ridge_on_10_blocks"] = {
                "mean": float(np.mean(gain)),
                "standard_error": float(np.std(gain, ddof=1) / 10**0.5),
            }
            quartiles = np.quantile(scores.r2_d_neuron[i], (0.25, 0.5, 0.75))
            row[kind]["r2_d_neuron_quartiles"] = quartiles.tolist()
        out[f"{alpha:g}"] = row
        dicts = {k: v for k, v in row.items() if isinstance(v, dict) and "r2_d" in v}
        print(alpha, {k: round(v["r2_d"], 4) for k, v in dicts.items()}, flush=True)
    return out, best


def linear_run(theta, x0, steps, alpha, errors, seed):
    rng = np.random.default_rng(seed)
    r, out = np.array(x0), []
    for row in rng.integers(0, len(errors), steps):
        out.append(r)
        r = (1 - alpha) * r + alpha * (r @ theta + errors[row])
        if not np.abs(r).max() < 1e6:
            return None
    return np.array(out)


def without_nan(tree):
    """JSON has no NaN: what is not defined becomes null."""
    if isinstance(tree, dict):
        return {k: without_nan(v) for k, v in tree.items()}
    if isinstance(tree, list):
        return [without_nan(v) for v in tree]
    return None if isinstance(tree, float) and not np.isfinite(tree) else tree


def numbers(result):
    return {k: np.asarray(v).item() for k, v in result.to_dict().items()}


def free_running(theta, linear, train, valid, test, alpha):
    """Distances of long free runs from the test part, and what halves of data give."""
    errors = one_step_residuals(theta, train, alpha=alpha)
    steps = 20_000
    silent = free_run(theta, train[-1], steps, alpha=alpha, transient=1000)
    noisy = free_run(
        theta,
        train[-1],
        steps,
        alpha=alpha,
        residuals=errors,
        transient=1000,
        key=jax.random.key(0),
    )
    a = (train[1:] - (1 - alpha) * train[:-1]) / alpha - train[:-1] @ linear
    lin = linear_run(linear, train[-1], steps, alpha, a, 0)
    return {
        "floor_train_against_test": numbers(compare_activity(test, train)),
        "floor_validation_against_test": numbers(compare_activity(test, valid)),
        "cornn_without_noise": numbers(compare_activity(test, silent)),
        "cornn_with_residual_noise": numbers(compare_activity(test, noisy)),
        "ridge_with_residual_noise": None
        if lin is None
        else numbers(compare_activity(test, lin)),
    }


def landscape(theta, alpha, starts):
    """Certified attractors and fixed points of the fitted map."""
    n = theta.shape[1]
    net = rd.models.RateRNN.from_arrays(theta[:n].T, tau=1.0)
    step = net.map(alpha)
    found = rd.dynamics.attractors(step, starts)
    points = rd.dynamics.certify(
        rd.dynamics.fixed_points(
            step,
            jax.numpy.asarray(np.concatenate([starts, found.state])),
            strategy=MultiStart(num_large=16, rounds=2),
        )
    )
    mask = points.mask
    radius = np.abs(np.linalg.eigvals((1 - alpha) * np.eye(n) + alpha * theta[:n].T))
    return {
        "attractors": found.names,
        "share_of_starts": found.share.tolist(),
        "norm": np.linalg.norm(found.state, axis=1).tolist(),
        "period_frames": found.period.tolist(),
        "leading_exponent_per_frame": found.exponents[:, 0].tolist(),
        "undecided_starts": found.undecided,
        "caveats": list(found.caveats),
        "fixed_points": int(mask.sum()),
        "stable": int((points.stability[mask] < 0).sum()),
        "unstable": int((points.stability[mask] > 0).sum()),
        "undecided": int((points.stability[mask] == 0).sum()),
        "largest_residual": float(points.speed[mask].max()) if mask.any() else None,
        "margin_of_the_most_stable": float(points.margin[mask].min())
        if mask.any()
        else None,
        "slowest_multiplier_at_origin": float(radius.max()),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=pathlib.Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    raw = scipy.io.loadmat(options.path)["activity_matrix"].astype(np.float64).T
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "recording.nwb"
        to_nwb(raw, path)
        begin = time.perf_counter()
        recording = read_nwb(path)
        seconds = time.perf_counter() - begin
        size = path.stat().st_size
    out = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "jax": jax.__version__,
            "dtype": "float64; adam float32",
        },
        "command": "python benchmarks/recording.py zf_20151104-f1.mat",
        "nwb": {
            "identical_to_source": bool(np.array_equal(recording.rates, raw)),
            "shape": list(recording.rates.shape),
            "read_s": seconds,
            "file_MB": size / 1e6,
        },
    }
    parts = recording.split(0.6, 0.2, 0.2)
    for quantile in (1.0, 0.99):
        scaling = z_scale(parts[0].rates, quantile=quantile)
        train, valid, test = (p.scaled(scaling).rates for p in parts)
        cut = [float(scaling.clipped(p.rates).mean()) for p in parts]
        rows, best = scan(train, valid, test, options.quick)
        skill = {
            (a, kind): rows[f"{a:g}"][kind]["validation_skill"]
            for a in best
            for kind in NETWORKS
            if kind in best[a]
        }
        alpha, kind = max(skill, key=skill.get)
        print("quantile", quantile, "chosen", alpha, kind, flush=True)
        section = {
            "samples_cut_train_validation_test": cut,
            "frames": [len(train), len(valid), len(test)],
            "rms_scaled_rate": float(train.std()),
            "by_alpha": rows,
            "chosen_on_validation": {"alpha": alpha, "network": kind},
        }
        theta, linear = best[alpha][kind]["theta"], best[alpha]["ridge"]["theta"]
        section["free_run"] = free_running(theta, linear, train, valid, test, alpha)
        score = co_smoothing(
            theta, test, alpha=alpha, train=train, key=jax.random.key(0)
        )
        section["co_smoothing"] = {
            "r2": float(score.r2),
            "r2_ridge_same_frame": float(score.r2_ridge),
            "r2_neuron_median": float(np.median(score.r2_neuron)),
        }
        starts = np.concatenate([train[::100], test[::100]])
        section["attractors"] = {}
        for a in {alpha, 0.5}:
            for k in NETWORKS:
                if k in best[a]:
                    found = landscape(best[a][k]["theta"], a, starts)
                    section["attractors"][f"{k}, alpha={a:g}"] = found
        # Do halves of the training part agree on what the network holds?
        label = best[alpha][kind]["chosen"]
        name, ridge = label.split(", ridge=")
        half = len(train) // 2
        fits = [
            cornn(part, alpha=alpha, dt=alpha, ridge=float(ridge),
                  outliers=OUTLIERS[name][1])
            for part in (train[:half], train[half:])
        ]  # fmt: skip
        maps = [f.network.map(alpha) for f in fits]
        check = attractor_check(maps[1], maps[0], starts, points=False)
        section["halves_of_training"] = {
            "summary": str(check),
            "complete": check.complete,
            "weight_correlation": float(
                np.corrcoef(*(np.ravel(f.W) for f in fits))[0, 1]
            ),
            "relative_distance": check.relative.tolist(),
            "caveats": list(check.caveats),
        }
        out[f"scaled_by_quantile_{quantile:g}"] = section
        print(quantile, "done", flush=True)
        if not options.quick:
            (HERE / "results").mkdir(exist_ok=True)
            text = json.dumps(without_nan(out), indent=1) + "\n"
            (HERE / "results" / "recording.json").write_text(text)


if __name__ == "__main__":
    main()
