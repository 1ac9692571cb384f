"""What a channel of aiormq sends, before and after its close was sent past it."""

from __future__ import annotations

from aiormq import spec
from aiormq.abc import ChannelFrame

from aioresults.transport.amqp.frame_queue import FrameQueue


async def test_frames_are_sent_at_once_until_the_channel_is_closing() -> None:
    sent: list[bytes] = []
    closing: list[bool] = []
    queue = FrameQueue(sent.append, lambda: bool(closing))
    declare, cancel_ok, close_ok = (
        ChannelFrame.marshall(1, [frame])
        for frame in (spec.Queue.Declare(queue="q"), spec.Basic.CancelOk("tag"), spec.Channel.CloseOk())
    )
    await queue.put(declare)
    queue.put_nowait(cancel_ok)
    assert sent == [declare.payload, cancel_ok.payload]
    closing.append(True)
    await queue.put(declare)
    await queue.put(cancel_ok)
    queue.put_nowait(close_ok)
    assert sent[2:] == [close_ok.payload]
