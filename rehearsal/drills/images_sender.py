"""What the images drill sends, by the client that everybody has, and again where it gave up."""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rehearsal import paths, samples
from rehearsal.samples import Sample
from services import sending, tus

SMALL_BYTES = 96 << 10
"""What is smaller travels in batches."""
_BATCH_BYTES = 2 << 20  # small, so that there are many uploads to be cut
_CONNECTIONS = 8
_TRIES = 6  # of what the client gave up: a person runs `upload` again
_BETWEEN_TRIES_S = 5.0


@dataclass
class Progress:
    """How far the images are, each figure written by one thread; `stopped`: nothing is to go on."""

    count: int
    began: float = field(default_factory=time.monotonic)
    received: int = 0
    accounted: int = 0
    ended_at: float = 0.0
    ended: threading.Event = field(default_factory=threading.Event)
    stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def share(self) -> float:
        """Of the images, those that the door has taken."""
        return self.received / self.count

    def over(self) -> bool:
        """Whether everything has come to its end."""
        return self.ended.is_set() or self.accounted >= self.count


@dataclass
class Sent:
    """What the client counted."""

    uploads: int
    batches: int
    states: dict[str, int]
    resumed: int
    cuts: int
    tried_again: int
    unsent: dict[str, str]
    seconds: float


@contextlib.contextmanager
def made(count: int, seed: int | None) -> Iterator[tuple[int, Path, list[Sample]]]:
    """The seed, the samples and their folder.

    Without a seed they are new ones, which are gone afterwards: what the lake had before would all
    be duplicates. Those of a seed that is given are kept in the cache.
    """
    cache = paths.ensure(paths.cache() / "pipeline", "cache")
    if seed is None:
        seed = random.SystemRandom().randrange(1, 1 << 31)
        with tempfile.TemporaryDirectory(prefix="drill-images-", dir=cache) as fresh:
            yield seed, Path(fresh), samples.write(Path(fresh), count, seed)
        return
    folder = cache / f"drill-images-{seed}-{count}"
    if not folder.exists():
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=cache))
        try:
            samples.write(partial, count, seed)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    yield seed, folder, samples.read(folder)


def jobs(folder: Path, found: Sequence[Sample], seed: int) -> list[sending.Job]:
    """The small ones in batches, the others by themselves, mixed."""
    files = [
        sending.File(folder / one.name, one.name, one.length, one.sha256, one.content_type)
        for one in found
    ]
    small = [one for one in files if one.length < SMALL_BYTES]
    mixed = list(sending.batched(small, _BATCH_BYTES))
    mixed += [sending.single(one) for one in files if one.length >= SMALL_BYTES]
    random.Random(seed).shuffle(mixed)
    return mixed


def send(
    door: sending.Door,
    work: Sequence[sending.Job],
    under_way: sending.UnderWay,
    progress: Progress,
    *,
    pause: Callable[[float], object] = time.sleep,
) -> Sent:
    """Send everything; what the client gave up is begun again, as a person would."""

    def token() -> str:
        if progress.stopped.is_set():
            raise tus.GaveUp("the drill was stopped")
        return door.token()

    door_ = replace(door, token=token)
    left, began = list(work), time.monotonic()
    counted = Sent(len(work), sum("batch" in job.metadata for job in work), {}, 0, 0, 0, {}, 0.0)
    states: Counter[str] = Counter()
    for attempt in range(_TRIES):
        if attempt:
            pause(_BETWEEN_TRIES_S)
            counted.tried_again += len(left)
        failed: dict[str, str] = {}
        for result in sending.send_all(door_, left, under_way, connections=_CONNECTIONS):
            counted.resumed += result.resumed
            counted.cuts += result.counted.cuts
            if result.receipt is None:
                failed[result.job.key] = str(result.error)
                continue
            progress.received += result.job.images
            states.update(str(image["state"]) for image in result.receipt["images"])
        left = [job for job in left if job.key in failed]
        counted.unsent = {job.name: failed[job.key] for job in left}
        if not left or progress.stopped.is_set():
            break
    counted.states, counted.seconds = dict(states), round(time.monotonic() - began, 1)
    return counted
