"""Exchanges, queues and bindings as values; nothing here needs a broker."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import pytest

from aioresults import ConfigurationError, Exchange, Queue
from aioresults.messaging import Binding, NoCacheQueue
from aioresults.messaging.exchange import mode_of
from aioresults.transport import Channel

CHANNEL = cast("Channel", object())
OTHER = cast("Channel", object())


class TestValues:
    @pytest.mark.parametrize(
        "changes",
        [
            {"name": "y"},
            {"type": "topic"},
            {"durable": False},
            {"auto_delete": True},
            {"delivery_mode": 1},
            {"arguments": {"alternate-exchange": "z"}},
        ],
    )
    def test_exchanges(self, changes: dict[str, Any]) -> None:
        exchange = Exchange("x")
        assert exchange == Exchange("x", passive=True)
        assert hash(exchange) == hash(Exchange("x"))
        assert exchange != Exchange(**{"name": "x", **changes})

    @pytest.mark.parametrize(
        "changes",
        [
            {"name": "r"},
            {"exchange": "x"},
            {"routing_key": "k"},
            {"bindings": [Exchange("x").binding("k")]},
            {"durable": False},
            {"exclusive": True},
            {"auto_delete": True},
            {"queue_arguments": {"x-queue-type": "quorum"}},
            {"binding_arguments": {"x-match": "any"}},
            {"consumer_arguments": {"x-priority": 1}},
            {"expires": 1},
            {"message_ttl": 1},
            {"max_length": 1},
            {"max_length_bytes": 1},
            {"max_priority": 1},
        ],
    )
    def test_queues(self, changes: dict[str, Any]) -> None:
        queue = Queue("q")
        assert queue == Queue("q", no_ack=True, on_declared=print)
        assert hash(queue) == hash(Queue("q"))
        assert queue != Queue(**{"name": "q", **changes})

    def test_are_equal_whatever_they_are_bound_to(self) -> None:
        for entity in (Exchange("x"), Queue("q")):
            assert entity == entity(CHANNEL) == entity(OTHER)
            assert {entity, entity(CHANNEL)} == {entity}

    def test_a_queue_that_is_not_cached_equals_the_plain_one(self) -> None:
        assert NoCacheQueue("q") == Queue("q")
        assert Queue("q") != Exchange("q")
        assert Queue("q") != "q"

    def test_cannot_be_changed(self) -> None:
        for entity, name in ((Exchange("x"), "name"), (Queue("q"), "name"), (Exchange("x").binding(), "routing_key")):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(entity, name, "y")

    def test_attrs_describe_them(self) -> None:
        exchange = Exchange("x", "topic", durable=False, delivery_mode="transient", arguments={"a": 1})
        queue = Queue("q", exchange, "k", bindings=[exchange.binding("l")], expires=1, no_ack=True)
        for entity in (exchange, queue):
            again = type(entity)(**entity(CHANNEL).as_dict())
            assert again == entity
            assert not again.is_bound
            assert tuple(entity.as_dict()) == entity.attrs

    def test_repr_has_no_channel(self) -> None:
        assert "object at" not in repr(Queue("q", Exchange("x"))(CHANNEL))


class TestBinding:
    def test_copies_are_bound_and_the_original_is_not(self) -> None:
        queue = Queue("q", Exchange("x"))
        bound = queue(CHANNEL)
        assert (queue.is_bound, bound.is_bound, bound.exchange.channel) == (False, True, CHANNEL)
        assert bound(OTHER).channel is OTHER
        assert bound.channel is CHANNEL

    def test_keeps_the_class_and_what_a_subclass_adds(self) -> None:
        class Mine(Queue):
            pass

        mine = Mine("q")
        mine.__dict__["colour"] = "red"
        bound = mine(CHANNEL)
        assert type(bound) is Mine
        assert bound.__dict__["colour"] == "red"
        assert Exchange("x", channel=CHANNEL).is_bound

    def test_as_another_class(self) -> None:
        queue = Queue("q", Exchange("x"), expires=5)
        assert Queue.of(queue) is queue
        other = NoCacheQueue.of(queue)
        assert type(other) is NoCacheQueue
        assert other == queue

    def test_bindings(self) -> None:
        exchange = Exchange("x")
        assert exchange.binding("k", {"a": 1}) == Binding(exchange, "k", {"a": 1})
        assert Queue("q", [exchange.binding("a")]).bindings == (Binding(exchange, "a"),)
        assert Queue("q", [exchange.binding("a")], bindings=[exchange.binding("b")]).bindings == (
            Binding(exchange, "a"),
            Binding(exchange, "b"),
        )


class TestDeclarations:
    def test_which_can_be_cached(self) -> None:
        assert Exchange("x").can_cache_declaration
        assert not Exchange("x", auto_delete=True).can_cache_declaration
        assert Queue("q").can_cache_declaration
        assert not Queue("q", auto_delete=True).can_cache_declaration
        assert not Queue("q", queue_arguments={"x-expires": 1}).can_cache_declaration
        assert not Queue("q", expires=1).can_cache_declaration
        assert not NoCacheQueue("q").can_cache_declaration

    def test_arguments(self) -> None:
        queue = Queue(
            "q",
            expires=1.5,
            message_ttl=0.25,
            max_length=3,
            max_length_bytes=4,
            max_priority=5,
            queue_arguments={"x-queue-type": "classic"},
        )
        assert queue.arguments == {
            "x-queue-type": "classic",
            "x-expires": 1500,
            "x-message-ttl": 250,
            "x-max-length": 3,
            "x-max-length-bytes": 4,
            "x-max-priority": 5,
        }
        assert Queue("q").arguments is None
        with pytest.raises(ConfigurationError, match="expires"):
            Queue("q", expires=0)

    def test_an_exchange_by_its_name(self) -> None:
        assert Queue("q", "x").exchange == Exchange("x")
        assert Queue("q").exchange == Exchange()
        assert Exchange("x", "").type == "direct"

    def test_from_dict(self) -> None:
        queue = Queue.from_dict(
            "q",
            exchange="x",
            exchange_type="topic",
            routing_key="k",
            durable=False,
            queue_durable=True,
            exchange_auto_delete=True,
            delivery_mode="transient",
            exchange_arguments={"a": 1},
            queue_arguments={"b": 2},
            max_length=3,
        )
        assert queue.exchange == Exchange("x", "topic", None, False, True, 1, {"a": 1})
        assert (queue.durable, queue.auto_delete, queue.routing_key) == (True, False, "k")
        assert (queue.queue_arguments, queue.max_length) == ({"b": 2}, 3)
        assert Queue.from_dict("q", exchange=Exchange("x", "fanout")).exchange.type == "fanout"
        with pytest.raises(TypeError, match="colour"):
            Queue.from_dict("q", colour="red")


@pytest.mark.parametrize("value", [0, 3, True, "durable", 1.5, b"persistent"])
def test_delivery_modes_that_are_none(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="delivery_mode"):
        mode_of(value)


def test_delivery_modes() -> None:
    assert [mode_of(value) for value in (None, 1, 2, "transient", "persistent")] == [None, 1, 2, 1, 2]
