"""Publishes and the broker's answers to them."""

from __future__ import annotations

import asyncio

from aioresults.errors import AioResultsError, BrokerUnavailable, MessageNacked, MessageReturned
from aioresults.transport.amqp.channel import Confirms


def outcomes(futures: list[asyncio.Future[None]]) -> list[type[BaseException] | str]:
    def outcome(future: asyncio.Future[None]) -> type[BaseException] | str:
        if not future.done():
            return "pending"
        if future.cancelled():
            return "cancelled"
        error = future.exception()
        return "confirmed" if error is None else type(error)

    return [outcome(future) for future in futures]


def publishes(confirms: Confirms, count: int) -> list[asyncio.Future[None]]:
    return [confirms.expect(f"id-{number}") for number in range(1, count + 1)]


async def test_answers_of_one_and_of_many() -> None:
    confirms = Confirms()
    futures = publishes(confirms, 6)
    confirms.answer(2, multiple=False, ack=True)
    assert outcomes(futures) == ["pending", "confirmed", "pending", "pending", "pending", "pending"]
    confirms.answer(4, multiple=True, ack=True)
    assert outcomes(futures) == ["confirmed"] * 4 + ["pending"] * 2
    confirms.answer(6, multiple=True, ack=False)
    assert outcomes(futures) == ["confirmed"] * 4 + [MessageNacked] * 2
    assert len(confirms) == 0
    confirms.answer(6, multiple=False, ack=True)  # once more: nobody waits for it


async def test_a_message_that_comes_back_is_known_by_its_id() -> None:
    confirms = Confirms()
    futures = [*publishes(confirms, 3), confirms.expect("id-2")]
    error: AioResultsError = MessageReturned("", "q")
    assert isinstance(error, MessageReturned)
    confirms.give_back("id-2", error)
    assert outcomes(futures) == ["pending", MessageReturned, "pending", "pending"]
    confirms.give_back("id-2", error)
    confirms.give_back("of somebody else", error)
    confirms.give_back(None, error)
    assert outcomes(futures) == ["pending", MessageReturned, "pending", MessageReturned]
    confirms.answer(4, multiple=True, ack=True)
    assert outcomes(futures) == ["confirmed", MessageReturned, "confirmed", MessageReturned]


async def test_who_left_is_not_told() -> None:
    confirms = Confirms()
    futures = publishes(confirms, 3)
    for future in futures:
        future.cancel()
    confirms.give_back("id-1", MessageReturned("", "q"))
    confirms.answer(2, multiple=True, ack=False)
    confirms.fail(BrokerUnavailable("lost"))
    assert outcomes(futures) == ["cancelled"] * 3
    assert len(confirms) == 0


async def test_what_was_not_answered_fails() -> None:
    confirms = Confirms()
    futures = publishes(confirms, 2)
    confirms.answer(1, multiple=False, ack=True)
    confirms.fail(BrokerUnavailable("lost"))
    assert outcomes(futures) == ["confirmed", BrokerUnavailable]
