"""Frames of messages go to their channels, the others to aiormq, each whole and in order, however they come."""

from __future__ import annotations

import asyncio
from typing import Any

import pamqp.frame
import pytest
from aiormq import spec
from aiormq.connection import FrameReceiver
from aiormq.exceptions import AMQPConnectionError, InvalidFrameError
from hypothesis import given
from hypothesis import strategies as st
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from aioresults.transport.amqp import frames
from aioresults.transport.amqp.arrivals import Arrivals
from aioresults.transport.amqp.frame_reader import FrameReader
from aioresults.transport.base import Properties


class Log:
    """What a channel was told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def delivered(self, *fields: Any) -> None:
        self.told.append(("delivered", *fields))

    def fetched(self, *fields: Any) -> None:
        self.told.append(("fetched", *fields))

    def fetched_nothing(self) -> None:
        self.told.append(("nothing",))

    def returned(self, *fields: Any) -> None:
        self.told.append(("returned", *fields))

    def confirmed(self, delivery_tag: int, *, multiple: bool, ack: bool) -> None:
        self.told.append(("confirmed", delivery_tag, multiple, ack))


def marshal(channel: int, *written: Any) -> bytes:
    return b"".join(pamqp.frame.marshal(frame, channel) for frame in written)


def content(body: bytes) -> tuple[Any, ...]:
    chunks = [ContentBody(body[start : start + 10]) for start in range(0, len(body), 10)]
    properties = spec.Basic.Properties(correlation_id="c", headers={"a": "b"})
    return (ContentHeader(0, len(body), properties), *chunks)


READ = Properties(correlation_id="c", headers={"a": "b"})

Event = tuple[bytes, tuple[Any, ...]]


def event(kind: str, number: int) -> Event:
    """Return the frames of one thing that happens on channel 1, and what is told of it."""
    body = b"x" * (number % 35)
    match kind:
        case "deliver":
            deliver = spec.Basic.Deliver("tag", number, bool(number % 2), "exchange", "key")
            told = ("delivered", "tag", number, bool(number % 2), "exchange", "key", READ, body)
            return marshal(1, deliver, *content(body)), told
        case "get":
            got = spec.Basic.GetOk(number, False, "exchange", "key", 7)
            return marshal(1, got, *content(body)), ("fetched", number, False, "exchange", "key", 7, READ, body)
        case "empty":
            return marshal(1, spec.Basic.GetEmpty()), ("nothing",)
        case "return":
            returned = spec.Basic.Return(312, "NO_ROUTE", "exchange", "key")
            return marshal(1, returned, *content(body)), ("returned", 312, "NO_ROUTE", "exchange", "key", READ, body)
        case "ack":
            return marshal(1, spec.Basic.Ack(number, number % 2 == 1)), ("confirmed", number, number % 2 == 1, True)
        case _:
            return marshal(1, spec.Basic.Nack(number, number % 2 == 1)), ("confirmed", number, number % 2 == 1, False)


KINDS = st.sampled_from(["deliver", "get", "empty", "return", "ack", "nack"])
FOREIGN = st.sampled_from([("heartbeat", 0), ("ours", 1), ("theirs", 2)])


def foreign(what: str, number: int) -> tuple[bytes, list[tuple[int, str]]]:
    """Return frames that are aiormq's, and their channels and names."""
    match what:
        case "heartbeat":
            return bytes([8, 0, 0, 0, 0, 0, 0, 0xCE]), [(0, "Heartbeat")]
        case "ours":
            return marshal(1, spec.Queue.DeclareOk("q", number, 0)), [(1, "Queue.DeclareOk")]
        case _:
            deliver = spec.Basic.Deliver("tag", number, False, "", "q")
            names = ["Basic.Deliver", "ContentHeader", "ContentBody"]
            return marshal(2, deliver, *content(b"theirs")), [(2, name) for name in names]


async def read(chunks: list[bytes]) -> tuple[list[tuple[Any, ...]], list[tuple[int, str]]]:
    log, stream = Log(), asyncio.StreamReader()
    reader = FrameReader(stream)
    reader.channels[1] = Arrivals(log).take
    receiver = FrameReceiver(stream)
    receiver.reader = reader  # type: ignore[assignment]
    seen: list[tuple[int, str]] = []

    async def receive() -> None:
        async for _, channel, frame in receiver:
            seen.append((channel, frame.name))

    receiving = asyncio.create_task(receive())
    await asyncio.sleep(0)
    for chunk in chunks:
        stream.feed_data(chunk)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    stream.feed_eof()
    with pytest.raises(AMQPConnectionError):
        await receiving
    return log.told, seen


