"""The card of a data set: what people read before they download it."""

from collections.abc import Mapping
from typing import Any

import numpy as np


_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))


def card(about: Mapping[str, Any], table: Mapping[str, np.ndarray]) -> str:
    """The text of `README.md`: front matter as the Hugging Face Hub reads it, origin,
    counts of labels, how to load, every field, limits."""
    count = about["networks"]
    size = next((name for limit, name in _SIZES if count < limit), "100K<n<1M")
    parts = [
        "---",
        f"license: {about['licence']}",
        f"pretty_name: {_plain(about['title'])}",
        "tags: [recurrent-neural-networks, dynamical-systems, working-memory, rnndyn]",
        f"size_categories: [{size}]",
        "---",
        "",
        f"# {about['title']}",
        "",
        f"{count} trained recurrent networks with weights, training curves and labels "
        "of the dynamical mechanism by which each holds its memory.",
        about["description"],
        "",
        "## Loading",
        "",
        "```python",
        "import rnndyn as rd",
        "",
        'zoo = rd.zoo.load("FOLDER")          # or "owner/name" on the hub',
        'zoo.table["learning_rate"]           # NumPy, one row a network',
        "nets = zoo.ensemble([0, 1, 2])       # a JAX model with a leading axis",
        "```",
        "",
        "Every file is safetensors; `zoo.json` holds the schema and the checksums.",
        "",
        "## Labels",
        "",
    ]
    parts += _counts(about, table)
    parts += ["## Hyper-parameters", "", *_ranges(table), ""]
    parts += [
        "## Fields",
        "",
        "| name | dimensions | unit | meaning |",
        "|---|---|---|---|",
    ]
    for name, field in about["fields"].items():
        codes = field.get("codes", ())
        meaning = field["meaning"]
        if codes:
            meaning += ": " + ", ".join(f"{i} {c}" for i, c in enumerate(codes))
        dims = ", ".join(field["dims"])
        parts.append(f"| `{name}` | {dims} | {field['unit']} | {meaning} |")
    parts += ["", "Codes of -1 and NaN mean unknown or not applicable.", ""]
    parts += ["## Limits", "", *_LIMITS, "", "## Origin", ""]
    made = ", ".join(f"{k} {v}" for k, v in about["versions"].items())
    parts.append(f"Made {about['created_at']} with {made}.")
    if about["authors"]:
        parts.append(f"Authors: {', '.join(about['authors'])}.")
    if about["origin"]:
        parts.append(
            f"A sweep with configuration hash `{about['origin']['config_hash']}`; the "
            "configuration is in `zoo.json` and makes the same networks again."
        )
    parts += ["", f"Licence: {about['licence']}.", ""]
    return "\n".join(parts)


_LIMITS = [
    "- `mechanism` is decided on the Euler map each network was trained as; "
    "`undetermined` is an answer. `margin` says how near a threshold it was.",
    "- `compat_code` repeats a published index. It looks at one cue and changes with "
    "the sign of a principal component (`compat_ambiguous`).",
    "- Training at high rates is chaotic: recomputed networks agree in distribution, "
    "not number by number, on other hardware.",
]


def _counts(about, table):
    lines = []
    for name in ("outcome", "compat_code", "mechanism"):
        codes = about["fields"].get(name, {}).get("codes")
        if codes is None or name not in table:
            continue
        values = table[name]
        found = [
            f"{int(np.sum(values == i))} {c}"
            for i, c in enumerate(codes)
            if np.any(values == i)
        ]
        if np.any(values < 0):
            found.append(f"{int(np.sum(values < 0))} unknown")
        lines.append(f"- `{name}`: {', '.join(found)}")
    return [*lines, ""]


def _ranges(table):
    lines = []
    names = ("learning_rate", "delay", "reaction", "post_reaction", "tau", "noise")
    for name in (*names, "units", "batch", "seed", "epochs"):
        if name in table and len(table[name]):
            values = np.unique(table[name])
            text = f"{values[0]:g}"
            if len(values) > 1:
                text += f" to {values[-1]:g}, {len(values)} values"
            lines.append(f"- `{name}`: {text}")
    return lines


def _plain(text: str) -> str:
    """A text as a YAML string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
