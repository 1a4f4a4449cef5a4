"""Any order of frames, answers and ticks between the two sides of a link's rules."""

from satchel.errors import LinkClosed, LinkError, PeerViolation
from satchel.protocol import codec
from satchel.protocol.link import Link, LinkState, Role
from tests.protocol.frames import HUB_FRAMES, WORKER_FRAMES

FRAMES = [*map(codec.encode_worker, WORKER_FRAMES), *map(codec.encode_hub, HUB_FRAMES)]
OBJECTS = [*WORKER_FRAMES, *HUB_FRAMES]


def check_link_order(data: bytes) -> None:
    """Each byte is a step of one side: a frame that comes, one that is to be sent, or time that passes."""
    if not data:
        return
    link, now = Link(Role.HUB if data[0] % 2 else Role.WORKER, now=0.0), 0.0
    for step in data[1:400]:
        is_dead = link.state is LinkState.CLOSED
        try:
            match step % 3:
                case 0:
                    link.receive(FRAMES[step // 3 % len(FRAMES)], now)
                case 1:
                    link.send(OBJECTS[step // 3 % len(OBJECTS)])  # type: ignore[arg-type]  # any of them, on purpose
                case _:
                    now += step // 3 % 8
                    link.tick(now)
        except PeerViolation:
            assert link.state is LinkState.CLOSED, "a side that saw a violation is dead"
        except LinkClosed:
            assert link.state is LinkState.CLOSED, "a live side said it was closed"
        except LinkError:
            assert step % 3 == 1, "only what this side sends can be its own fault"
        else:
            assert not is_dead, "a dead side went on"
        assert len(link.outgoing()) <= 1, "answers pile up"


def link_orders() -> list[bytes]:
    """A registration and a turn, on either side; and silence."""
    places = {type(frame).__name__: index for index, frame in enumerate(OBJECTS)}
    hub = [3 * places[name] for name in ("Register",)] + [3 * places["Registered"] + 1, 3 * places["Event"]]
    worker = [3 * places["Register"] + 1, 3 * places["Registered"], 3 * places["Request"], 3 * places["Event"] + 1]
    return [bytes([1, *hub, 23, 23, 23]), bytes([0, *worker, 23, 23, 23]), bytes([1] + [23] * 30)]
