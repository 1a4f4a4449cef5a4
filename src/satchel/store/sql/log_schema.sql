-- The log: small rows that move in single transactions. Every key begins with the tenant.

-- The format of both files, and the name that they share.
CREATE TABLE meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    format INTEGER NOT NULL,
    store_id BLOB NOT NULL
) STRICT;

-- Agents as they were last registered.
CREATE TABLE agent (
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    schema_number INTEGER NOT NULL,
    schema_fingerprint BLOB NOT NULL,
    schema_min INTEGER NOT NULL,
    turn_timeout_s REAL NOT NULL,
    max_attempts INTEGER NOT NULL,
    on_busy TEXT NOT NULL,
    PRIMARY KEY (tenant, name)
) STRICT, WITHOUT ROWID;

-- Every schema number an agent ever had, and the one fingerprint that it stands for.
CREATE TABLE agent_schema (
    tenant TEXT NOT NULL,
    agent TEXT NOT NULL,
    number INTEGER NOT NULL,
    fingerprint BLOB NOT NULL,
    PRIMARY KEY (tenant, agent, number)
) STRICT, WITHOUT ROWID;

-- One row a session: its head, and what its chain weighs.
CREATE TABLE session (
    tenant TEXT NOT NULL,
    session_id TEXT NOT NULL,
    agent TEXT NOT NULL,
    first_message_id TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    head INTEGER NOT NULL,
    state_id BLOB NOT NULL,
    schema_number INTEGER,
    schema_fingerprint BLOB,
    state_bytes INTEGER NOT NULL,
    chain_bytes INTEGER NOT NULL,
    chain_deltas INTEGER NOT NULL,
    snapshot_version INTEGER NOT NULL,
    snapshot_bytes INTEGER NOT NULL,
    digest BLOB,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, session_id)
) STRICT, WITHOUT ROWID;

-- One row a message, kept as long as its session: what was asked, and what became of it.
CREATE TABLE turn (
    tenant TEXT NOT NULL,
    session_id TEXT NOT NULL,
    message_id TEXT NOT NULL,
    place INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('queued', 'running', 'committed', 'failed', 'cancelled')),
    starts INTEGER NOT NULL,
    starts_before INTEGER NOT NULL,
    epoch INTEGER,
    version INTEGER,
    state_id BLOB,
    worker_deadline_ms INTEGER,
    accepted_at_ms INTEGER NOT NULL,
    finished_at_ms INTEGER,
    request_digest BLOB NOT NULL,
    error TEXT,
    metadata TEXT,
    text TEXT NOT NULL,
    PRIMARY KEY (tenant, session_id, message_id),
    FOREIGN KEY (tenant, session_id) REFERENCES session (tenant, session_id) ON DELETE RESTRICT,
    CHECK ((status = 'running') = (epoch IS NOT NULL)),
    CHECK ((status = 'committed') = (version IS NOT NULL)),
    CHECK ((status IN ('queued', 'running')) = (finished_at_ms IS NULL))
) STRICT;

-- A session's order.
CREATE UNIQUE INDEX turn_place ON turn (tenant, session_id, place);

-- What a session still has to do.
CREATE INDEX turn_unfinished ON turn (tenant, session_id, place) WHERE status IN ('queued', 'running');

-- Two running turns of one session cannot be written.
CREATE UNIQUE INDEX turn_running ON turn (tenant, session_id) WHERE status = 'running';

-- The bases of chains: versions committed as a snapshot, and snapshots that compaction made.
CREATE TABLE snapshot (
    tenant TEXT NOT NULL,
    session_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    encoding INTEGER NOT NULL,
    raw_size INTEGER NOT NULL,
    checksum BLOB NOT NULL,
    size INTEGER NOT NULL,
    object_hash BLOB,
    data BLOB,
    PRIMARY KEY (tenant, session_id, version),
    CHECK ((data IS NULL) <> (object_hash IS NULL))
) STRICT, WITHOUT ROWID;

