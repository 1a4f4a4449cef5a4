"""One worker's link at the hub: moves frames between a transport and the coordinator.

It holds no rules: what may come when, and when a silent peer is lost, is
``protocol.link``'s; what a frame means is the coordinator's.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from satchel.errors import LinkClosed, LinkError, LinkRefused, PeerViolation
from satchel.hub.coordinator import Coordinator
from satchel.hub.fleet import Member
from satchel.model import Tenant
from satchel.protocol.link import Link, Role
from satchel.protocol.messages import Frame, HubFrame, Refused, Register, Registered
from satchel.protocol.transport import Transport

logger = logging.getLogger("satchel.hub.link")


async def serve_worker(transport: Transport, *, tenant: Tenant, coordinator: Coordinator) -> None:
    """Serve one worker until its link closes, then lose it. Always closes the transport."""
    await _ServedLink(transport, tenant, coordinator).run()


class _ServedLink:
    def __init__(self, transport: Transport, tenant: Tenant, coordinator: Coordinator) -> None:
        self._transport = transport
        self._tenant = tenant
        self._coordinator = coordinator
        self._loop = asyncio.get_running_loop()
        self._link = Link(Role.HUB, now=self._loop.time())
        self._has_more = asyncio.Event()
        self._member: Member | None = None

    async def run(self) -> None:
        reason = ""
        writer = asyncio.create_task(self._write())
        reader = asyncio.create_task(self._read())
        timer = asyncio.create_task(self._tick())
        try:
            done, _ = await asyncio.wait({writer, reader, timer}, return_when=asyncio.FIRST_COMPLETED)
            reason = str(next(iter(done)).exception() or "")
        finally:
            for task in (writer, reader, timer):
                task.cancel()
            if self._member is not None:
                self._coordinator.leave(self._member)
                logger.info("worker left", extra={"worker_id": self._member.worker_id, "reason": reason})
            await asyncio.gather(writer, reader, timer, return_exceptions=True)
            await self._transport.close(reason)

    def _send(self, frame: HubFrame) -> None:
        with contextlib.suppress(LinkError):  # the link is dead: the reader or the timer says so
            self._link.send(frame)
            self._has_more.set()

    async def _write(self) -> None:
        """Send what waits, all of it at once."""
        while True:
            await self._flush()
            await self._has_more.wait()
            self._has_more.clear()

    async def _flush(self) -> None:
        """Send what may be sent now, one message at a time: what comes meanwhile goes before the next chunk."""
        while (message := self._link.next_message()) is not None:
            await self._transport.send(message)

    async def _read(self) -> None:
        while True:
            message = await self._transport.receive()
            frames = self._link.receive(message, self._loop.time())
            if logger.isEnabledFor(logging.DEBUG):
                logger.debug("← %s", ", ".join(type(frame).__name__ for frame in frames))
            if self._member is not None:
                self._take(self._member, frames)
            else:
                for register in frames:
                    assert isinstance(register, Register), "the link's rules let nothing else through before it"
                    await self._register(register)
            if not self._link.is_idle:
                self._has_more.set()

    def _take(self, member: Member, frames: Sequence[Frame]) -> None:
        try:
            for frame in frames:
                self._coordinator.receive(member, frame)
        except PeerViolation as error:
            logger.error(  # noqa: TRY400  # the peer's fault, not ours: no traceback
                "the worker broke the rules", extra={"worker_id": member.worker_id, "error": str(error)}
            )
            raise

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(max(self._link.next_deadline() - self._loop.time(), 0.01))
            self._link.tick(self._loop.time())
            self._has_more.set()

    async def _register(self, register: Register) -> None:
        member = Member(self._tenant, register, send=self._send, connected_at_ms=self._coordinator.clock.now_ms())
        try:
            adopted = await self._coordinator.join(member, register)
        except LinkRefused as error:
            refused = Refused(code=error.code, message=error.message, hint=error.hint)
            self._link.send(refused)
            await self._flush()
            raise LinkClosed(error.message) from error
        self._member = member
        self._send(
            Registered(
                tenant=self._tenant,
                ping_interval_s=self._coordinator.settings.ping_interval_s,
                adopted=adopted,
            )
        )
        await self._coordinator.welcome(member, register, adopted)
        logger.info(
            "worker joined",
            extra={
                "worker_id": member.worker_id,
                "agents": ",".join(sorted(member.agents)),
                "slots": member.slots,
                "warm_sessions": len(member.held),
                "adopted": len(adopted),
            },
        )
