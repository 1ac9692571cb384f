"""Where results go: pure answers."""

from __future__ import annotations

import uuid
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioresults import ConfigurationError, Exchange, QueuePerTask, ReplyQueue, Request
from aioresults.routing import Routing, RoutingOptions

OPTIONS = RoutingOptions(expires=86400)
TASK = "0f2a1c9e-3d4b-4a5f-8c6d-7e8f9a0b1c2d"


@pytest.mark.parametrize(
    ("routing", "rkey"),
    [
        (QueuePerTask(), f"aioresults.task.{TASK}"),
        (QueuePerTask(last_value=True), f"aioresults.task.{TASK}"),
        (QueuePerTask.celery(), TASK.replace("-", "")),
        (QueuePerTask.celery_amqp_backend(), f"celeryresults.{TASK}"),
        (ReplyQueue(), TASK),
    ],
    ids=repr,
)
def test_the_routing_key_of_a_task(routing: Any, rkey: str) -> None:
    assert routing.configured(OPTIONS).rkey(TASK) == rkey


def test_a_routing_is_a_value() -> None:
    assert QueuePerTask() == QueuePerTask()
    assert QueuePerTask.celery() == QueuePerTask.celery() != QueuePerTask()
    assert hash(QueuePerTask()) == hash(QueuePerTask())
    with pytest.raises(FrozenInstanceError):
        QueuePerTask().last_value = True  # type: ignore[misc]
    configured = QueuePerTask().configured(OPTIONS)
    assert configured.configured(OPTIONS) == configured


class TestQueuePerTask:
    @given(st.text(min_size=1, max_size=60))
    def test_two_ids_never_share_a_queue(self, task_id: str) -> None:
        routing = QueuePerTask().configured(OPTIONS)
        try:
            key = routing.rkey(task_id)
        except ConfigurationError:
            return
        assert key == f"aioresults.task.{task_id}"

    @given(st.uuids(), st.uuids())
    def test_two_uuids_never_share_a_queue_of_celery_s(self, one: uuid.UUID, other: uuid.UUID) -> None:
        routing = QueuePerTask.celery()
        assert (routing.rkey(str(one)) == routing.rkey(str(other))) is (one == other)

    @given(st.text(max_size=40))
    def test_celery_s_layout_takes_uuids_alone(self, task_id: str) -> None:
        try:
            QueuePerTask.celery().rkey(task_id)
        except ConfigurationError:
            return
        assert len(uuid.UUID(task_id).hex) == 32

    @pytest.mark.parametrize("task_id", [TASK, TASK.upper(), TASK.replace("-", "")])
    def test_the_ways_to_write_a_uuid(self, task_id: str) -> None:
        assert QueuePerTask.celery().rkey(task_id) == task_id.replace("-", "")

    def test_the_exchange_exists_before_a_session_is_used(self) -> None:
        assert list(QueuePerTask().configured(OPTIONS).topology()) == []
        assert list(QueuePerTask.celery().configured(OPTIONS).topology()) == [Exchange("celeryresults", durable=True)]
        transient = QueuePerTask.celery().configured(RoutingOptions(persistent=False))
        assert list(transient.topology()) == [Exchange("celeryresults", durable=False)]

    def test_the_correlation_id_is_the_request_s_or_the_task_s(self) -> None:
        routing = QueuePerTask()
        assert routing.destination_for("key", TASK, None) == ("key", TASK)
        assert routing.destination_for("key", TASK, Request()) == ("key", TASK)
        assert routing.destination_for("key", TASK, Request(correlation_id="c")) == ("key", "c")
        assert routing.destination_for("key", TASK, object()) == ("key", TASK)

    def test_there_is_no_address(self) -> None:
        routing: Routing = QueuePerTask().configured(OPTIONS)
        assert routing.inbox() is None

    def test_the_queue_of_a_task(self) -> None:
        queue = QueuePerTask(last_value=True).configured(RoutingOptions(expires=1.5)).queue("key")
        assert queue is not None
        assert (queue.name, queue.durable, queue.exclusive, queue.auto_delete) == ("key", True, False, False)
        assert queue.queue_arguments == {"x-queue-type": "classic", "x-expires": 1500, "x-max-length": 1}
        queue = QueuePerTask().configured(RoutingOptions(expires=None, auto_delete=True)).queue("key")
        assert queue is not None
        assert queue.auto_delete
        assert queue.queue_arguments == {"x-queue-type": "classic"}


class TestReplyQueue:
    def test_the_address_is_random_or_named(self) -> None:
        routing = ReplyQueue().configured(OPTIONS)
        one, other = (routing.inbox().name for _ in range(2))  # one for each time a backend is opened
        assert one.startswith("aioresults.inbox.")
        assert one != other
        assert ReplyQueue("api-1").configured(OPTIONS).inbox().name == "aioresults.inbox.api-1"

    def test_the_inbox(self) -> None:
        for queue_type in ("classic", "quorum"):
            inbox = ReplyQueue("x", queue_type).configured(RoutingOptions(expires=60)).inbox()
            assert (inbox.name, inbox.durable, inbox.exclusive, inbox.auto_delete) == (
                "aioresults.inbox.x", True, False, False,
            )  # fmt: skip
            arguments: dict[str, Any] = {"x-queue-type": queue_type, "x-expires": 60_000}
            if queue_type == "quorum":
                arguments["x-consumer-disconnected-timeout"] = 1000
            assert inbox.queue_arguments == {**arguments, "x-single-active-consumer": True}
            unnamed = ReplyQueue(queue_type=queue_type).configured(RoutingOptions(expires=60)).inbox()
            assert unnamed.queue_arguments == arguments

    def test_a_result_goes_to_who_asked(self) -> None:
        routing = ReplyQueue().configured(OPTIONS)
        assert routing.destination_for(TASK, TASK, Request("there", "c")) == ("there", "c")
        assert routing.destination_for(TASK, TASK, Request("there")) == ("there", TASK)
        for request in (None, object(), Request()):
            with pytest.raises(ConfigurationError, match="no reply_to"):
                routing.destination_for(TASK, TASK, request)

    def test_only_inboxes_of_ours_get_batches(self) -> None:
        routing = ReplyQueue()
        assert routing.coalesces("aioresults.inbox.x")
        assert not routing.coalesces("0f2a1c9e3d4b4a5f8c6d7e8f9a0b1c2d")

    @pytest.mark.parametrize("name", ["", "x" * 300, "\ud800", 5])
    def test_a_name_that_cannot_be_one(self, name: Any) -> None:
        with pytest.raises(ConfigurationError, match="name of an inbox"):
            ReplyQueue(name)

    def test_a_queue_type_that_cannot_be_one(self) -> None:
        with pytest.raises(ConfigurationError, match="one of 'classic', 'quorum', not 'stream'"):
            ReplyQueue(queue_type="stream")
