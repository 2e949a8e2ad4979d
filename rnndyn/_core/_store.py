"""Named arrays in safetensors with a JSON header; written atomically, never pickled."""

import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save


SCHEMA = "rnndyn/1"


def named_leaves(tree: Any) -> dict[str, Any]:
    """Arrays of a pytree by path, `a.b[0]` style."""
    flat, _ = jax.tree_util.tree_flatten_with_path(eqx.filter(tree, eqx.is_array))
    return {jax.tree_util.keystr(path).lstrip("."): leaf for path, leaf in flat}


def write_arrays(
    path: str | Path, arrays: Mapping[str, Any], header: Mapping[str, Any]
) -> None:
    """Write arrays and a JSON-able header to one safetensors file, atomically."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".tmp")
    named = {k: np.asarray(v, order="C") for k, v in arrays.items()}
    metadata = {"schema": SCHEMA, "header": json.dumps(dict(header), sort_keys=True)}
    partial.write_bytes(save(named, metadata=metadata))
    os.replace(partial, path)


# What NumPy raises for files that are cut, empty or something else than an archive.
_BROKEN = (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile, zlib.error)


def read_arrays(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and header of a safetensors file, or of a plain npz (empty header).

    **Raises:** a `ValueError` if the file is neither, or holds pickled objects.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"no file {path}. Pass the path of an .npz or .safetensors.")
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as data:
                return {k: data[k] for k in data.files}, {}
        except _BROKEN as error:
            raise ValueError(
                f"{path} cannot be read as npz without pickle ({error}). "
                "Save plain arrays: numpy.savez(path, W=W, ...)."
            ) from error
    try:
        with safe_open(path, framework="numpy") as data:
            arrays = {k: data.get_tensor(k) for k in data.keys()}
            header = json.loads((data.metadata() or {}).get("header", "{}"))
        if not isinstance(header, dict):
            raise ValueError(f"its header is a {type(header).__name__}, no table")
        return arrays, header
    except (SafetensorError, ValueError, OSError) as error:
        raise ValueError(
            f"{path} is neither .npz nor safetensors ({error}). Save the arrays with "
            "numpy.savez or safetensors.numpy.save_file (of a PyTorch module those of "
            "its state_dict())."
        ) from error


def read_like(path: str | Path, like: Any) -> Any:
    """The arrays of a file placed into a pytree of the same structure.

    **Raises:** a `ValueError` if names, shapes or dtypes differ.
    """
    arrays, _ = read_arrays(path)
    wanted = named_leaves(like)
    if set(arrays) != set(wanted):
        raise ValueError(
            f"{path} holds {sorted(arrays)}, expected {sorted(wanted)}. "
            "Build `like` with the configuration the file was written with."
        )
    for name, leaf in wanted.items():
        got = arrays[name]
        if got.shape != leaf.shape or got.dtype != leaf.dtype:
            raise ValueError(
                f"{name} in {path} is {got.dtype}{got.shape}, expected "
                f"{leaf.dtype}{leaf.shape}. Build `like` with the file's configuration."
            )
    dynamic, static = eqx.partition(like, eqx.is_array)
    leaves = [jnp.asarray(arrays[name]) for name in wanted]
    dynamic = jax.tree.unflatten(jax.tree.structure(dynamic), leaves)
    return eqx.combine(dynamic, static)
