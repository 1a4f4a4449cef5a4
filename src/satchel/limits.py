"""Every bound and default, once, each with its reason. Units end the names.

A bound is checked where the thing enters; one past it is an error that names
the bound and changes nothing. ``docs/explanation/limits.md`` lists them for users.
"""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# --- what a caller sends -------------------------------------------------------------

ID_LENGTH_MAX: Final = 128
"""Characters of a session, message, agent or worker ID: a UUID with a prefix fits four times."""

TEXT_BYTES_MAX: Final = 1 * MIB
"""UTF-8 bytes of a message's text: far beyond any model's prompt that a person types."""

METADATA_BYTES_MAX: Final = 16 * KIB
"""Bytes of a message's metadata as canonical JSON: routing facts, not documents."""

REQUEST_BODY_BYTES_MAX: Final = TEXT_BYTES_MAX * 6 + METADATA_BYTES_MAX + 4 * KIB
"""Bytes of a request body: JSON may escape one byte of text as six (``\\u0001``)."""

PAGE_ITEMS_DEFAULT: Final = 50
PAGE_ITEMS_MAX: Final = 500
"""Items of one page of a listing: the answer stays a few hundred kilobytes."""

QUEUE_LENGTH_MAX: Final = 32
"""Turns of one session that may wait behind the running one; more is a caller in a loop."""

# --- time ----------------------------------------------------------------------------

WORKER_WAIT_S: Final = 30.0
"""How long the first turn in order waits for a worker with room: a rolling deploy, not a night."""

TURN_TIMEOUT_S: Final = 600.0
"""How long one attempt may run, unless the agent says otherwise."""

CANCEL_GRACE_S: Final = 5.0
"""How long a cancelled handler may take to stop before the worker drops its copy."""

ATTEMPTS_MAX: Final = 3
"""Starts of one message since it was last sent; then it is the message that kills workers."""

ADOPT_S: Final = 3.0
"""How long a restarted hub waits for a worker to bring back a running attempt."""

PING_INTERVAL_S: Final = 5.0
PINGS_LOST_MAX: Final = 3
"""A worker whose socket stays open is lost after this many unanswered pings."""

LOOP_BLOCKED_S: Final = 1.0
"""A handler that holds its event loop longer is logged by name."""

KEEP_ALIVE_S: Final = 15.0
"""An empty line (SSE: a comment) after this much silence keeps proxies from closing a stream."""

RECONNECT_DELAY_S: Final = 0.2
RECONNECT_DELAY_MAX_S: Final = 5.0
"""A worker dials again after this, doubled each time, with full jitter."""

CLIENT_CONNECT_S: Final = 5.0
CLIENT_SILENCE_S: Final = 3 * KEEP_ALIVE_S
"""A client takes a connection for dead that does not open, or says nothing for three signs of life."""

CLIENT_RECONNECT_S: Final = 30.0
"""A client that waits for an answer gives up after this long without a connection: a hub's restart, or a deploy."""

CLIENT_LINGER_S: Final = 1.0
"""How long a client waits for the end of a stream whose last event it has, to use the connection again."""

STOP_S: Final = 10.0
"""SIGTERM ends an idle process within this."""

# --- state and frames ------------------------------------------------------------------

FRAME_BYTES_MAX: Final = 16 * MIB
"""One frame of a link: a worker registers every session that it holds in one."""

LINK_MESSAGE_BYTES_MAX: Final = FRAME_BYTES_MAX + 8
"""One WebSocket message: frames with their lengths, or one that is as long as a frame may be."""

PACKED_BYTES_MAX: Final = 64 * KIB
"""A WebSocket message of several frames: those that wait travel together, and none of them waits long."""

STATE_BYTES_MAX: Final = 128 * MIB
"""Raw bytes of one session's database (pages x page size): a worker and a hub hold a few of them at once."""

CHAIN_BYTES_MAX: Final = 160 * MIB
"""Encoded bytes of a snapshot and the deltas after it: room for deltas behind a state that does not compress."""

