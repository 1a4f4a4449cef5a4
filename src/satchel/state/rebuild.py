"""Rebuild a state from its chain in a helper process with limits: what compaction and exports use.

Run as ``python -m satchel.state.rebuild`` it reads jobs from standard input and
writes answers to standard output: msgpack behind its length, and behind that the bytes
of states, which neither side holds twice. A job opens bytes that may be damaged or
hostile, so each has a process with a memory, a CPU and a wall limit of its own.
"""

import asyncio
import contextlib
import io
import os
import resource
import signal
import sys
from collections.abc import Sequence
from typing import BinaryIO, Final, NoReturn, Protocol

import msgspec

from satchel import errors, limits
from satchel.errors import CorruptState, StateError
from satchel.model import Link, SchemaName, SessionId, StateName

__all__ = ["RebuildJob", "Rebuilder", "Rebuilds", "Rebuilt", "rebuild", "rebuilt_here"]

_LENGTH_BYTES: Final = 8
_PIECE_BYTES: Final = 256 * limits.KIB
"""What is given to a pipe at a time, or kept of it unread."""


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


class _Head(msgspec.Struct, frozen=True):
    """A job without its payloads' data, and how many bytes of each follow."""

    job: RebuildJob
    sizes: tuple[int, ...]


class Rebuilds(Protocol):
    """Whatever rebuilds states apart from the hub."""

    async def rebuild(self, job: RebuildJob) -> Rebuilt: ...
    async def close(self) -> None: ...


class Rebuilder:
    """A helper process that is kept: it forks a child for each job, which costs no start of Python.

    The first job starts it, ``close`` ends it. One job runs at a time. After a job
    that failed in the process, rather than by what it found, the next one starts another.
    """

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._one_job = asyncio.Lock()

    async def rebuild(self, job: RebuildJob) -> Rebuilt:
        """Return the state that *job* names, rebuilt and checked.

        Raises the ``StateError`` that opening the chain raises, and ``CorruptState`` if
        the helper process dies or overruns a limit. Cancelling kills the process.
        """
        async with self._one_job:
            data = [link.payload.data for link in job.links]
            head = _Head(_with_data(job, [b""] * len(data)), tuple(map(len, data)))
            answer, image = await self._answer(msgspec.msgpack.encode(head), data)
            return _result(answer, image)

    async def close(self) -> None:
        """End the process. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            await _reap(process)

    async def _answer(self, head: bytes, data: Sequence[bytes]) -> tuple[bytes, bytes]:
        process = self._process = self._process or await _started()
        is_sound = False
        try:
            async with asyncio.timeout(limits.REBUILD_DEADLINE_S):
                answer = await _exchanged(process, head, data)
            is_sound = True
            return answer
        except TimeoutError as error:
            raise CorruptState(f"A state was not rebuilt within {limits.REBUILD_DEADLINE_S:g} s.") from error
        except (asyncio.IncompleteReadError, OSError) as error:
            await self.close()
            raise CorruptState(f"The helper process that rebuilt a state ended with {process.returncode}.") from error
        finally:
            if not is_sound:
                await self.close()


async def rebuild(job: RebuildJob) -> Rebuilt:
    """Do one job as ``Rebuilder.rebuild`` does, in a process of its own."""
    rebuilder = Rebuilder()
    try:
        return await rebuilder.rebuild(job)
    finally:
        await rebuilder.close()


async def _started() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "satchel.state.rebuild",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=_PIECE_BYTES,
        start_new_session=True,  # so that it is killed with its child
    )


async def _exchanged(process: asyncio.subprocess.Process, head: bytes, data: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Send a job; return its answer and the image behind it."""
    assert process.stdin is not None, "it was started with pipes"
    assert process.stdout is not None, "it was started with pipes"
    process.stdin.write(_length(head) + head)
    for each in data:
        for at in range(0, len(each), _PIECE_BYTES):
            process.stdin.write(each[at : at + _PIECE_BYTES])
            await process.stdin.drain()
    await process.stdin.drain()
    return await _read(process.stdout), await _read(process.stdout)


async def _read(source: asyncio.StreamReader) -> bytes:
    """Return bytes that stand behind their length."""
    left = int.from_bytes(await source.readexactly(_LENGTH_BYTES), "big")
    read = io.BytesIO()  # gives its bytes up without a copy
    while left:
        piece = await source.read(min(left, _PIECE_BYTES))
        if not piece:
            raise asyncio.IncompleteReadError(b"", left)
        left -= read.write(piece)
    return read.getvalue()


def _length(data: bytes) -> bytes:
    return len(data).to_bytes(_LENGTH_BYTES, "big")


def _with_data(job: RebuildJob, data: Sequence[bytes]) -> RebuildJob:
    """Return *job* with other data in its payloads, one for each."""
    links = tuple(
        Link(link.name, msgspec.structs.replace(link.payload, data=each))
        for link, each in zip(job.links, data, strict=True)
    )
    return msgspec.structs.replace(job, links=links)


async def _reap(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # Shielded by repetition: a cancelled wait would leave a zombie and an open transport.
    await asyncio.shield(process.wait())


def _result(answer: bytes, image: bytes) -> Rebuilt:
    result: Rebuilt | _Refused = msgspec.msgpack.decode(answer, type=_Answer)
    if isinstance(result, Rebuilt):
        return msgspec.structs.replace(result, image=image)
    raise _STATE_ERRORS.get(result.name, CorruptState)(result.message)


_STATE_ERRORS: Final[dict[str, type[StateError]]] = {
    kind.__name__: kind for kind in (errors.CorruptPayload, errors.CorruptState, errors.ApplyConflict)
}


def main(source: BinaryIO, target: BinaryIO) -> None:
    """Do job after job, each in a child: what the helper process runs.

    It ends with its input, or with a child that died: the job's answer is then missing.
    """
    import satchel.state.session  # noqa: F401, PLC0415  # once, for every child; the hub that starts us needs it not

    while _do_one(source, target):
        pass


def _do_one(source: BinaryIO, target: BinaryIO) -> bool:
    """Do the next job; False if there is none."""
    length = source.read(_LENGTH_BYTES)
    if not length:
        return False
    head = msgspec.msgpack.decode(source.read(int.from_bytes(length, "big")), type=_Head)
    job = _with_data(head.job, [source.read(size) for size in head.sizes])
    child = os.fork()
    if child == 0:
        _work(job, target)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != 0:
        sys.exit(abs(code))
    return True


def _work(job: RebuildJob, target: BinaryIO) -> NoReturn:
    try:
        resource.setrlimit(resource.RLIMIT_AS, (limits.REBUILD_MEMORY_BYTES_MAX,) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (limits.REBUILD_CPU_S,) * 2)
        answer = rebuilt_here(job)
        image = b""
        if isinstance(answer, Rebuilt):
            answer, image = msgspec.structs.replace(answer, image=b""), answer.image
        encoded = msgspec.msgpack.encode(answer)
        target.writelines((_length(encoded), encoded, _length(image), image))
        target.flush()
    except BaseException:  # noqa: BLE001  # a child must not return into its parent's loop
        os._exit(1)
    os._exit(0)


def rebuilt_here(job: RebuildJob) -> Rebuilt | _Refused:
    from satchel.state.session import OpenSession  # noqa: PLC0415  # not by the hub, which only starts the process

    try:
        session = OpenSession.from_chain(job.session_id, job.links, base=job.base, schema=job.schema, digest=job.digest)
        with contextlib.closing(session):
            return Rebuilt(*session.compact())
    except StateError as error:
        return _Refused(type(error).__name__, error.message)


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
