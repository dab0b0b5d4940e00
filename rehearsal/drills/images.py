"""`./estate drill images`: 2,000 images through everything, under kills, all accounted for.

They go in by the door that everybody uses; meanwhile tusd, the pipeline's run and a broker are
killed. Then each of them must be exactly once stored, a duplicate, or quarantined with its reason.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from rehearsal import access, console, samples, upload
from rehearsal.clients import Clients
from rehearsal.drills import accounting, kafka_broker, pipeline, transfer
from rehearsal.drills.accounting import Account
from rehearsal.drills.harness import LIMIT_S, Scene, is_green
from rehearsal.drills.images_sender import Progress, Sent, jobs, made, send
from rehearsal.drills.lake import Found
from rehearsal.errors import EstateError, UsageError
from rehearsal.kube import Api, ApiError
from rehearsal.rehearsal import Rehearsal
from services import sending

PROFILE = "lake"
LEAST, MOST = 50, 5000
_SILENCE_S = 300.0
"""As long without another receipt, and the pipeline takes no more."""
_SETTLE_S = 60.0
"""For what would come twice: the next sweep of transfer, and the run that takes what it tells."""
_LOOK_S, _SHOW_S = 2.0, 15.0

Strike = Callable[[Scene], tuple[str, Callable[[], bool]]]


@dataclass(frozen=True)
class Kill:
    """`strike` when so large a share of the images has been taken by the door."""

    what: str
    at_share: float
    strike: Strike


KILLS = (
    Kill("tusd", 0.15, lambda scene: transfer.kill(scene, "transfer-0", "tusd")),
    Kill("pipeline", 0.25, pipeline.kill_in_run),
    Kill("broker", 0.45, kafka_broker.kill),
    Kill("tusd", 0.65, lambda scene: transfer.kill(scene, "transfer-1", "tusd")),
)


@dataclass
class Blow:
    """A kill that was done: seconds from the start, and how far the images were by then.

    `recovered_s` counts from the kill; None when it was not whole again in time.
    """

    what: str
    broke: str = ""
    at_s: float | None = None
    received: int = 0
    accounted: int = 0
    recovered_s: float | None = None
    wrong: str = ""

    @property
    def met(self) -> bool:
        """Whether it was done while images were under way, and whole again by itself."""
        return not self.wrong and self.recovered_s is not None


@dataclass
class Result:
    """What the drill found."""

    seed: int
    count: int
    sent: Sent
    kills: list[Blow]
    account: Account
    accounted_s: float
    green: bool

    @property
    def met(self) -> bool:
        """Whether each image is accounted for, and each kill was recovered from."""
        return (
            self.account.whole
            and not self.sent.unsent
            and all(one.met for one in self.kills)
            and self.green
        )

    def json_object(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "seed": self.seed,
            "count": self.count,
            "met": self.met,
            "green": self.green,
            "accounted_s": self.accounted_s,
            "sent": asdict(self.sent),
            "kills": [{**asdict(one), "met": one.met} for one in self.kills],
            "account": self.account.json_object(),
        }


def check_count(count: int | None) -> int:
    """How many images. Raises UsageError."""
    if count is None:
        return samples.COUNT
    if not LEAST <= count <= MOST:
        raise UsageError("--count", count, f"choose a number of images from {LEAST} to {MOST}")
    return count


def perform(
    rehearsal: Rehearsal, count: int, seed: int | None, say: Callable[[str], None]
) -> Result:
    """Do all of it, on a rehearsal that is green. Raises EstateError."""
    say(f"making {count} images")
    with made(count, seed) as (seed, folder, known):
        device = f"drill-images-{time.strftime('%Y%m%d-%H%M%S')}"
        door = upload.outer_door(rehearsal, device)
        work = jobs(folder, known, seed)
        say(f"{count} images of seed {seed} in {len(work)} uploads, as device {device}")
        hands = access.of(rehearsal)
        progress = Progress(count)
        with (
            rehearsal.locked(),
            Clients(rehearsal, "rehearsal.drills.images_reader", hands, {"device": device}) as lake,
        ):
            lake.wait_for("ready", 120)
            progress.began = time.monotonic()
            under_way = rehearsal.folder / "uploads" / device
            try:
                sent, kills = _under_kills(rehearsal, door, work, under_way, progress, lake, say)
            finally:
                shutil.rmtree(under_way, ignore_errors=True)
            time.sleep(_SETTLE_S)
            lake.send("found")
            account = accounting.account(known, Found.of(_read(lake)))
    say("waiting for green")
    seconds = round(progress.ended_at - progress.began, 1)
    return Result(seed, count, sent, kills, account, seconds, is_green(rehearsal))


def _read(lake: Clients) -> dict[str, Any]:
    answer = lake.wait_for("found", 600)
    return {key: value for key, value in answer.items() if key != "event"}


def _under_kills(
    rehearsal: Rehearsal,
    door: sending.Door,
    work: Sequence[sending.Job],
    under_way: Path,
    progress: Progress,
    lake: Clients,
    say: Callable[[str], None],
) -> tuple[Sent, list[Blow]]:
    """Send, kill, and wait until the pipeline has taken everything."""
    with ThreadPoolExecutor(len(KILLS) + 1) as pool:
        try:
            client = pool.submit(send, door, work, sending.UnderWay(under_way), progress)
            blows = [pool.submit(_blow, kill, rehearsal, progress, say) for kill in KILLS]
            _await_all(client, progress, lake, say)
        except BaseException:
            progress.stopped.set()
            raise
        finally:
            progress.ended_at = time.monotonic()
            progress.ended.set()
        return client.result(), [one.result() for one in blows]


def _await_all(
    client: Future[Sent], progress: Progress, lake: Clients, say: Callable[[str], None]
) -> None:
    """Return when all that was received has a receipt, or none came for long."""
    grew = shown = time.monotonic()
    while True:
        sent_all = client.done()
        if sent_all:
            client.result()  # raises what it raised
        lake.send("count")
        receipts = lake.wait_for("count", 120)["receipts"]
        now = time.monotonic()
        if not sent_all or (receipts or 0) > progress.accounted:
            grew = now
        progress.accounted = max(progress.accounted, receipts or 0)
        if sent_all and progress.accounted >= progress.received:
            return
        if now - grew > _SILENCE_S:
            say(f"no receipt for {_SILENCE_S:.0f} s: not waiting any longer")
            return
        if now - shown > _SHOW_S:
            shown = now
            say(f"{progress.received} received, {progress.accounted} through the pipeline")
        time.sleep(_LOOK_S)


def _blow(kill: Kill, rehearsal: Rehearsal, progress: Progress, say: Callable[[str], None]) -> Blow:
    """Wait for the moment, kill, and wait until it is whole."""
    while progress.share < kill.at_share and not progress.over():
        time.sleep(0.1)
    blow = Blow(kill.what)
    if progress.over():
        blow.wrong = "not killed: every image was accounted for already"
        return blow
    scene = Scene(rehearsal, Api(rehearsal.kubeconfig, timeout_s=5))
    try:
        blow.broke, whole = kill.strike(scene)
    except (EstateError, ApiError, psutil.Error) as error:
        blow.wrong = f"not killed: {error}"
        say(f"{kill.what}: {blow.wrong}")
        return blow
    struck = time.monotonic()
    blow.at_s = round(struck - progress.began, 1)
    blow.received, blow.accounted = progress.received, progress.accounted
    say(f"killed {blow.broke}")
    if progress.over():
        blow.wrong = "killed when every image was accounted for already"
    while time.monotonic() - struck < LIMIT_S and not progress.stopped.is_set():
        with contextlib.suppress(ApiError, EstateError):
            if whole():
                blow.recovered_s = round(time.monotonic() - struck, 1)
                break
        time.sleep(0.5)
    return blow


# -- what is shown ---------------------------------------------------------------------------------


def show(result: Result) -> None:
    """The tables: outcomes by kind, the sums, the kills, and what is wrong."""
    account, sent = result.account, result.sent
    rows = [
        (name, sum(of.values()), *(of.get(outcome, 0) or "" for outcome in accounting.OUTCOMES))
        for name, of in account.kinds.items()
    ]
    console.table("Outcomes", ("kind", "sent", *accounting.OUTCOMES), rows)
    sums = [(name, account.expected[name], account.found[name]) for name in accounting.STATES]
    sums.append(("all", account.sent, sum(account.found.values())))
    console.table("Accounted for", ("state", "expected", "found"), sums)
    if account.earlier:
        console.say(f"{account.earlier} are duplicates of images that the lake had before")
    console.table("Quarantined", ("reason", "images"), list(account.reasons.items()))
    console.table(
        "Kills",
        ("after", "kill -9 of", "received", "accounted", "whole again", "wrong"),
        [
            (
                "" if one.at_s is None else f"{one.at_s:.0f} s",
                one.broke or one.what,
                one.received,
                one.accounted,
                "never" if one.recovered_s is None else f"{one.recovered_s:.1f} s",
                one.wrong,
            )
            for one in result.kills
        ],
    )
    console.say(
        f"{sent.uploads} uploads ({sent.batches} batches) in {sent.seconds:.0f} s, {sent.cuts} "
        f"requests cut, {sent.tried_again} begun again; all through after {result.accounted_s:.0f}"
        f" s; seed {result.seed}"
    )
    if not sent.cuts:
        console.say(
            "no upload was cut by the kills of tusd; ./estate drill transfer cuts them on purpose"
        )
    for name, error in list(sent.unsent.items())[:10]:
        console.warn(f"not sent: {name}: {error}")
    for line in list(account.wrong.values())[:20]:
        console.warn(line)
    if not result.green:
        console.warn("not green afterwards: see logs/drill-verify.log of the rehearsal")
    colour, word = ("green", "all") if result.met else ("red", "not all")
    console.say(f"[{colour}]{word} of {account.sent} accounted for, and every kill recovered[/]")
