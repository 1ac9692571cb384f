"""Random faults under load, and what came of it: `make chaos ARGS="--seed 7 --faults 50"`.

The same seed gives the same faults in the same order; the moments at which they strike are the machine's. It ends with
status 1 when anything was lost, hung, leaked, out of order, or too slow.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from itertools import chain
from time import monotonic
from urllib.parse import urlsplit

from aioresults import QueuePerTask, ReplyQueue, ResultStream
from aioresults.contrib.rabbitmq import RabbitMQError
from tests.adversity.leaks import no_leaks
from tests.chaos.faults import FAULTS, PASSWORD, USER, Fault, Site
from tests.chaos.load import Pair
from tests.chaos.tally import Tally, complaints
from tests.nodes import Node, cluster, one_node, settle_streams
from tests.proxy import Proxy

#: Seconds for what is under way to end after the last fault, and for a new result to go through after each.
PATIENCE = 60.0


def sequence(rng: random.Random, count: int, only: str, *, clustered: bool) -> list[Fault]:
    """Return the faults in the order in which they strike: in each round every one, as often as it weighs."""
    known = [fault for fault in FAULTS if only in fault.name and (clustered or not fault.clustered)]
    one_round = [fault for fault in known for _ in range(fault.weight)]
    rounds = [rng.sample(one_round, len(one_round)) for _ in range(-(-count // len(one_round)))]
    return list(chain.from_iterable(rounds))[:count]


@asynccontextmanager
async def pairs(nodes: list[Node], tally: Tally, rng: random.Random) -> AsyncIterator[list[Pair]]:
    """Open a pair of backends for each routing."""
    addresses = [urlsplit(node.url).netloc.rpartition("@")[2] for node in nodes]

    def urls(proxy: Proxy) -> str | list[str]:
        # Through the proxy to the first node; the others of a cluster are reached directly.
        through = f"amqp://{USER}:{PASSWORD}@127.0.0.1:{proxy.port}/"
        return [through, *(f"amqp://{USER}:{PASSWORD}@{address}/" for address in addresses[1:])]

    host, port = addresses[0].split(":")
    async with AsyncExitStack() as stack:

        async def proxy() -> Proxy:
            return await stack.enter_async_context(Proxy(host, int(port)))

        queue_type = "quorum" if len(nodes) > 1 else "classic"
        stream = f"aioresults.chaos.{secrets.token_hex(4)}"
        opened = [
            Pair("per-task", QueuePerTask, urls, await proxy(), await proxy(), tally, rng,
                 batch=10, jobs=24, pause=0.5, replaceable=True),
            Pair("reply", lambda: ReplyQueue(queue_type=queue_type), urls, await proxy(), await proxy(), tally, rng,
                 batch=250, jobs=18, pause=0.8, replaceable=False),
            Pair("stream", lambda: ResultStream(stream), urls, await proxy(), await proxy(), tally, rng,
                 batch=100, jobs=12, pause=0.8, replaceable=True),
        ]  # fmt: skip
        await asyncio.gather(*(pair.open() for pair in opened))
        yield opened
        await asyncio.gather(*(pair.close() for pair in opened))
    await asyncio.to_thread(nodes[0].ctl, "delete_queue", stream)


async def strike(fault: Fault, site: Site, tally: Tally) -> None:
    """Have a fault happen, and measure how long it takes until a new result goes through every pair."""
    began = await fault.strike(site) or monotonic()
    tally.faults[fault.name] += 1

    async def canary(pair: Pair) -> float:
        await pair.one()
        return monotonic() - began

    passing = [asyncio.create_task(canary(pair)) for pair in site.pairs]
    await asyncio.wait(passing, timeout=PATIENCE)
    for pair, task in zip(site.pairs, passing, strict=True):
        if not task.done():
            task.cancel()
            tally.hung.append(
                f"{pair.name}: no result within {PATIENCE:g} s after {fault.name!r}: "
                f"caller {pair.caller.stats()}, worker {pair.worker.stats()}"
            )
        else:
            tally.recoveries.setdefault((fault.name, pair.name), []).append(task.result())


async def run(nodes: list[Node], options: argparse.Namespace, tally: Tally) -> None:
    """Strike, with the load going on, and wait for what is under way."""
    rng = random.Random(options.seed)
    faults = sequence(rng, options.faults, options.only, clustered=len(nodes) > 1)
    async with no_leaks(), pairs(nodes, tally, rng) as opened:
        stop = asyncio.Event()
        work = [asyncio.create_task(pair.work(stop)) for pair in opened]
        site = Site(nodes, opened, rng)
        for number, fault in enumerate(faults, 1):
            await site.lasts(0, 0.5)
            began, before = monotonic(), tally.awaited
            await strike(fault, site, tally)
            if options.verbose:
                passed = tally.awaited - before
                print(f"{number:4} {fault.name}: {monotonic() - began:.1f} s, {passed} results", flush=True)
        stop.set()
        _, hanging = await asyncio.wait(work, timeout=PATIENCE)
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        for pair in opened:
            tally.lost += sorted(pair.under_way)
        tally.hung += [f"the jobs of {len(hanging)} pairs"] * bool(hanging)
        tally.hung += [repr(task.exception()) for task in work if not task.cancelled() and task.exception()]


@contextmanager
def prepared(nodes: list[Node]) -> Iterator[None]:
    """Make the user that the load logs in as, for the length of the block."""
    # What a run that was interrupted has left on a node that goes on.
    with suppress(RabbitMQError):
        nodes[0].ctl("delete_user", USER)
    nodes[0].ctl("set_vm_memory_high_watermark", "0.9")
    nodes[0].ctl("set_disk_free_limit", "1MB")
    settle_streams(nodes)
    nodes[0].ctl("add_user", USER, PASSWORD)
    try:
        nodes[0].ctl("set_permissions", USER, ".*", ".*", ".*")
        yield
    finally:
        nodes[0].ctl("delete_user", USER)


def left_on_the_broker(node: Node) -> list[str]:
    """Return the connections of ours that the broker still has, and deliveries that nobody settled."""
    connections = node.ctl("list_connections", "client_properties")
    left = [f"connection: {line}" for line in connections.splitlines() if "aioresults" in line]
    queues = node.ctl("list_queues", "name", "messages_unacknowledged").splitlines()
    counts = (line.split("\t") for line in queues[1:])  # no number where the queue's node is gone
    return left + [f"{count} unacknowledged in {name}" for name, count in counts if count not in ("", "0")]


def main() -> int:
    """Run, print the figures, and return the exit status."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__.partition(":")[0])
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--faults", type=int, default=240)
    parser.add_argument("--only", default="", metavar="TEXT", help="faults whose name holds this")
    parser.add_argument("--cluster", action="store_true", help="three nodes, of which one may be lost")
    parser.add_argument("--verbose", action="store_true", help="say which fault strikes")
    options = parser.parse_args()
    tally = Tally()
    print(f"seed {options.seed}", flush=True)
    began = monotonic()
    with cluster() if options.cluster else one_node() as found, complaints(tally):
        nodes = found if isinstance(found, list) else [found]
        version = nodes[0].ctl("version").split()[-1]
        with prepared(nodes):
            try:
                asyncio.run(run(nodes, options, tally))
                tally.leaked += left_on_the_broker(nodes[0])
            except AssertionError as error:
                tally.leaked.append(str(error))
    print(f"RabbitMQ {version}, {len(nodes)} node(s), seed {options.seed}, {monotonic() - began:.0f} s")
    print("\n".join(tally.lines()))
    failures = tally.failures()
    print("\n".join(["FAILED", *failures] if failures else ["ok"]))
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
