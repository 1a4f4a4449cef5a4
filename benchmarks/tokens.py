"""What a streamed token costs the hub, beside a bare program that passes the same bytes on.

Many streams run at once, each at the pace of a model; processor time is read over a window
in which all of them run, and divided by the tokens that reached their callers in it.
"""

import asyncio
import json
import statistics

import uvloop

from benchmarks.client import Connection, connections
from benchmarks.floor.running import Floor, floor
from benchmarks.processes import Process, Rig, rig
from benchmarks.tables import Reach, Table
from benchmarks.tap import tap
from benchmarks.warm import Send
from satchel.worker.link import PIECES_EVERY_S

STREAMS, GAP_S = 200, 0.02
WARM_UP_S = 1.5


async def sizes(running: Rig) -> tuple[int, int]:
    """Return the bytes that a token has on the link, and those it has on its way to the caller."""
    count = 50
    async with tap(running.url) as link, connections(running.url, 1) as (caller,):
        worker = await asyncio.to_thread(running.add_worker, "tokens", hub_url=link.url)
        await caller.turn("sample", "0 0")
        link.clear()
        none = await caller.turn("sample", "0 0")
        up_none = sum(map(len, link.up))
        link.clear()
        some = await caller.turn("sample", f"{count} 0.01")
        up_some = sum(map(len, link.up))
        await asyncio.to_thread(running.remove_worker, worker)
    return (up_some - up_none) // count, (len(some.body) - len(none.body)) // count


async def streamed(
    requests: list[Send],
    callers: list[Connection],
    hub: Process,
    worker: Process,
    *,
    window_s: float,
) -> tuple[float, float]:
    """Run all *requests* at once; return the microseconds of hub and worker a token."""

    def tokens() -> int:
        return sum(caller.count(b"}\n") for caller in callers)

    streams = asyncio.gather(*(request() for request in requests))
    await asyncio.sleep(WARM_UP_S)
    began = hub.cpu_s(), worker.cpu_s(), tokens()
    await asyncio.sleep(window_s)
    ended = hub.cpu_s(), worker.cpu_s(), tokens()
    assert not streams.done(), "the window ends before the streams do"
    await streams
    hub_s, worker_s, count = (end - start for start, end in zip(began, ended, strict=True))
    return 1e6 * hub_s / count, 1e6 * worker_s / count


async def compared(running: Rig, bottom: Floor, *, rounds: int, window_s: float) -> Table:
    frame_bytes, line_bytes = await sizes(running)
    await asyncio.to_thread(running.add_worker, "tokens", slots=2 * STREAMS)
    count = int((WARM_UP_S + window_s + 1) / GAP_S)
    costs: dict[str, list[tuple[float, float]]] = {"a token": [], "raw echo": [], "raw echo, packed": []}
    async with connections(running.url, STREAMS) as above, connections(bottom.url, STREAMS) as below:
        await bottom.set_up(below[0], [], down=0, up=frame_bytes, token=line_bytes)
        turns = [_turn(caller, f"s{number}", f"{count} {GAP_S}") for number, caller in enumerate(above)]
        for _ in range(rounds):
            costs["a token"].append(await streamed(turns, above, running.hub, running.workers[0], window_s=window_s))
            for what, pack_s in (("raw echo", 0.0), ("raw echo, packed", PIECES_EVERY_S)):
                command = json.dumps({"count": count, "gap_s": GAP_S, "frame": frame_bytes, "pack_s": pack_s}).encode()
                echoes = [_echo(caller, command) for caller in below]
                costs[what].append(await streamed(echoes, below, bottom.hub, bottom.worker, window_s=window_s))
    middle = {what: [statistics.median(each) for each in zip(*pairs, strict=True)] for what, pairs in costs.items()}
    hub_us, echo_us = middle["a token"][0], middle["raw echo"][0]
    pace = f"{STREAMS} streams of {1 / GAP_S:.0f} a second"
    return Table(
        name="tokens",
        title=f"A streamed token, {pace}",
        columns=("what", "hub CPU us", "hub CPU / echo", "worker CPU us", "bytes in", "bytes out"),
        rows=[
            {
                "what": what,
                "hub CPU us": cpu[0],
                "hub CPU / echo": cpu[0] / echo_us,
                "worker CPU us": cpu[1],
                "bytes in": frame_bytes,
                "bytes out": line_bytes,
            }
            for what, cpu in middle.items()
        ],
        notes=f"Medians of {rounds} alternating windows of {window_s:.0f} s. The echo has a frame and a chunk for each"
        " token, of a token's bytes, and looks only at a number in the frame; packed, what comes to its worker in"
        f" {1000 * PIECES_EVERY_S:g} ms is one message: the least that a hub of this make can do.",
        reach=(
            Reach("a streamed token, hub CPU", "times a raw echo of the same bytes", hub_us / echo_us, 2),
            Reach(f"a streamed token at {pace}", "us of hub CPU", hub_us, 20),
        ),
    )


def _turn(caller: Connection, session: str, text: str) -> Send:
    return lambda: caller.turn(session, text)


def _echo(caller: Connection, command: bytes) -> Send:
    return lambda: caller.request("POST", "/tokens", command)


def measure(*, quick: bool) -> list[Table]:
    with rig() as running, floor() as bottom:
        rounds, window_s = (1, 1) if quick else (5, 4)
        return [uvloop.run(compared(running, bottom, rounds=rounds, window_s=window_s))]