FRAME_DATA_BYTES_MAX: Final = 64 * KIB
"""A frame with more payload data than this is sent without it, and the data in chunks."""

CHUNK_BYTES_MAX: Final = 64 * KIB
"""One chunk: what stands in front of another session's frame, half a millisecond at one gigabit."""

CREDIT_BYTES_MAX: Final = 512 * KIB
"""Chunk bytes that may be under way on a link, each way: they wait in sockets in front of other frames,
and a round trip of a millisecond still carries 500 MB/s."""

TRANSFERS_MAX: Final = 4
"""Frames whose chunks share a link at once, each way: as many states may be half received."""

EVENT_BYTES_MAX: Final = 1 * MIB
"""Encoded bytes of one event."""

TURN_EVENTS_BYTES_MAX: Final = 16 * MIB
"""Event bytes of one attempt: they are held in memory until the commit."""

TURN_EVENTS_MAX: Final = 2**20 - 1
"""Events of one attempt: the cursor gives each start 2**20 numbers."""

OBJECT_PIECE_BYTES_MAX: Final = 1 * MIB
"""An object is written in pieces of this size, so that commits land between them."""

INLINE_BYTES_MAX: Final = 64 * KIB
"""A delta or an event list up to this size rests in the log; a larger one is an object."""

# --- a session's database ------------------------------------------------------------------

SQL_BYTES_MAX: Final = 1 * MIB
"""Bytes of one SQL statement or of a declared schema: generous for a person, no lever for an attacker."""

VALUE_BYTES_MAX: Final = 16 * MIB
"""Bytes of one text, blob or row: each is held several times over while it is read or written,
and a function that builds one stops here."""

SQLITE_STEPS_MAX: Final = 250_000
"""Operations of one compiled statement: a hostile view or index expression stops at the compiler."""

TRIGGER_DEPTH_MAX: Final = 50
"""Triggers that fire triggers: real schemas nest a few."""

OPEN_DEADLINE_S: Final = 10.0
"""Wall time for the checks of one received image or delta: a full state takes half a second of a processor."""

REBUILD_DEADLINE_S: Final = 60.0
REBUILD_CPU_S: Final = 30
REBUILD_MEMORY_BYTES_MAX: Final = 2048 * MIB
"""A helper process that rebuilds a state: its chain, its image and their copies, a dozen of a full state."""

JSON_DEPTH_MAX: Final = 100
"""Nesting of a mapping value, and of metadata: below every parser's own bound, so what is written can be read."""

# --- workers -----------------------------------------------------------------------------

SLOTS_DEFAULT: Final = 32
"""Turns one worker process runs at once: most wait for a model."""

WARM_BYTES_MAX: Final = 512 * MIB
"""Bytes of state one worker process keeps open."""

# --- compaction and retention ----------------------------------------------------------------

COMPACT_DELTAS_MIN: Final = 32
COMPACT_WEIGHT: Final = 0.5
"""Compaction is due at this many deltas that weigh this share of the compressed snapshot:
geometric, so that write amplification is O(1) whatever the session's size."""

TRIM_EVERY_VERSIONS: Final = 32
"""Retention is applied once in this many versions of a session: one small write in 32 turns."""

RETAIN_VERSIONS: Final = 100
"""Versions that stay readable behind the head."""

RETAIN_ANSWERS: Final = 1000
"""Committed turns of a session whose answers and events stay readable."""

OBJECT_GRACE_S: Final = 3600.0
"""An object that no row names and no put touched for this long is swept."""

GROUP_COMMIT_MAX: Final = 256
"""Writes that share one fsync."""

# --- the demo --------------------------------------------------------------------------------

DEMO_MINUTES_MAX: Final = 30.0
"""Its store, its logs and its memory grow with its turns: this keeps them in hundreds of megabytes."""

DEMO_SESSIONS_MAX: Final = 1000
DEMO_WORKERS_MAX: Final = 16
"""Processes and users of one machine: more measure the machine alone."""
