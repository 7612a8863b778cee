"""A soak of a cluster: random faults, random clients, and a check that everything promised was kept.

Three nodes on a Redis of their own, with faults: nodes killed, told to stop, frozen, and started again; connections to
Redis cut; Redis frozen, killed, stopped and started with its data. Clients of MQTT 3.1.1 and 5.0 meanwhile publish at
every QoS, subscribe and unsubscribe, share subscriptions, move from node to node, cut their connections, stop reading,
start anew, let sessions expire, and die with wills. After each storm comes a calm, and what docs/cluster.md promises
is checked. Each fault and each violation is printed with its time in seconds; the exit code is 1 if there was one.
The same seed does the same things, at about the same times: a race may need several runs.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.cluster.soak.books import Book
from tests.cluster.soak.clients import Client, Weather, cast
from tests.cluster.soak.rules import Rules
from tests.cluster.soak.world import World

#: Seconds of one storm, and how long everything may take afterwards until it is as it should be.
STORM, CALM = 40.0, 60.0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="how long, about (default 5)")
    parser.add_argument("--seed", type=int, help="of everything that is random (default: another each time)")
    parser.add_argument("--nodes", type=int, default=3, help="how many nodes (default 3)")
    parser.add_argument("--gap", type=float, default=4.0, help="seconds from fault to fault, on average (default 4)")
    parser.add_argument(
        "--keep", type=Path, help="directory for the logs of the nodes, and what each client said and heard last"
    )
    return parser.parse_args(arguments)


async def probe_now_and_then(rules: Rules, world: World, weather: Weather, seed: int) -> None:
    chance = random.Random(f"probes {seed}")
    while True:
        await asyncio.sleep(chance.uniform(0.2, 1.5))
        if weather.storm:
            await rules.probe(chance.randrange(len(world.nodes)))


async def calm(rules: Rules, world: World) -> None:
    """Wait until everything is as it should be, and complain of what is not."""
    end = time.monotonic() + CALM
    told = time.monotonic() + 10
    while (missing := rules.missing()) and time.monotonic() < end:
        if time.monotonic() > told:
            world.say(f"still waiting for {len(missing)}; the first: {missing[0][1]}")
            told += 10
        await asyncio.sleep(0.3)
    await asyncio.sleep(1.5)  # what comes once too often comes now
    rules.close()
    for number, node in enumerate(world.nodes):
        if not await rules.probe(number, strict=True):
            world.violation(f"{node.name} does not answer")


async def soak(world: World, clients: list[Client], book: Book, minutes: float, seed: int, gap: float) -> None:
    weather = Weather()
    rules = Rules(world, book, clients, seed)
    world.say("start")
    tasks = [asyncio.create_task(client.live(weather)) for client in clients]
    tasks.append(asyncio.create_task(probe_now_and_then(rules, world, weather, seed)))
    tasks.append(asyncio.create_task(world.watch_memory()))
    end, turn = time.monotonic() + minutes * 60, 0
    while time.monotonic() < end:
        turn += 1
        weather.storm = True
        storm = asyncio.create_task(world.storm(min(STORM, max(end - time.monotonic(), 10)), gap))
        await asyncio.wait([storm, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
        weather.storm = False
        await calm(rules, world)
        counts = f"{len(book.sent)} messages sent, {book.received} received, {len(book.wills)} wills"
        world.say(f"calm {turn}: {counts}, {len(world.faults)} faults, {len(world.violations)} violations")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def main() -> int:
    options = parse(sys.argv[1:])
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="soak") as directory:
        world = World(Path(directory), options.nodes, seed, lambda text: print(text, flush=True))
        book = Book()
        clients = cast(world, book, seed)
        try:
            world.start()
            asyncio.run(soak(world, clients, book, options.minutes, seed, options.gap))
        finally:
            world.stop()
            world.look_into_logs()
            if options.keep is not None:
                options.keep.mkdir(parents=True, exist_ok=True)
                world.save(options.keep)
                for client in clients:
                    (options.keep / f"{client.name}.trace").write_text("\n".join(client.trace) + "\n")
    for name, first, most in world.memory.values():
        world.say(f"{name} held {first >> 20} MiB at first, {most >> 20} MiB at most")
    print(f"seed {seed}: {len(world.violations)} violations", flush=True)
    for text in world.violations:
        print(f"  {text}")
    return 1 if world.violations else 0


if __name__ == "__main__":
    sys.exit(main())
