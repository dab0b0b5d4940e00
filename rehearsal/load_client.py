"""Inside the sandbox: sends inference requests when they are due, and judges every answer."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import os
import selectors
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

from model_repo import signing
from model_repo.oci import OciError, Registry
from model_repo.repository import Repository
from rehearsal import clients
from rehearsal.access import Access
from rehearsal.golden import Answer, Golden, Unusable
from rehearsal.load_figures import Plan, Sent, Tally, schedule
from rehearsal.load_senders import Failed, GrpcSender, HttpSender, Sender, words_of

_AHEAD_S = 0.05  # before the first request is due
_RETRY_AFTER_S = 0.02
_FETCH_S = 5.0


class Judge:
    """Compares answers with the golden set of the version that gave them.

    What a version answers whose set is not known yet is kept, and judged when it is; what is left
    at the end is wrong.
    """

    def __init__(self, sets: dict[str, Golden]) -> None:
        self._sets = dict(sets)
        self._first = next(iter(sets.values()))
        self._waiting: list[tuple[Sent, int, Answer]] = []

    @property
    def examples(self) -> Golden:
        """What is asked."""
        return self._first

    def know(self, version: str, found: Golden) -> None:
        """A further version's set. Raises Unusable when it answers other questions."""
        if not found.asks_the_same(self._first):
            raise Unusable(f"version {version}: its golden set has other inputs than the first's")
        self._sets[version] = found
        waiting, self._waiting = self._waiting, []
        for sent, number, answer in waiting:
            self.judge(sent, number, answer)

    def judge(self, sent: Sent, number: int, answer: Answer) -> None:
        """Note what is wrong with an answer."""
        known = self._sets.get(answer.version)
        if known is None:
            self._waiting.append((sent, number, answer))
        elif words := known.wrong(number, answer.outputs):
            sent.kind, sent.error = "wrong", f"version {answer.version}: {words}"

    def end(self) -> None:
        """What nobody can judge is wrong."""
        for sent, _, answer in self._waiting:
            sent.kind, sent.error = "wrong", f"version {answer.version}: no golden set is known"
        self._waiting.clear()


class Generator:
    """One load under way, on the event loop that it is started in."""

    def __init__(self, plan: Plan, sender: Sender, judge: Judge) -> None:
        self._plan, self._sender, self.judge = plan, sender, judge
        self._loop = asyncio.get_running_loop()
        self._due = schedule(plan)
        self._next: float | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self._all_begun = asyncio.Event()
        self._cpu = time.process_time()
        soon = self._loop.time() + _AHEAD_S
        self.tally = Tally(plan, soon if plan.starts_at is None else max(soon, plan.starts_at))

    async def run(self) -> Tally:
        """Send until the plan's time is over or `end`; return when all is answered."""
        if self._plan.closed:
            lanes = [asyncio.ensure_future(self._lane(lane)) for lane in range(self._plan.closed)]
            await asyncio.gather(*lanes)
        else:
            self._tick()
            await self._all_begun.wait()
            while self._under_way:
                await asyncio.wait(self._under_way)
        self.judge.end()
        return self.tally

    def end(self) -> None:
        """Begin no further request."""
        self._next = None
        self._all_begun.set()

    @property
    def cpu_s(self) -> float:
        """CPU seconds of this process since the start."""
        return time.process_time() - self._cpu

    def _tick(self) -> None:
        """Begin what is due, and come back when the next one is."""
        while not self._all_begun.is_set():
            if self._next is None:
                offset = next(self._due, None)
                if offset is None:
                    self._all_begun.set()
                    return
                self._next = self.tally.began + offset
            if self._next > self._loop.time():
                self._loop.call_at(self._next, self._tick)
                return
            task = self._loop.create_task(self._one(self._next))
            self._next = None
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _lane(self, lane: int) -> None:
        """One client that sends as soon as it has its answer."""
        await asyncio.sleep(max(0.0, self.tally.began - self._loop.time()))
        ends = self.tally.began + (self._plan.seconds or math.inf)
        while self._loop.time() < ends and not self._all_begun.is_set():
            await self._one(self._loop.time())

    async def _one(self, due: float) -> None:
        sent = Sent(due, self._loop.time())
        number = len(self.tally.requests) % len(self.judge.examples)
        self.tally.requests.append(sent)
        try:
            # From the moment it was due: a generator that is late may not give it more time.
            async with asyncio.timeout_at(due + self._plan.timeout_s):
                answer = await self._attempts(sent, number)
            sent.kind, sent.version, sent.track = "ok", answer.version, answer.track
            self.judge.judge(sent, number, answer)
        except TimeoutError:
            sent.kind = "timeout"
            sent.error = sent.error or f"no answer in {self._plan.timeout_s:g} s"
        except Failed as error:
            sent.kind, sent.error = error.kind, str(error)
        except Unusable as error:
            sent.kind, sent.error = "wrong", str(error)
        sent.ended = self._loop.time()
        if sent.attempts == 1:
            sent.first_ended, sent.first = sent.ended, sent.kind

    async def _attempts(self, sent: Sent, number: int) -> Answer:
        while True:
            try:
                return await self._sender.send(number)
            except Failed as error:
                if not error.lost or sent.attempts > self._plan.retry_connection:
                    raise
                if sent.attempts == 1:
                    sent.first_ended, sent.first = self._loop.time(), error.kind
                sent.error = str(error)
                sent.attempts += 1
                await asyncio.sleep(_RETRY_AFTER_S)


