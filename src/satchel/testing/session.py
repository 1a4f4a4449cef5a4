"""A session without a hub, for a user's own tests: real runtime, real recorder, every turn replayed and compared."""

import asyncio
import contextlib
import itertools
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from satchel.client.model import Answer
from satchel.client.reply import answer_of
from satchel.clock import Clock
from satchel.errors import (
    CorruptState,
    HandlerError,
    InternalError,
    InvalidRequest,
    SatchelError,
    StateError,
    StateMisused,
    StateTooLarge,
    TurnRefused,
    TurnTimeout,
)
from satchel.limits import CHAIN_BYTES_MAX, PING_INTERVAL_S
from satchel.model import (
    DEFAULT_TENANT,
    EMPTY,
    ITEM_TYPES,
    SEQ_PER_START,
    Accepted,
    CommittedState,
    Complete,
    Epoch,
    Item,
    Link,
    MessageId,
    PayloadKind,
    SchemaName,
    SessionId,
    SessionKey,
    Start,
    StateName,
    TextDelta,
    TurnEvent,
    TurnReport,
    Version,
    canonical_json,
    checked_id,
    first_state_id,
    rfc3339,
)
from satchel.protocol.messages import (
    AttemptName,
    Cancel,
    Committed,
    Event,
    Failure,
    FailureCode,
    Pieces,
    Registered,
    Release,
    Request,
    Result,
    WorkerFrame,
)
from satchel.state.history import HistoryItem
from satchel.state.session import OpenSession
from satchel.state.values import Rows
from satchel.worker.runtime import Runtime
from satchel.worker.worker import Worker


@contextlib.asynccontextmanager
async def session(
    worker: Worker[Any], *, deps: Any = None, session_id: str = "test"
) -> AsyncIterator["SessionUnderTest"]:
    """Open an empty session of *worker*, here in the test's event loop.

    *deps* is ``turn.deps``; without it the worker's lifespan is entered. Raises
    ``InvalidRequest`` if the worker has no handler.
    """
    async with contextlib.AsyncExitStack() as stack:
        if deps is None and worker.lifespan is not None:
            deps = await stack.enter_async_context(worker.lifespan())
        under_test = SessionUnderTest(worker, deps=deps, session_id=SessionId(checked_id(session_id, "session_id")))
        try:
            yield under_test
        finally:
            await under_test.close()


