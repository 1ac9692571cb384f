"""What goes wrong, each under a name: a fault strikes, lasts, and is over when its coroutine returns."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from time import sleep
from typing import Final

from aioresults import AioResultsError, ChannelError
from tests.chaos.load import Pair
from tests.nodes import Node, until_login
from tests.proxy import Direction

#: The user that the load logs in as.
USER: Final = "chaos"
PASSWORD: Final = "chaos-password"
#: Bytes after which a connection is cut; a confirm is small.
SOON: Final = {"to_server": 30_000, "to_client": 3_000}


@dataclass
class Site:
    """What there is to break."""

    nodes: list[Node]
    pairs: list[Pair]
    rng: random.Random

    def node(self) -> Node:
        """Return any node."""
        return self.rng.choice(self.nodes)

    def pair(self) -> Pair:
        """Return any pair."""
        return self.rng.choice(self.pairs)

    async def lasts(self, least: float, most: float) -> None:
        """Let some seconds pass."""
        await asyncio.sleep(self.rng.uniform(least, most))

    async def ctl(self, *args: str, node: Node | None = None) -> None:
        """Run rabbitmqctl."""
        await asyncio.to_thread((node or self.nodes[0]).ctl, *args)


#: Returns when the fault is over, with the time from which recovery counts if that is an earlier one.
Strike = Callable[[Site], Awaitable[float | None]]


@dataclass(frozen=True)
class Fault:
    """Strikes ``weight`` times in each round."""

    name: str
    strike: Strike
    weight: int = 1
    #: Needs a cluster.
    clustered: bool = False


async def worker_reset(site: Site) -> None:
    site.pair().there.drop()


async def caller_reset(site: Site) -> None:
    site.pair().here.drop()


async def all_reset_again_and_again(site: Site) -> None:
    for _ in range(5):
        for pair in site.pairs:
            pair.here.drop()
            pair.there.drop()
        await site.lasts(0, 0.1)


async def nobody_listens(site: Site) -> None:
    pair = site.pair()
    for proxy in (pair.here, pair.there):
        proxy.cut()
    await site.lasts(0.2, 2)
    for proxy in (pair.here, pair.there):
        await proxy.restore()


async def half_open(site: Site) -> None:
    pair = site.pair()
    proxy = site.rng.choice([pair.here, pair.there])
    proxy.stall()
    await site.lasts(0.2, 2)
    proxy.drop()
    proxy.resume()


async def stalled(site: Site) -> None:
    pair = site.pair()
    for proxy in (pair.here, pair.there):
        proxy.stall()
    await site.lasts(0.2, 2)
    for proxy in (pair.here, pair.there):
        proxy.resume()


async def slow(site: Site) -> None:
    pair = site.pair()
    for proxy in (pair.here, pair.there):
        proxy.slow(20_000)
    await site.lasts(0.5, 1.5)
    for proxy in (pair.here, pair.there):
        proxy.slow(None)


async def _cut_after_some_bytes(site: Site, side: str, direction: Direction) -> None:
    proxy = getattr(site.pair(), side)
    proxy.cut_after(site.rng.randrange(SOON[direction]), direction)
    for _ in range(100):
        await asyncio.sleep(0.02)
        if proxy.is_cut:
            break
    proxy.cut()  # where so many bytes did not come
    await proxy.restore()


async def cut_while_publishing(site: Site) -> None:
    await _cut_after_some_bytes(site, "there", "to_server")


async def cut_before_the_confirm(site: Site) -> None:
    await _cut_after_some_bytes(site, "there", "to_client")


async def cut_while_delivering(site: Site) -> None:
    await _cut_after_some_bytes(site, "here", "to_client")


async def cut_before_the_ack(site: Site) -> None:
    await _cut_after_some_bytes(site, "here", "to_server")


async def killed(site: Site) -> float:
    node = site.node()
    await asyncio.to_thread(node.kill)
    await site.lasts(0, 1)
    return await until_login(node)


async def restarted(site: Site) -> float:
    node = site.node()
    await asyncio.to_thread(node.stop)
    return await until_login(node)


async def frozen(site: Site) -> None:
    node = site.node()
    await asyncio.to_thread(node.freeze)
    await site.lasts(0.3, 3)
    node.thaw()


async def frozen_past_the_heartbeat(site: Site) -> None:
    node = site.node()
    await asyncio.to_thread(node.freeze)
    await asyncio.sleep(10)
    node.thaw()


async def memory_alarm(site: Site) -> None:
    await site.ctl("set_vm_memory_high_watermark", "0.00001")
    await site.lasts(0, 1)
    await site.ctl("set_vm_memory_high_watermark", "0.9")


async def disk_alarm(site: Site) -> None:
    await site.ctl("set_disk_free_limit", "1000GB")
    await site.lasts(0, 1)
    await site.ctl("set_disk_free_limit", "1MB")


async def closed_by_the_broker(site: Site) -> None:
    await site.ctl("close_all_connections", "chaos", node=site.node())


async def password_changed(site: Site) -> None:
    await site.ctl("change_password", USER, "another")
    for pair in site.pairs:
        pair.here.drop()
        pair.there.drop()
    await site.lasts(0, 0.5)
    await site.ctl("change_password", USER, PASSWORD)


async def permissions_taken(site: Site) -> None:
    await site.ctl("clear_permissions", USER)
    site.pair().here.drop()
    await site.lasts(0, 0.5)
    await site.ctl("set_permissions", USER, ".*", ".*", ".*")


async def user_channels_refused(site: Site) -> None:
    for backend in (site.pair().caller, site.pair().worker):
        for arguments in (None, {"x-queue-type": "nonsense"}):
            with suppress(AioResultsError):
                channel = await backend.channel()
                await channel.queue_declare("chaos.missing", passive=arguments is None, arguments=arguments)


async def consumer_channels_closed(site: Site) -> None:
    reader = site.pair().caller._opened().reader
    shared = getattr(reader, "_consumers", None) or [getattr(reader, "_consumer", None)]
    for consumer in shared:
        if consumer is not None:
            with suppress(ChannelError, ConnectionError):
                await consumer.channel.basic_consume("chaos.missing", lambda delivery: None)


async def loop_stands_still(site: Site) -> None:
    sleep(site.rng.uniform(0.2, 1.5))


async def caller_replaced(site: Site) -> None:
    for pair in site.pairs:
        if pair.replaceable:
            await pair.replace_caller()


async def node_lost(site: Site) -> None:
    node = site.node()
    await asyncio.to_thread(node.kill)
    await site.lasts(1, 3)
    await asyncio.to_thread(node.start)


FAULTS: Final = (
    Fault("worker's connections reset", worker_reset, 3),
    Fault("caller's connections reset", caller_reset, 3),
    Fault("all connections reset, five times in a row", all_reset_again_and_again, 2),
    Fault("nobody listens", nobody_listens, 2),
    Fault("half-open: no byte and no FIN, then gone", half_open, 2),
    Fault("network stalled and resumed", stalled, 2),
    Fault("network slow", slow, 2),
    Fault("cut while publishing", cut_while_publishing, 3),
    Fault("cut between publish and confirm", cut_before_the_confirm, 3),
    Fault("cut while delivering", cut_while_delivering, 3),
    Fault("cut between delivery and ack", cut_before_the_ack, 3),
    Fault("broker killed and started", killed),
    Fault("broker stopped and started", restarted),
    Fault("broker frozen and woken", frozen, 2),
    Fault("broker frozen past the heartbeat, and woken", frozen_past_the_heartbeat),
    Fault("alarm: memory", memory_alarm),
    Fault("alarm: disk", disk_alarm),
    Fault("connections closed by the broker", closed_by_the_broker),
    Fault("password changed and changed back", password_changed),
    Fault("permissions taken and given back", permissions_taken),
    Fault("channels of the user's own refused: 404, 406", user_channels_refused, 2),
    Fault("consumers' channels closed by the broker", consumer_channels_closed, 2),
    Fault("event loop stands still", loop_stands_still, 2),
    Fault("caller closed, another one opened", caller_replaced, 2),
    Fault("node of the cluster lost for a while", node_lost, 2, clustered=True),
)