class Process:
    """All loads of this process, and the golden sets that they share."""

    def __init__(self, access: Access, specification: dict[str, Any], folder: Path) -> None:
        self._access, self._specification, self._folder = access, specification, folder
        self._ca = str(specification.get("ca", access.ca))
        self._running: dict[str, Generator] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sets: dict[str, Golden] = {}

    def know(self, version: str, digest: str) -> Golden:
        """A version's golden set: given in the specification, else read from the registry."""
        given = self._specification.get("golden", {}).get(version)
        return Golden.of(given or golden_of(self._access, self._folder, self._model, digest))

    @property
    def _model(self) -> str:
        return str(self._specification["model"])

    def prepare(self) -> None:
        """Read the golden sets of the versions that are known. Raises OciError and Unusable."""
        for version, digest in self._specification["versions"].items():
            self._sets[version] = self.know(version, digest)

    def take(self, command: dict[str, Any]) -> None:
        """`start` a load, `end` one, `know` a version, say what was `in_flight`, `fetch` a URL."""
        match command["command"]:
            case "start":
                self._spawn(self._load(str(command["key"]), Plan.of(command["plan"])))
            case "end":
                self._running[str(command["key"])].end()
            case "know":
                self._spawn(self._learn(str(command["version"]), str(command["digest"])))
            case "in_flight":
                moments = float(command["since"]), float(command["until"])
                counted = {key: one.tally.in_flight(*moments) for key, one in self._running.items()}
                clients.emit("in_flight", counted=counted)
            case "fetch":
                self._spawn(self._fetch(str(command["url"])))

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            clients.emit("error", thing="load", value=words_of(error))

    async def _learn(self, version: str, digest: str) -> None:
        if version in self._sets:
            return
        try:
            found = await asyncio.to_thread(self.know, version, digest)
            for one in self._running.values():
                one.judge.know(version, found)
        except (OciError, Unusable) as error:
            # What it answers, should it ever, is then wrong: nobody can say that it is right.
            clients.emit("unknown", version=version, why=str(error))
            return
        self._sets[version] = found
        clients.emit("known", version=version)

    async def _fetch(self, url: str) -> None:
        """What a GET answers: its JSON, None for everything else."""
        content: Any = None
        limit = aiohttp.ClientTimeout(total=_FETCH_S)
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):
            async with aiohttp.ClientSession(timeout=limit) as session, session.get(url) as answer:
                if answer.status == 200:
                    content = await answer.json(content_type=None)
        clients.emit("fetched", url=url, content=content)

    async def _load(self, key: str, plan: Plan) -> None:
        make: Callable[..., Sender] = HttpSender if plan.protocol == "http" else GrpcSender
        judge = Judge(self._sets)
        sender = make(plan, judge.examples, self._ca)
        try:
            await warm(sender, plan)
            gc.collect()
            gc.freeze()  # what was imported is not looked at again, which takes milliseconds
            generator = Generator(plan, sender, judge)
            self._running[key] = generator
            # What was learnt while its connections were opened.
            for version, found in self._sets.items():
                judge.know(version, found)
            ticker = asyncio.ensure_future(self._tell(key, generator))
            try:
                tally = await generator.run()
            finally:
                ticker.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await ticker
            ended, cpu = asyncio.get_running_loop().time(), generator.cpu_s
        finally:
            await sender.close()
        clients.emit("result", key=key, result=tally.result(ended, cpu).json_object())

    async def _tell(self, key: str, generator: Generator) -> None:
        """The last second's figures, once all that was due in it has had time to end."""
        tally, number = generator.tally, 0
        while True:
            await asyncio.sleep(max(0.0, tally.began + number + 1.5 - time.monotonic()))
            clients.emit("second", key=key, second=vars(tally.second(number)))
            number += 1