class SessionUnderTest:
    """One session: send messages, look at what was committed.

    After each turn its payload, as it would travel, is applied to a second copy, and
    the digests of both are compared.
    """

    def __init__(self, worker: Worker[Any], *, deps: Any, session_id: SessionId) -> None:
        self.session_id: Final = session_id
        self._worker = worker
        self._frames: asyncio.Queue[WorkerFrame] = asyncio.Queue()
        self._raised: dict[AttemptName, BaseException] = {}
        self._loop = asyncio.get_running_loop()
        self._runtime = Runtime(
            [worker],
            send=self._hear,
            deps={worker.name: deps},
            slots=1,
            raised=self._raised.__setitem__,
        )
        self._runtime.registration()
        self._runtime.receive(Registered(tenant=DEFAULT_TENANT, ping_interval_s=PING_INTERVAL_S))
        self._one_turn = asyncio.Lock()
        self._head = StateName(EMPTY, first_state_id(SessionKey(DEFAULT_TENANT, session_id)))
        self._schema: SchemaName | None = None
        self._digest: bytes | None = None
        self._chain: tuple[Link, ...] = ()
        self._epochs = itertools.count(1)
        self._is_cold = False
        self._replica = OpenSession.empty(session_id, worker.schema, name=self._head)
        self.state: Final = CommittedRows(self)
        """The committed rows, to read."""

    @property
    def version(self) -> int:
        """The head: how many turns were committed."""
        return self._head.version

    @property
    def history(self) -> Sequence[HistoryItem]:
        """The committed conversation, oldest first."""
        with self._looking() as replica:
            return list(replica.history)

    async def send(
        self, text: str, *, metadata: Mapping[str, Any] | None = None, message_id: str | None = None
    ) -> Answer:
        """Run one turn to its commit, and return its answer. Turns run one after the other.

        Raises ``TurnRefused``, ``StateTooLarge``, ``TurnTimeout``, and ``HandlerError`` with
        the handler's own exception as its cause: nothing is committed then. Raises
        ``CorruptState`` if the second copy came to other rows.
        """
        named = MessageId(checked_id(message_id or uuid.uuid4().hex, "message_id"))
        async with self._one_turn:
            request = self._request(named, text, metadata)
            self._runtime.receive(request)
            items, outcome = await self._outcome(request)
            if isinstance(outcome, Failure):
                raise self._error(outcome) from self._raised.pop(outcome.attempt, None)
            self._replay(outcome)
            self._runtime.receive(Committed(outcome.attempt))
            return self._answer(request, items, outcome)

    async def restart(self) -> None:
        """Have the next turn start cold, as on another worker: from the stored chain alone."""
        async with self._one_turn:
            self._runtime.receive(Release(self.session_id))
            self._is_cold = self._head.version > EMPTY

    async def close(self) -> None:
        """Stop what runs, and close both copies."""
        await self._runtime.stop(grace_s=0)
        self._replica.close()

    # --- the part of a hub ---------------------------------------------------------------------

    def _hear(self, frame: WorkerFrame) -> None:
        """Take a frame from whichever thread emitted it."""
        self._loop.call_soon_threadsafe(self._frames.put_nowait, frame)

    def _request(self, message_id: MessageId, text: str, metadata: Mapping[str, Any] | None) -> Request:
        chain, self._is_cold = (self._chain if self._is_cold else ()), False
        return Request(
            attempt=AttemptName(self.session_id, message_id, Epoch(next(self._epochs))),
            start_number=1,
            attempt_number=1,
            agent=self._worker.name,
            text=text,
            metadata="" if metadata is None else _checked_json(metadata),
            accepted_at_ms=Clock().now_ms(),
            base=self._head,
            chain=chain,
            schema=self._schema,
            digest=self._digest,
            wants_digest=True,
            wants_snapshot=False,
            delta_bytes_max=CHAIN_BYTES_MAX,
        )

    async def _outcome(self, request: Request) -> tuple[list[Item], Result | Failure]:
        """Collect the attempt's items, then how it ended."""
        items: list[Item] = []
        try:
            async with asyncio.timeout(self._worker.spec.turn_timeout_s):
                return items, await self._collected(request.attempt, items)
        except TimeoutError:
            self._runtime.receive(Cancel(request.attempt))
            await self._collected(request.attempt, items)
            raise TurnTimeout(f"The turn ran longer than {self._worker.spec.turn_timeout_s:g} s.") from None
        except asyncio.CancelledError:
            self._runtime.receive(Cancel(request.attempt))
            raise

    async def _collected(self, attempt: AttemptName, items: list[Item]) -> Result | Failure:
        while True:
            frame = await self._frames.get()
            match frame:
                case Event() if frame.attempt == attempt:
                    items.append(frame.item)
                case Pieces() if frame.attempt == attempt:
                    items += [TextDelta(frame.item_id, text) for text in frame.texts]
                case Result() | Failure() if frame.attempt == attempt:
                    return frame
                case _:
                    pass  # of a turn whose test did not wait for it, or a copy released

    def _error(self, failure: Failure) -> SatchelError:
        match failure.code:
            case FailureCode.TEXT_HANDLER_ERROR:
                return HandlerError(f"The agent's handler raised {failure.message}.", exception=failure.message)
            case FailureCode.TURN_REFUSED:
                return TurnRefused(failure.message)
            case FailureCode.STATE_TOO_LARGE:
                return StateTooLarge(failure.message)
            case _:
                return InternalError(failure.message or f"The turn ended with {failure.code.name}.")

    def _replay(self, result: Result) -> None:
        """Bring the second copy to the turn's version, as another worker would, and compare.

        Raises ``CorruptState``.
        """
        link = Link(result.name, result.payload)
        is_snapshot = result.payload.kind is PayloadKind.SNAPSHOT
        name, schema, digest = result.name, result.schema or self._schema, result.digest
        if schema is None:
            raise InternalError("The result of a session's first turn does not name its schema.")
        try:
            if is_snapshot:
                self._replica.close()
                self._replica = OpenSession.from_chain(self.session_id, [link], base=name, schema=schema, digest=digest)
            else:
                self._replica.catch_up([link], base=name, schema=schema, digest=digest)
        except StateError as error:
            raise CorruptState(
                f"The {result.payload.kind} of version {name.version} does not make a second copy equal: {error}",
                hint="This is a fault in Satchel, not in the agent: please report it with the schema and the handler.",
            ) from error
        self._head, self._schema, self._digest = name, schema, digest
        self._chain = (link,) if is_snapshot else (*self._chain, link)

    def _answer(self, request: Request, items: Sequence[Item], result: Result) -> Answer:
        """Return the answer with the events that a hub would make of it."""
        start = Start.WARM if not request.chain else Start.COLD
        accepted_at = rfc3339(request.accepted_at_ms)
        sent_bytes = sum(link.payload.size for link in request.chain)
        report = TurnReport(
            start=Start.NEW if request.base.version == EMPTY else start,
            worker_id=self._runtime.worker_id,
            attempts=1,
            sent_bytes=sent_bytes,
            received_bytes=result.payload.size,
            changed_rows=result.changed_rows,
            handler_ms=result.handler_ms,
            total_ms=result.handler_ms,
        )
        contents: list[tuple[str, Any]] = [
            ("accepted", Accepted(agent=request.agent, accepted_at=accepted_at)),
            *((ITEM_TYPES[type(item)], item) for item in items),
            ("complete", Complete(turn=report, session_state=CommittedState(result.name.version))),
        ]
        return answer_of(
            [
                TurnEvent(
                    seq=SEQ_PER_START + index,
                    attempt=1,
                    type=kind,
                    session_id=self.session_id,
                    message_id=request.attempt.message_id,
                    **{kind: content},
                )
                for index, (kind, content) in enumerate(contents)
            ]
        )

    @contextlib.contextmanager
    def _looking(self) -> Iterator[OpenSession]:
        """Open a turn on the second copy that is never committed."""
        self._replica.begin(
            version=Version(self._head.version + 1),
            epoch=Epoch(0),
            message_id=MessageId("look"),
            schema=self._worker.schema,
        )
        try:
            yield self._replica
        finally:
            self._replica.rollback()


