"""What a write is compared with before it is done (pure). Every store carries out these comparisons."""

from satchel.errors import CorruptPayload, Fenced
from satchel.model import Epoch, MessageId, PayloadKind, TurnStatus
from satchel.store.base import Commit, PublishedSnapshot, Session, Turn


def check_start(turn: Turn, *, first: MessageId | None) -> None:
    """Raise ``Fenced`` unless *turn* is queued and *first* in its session's order, where a running turn comes first."""
    if turn.status is not TurnStatus.QUEUED or first != turn.message_id:
        raise Fenced(
            "Only the first queued turn of an idle session can start.", status=turn.status, first_message_id=first
        )


def check_attempt(turn: Turn, epoch: Epoch | None) -> None:
    """Raise ``Fenced`` unless *turn* runs under *epoch*, or, if that is None, is queued."""
    expected = TurnStatus.QUEUED if epoch is None else TurnStatus.RUNNING
    if turn.status is not expected or turn.epoch != epoch:
        raise Fenced(status=turn.status, epoch=turn.epoch, expected_status=expected, expected_epoch=epoch)


def check_commit(session: Session, turn: Turn, commit: Commit) -> None:
    """Raise ``Fenced`` unless head, state ID and epoch are those that *commit* was made from.

    Raises ``CorruptPayload`` if nothing could ever be rebuilt from it.
    """
    check_attempt(turn, commit.epoch)
    if session.epoch != commit.epoch or session.head != commit.base:
        raise Fenced(
            epoch=session.epoch,
            head=session.head.version,
            state_id=session.head.state_id.hex(),
            expected_epoch=commit.epoch,
            expected_head=commit.base.version,
            expected_state_id=commit.base.state_id.hex(),
        )
    if commit.name.version != commit.base.version + 1:
        raise CorruptPayload("A commit's version does not follow its base.", version=commit.name.version)
    if commit.base.version == 0 and commit.payload.payload.kind is not PayloadKind.SNAPSHOT:
        raise CorruptPayload("The first version of a session is a snapshot.")


def check_snapshot(snapshot: PublishedSnapshot, *, state_id: bytes, digest: bytes | None) -> None:
    """Raise ``Fenced`` unless *snapshot* is the version that was committed."""
    if snapshot.payload.payload.kind is not PayloadKind.SNAPSHOT:
        raise CorruptPayload("What compaction publishes is a snapshot.")
    if snapshot.name.state_id != state_id or digest not in {None, snapshot.digest}:
        raise Fenced(
            "The snapshot is not the version that was committed.",
            version=snapshot.name.version,
            state_id=state_id.hex(),
            expected_state_id=snapshot.name.state_id.hex(),
        )