async def warm(sender: Sender, plan: Plan) -> None:
    """Open connections to every target before the clock starts. Raises ConnectionError."""
    wanted = max(4, 2 * len(plan.targets), plan.closed)
    for attempt in range(5):
        answers = await asyncio.gather(
            *(asyncio.wait_for(sender.send(0), plan.timeout_s) for _ in range(wanted)),
            return_exceptions=True,
        )
        wrong = [one for one in answers if isinstance(one, BaseException)]
        if not wrong:
            return
        await asyncio.sleep(0.2 * (attempt + 1))
    raise ConnectionError(f"{plan.targets[0]}: {plan.model} does not answer: {words_of(wrong[0])}")


def golden_of(access: Access, folder: Path, model: str, digest: str) -> Any:
    """`golden.json` of a version in the registry, signed by a trusted key. Raises OciError."""
    authority, keys = folder / "ca.crt", folder / "signing.pub"
    authority.write_text(access.ca)
    keys.write_text(access.model_trust)
    user = (access.model_reader, access.model_reader_password)
    registry = Registry(access.model_registry, user, ca=authority)
    repository = Repository(registry, signing.trusted([keys]))
    return repository.golden(repository.show(model, digest)).model_dump(mode="json")


async def _serve(access: Access, specification: dict[str, Any], folder: Path) -> int:
    process = Process(access, specification, folder)
    try:
        await asyncio.to_thread(process.prepare)
    except (OciError, Unusable, ValueError) as error:
        clients.emit("error", thing=f"golden set of {specification['model']}", value=str(error))
        return 1
    loop = asyncio.get_running_loop()

    def command(value: dict[str, Any]) -> None:
        loop.call_soon_threadsafe(process.take, value)

    stop = clients.stop_asked(command)
    clients.emit("ready")
    await asyncio.to_thread(stop.wait)
    return 0


def main() -> int:
    """Say `ready`, then do what is asked until `stop` or the end of the input."""
    access, specification = clients.specification()
    with contextlib.suppress(OSError):  # who is not root waits like everybody
        # Real time: on a busy machine it was late by 10 ms and more (p99), so by 0.4 ms. It takes a
        # tenth to a fifth of a core at the rates of drills, and the kernel bounds the share.
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    # epoll's time-outs are whole milliseconds, select's are not: requests begin when they are due.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    with (
        tempfile.TemporaryDirectory(prefix="estate-load-") as folder,
        asyncio.Runner(loop_factory=lambda: loop) as runner,
    ):
        return runner.run(_serve(access, specification, Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
