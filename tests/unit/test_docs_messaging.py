"""Every name and parameter of the old `AMQPBackend` page is in `docs/messaging.md`, and what it says is there."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import tests
from aioresults import api, messaging, states

TESTS = Path(tests.__file__).parent
DOCUMENT = TESTS.parent / "docs" / "messaging.md"

#: The page: Celery 3.1's reference of `celery.backends.amqp`, with the parameters that were added up to 4.4.
PAGE = """
BacklogLimitExceeded
NoCacheQueue
repair_uuid(s)
AMQPBackend(app, connection, exchange, exchange_type, persistent, serializer, auto_delete)
AMQPBackend.BacklogLimitExceeded
AMQPBackend.Consumer(channel, queues, no_ack, auto_declare, callbacks, on_decode_error, on_message, accept, prefetch_count, tag_prefix)
AMQPBackend.Consumer.ContentDisallowed
AMQPBackend.Consumer.accept
AMQPBackend.Consumer.add_queue(queue)
AMQPBackend.Consumer.add_queue_from_dict(queue, options)
AMQPBackend.Consumer.auto_declare
AMQPBackend.Consumer.callbacks
AMQPBackend.Consumer.cancel()
AMQPBackend.Consumer.cancel_by_queue(queue)
AMQPBackend.Consumer.channel
AMQPBackend.Consumer.close()
AMQPBackend.Consumer.connection
AMQPBackend.Consumer.consume(no_ack)
AMQPBackend.Consumer.consuming_from(queue)
AMQPBackend.Consumer.declare()
AMQPBackend.Consumer.flow(active)
AMQPBackend.Consumer.no_ack
AMQPBackend.Consumer.on_decode_error
AMQPBackend.Consumer.on_message
AMQPBackend.Consumer.prefetch_count
AMQPBackend.Consumer.purge()
AMQPBackend.Consumer.qos(prefetch_size, prefetch_count, apply_global)
AMQPBackend.Consumer.queues
AMQPBackend.Consumer.receive(body, message)
AMQPBackend.Consumer.recover(requeue)
AMQPBackend.Consumer.register_callback(callback)
AMQPBackend.Consumer.revive(channel)
AMQPBackend.Exchange(name, type, channel, durable, auto_delete, delivery_mode, arguments, passive)
AMQPBackend.Exchange.Message(body, delivery_mode, priority, content_type, content_encoding, properties, headers)
AMQPBackend.Exchange.PERSISTENT_DELIVERY_MODE
AMQPBackend.Exchange.TRANSIENT_DELIVERY_MODE
AMQPBackend.Exchange.attrs
AMQPBackend.Exchange.auto_delete
AMQPBackend.Exchange.bind_to(exchange, routing_key, arguments, nowait)
AMQPBackend.Exchange.binding(routing_key, arguments, unbind_arguments)
AMQPBackend.Exchange.can_cache_declaration
AMQPBackend.Exchange.declare(nowait, passive)
AMQPBackend.Exchange.delete(if_unused, nowait)
AMQPBackend.Exchange.delivery_mode
AMQPBackend.Exchange.durable
AMQPBackend.Exchange.name
AMQPBackend.Exchange.passive
AMQPBackend.Exchange.publish(message, routing_key, mandatory, immediate, exchange)
AMQPBackend.Exchange.type
AMQPBackend.Exchange.unbind_from(source, routing_key, nowait, arguments)
AMQPBackend.Producer(channel, exchange, routing_key, serializer, auto_declare, compression, on_return)
AMQPBackend.Producer.auto_declare
AMQPBackend.Producer.channel
AMQPBackend.Producer.close()
AMQPBackend.Producer.compression
AMQPBackend.Producer.connection
AMQPBackend.Producer.declare()
AMQPBackend.Producer.exchange
AMQPBackend.Producer.maybe_declare(entity, retry, retry_policy)
AMQPBackend.Producer.on_return
AMQPBackend.Producer.publish(body, routing_key, delivery_mode, mandatory, immediate, priority, content_type, content_encoding, serializer, headers, compression, exchange, retry, retry_policy, declare, expiration, timeout, properties)
AMQPBackend.Producer.release()
AMQPBackend.Producer.revive(channel)
AMQPBackend.Producer.routing_key
AMQPBackend.Producer.serializer
AMQPBackend.Queue
AMQPBackend.consume(task_id, timeout, no_ack, on_interval)
AMQPBackend.delete_group(group_id)
AMQPBackend.destination_for(task_id, request)
AMQPBackend.drain_events(connection, consumer, timeout, on_interval, now, wait)
AMQPBackend.get_many(task_ids, timeout, no_ack, on_message, on_interval, now, getfields, READY_STATES, PROPAGATE_STATES)
AMQPBackend.get_task_meta(task_id, backlog_limit)
AMQPBackend.on_reply_declare(task_id)
AMQPBackend.persistent
AMQPBackend.poll(task_id, backlog_limit)
AMQPBackend.reload_group_result(task_id)
AMQPBackend.reload_task_result(task_id)
AMQPBackend.restore_group(group_id, cache)
AMQPBackend.retry_policy
AMQPBackend.revive(channel)
AMQPBackend.rkey(task_id)
AMQPBackend.save_group(group_id, result)
AMQPBackend.store_result(task_id, result, status, traceback, request)
AMQPBackend.supports_autoexpire
AMQPBackend.supports_native_join
AMQPBackend.wait_for(task_id, timeout, cache, propagate, no_ack, on_interval, READY_STATES, PROPAGATE_STATES)
"""  # noqa: E501

NAMES = {"messaging": messaging, "states": states, **vars(api)}


class Row(NamedTuple):
    """One line of the table."""

    name: str
    parameters: tuple[str, ...]
    here: str
    why: str
    test: str


def split(text: str) -> tuple[str, tuple[str, ...]]:
    """Return name and parameters of `name(parameter, ...)`."""
    name, _, rest = text.strip("`").partition("(")
    return name, tuple(part.strip() for part in rest.rstrip(")").split(",") if part.strip())


def rows() -> Iterator[Row]:
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 4:
            yield Row(*split(cells[0]), *cells[1:])


def resolve(path: str) -> Any:
    """Return what a dotted name stands for; `AttributeError` or `KeyError` when there is nothing."""
    first, *rest = path.split(".")
    found = NAMES[first]
    for name in rest:
        found = getattr(found, name)
    return found


ROWS = list(rows())


def test_every_name_and_parameter_is_there() -> None:
    told: dict[str, set[str]] = {}
    for row in ROWS:
        told.setdefault(row.name, set()).update(row.parameters)
    missing = [
        f"{name}({parameter})" if parameter else name
        for name, parameters in map(split, PAGE.split("\n")[1:-1])
        for parameter in parameters or ("",)
        if name not in told or (parameter and parameter not in told[name])
    ]
    assert not missing


def test_nothing_else_is_there() -> None:
    page = {name: set(parameters) for name, parameters in map(split, PAGE.split("\n")[1:-1])}
    assert not [row for row in ROWS if not page.get(row.name, {None}) >= set(row.parameters)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.name}({','.join(row.parameters)})")
def test_what_it_says(row: Row) -> None:
    if row.here == "same":
        found = resolve(row.name)
        taken = inspect.signature(found).parameters if row.parameters else ()
        assert set(row.parameters) <= set(taken)
    elif row.here == "—":
        assert row.why
        with pytest.raises((AttributeError, KeyError, AssertionError)):
            assert set(row.parameters) <= set(inspect.signature(resolve(row.name)).parameters)
    else:
        assert row.why
        assert resolve(row.here.strip("`")) is not None
    if row.test:
        file, _, name = row.test.strip("`").partition("::")
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        kinds = ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, kinds)}
    else:
        assert re.search("yet", row.why)  # only what is still to come is not shown