@given(st.data(), st.lists(st.tuples(KINDS, st.integers(1, 2**40)) | FOREIGN, max_size=8))
def test_every_frame_comes_once_and_in_order(data: st.DataObject, things: list[tuple[str, int]]) -> None:
    written, told, seen = b"", [], []
    for kind, number in things:
        if kind in {"heartbeat", "ours", "theirs"}:
            frame, names = foreign(kind, number)
            seen += names
        else:
            frame, tells = event(kind, number)
            told.append(tells)
        written += frame
    cuts = sorted(data.draw(st.lists(st.integers(0, len(written)), max_size=12)))
    chunks = [written[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(written)], strict=True)]
    assert asyncio.run(read([chunk for chunk in chunks if chunk])) == (told, seen)


@pytest.mark.parametrize("already", range(1, 40, 3))
async def test_a_frame_that_aiormq_is_reading_stays_its_own(already: int) -> None:
    """The reader takes the stream's place at any moment."""
    first, ours = marshal(1, spec.Queue.DeclareOk("some-queue-of-a-name", 1, 0)), event("deliver", 5)
    log, stream = Log(), asyncio.StreamReader()
    receiver = FrameReceiver(stream)
    receiving = asyncio.create_task(receiver.get_frame())
    stream.feed_data(first[:already])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    receiver.reader = FrameReader(stream)  # type: ignore[assignment]
    receiver.reader.channels[1] = Arrivals(log).take  # type: ignore[attr-defined]
    stream.feed_data(first[already:] + ours[0] + marshal(1, spec.Queue.BindOk()))
    assert (await receiving)[2].name == "Queue.DeclareOk"
    assert (await receiver.get_frame())[2].name == "Queue.BindOk"
    assert log.told == [ours[1]]


async def test_others_have_their_turn_between_many_messages() -> None:
    log, stream = Log(), asyncio.StreamReader()
    reader = FrameReader(stream)
    reader.channels[1] = Arrivals(log).take
    frame, _ = event("deliver", 5)
    count = 200_000 // len(frame)
    stream.feed_data(frame * count)
    stream.feed_eof()
    assert not reader.at_eof()
    reading = asyncio.create_task(reader.readexactly(1))
    seen = set()
    while not reading.done():
        await asyncio.sleep(0)
        seen.add(len(log.told))
    with pytest.raises(asyncio.IncompleteReadError):
        await reading
    assert len(log.told) == count
    assert len(seen) >= 6


DELIVER, HEADER, BODY = (
    marshal(1, each) for each in (spec.Basic.Deliver("tag", 1, False, "", "q"), *content(b"0123456789"))
)


@pytest.mark.parametrize(
    "written",
    [
        HEADER,
        BODY,
        DELIVER + DELIVER,
        DELIVER + BODY,
        DELIVER + HEADER + HEADER,
        DELIVER + HEADER + marshal(1, ContentBody(b"01234567890")),
        DELIVER[:-1] + b"\x00",
        bytes([1, 0, 1, 0, 0, 0, 5, 0, 60, 0, 60, 200, 0xCE]),
        bytes([1, 0, 1, 0, 0, 0, 5, 0, 60, 0, 80, 200, 0xCE]),
        bytes([2, 0, 1, 0, 0, 0, 1, 0, 0xCE]),
    ],
)
async def test_frames_that_cannot_be_read_end_the_connection(written: bytes) -> None:
    stream = asyncio.StreamReader()
    receiver = FrameReceiver(stream)
    receiver.reader = FrameReader(stream)  # type: ignore[assignment]
    receiver.reader.channels[1] = Arrivals(Log()).take  # type: ignore[attr-defined]
    stream.feed_data(written)
    with pytest.raises(InvalidFrameError):
        await asyncio.wait_for(receiver.get_frame(), 30)


@pytest.mark.parametrize("size", [0, 1, 92, 93, 1000])
async def test_a_message_that_is_written_is_read(size: int) -> None:
    """A published one differs from a delivered one in its method only."""
    body = bytes(range(256))[:size] * 4
    written = frames.publish(1, body, READ, "exchange", "key", mandatory=True, max_size=100)
    stream = asyncio.StreamReader()
    stream.feed_data(written)
    receiver = FrameReceiver(stream)
    _, channel, publish = await receiver.get_frame()
    assert (channel, publish.exchange, publish.routing_key, publish.mandatory) == (1, "exchange", "key", True)  # type: ignore[union-attr]
    _, _, header = await receiver.get_frame()
    assert isinstance(header, ContentHeader)
    assert header.body_size == len(body)
    chunks: list[bytes] = []
    while sum(len(chunk) for chunk in chunks) < len(body):
        _, _, received = await receiver.get_frame()
        assert isinstance(received, ContentBody)
        assert len(received.value) <= 92
        chunks.append(received.value)
    assert b"".join(chunks) == body


def test_acknowledgements_are_as_pamqp_writes_them() -> None:
    for multiple in (False, True):
        assert frames.ack(3, 2**40, multiple=multiple) == marshal(3, spec.Basic.Ack(2**40, multiple))
        for requeue in (False, True):
            nack = frames.nack(3, 5, multiple=multiple, requeue=requeue)
            assert nack == marshal(3, spec.Basic.Nack(5, multiple, requeue))
