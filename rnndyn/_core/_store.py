"""Files that are there whole or not at all: JSON, and named arrays in safetensors with
a JSON header, never pickled."""

import json
import os
import uuid
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save


SCHEMA = "rnndyn/1"


def named_leaves(tree: Any) -> dict[str, Any]:
    """Arrays of a pytree by path, `a.b[0]` style."""
    flat, _ = jax.tree_util.tree_flatten_with_path(eqx.filter(tree, eqx.is_array))
    return {jax.tree_util.keystr(path).lstrip("."): leaf for path, leaf in flat}


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file atomically and to the disk, also if several processes do at once;
    its folder is made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        partial.write_bytes(content)
        sync(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any, **options: Any) -> None:
    """Write JSON as `write_bytes` does; `options` of `json.dumps`."""
    write_bytes(path, json.dumps(value, indent=1, **options).encode())


def write_arrays(
    path: str | Path, arrays: Mapping[str, Any], header: Mapping[str, Any]
) -> None:
    """Write arrays and a JSON-able header to one safetensors file, as `write_bytes`
    does."""
    named = {k: np.asarray(v, order="C") for k, v in arrays.items()}
    metadata = {"schema": SCHEMA, "header": json.dumps(dict(header), sort_keys=True)}
    write_bytes(path, save(named, metadata=metadata))


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk, where that can be asked for."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # folders cannot be opened on Windows
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


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


def place(arrays: Mapping[str, np.ndarray], like: Any, path: Any) -> Any:
    """The arrays of a file in a pytree of the same names, as NumPy arrays of its own.

    **Raises:** a `ValueError` if names, shapes or dtypes differ.
    """
    wanted = named_leaves(like)
    kinds = lambda named: {k: f"{a.dtype}{a.shape}" for k, a in sorted(named.items())}
    have, want = kinds(arrays), kinds(wanted)
    if have != want:
        raise ValueError(
            f"{path} holds {have}, expected {want}. Read it with the configuration it "
            "was written with."
        )
    # Copies: what was read may be a view of the file, and training writes to it.
    leaves = iter([np.array(arrays[name]) for name in wanted])
    return jax.tree.map(lambda a: next(leaves) if eqx.is_array(a) else a, like)
