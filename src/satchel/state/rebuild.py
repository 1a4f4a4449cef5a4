"""Rebuild a state from its chain in a helper process with limits: what compaction and exports use.

Run as ``python -m satchel.state.rebuild`` it reads one job from standard input and
writes one answer to standard output, both msgpack. It opens bytes that may be
damaged or hostile, so it has a memory, a CPU and a wall limit of its own.
"""

import asyncio
import contextlib
import resource
import sys
from typing import BinaryIO, Final

import msgspec

from satchel import errors, limits
from satchel.errors import CorruptState, StateError
from satchel.model import Link, SchemaName, SessionId, StateName

__all__ = ["RebuildJob", "Rebuilt", "rebuild"]


class RebuildJob(msgspec.Struct, frozen=True):
    """A chain, and the state it must give: the arguments of ``OpenSession.from_chain``."""

    session_id: SessionId
    links: tuple[Link, ...]
    base: StateName
    schema: SchemaName
    digest: bytes | None


class Rebuilt(msgspec.Struct, frozen=True, tag="rebuilt"):
    """The vacuumed image of the state, and the digest of its rows."""

    image: bytes
    digest: bytes


class _Refused(msgspec.Struct, frozen=True, tag="refused"):
    """A ``StateError`` by its name."""

    name: str
    message: str


_Answer: Final = Rebuilt | _Refused


async def rebuild(job: RebuildJob) -> Rebuilt:
    """Return the state that *job* names, rebuilt and checked.

    Raises the ``StateError`` that opening the chain raises, and ``CorruptState`` if
    the helper process dies or overruns a limit. Cancelling kills the process.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "satchel.state.rebuild",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(limits.REBUILD_DEADLINE_S):
            answer, _ = await process.communicate(msgspec.msgpack.encode(job))
    except TimeoutError as error:
        raise CorruptState(f"A state was not rebuilt within {limits.REBUILD_DEADLINE_S:g} s.") from error
    finally:
        await _reap(process)
    return _result(answer, process.returncode)


async def _reap(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    # Shielded by repetition: a cancelled wait would leave a zombie and an open transport.
    await asyncio.shield(process.wait())


def _result(answer: bytes, returncode: int | None) -> Rebuilt:
    try:
        result: Rebuilt | _Refused = msgspec.msgpack.decode(answer, type=_Answer)
    except msgspec.DecodeError as error:
        raise CorruptState(f"The helper process that rebuilt a state ended with {returncode}.") from error
    if isinstance(result, Rebuilt):
        return result
    raise _STATE_ERRORS.get(result.name, CorruptState)(result.message)


_STATE_ERRORS: Final[dict[str, type[StateError]]] = {
    kind.__name__: kind for kind in (errors.CorruptPayload, errors.CorruptState, errors.ApplyConflict)
}


def main(source: BinaryIO, target: BinaryIO) -> None:
    """Do one job: what the helper process runs."""
    resource.setrlimit(resource.RLIMIT_AS, (limits.REBUILD_MEMORY_BYTES_MAX,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (limits.REBUILD_CPU_S,) * 2)
    job = msgspec.msgpack.decode(source.read(), type=RebuildJob)
    target.write(msgspec.msgpack.encode(_rebuilt(job)))
    target.flush()


def _rebuilt(job: RebuildJob) -> Rebuilt | _Refused:
    # Imported here, behind the limits, and not by the hub that only starts the process.
    from satchel.state.session import OpenSession  # noqa: PLC0415  # see the comment above

    try:
        session = OpenSession.from_chain(job.session_id, job.links, base=job.base, schema=job.schema, digest=job.digest)
        with contextlib.closing(session):
            return Rebuilt(*session.compact())
    except StateError as error:
        return _Refused(type(error).__name__, error.message)


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
