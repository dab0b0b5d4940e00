"""The load generator on real loopback servers, and on senders that do what a test says."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from rehearsal.golden import HEADER_LENGTH, Answer, Golden, Unusable
from rehearsal.load_client import Generator, Judge, warm
from rehearsal.load_figures import Plan, Result
from rehearsal.load_senders import Failed, GrpcSender, HttpSender, Sender
from tests.unit.rehearsal.golden_sets import golden_json

GOLDEN = Golden.of(golden_json())


def plan(**changes: Any) -> Plan:
    return Plan(
        **{"model": "m", "targets": ("http://x",), "rate": 200.0, "seconds": 0.5, **changes}
    )


def right(number: int, version: str = "1") -> Answer:
    return Answer(version, "stable", {"sum": GOLDEN.outputs[0].example(number)})


class Fake:
    """A sender that does what it is told."""

    def __init__(self, do: Callable[[int], Awaitable[Answer]]) -> None:
        self._do = do

    async def send(self, number: int) -> Answer:
        return await self._do(number)

    async def close(self) -> None:
        """Nothing is open."""


def run(
    do: Callable[[int], Awaitable[Answer]], judge: Judge | None = None, **changes: Any
) -> Result:
    async def work() -> Result:
        generator = Generator(plan(**changes), Fake(do), judge or Judge({"1": GOLDEN}))
        tally = await generator.run()
        return tally.result(time.monotonic(), generator.cpu_s)

    return asyncio.run(work())


async def at_once(number: int) -> Answer:
    return right(number)


def test_all_that_is_due_is_sent_and_judged() -> None:
    result = run(at_once)
    assert (result.sent, result.ok, result.failed) == (100, 100, {})
    assert result.versions == {"1": 100} and result.tracks == {"stable": 100}


def test_a_stall_is_in_the_latency_of_all_that_it_kept_waiting() -> None:
    began = time.monotonic()

    async def stalls(number: int) -> Answer:
        """Nothing is answered between 0.1 and 0.4 s."""
        now = time.monotonic() - began
        if 0.1 < now < 0.4:
            await asyncio.sleep(0.4 - now)
        return right(number)

    result = run(stalls, seconds=0.6)
    # A closed loop would have seen one slow request; here it is half of them.
    assert result.ok == 120
    assert result.latency.p90 > 150 and result.latency.max > 200


def test_a_generator_that_is_late_says_so_and_sends_all_the_same() -> None:
    blocked = False

    async def blocks(number: int) -> Answer:
        nonlocal blocked
        if not blocked:
            blocked = True
            time.sleep(0.2)  # the event loop itself
        return right(number)

    result = run(blocks)
    assert result.ok == 100
    assert result.late and result.lateness.max > 150 and result.latency.max > 150


def test_no_answer_in_time_is_a_failure_even_by_a_late_generator() -> None:
    async def never(_: int) -> Answer:
        await asyncio.sleep(30)
        raise AssertionError

    result = run(never, timeout_s=0.2, seconds=0.1)
    assert result.failed == {"timeout": 20}
    assert result.seconds < 5


def test_nothing_is_sent_again_unless_the_plan_says_so() -> None:
    calls = 0

    async def first_breaks(number: int) -> Answer:
        nonlocal calls
        calls += 1
        if calls <= 5:
            raise Failed("connection", "reset", lost=True)
        return right(number)

    result = run(first_breaks, seconds=0.1)
    assert result.failed == {"connection": 5} and calls == 20
    calls = 0
    result = run(first_breaks, seconds=0.1, retry_connection=1)
    assert result.failed == {} and result.all_ok
    assert result.first_failed == {"connection": 5} and result.retried == 5
    assert result.errors == {"reset": 5}


def test_only_what_was_lost_is_sent_again_and_only_so_often() -> None:
    calls = 0

    async def refuses(_: int) -> Answer:
        nonlocal calls
        calls += 1
        raise Failed("status", "HTTP 400")

    assert run(refuses, seconds=0.1, retry_connection=3).failed == {"status": 20}
    assert calls == 20

    async def lost(_: int) -> Answer:
        nonlocal calls
        calls += 1
        raise Failed("status", "HTTP 503", lost=True)

    calls = 0
    assert run(lost, seconds=0.1, retry_connection=2).failed == {"status": 20}
    assert calls == 60


def test_an_answer_is_judged_by_the_set_of_the_version_that_gave_it() -> None:
    async def second(number: int) -> Answer:
        return Answer("2", "", {"sum": GOLDEN.outputs[0].example(number) + 1})

    sets = {"1": GOLDEN, "2": Golden.of(golden_json(offset=1.0))}
    assert run(second, Judge(sets)).all_ok
    result = run(second, Judge({"1": GOLDEN, "2": GOLDEN}))
    assert result.failed == {"wrong": 100}
    assert "version 2: sum is up to 1 away" in result.errors


def test_an_answer_waits_for_the_set_of_its_version() -> None:
    judge = Judge({"1": GOLDEN})

    async def new(number: int) -> Answer:
        return Answer("2", "", {"sum": GOLDEN.outputs[0].example(number) + 1})

    async def work(learn: bool) -> Result:
        generator = Generator(plan(), Fake(new), judge)
        if learn:
            later = Golden.of(golden_json(offset=1.0))
            asyncio.get_running_loop().call_later(0.2, judge.know, "2", later)
        tally = await generator.run()
        return tally.result(time.monotonic(), 0.0)

    unknown = asyncio.run(work(learn=False))
    assert unknown.failed == {"wrong": 100}
    assert "no golden set is known" in next(iter(unknown.errors))
    assert asyncio.run(work(learn=True)).all_ok


def test_a_set_with_other_questions_is_refused() -> None:
    with pytest.raises(Unusable, match="other inputs"):
        Judge({"1": GOLDEN}).know("2", Golden.of(golden_json(examples=2)))


def test_a_load_without_an_end_ends_when_it_is_told() -> None:
    async def work() -> Result:
        generator = Generator(plan(seconds=None), Fake(at_once), Judge({"1": GOLDEN}))
        asyncio.get_running_loop().call_later(0.3, generator.end)
        tally = await generator.run()
        return tally.result(time.monotonic(), 0.0)

    result = asyncio.run(work())
    assert 20 < result.sent < 80 and result.all_ok


def test_clients_that_wait_for_their_answers_send_no_faster() -> None:
    async def slow(number: int) -> Answer:
        await asyncio.sleep(0.05)
        return right(number)

    result = run(slow, closed=4, seconds=0.5)
    assert result.all_ok and 24 <= result.sent <= 44


def test_what_does_not_answer_at_all_is_said_before_the_load() -> None:
    async def refused(_: int) -> Answer:
        raise Failed("connection", "refused", lost=True)

    with pytest.raises(ConnectionError, match="m does not answer: Failed refused"):
        asyncio.run(warm(Fake(refused), plan()))


# -- by real sockets -------------------------------------------------------------------------------


def _http(mood: list[str]) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
                body = await reader.readexactly(int(lines["content-length"]))
                match mood[0]:
                    case "breaks":
                        return
                    case "503":
                        writer.write(b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno")
                    case _:
                        at = int(lines[HEADER_LENGTH.lower()])
                        pair = np.frombuffer(body[at:], "<f4")
                        content = json.dumps(
                            {
                                "model_version": "1",
                                "outputs": [
                                    {
                                        "name": "sum",
                                        "datatype": "FP32",
                                        "shape": [1, 1],
                                        "data": [float(pair.sum())],
                                    }
                                ],
                            }
                        ).encode()
                        length = len(content)
                        writer.write(
                            b"HTTP/1.1 200 OK\r\nx-estate-track: canary\r\n"
                            b"Content-Length: %d\r\n\r\n%s" % (length, content)
                        )
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    return handle


@asynccontextmanager
async def http_server(mood: list[str]) -> AsyncIterator[str]:
    server = await asyncio.start_server(_http(mood), "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def grpc_server(mood: list[str]) -> AsyncIterator[str]:
    async def infer(request: Any, context: Any) -> Any:
        if mood[0] == "503":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no")
        if mood[0] == "refuses":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "bad")
        await context.send_initial_metadata((("x-estate-track", "canary"),))
        pair = np.frombuffer(request.raw_input_contents[0], "<f4")
        answer = service_pb2.ModelInferResponse(model_version="1")
        answer.outputs.add(name="sum", datatype="FP32", shape=[1, 1])
        answer.raw_output_contents.append(pair.sum().tobytes())
        return answer

    handler = grpc.unary_unary_rpc_method_handler(
        infer,
        request_deserializer=service_pb2.ModelInferRequest.FromString,
        response_serializer=service_pb2.ModelInferResponse.SerializeToString,
    )
    service = "inference.GRPCInferenceService"
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {"ModelInfer": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.stop(None)


def over(
    protocol: str, mood: list[str], work: Callable[[Sender, Plan], Coroutine[Any, Any, Any]]
) -> Any:
    async def inside() -> Any:
        server = http_server if protocol == "http" else grpc_server
        async with server(mood) as target:
            wanted = plan(targets=(target,), protocol=protocol, seconds=0.3)
            sender: Sender = (HttpSender if protocol == "http" else GrpcSender)(wanted, GOLDEN, "")
            try:
                return await work(sender, wanted)
            finally:
                await sender.close()

    return asyncio.run(inside())


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_requests_go_out_and_answers_come_back(protocol: str) -> None:
    async def work(sender: Sender, wanted: Plan) -> Result:
        await warm(sender, wanted)
        tally = await Generator(wanted, sender, Judge({"1": GOLDEN})).run()
        return tally.result(time.monotonic(), 0.0)

    result = over(protocol, ["well"], work)
    assert result.all_ok and result.sent == 60
    assert result.versions == {"1": 60} and result.tracks == {"canary": 60}


@pytest.mark.parametrize(
    "protocol, mood, kind, lost",
    [
        ("http", "503", "status", True),
        ("http", "breaks", "connection", True),
        ("grpc", "503", "connection", True),
        ("grpc", "refuses", "status", False),
    ],
)
def test_what_fails_is_told_by_kind(protocol: str, mood: str, kind: str, lost: bool) -> None:
    async def work(sender: Sender, _: Plan) -> Failed:
        with pytest.raises(Failed) as caught:
            await sender.send(0)
        return caught.value

    found = over(protocol, [mood], work)
    assert (found.kind, found.lost) == (kind, lost)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_nobody_there_is_a_lost_connection(protocol: str) -> None:
    async def work() -> Failed:
        wanted = plan(targets=("http://127.0.0.1:9",), protocol=protocol)
        sender: Sender = (HttpSender if protocol == "http" else GrpcSender)(wanted, GOLDEN, "")
        with pytest.raises(Failed) as caught:
            await asyncio.wait_for(sender.send(0), 10)
        await sender.close()
        return caught.value

    found = asyncio.run(work())
    assert found.lost and found.kind == "connection"