class CommittedRows(Mapping[str, Any]):
    """A session's committed state, to read: SQL by ``execute``, and the mapping's values by key."""

    def __init__(self, of: SessionUnderTest) -> None:
        self._of = of

    def execute(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> Rows:
        """Return all rows of a query. Raises ``StateMisused`` if it changed something; that is undone."""
        with self._of._looking() as replica:  # noqa: SLF001  # the session's own view
            rows = replica.state.execute(sql, params)
            recorded = replica.finish(wants_digest=False, wants_snapshot=False)
            has_new_tables = recorded.schema != replica.schema
            if recorded.changed_rows or has_new_tables:
                raise StateMisused("A test's session.state is to read; only the handler changes it.")
        return rows

    def __getitem__(self, key: str) -> Any:
        with self._of._looking() as replica:  # noqa: SLF001  # the same
            return replica.state[key]

    def __iter__(self) -> Iterator[str]:
        with self._of._looking() as replica:  # noqa: SLF001  # the same
            return iter(list(replica.state))

    def __len__(self) -> int:
        with self._of._looking() as replica:  # noqa: SLF001  # the same
            return len(replica.state)


def _checked_json(metadata: Mapping[str, Any]) -> str:
    try:
        return canonical_json(msgspec.to_builtins(dict(metadata))).decode()
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"metadata is not JSON: {error}", field="metadata") from error
