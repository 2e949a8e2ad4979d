"""How far a sweep is, and how long it will take."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .disk._store import Store


class Meter:
    """A bar, or lines of text, counted in work: epochs times steps of a trial."""

    def __init__(
        self,
        store: Store,
        wanted: Sequence[int],
        progress: bool,
        say: Callable[[str], Any] | None,
    ):
        self.work = shard_work(store)
        self.wanted = list(wanted)
        self.members = {i: len(store.shards[i].rows) for i in self.wanted}
        self.budget = {
            i: store.members.epochs[store.shards[i].rows] for i in self.wanted
        }
        self.done = dict.fromkeys(self.wanted, 1.0)
        self.networks = dict(self.members)
        self.say = say
        self.bar = None
        self.progress = progress
        self.began = time.perf_counter()
        self.first = 0.0

    def start(self, left: Sequence[int]) -> None:
        """What is still to do when the run begins."""
        for index in left:
            self.done[index], self.networks[index] = 0.0, 0
        self.first = self._share()
        if self.progress:
            from tqdm import tqdm

            self.bar = tqdm(
                total=100.0,
                initial=100 * self.first,
                desc="sweep",
                bar_format="{desc}: {n:.1f} % |{bar}| {elapsed}<{remaining}{postfix}",
            )
        if self.say is not None:
            total = sum(self.members.values())
            self.say(
                f"{total} networks in {len(self.wanted)} shards, "
                f"{len(self.wanted) - len(left)} shards are there"
            )

    def within(self, index: int, share: np.ndarray) -> None:
        """The share of its budget that each member of a shard has used."""
        budget = self.budget[index]
        self.done[index] = float(np.sum(share * budget) / np.sum(budget))
        self.networks[index] = int(np.sum(share >= 1))
        self._show()

    def shard_done(self, index: int) -> None:
        """A shard is trained and labelled."""
        self.done[index], self.networks[index] = 1.0, self.members[index]
        self._show()
        if self.say is not None:
            number = sum(v == 1.0 for v in self.done.values())
            self.say(
                f"shard {index} is there ({number} of {len(self.wanted)}), "
                f"{clock(time.perf_counter() - self.began)} gone, "
                f"about {clock(self.remaining())} to go"
            )

    def remaining(self) -> float:
        """Seconds to go at the rate so far; infinite before anything is done."""
        share, seconds = self._share(), time.perf_counter() - self.began
        if share <= self.first:
            return float("inf") if share < 1 else 0.0
        return seconds * (1 - share) / (share - self.first)

    def close(self) -> None:
        """End the bar."""
        if self.bar is not None:
            self.bar.close()

    def _share(self):
        total = sum(self.work[i] for i in self.wanted)
        return sum(self.work[i] * self.done[i] for i in self.wanted) / max(total, 1.0)

    def _show(self):
        if self.bar is not None:
            total = sum(self.members.values())
            self.bar.set_postfix_str(
                f", {sum(self.networks.values())}/{total} networks"
            )
            self.bar.update(100 * self._share() - self.bar.n)


def shard_work(store: Store) -> list[float]:
    """How much there is to do in every shard: epochs times steps of a trial."""
    return [
        float(np.sum(store.members.epochs[s.rows])) * s.shape.num_steps
        for s in store.shards
    ]


def clock(seconds: float) -> str:
    """A duration as people say it."""
    if not np.isfinite(seconds):
        return "an unknown time"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
