"""Data sets on the Hugging Face Hub, and loading from there or from a folder."""

import re
from pathlib import Path
from typing import Any

from ._store import validate
from ._zoo import Zoo


_ADDRESS = re.compile(r"(?:hf://)?(?:datasets/)?(\w[\w.-]*/[\w.-]+?)(?:@([\w./-]+))?")


def load(path_or_hub: str | Path, *, check: bool = False, api: Any = None) -> Zoo:
    """A data set of networks.

    **Arguments:**

    - `path_or_hub`: a folder, or `"owner/name"`, `"owner/name@revision"` of a data set
        on the Hugging Face Hub (an `hf://` before it is taken, too), which is
        downloaded into its cache.
    - `check`: whether to validate a folder, checksums and all; downloads always are.
    - `api`: see `pull`.

    **Returns:** a `Zoo`: NumPy arrays in `.table`, `.weights(rows)`, `.curves(rows)`;
    `.ensemble(rows)` on demand.

    **Raises:** a `ValueError` if there is no data set, or it is not a valid one.

    !!! example

        ```python
        zoo = rd.zoo.load("zoo")
        cycles = zoo.ensemble(zoo.rows(mechanism="limit_cycle", delay=0.1))
        ```
    """
    if not isinstance(path_or_hub, str | Path):
        raise ValueError(
            f"path_or_hub is a {type(path_or_hub).__name__}, expected the folder of a "
            'data set, or "owner/name".'
        )
    path = Path(path_or_hub)
    if path.is_file():
        raise ValueError(
            f"{path} is a file, expected the folder of a data set: pass {path.parent}."
        )
    if path.is_dir():
        return validate(path) if check else Zoo(path)
    found = _ADDRESS.fullmatch(str(path_or_hub))
    if found is None:
        raise ValueError(
            f"{path_or_hub} is no folder and no name on the hub. Pass the folder of a "
            'data set, or "owner/name".'
        )
    try:
        folder = pull(found[1], revision=found[2], api=api)
    except Exception as error:
        error.add_note(f"{path_or_hub} is no folder here: the hub was asked for it.")
        raise
    return validate(folder)


def push(
    path: str | Path,
    repo: str,
    *,
    private: bool = False,
    message: str = "Add networks",
    api: Any = None,
) -> str:
    """Validate a data set and upload it to the Hugging Face Hub.

    **Arguments:**

    - `path`: its folder.
    - `repo`: `"owner/name"`; made if it is not there.
    - `private`: for a repository that is made.
    - `message`: of the commit.
    - `api`: a `huggingface_hub.HfApi`, by default one with the credentials that
        `hf auth login` has stored.

    **Returns:** the address of the data set.

    **Raises:** a `ValueError` if the data set is not valid, or `repo` no such name;
    nothing is sent then.
    """
    found = _ADDRESS.fullmatch(repo)
    if found is None or found[1] != repo:
        raise ValueError(f'repo = {repo!r}, expected "owner/name".')
    zoo = validate(path)
    api = _api() if api is None else api
    api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
    api.upload_folder(
        repo_id=repo,
        repo_type="dataset",
        folder_path=str(zoo.path),
        commit_message=message,
        allow_patterns=[*zoo.about["files"], "zoo.json"],
    )
    return f"https://huggingface.co/datasets/{repo}"


def pull(
    repo: str,
    path: str | Path | None = None,
    *,
    revision: str | None = None,
    api: Any = None,
) -> Path:
    """Download a data set from the Hugging Face Hub.

    **Arguments:**

    - `repo`: `"owner/name"`.
    - `path`: folder to put it in; the hub's cache by default.
    - `revision`: branch, tag or commit.
    - `api`: as in `push`.

    **Returns:** the folder. Interrupted downloads go on where they stopped.
    """
    api = _api() if api is None else api
    found = api.snapshot_download(
        repo_id=repo,
        repo_type="dataset",
        revision=revision,
        local_dir=None if path is None else str(path),
    )
    return Path(found)


def _api() -> Any:
    import importlib

    try:
        return importlib.import_module("huggingface_hub").HfApi()
    except ImportError as error:
        raise ImportError(
            'the hub needs huggingface_hub: pip install "rnndyn[hub]"'
        ) from error
