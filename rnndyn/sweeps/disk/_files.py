"""Folders that are either there, whole, or not there; checksums; checkpoints."""

import contextlib
import hashlib
import json
import os
import platform
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from ..._core._store import place, read_arrays, sync, write_json


REMEDY = "Remove the folder and run the sweep again: it trains that shard anew."
"""What to do about a folder that is not as it was published."""

_PACKAGES = ("rnndyn", "jax", "jaxlib", "equinox", "optax", "numpy", "xarray", "zarr")


def publish(folder: Path, fill: Callable[[Path], Mapping[str, Any]]) -> bool:
    """Make `folder` with everything that `fill(path)` writes and a `manifest.json` of
    what it returns, in one step: nobody ever sees a part of it.

    **Returns:** whether it was this call that made it. If another process was faster,
    its folder stands and this one's work is dropped.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    partial.mkdir()
    try:
        manifest = dict(fill(partial))
        manifest["files"] = checksums(partial)
        write_json(partial / "manifest.json", manifest)
        for path in [*partial.rglob("*"), partial]:
            sync(path)
        try:
            os.rename(partial, folder)
        except OSError:
            if not (folder / "manifest.json").exists():
                raise
            return False
        sync(folder.parent)
        return True
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        _forget_killed(folder)


def _forget_killed(folder: Path) -> None:
    """Remove what processes left that were killed while they published this folder."""
    for old in folder.parent.glob(f".{folder.name}.*"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > 86400:
                shutil.rmtree(old, ignore_errors=True)


def is_published(folder: Path) -> bool:
    """Whether a folder was published; looks at its name only."""
    return (folder / "manifest.json").is_file()


def discard(folder: Path) -> None:
    """Remove a published folder: out of sight in one step, then file by file."""
    grave = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    folder.rename(grave)
    shutil.rmtree(grave, ignore_errors=True)


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder but its manifest, by relative path."""
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {
        p.relative_to(folder).as_posix(): sha256(p)
        for p in paths
        if p.name != "manifest.json"
    }


def sha256(path: Path) -> str:
    """Digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """The JSON of a file.

    **Raises:** a `ValueError` if there is none, or no JSON in it.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:  # no JSON, or no text
        raise ValueError(f"{path} cannot be read as JSON ({error}).") from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a published folder.

    **Raises:** a `ValueError` if it cannot be read.
    """
    path = folder / "manifest.json"
    try:
        about = read_json(path)
    except ValueError as error:
        raise ValueError(f"{error} {REMEDY}") from error
    if not isinstance(about, dict) or not isinstance(about.get("files"), dict):
        raise ValueError(f"{path} holds no list of files by name. {REMEDY}")
    return about


def read_checkpoint(path: Path, like: Any, header: Mapping[str, Any]) -> Any | None:
    """The pytree of a checkpoint as NumPy arrays, or `None` if there is none that fits:
    no file, another header, other names, shapes or dtypes."""
    if not path.is_file():
        return None
    try:
        arrays, found = read_arrays(path)
        return place(arrays, like, path) if found == dict(header) else None
    except ValueError:
        return None


def versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """What the results were computed on."""
    device = jax.devices()[0]
    return f"{platform.machine()}, {jax.device_count()} x {device.device_kind}"
