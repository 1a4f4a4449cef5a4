"""What a warm turn puts on the link, counted on the wire, without what the caller asked to be there."""

import asyncio
import statistics
import uuid

import uvloop
import zstandard

from benchmarks.client import connection
from benchmarks.processes import PATIENCE_S, Rig, rig
from benchmarks.prose import prose
from benchmarks.tables import Reach, Table
from benchmarks.tap import Tap, tap
from satchel.model import DEFAULT_TENANT, SessionId, SessionKey, Version
from satchel.protocol import link_pb2 as pb
from satchel.state.payload import unseal
from satchel.store.chain import load_deltas
from satchel.store.open import open_store

SESSION, AGENT = "a-session-of-some-user", "bench"
METADATA = {"channel": "web"}
DOWN_MAX, UP_BESIDE, UP_TIMES = 150, 200, 1.1


async def turns(running: Rig, *, count: int) -> list[dict[str, float]]:
    """Return, for each of *count* warm turns, the bytes that its frames had and what of them was asked for."""
    measured = []
    async with tap(running.url) as link, connection(running.url) as caller:
        await asyncio.to_thread(running.add_worker, "plain", hub_url=link.url)
        await caller.turn(SESSION, "the first", metadata=METADATA)
        for number in range(count):
            await _silence(link)
            message = uuid.uuid4().hex
            text = prose(f"question {number}", 20)
            answer = await caller.turn(SESSION, text, message_id=message, metadata=METADATA)
            await _silence(link)
            report = answer.complete()
            said = [event["message"]["content"][0]["text"] for event in answer.events() if event["type"] == "message"]
            results = [
                frame.ByteSize()
                for each in link.up
                for frame in pb.WorkerMessage.FromString(each).frames
                if frame.response.HasField("complete")
            ]
            down, up = b"".join(link.down), b"".join(link.up)
            named = (SESSION, message, AGENT, text, '{"channel":"web"}')
            measured.append(
                {
                    "version": report["session_state"]["version"],
                    "down": len(down),
                    "down named": sum(down.count(each.encode()) * len(each.encode()) for each in named),
                    "down messages": len(link.down),
                    "up": len(up),
                    "up text": sum(len(each.encode()) for each in said),
                    "up messages": len(link.up),
                    "result": sum(results),
                }
            )
            link.clear()
    return measured


async def _silence(link: Tap) -> None:
    """Wait until nothing passed for a while, so that frames are counted with their turn; drop pings."""
    async with asyncio.timeout(PATIENCE_S):
        seen = -1
        while seen != (seen := len(link.down) + len(link.up)):
            await asyncio.sleep(0.1)


async def changesets(store: str, upto: int) -> list[int]:
    """Return the bytes of each version's changeset under zstd, as a delta is compressed."""
    opened = await open_store(store)
    try:
        links = await load_deltas(opened, SessionKey(DEFAULT_TENANT, SessionId(SESSION)), Version(1), Version(upto))
    finally:
        await opened.close()
    assert links is not None, "every turn but the first was a delta"
    raw = [unseal(link.payload, raw_size_max=2**24) for link in links]
    return [len(zstandard.ZstdCompressor(level=1).compress(each)) for each in raw]


def measure(*, quick: bool) -> list[Table]:
    with rig() as running:
        measured = uvloop.run(turns(running, count=3 if quick else 20))
        running.stop()
        sizes = uvloop.run(changesets(str(running.store), len(measured) + 1))
    middle = {name: statistics.median(each[name] for each in measured) for name in measured[0]}
    changeset = statistics.median(sizes)
    beside_down = middle["down"] - middle["down named"]
    events = middle["up"] - middle["result"]
    up_max = UP_TIMES * changeset + UP_BESIDE
    return [
        Table(
            name="wire",
            title="A warm turn on the link",
            columns=("direction", "messages", "bytes", "asked for", "beside it", "limit"),
            rows=[
                {
                    "direction": "hub to worker",
                    "messages": middle["down messages"],
                    "bytes": middle["down"],
                    "asked for": middle["down named"],
                    "beside it": beside_down,
                    "limit": DOWN_MAX,
                },
                {
                    "direction": "worker to hub: events",
                    "messages": middle["up messages"] - 1,
                    "bytes": events,
                    "asked for": middle["up text"],
                    "beside it": events - middle["up text"],
                },
                {
                    "direction": "worker to hub: the result",
                    "messages": 1,
                    "bytes": middle["result"],
                    "beside it": middle["result"],
                    "limit": up_max,
                },
            ],
            notes="Payloads of WebSocket messages, medians. Asked for: towards the worker text, metadata, and the IDs"
            " of session, message and agent wherever they stand; towards the hub the answer's text as an event."
            " The result counts with its IDs."
            f" The changeset has {changeset:.0f} bytes under zstd: the limit is {UP_TIMES} times that and {UP_BESIDE}.",
            reach=(
                Reach("wire, hub to worker", "bytes beside text, IDs and metadata", beside_down, DOWN_MAX),
                Reach(
                    "wire, worker to hub: a result",
                    f"bytes, of {UP_TIMES} x zstd of the changeset + {UP_BESIDE}",
                    middle["result"],
                    up_max,
                ),
            ),
        )
    ]
