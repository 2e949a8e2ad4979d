"""Who works on which shard: a file that is made once and kept alive."""

import json
import os
import platform
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any


_BEAT = 5.0
"""Seconds between two signs of life."""
_STALE = 60.0
"""Seconds without one after which a claim is void."""


class Claim:
    """A claim on a piece of work, held while the block runs.

    Claims save work, they do not protect results: those are published in one step, so
    two processes that worked on the same shard (after a takeover from one that only
    seemed dead) lose time and nothing else.
    """

    def __init__(self, path: Path):
        self.path = path
        self.token = uuid.uuid4().hex
        self.held = False
        self._stop = threading.Event()
        self._beat: threading.Thread | None = None
        self._note: dict[str, Any] = {}

    def __enter__(self) -> bool:
        """Whether the claim was obtained."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.held = self._create() or (self._take_over() and self._create())
        if self.held:
            self._beat = threading.Thread(target=self._keep_alive, daemon=True)
            self._beat.start()
        return self.held

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._beat is not None:
            self._beat.join()
        if self.held and holder(self.path).get("token") == self.token:
            self.path.unlink(missing_ok=True)

    def note(self, **progress: Any) -> None:
        """Say how far the work is; written with the next sign of life."""
        self._note = progress

    def _content(self):
        about = {"pid": os.getpid(), "host": platform.node(), "token": self.token}
        return json.dumps({**about, **self._note})

    def _create(self):
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        try:
            handle = os.open(self.path, flags)
        except FileExistsError:
            return False
        with os.fdopen(handle, "w") as file:
            file.write(self._content())
        return True

    def _take_over(self):
        """Remove a dead claim. Of several processes one succeeds."""
        if is_alive(self.path):
            return False
        grave = self.path.with_name(f".{self.path.name}.{self.token}")
        try:
            os.rename(self.path, grave)
        except FileNotFoundError:
            return True  # given up meanwhile
        grave.unlink(missing_ok=True)
        return True

    def _keep_alive(self):
        while not self._stop.wait(_BEAT):
            partial = self.path.with_name(f".{self.path.name}.{self.token}")
            try:
                if holder(self.path).get("token") != self.token:
                    return  # taken over: this process was thought dead
                partial.write_text(self._content())
                os.replace(partial, self.path)
            except OSError:
                continue


def holder(path: Path) -> dict[str, Any]:
    """What a claim says; empty if there is none or it is just being written."""
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return {}


def is_alive(path: Path, stale: float | None = None) -> bool:
    """Whether somebody holds this claim: its process exists, if it is on this machine,
    and it has given a sign of life within the last minute."""
    try:
        silent = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return False
    if silent > (_STALE if stale is None else stale):
        return False
    found = holder(path)
    return found.get("host") != platform.node() or _exists(found.get("pid"))


def _exists(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, TypeError, ValueError):
        return False
    except PermissionError:
        return True
    try:  # a killed child that nobody has waited for is dead, too
        state = Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"
    except (OSError, IndexError):
        return True