-- One row a retained version. snapshot_version is the base it stands on: a version without
-- its base cannot be written, and a base cannot go while a delta stands on it. A version
-- that stands on itself carries no bytes of its own; every other one carries its delta.
CREATE TABLE version (
    tenant TEXT NOT NULL,
    session_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    state_id BLOB NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('snapshot', 'delta')),
    snapshot_version INTEGER NOT NULL,
    message_id TEXT NOT NULL,
    schema_number INTEGER NOT NULL,
    schema_fingerprint BLOB NOT NULL,
    digest BLOB,
    committed_at_ms INTEGER NOT NULL,
    encoding INTEGER NOT NULL,
    raw_size INTEGER NOT NULL,
    checksum BLOB NOT NULL,
    size INTEGER NOT NULL,
    object_hash BLOB,
    data BLOB,
    PRIMARY KEY (tenant, session_id, version),
    FOREIGN KEY (tenant, session_id, snapshot_version) REFERENCES snapshot (tenant, session_id, version)
        ON DELETE RESTRICT ON UPDATE RESTRICT,
    FOREIGN KEY (tenant, session_id, message_id) REFERENCES turn (tenant, session_id, message_id)
        ON DELETE RESTRICT,
    CHECK (snapshot_version <= version),
    CHECK (
        CASE
            WHEN snapshot_version = version THEN data IS NULL AND object_hash IS NULL
            ELSE kind = 'delta' AND (data IS NULL) <> (object_hash IS NULL)
        END
    )
) STRICT;

-- A committed turn's answer, and its events as JSON lines. By place, so that retention takes the older ones.
-- data is the answer's UTF-8 and behind it, unless they are an object, the lines, as one zstd frame; unless
-- delta_version is NULL, it leans on that version's delta, whose raw bytes it was given as what came before.
CREATE TABLE events (
    tenant TEXT NOT NULL,
    session_id TEXT NOT NULL,
    place INTEGER NOT NULL,
    answer_bytes INTEGER NOT NULL,
    size INTEGER NOT NULL,
    object_hash BLOB,
    delta_version INTEGER,
    data BLOB NOT NULL,
    PRIMARY KEY (tenant, session_id, place),
    FOREIGN KEY (tenant, session_id, place) REFERENCES turn (tenant, session_id, place)
        ON DELETE RESTRICT ON UPDATE RESTRICT
) STRICT;

-- A session as it is read: its row, and what its turns say about it. The condition that holds
-- for every queued turn is written out because the index of unfinished turns is found by it.
CREATE VIEW session_view AS
SELECT
    s.tenant, s.session_id, s.agent, s.epoch, s.head, s.state_id, s.schema_number, s.schema_fingerprint,
    s.state_bytes, s.chain_bytes, s.chain_deltas, s.snapshot_version, s.snapshot_bytes, s.digest,
    (
        SELECT count(*) FROM turn AS t
        WHERE t.tenant = s.tenant AND t.session_id = s.session_id AND t.status IN ('queued', 'running')
            AND t.status = 'queued'
    ) AS waiting,
    (
        SELECT t.message_id FROM turn AS t
        WHERE t.tenant = s.tenant AND t.session_id = s.session_id AND t.status = 'running'
    ) AS running_message_id,
    (
        SELECT t.metadata FROM turn AS t
        WHERE t.tenant = s.tenant AND t.session_id = s.session_id AND t.message_id = s.first_message_id
    ) AS metadata,
    s.created_at_ms, s.updated_at_ms
FROM session AS s;

-- A turn as it is read: its row, its session's agent, and its answer if that is kept.
CREATE VIEW turn_view AS
SELECT
    t.tenant, t.session_id, t.message_id, t.place, s.agent, t.text, t.metadata, t.status, t.starts, t.starts_before,
    t.epoch, t.version, e.answer_bytes, e.data, v.encoding, v.raw_size, v.checksum, v.data,
    t.error, t.worker_deadline_ms, t.accepted_at_ms, t.finished_at_ms
FROM turn AS t
JOIN session AS s ON s.tenant = t.tenant AND s.session_id = t.session_id
LEFT JOIN events AS e ON e.tenant = t.tenant AND e.session_id = t.session_id AND e.place = t.place
LEFT JOIN version AS v
    ON v.tenant = e.tenant AND v.session_id = e.session_id AND v.version = e.delta_version;
