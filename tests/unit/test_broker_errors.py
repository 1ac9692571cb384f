"""The broker's codes and texts, as RabbitMQ 3.10 and 4.3 write them."""

from __future__ import annotations

import pytest

from aioresults import errors
from aioresults.transport.broker_errors import channel_error, connect_error, message_size_limit


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (403, "ACCESS_REFUSED - access to queue 'q' in vhost '/' refused for user 'u'", errors.AccessRefused),
        (404, "NOT_FOUND - no queue 'q' in vhost '/'", errors.NotFound),
        (
            405,
            "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'",
            errors.ResourceLocked,
        ),
        (406, "PRECONDITION_FAILED - unknown delivery tag 5", errors.PreconditionFailed),
        (
            406,
            "PRECONDITION_FAILED - queue 'queue 's' in vhost '/'' does not have a replica on the local node",
            errors.ChannelClosed,  # it may pass
        ),
        (
            406,
            "PRECONDITION_FAILED - stream queue 's' in vhost '/' does not have a running replica on the local node",
            errors.ChannelClosed,  # it may pass: so says 4.3
        ),
        (504, "CHANNEL_ERROR - expected 'channel.open'", errors.ChannelClosed),
        (541, "INTERNAL_ERROR", errors.ChannelClosed),
        (None, "", errors.ChannelClosed),
    ],
)
def test_a_closed_channel(code: int | None, text: str, kind: type[errors.ChannelError]) -> None:
    error = channel_error(code, text)
    assert type(error) is kind
    if code is not None:
        assert (error.reply_code, error.reply_text) == (code, text)


@pytest.mark.parametrize(
    ("text", "argument", "entity", "name", "declared", "existing"),
    [
        (
            "PRECONDITION_FAILED - inequivalent arg 'x-expires' for queue 'q' in vhost '/': received the value '1' "
            "of type 'signedint' but current is the value '2' of type 'signedint'",
            "x-expires", "queue", "q", "the value '1' of type 'signedint'", "the value '2' of type 'signedint'",
        ),
        (
            "PRECONDITION_FAILED - inequivalent arg 'durable' for exchange 'celeryresults' in vhost '/': "
            "received 'false' but current is 'true'",
            "durable", "exchange", "celeryresults", "'false'", "'true'",
        ),
        (
            "PRECONDITION_FAILED - inequivalent arg 'x-expires' for queue 'it's' in vhost 'v'': received none "
            "but current is the value '86400000' of type 'long'",
            "x-expires", "queue", "it's", "none", "the value '86400000' of type 'long'",
        ),
    ],
)  # fmt: skip
def test_an_argument_that_differs(
    text: str, argument: str, entity: str, name: str, declared: str, existing: str
) -> None:
    error = channel_error(406, text)
    assert isinstance(error, errors.InequivalentArgument)
    assert (error.argument, error.entity, error.name) == (argument, entity, name)
    assert (error.declared, error.existing) == (declared, existing)
    assert str(error) == f"406 {text}"


@pytest.mark.parametrize(
    ("code", "text", "refused"),
    [
        (403, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN.", True),
        (530, "NOT_ALLOWED - vhost nono not found", True),
        (530, "NOT_ALLOWED - access to vhost 'v' refused for user 'u'", True),
        (530, "NOT_ALLOWED - connection limit (1) is reached", False),
        (320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'", False),
        (541, "INTERNAL_ERROR - access to vhost 'v' refused: vhost is down", False),
        (None, "", False),
    ],
)
def test_a_connection_that_is_closed_while_it_opens(code: int | None, text: str, refused: bool) -> None:
    error = connect_error(code, text)
    assert isinstance(error, errors.BrokerRefused) is refused
    assert isinstance(error, errors.BrokerUnavailable)
    assert text in str(error)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("PRECONDITION_FAILED - message size 20971520 is larger than configured max size 16777216", 16777216),
        ("PRECONDITION_FAILED - message size 134217729 is larger than max size 134217728", 134217728),
        ("PRECONDITION_FAILED - unknown delivery tag 5", None),
        ("", None),
    ],
)
def test_a_limit_of_size(text: str, limit: int | None) -> None:
    assert message_size_limit(text) == limit


def test_a_queue_whose_node_is_down_is_not_a_queue_that_is_not_there() -> None:
    text = "NOT_FOUND - home node 'rabbit@a' of durable queue 'q' in vhost '/' is down or inaccessible"
    assert type(channel_error(404, text)) is errors.ChannelClosed
