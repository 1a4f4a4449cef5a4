-- name: register_schema
-- Remember which fingerprint a schema number stands for, once.
INSERT INTO agent_schema (tenant, agent, number, fingerprint)
VALUES (:tenant, :agent, :number, :fingerprint)
ON CONFLICT DO NOTHING;

-- name: schema_fingerprint
-- The fingerprint that a schema number stands for.
SELECT fingerprint FROM agent_schema WHERE tenant = :tenant AND agent = :agent AND number = :number;

-- name: register_agent
-- Remember an agent as last registered.
INSERT INTO agent
    (tenant, name, schema_number, schema_fingerprint, schema_min, turn_timeout_s, max_attempts, on_busy)
VALUES (:tenant, :agent, :number, :fingerprint, :schema_min, :turn_timeout_s, :max_attempts, :on_busy)
ON CONFLICT DO UPDATE SET
    schema_number = excluded.schema_number,
    schema_fingerprint = excluded.schema_fingerprint,
    schema_min = excluded.schema_min,
    turn_timeout_s = excluded.turn_timeout_s,
    max_attempts = excluded.max_attempts,
    on_busy = excluded.on_busy;

-- name: agents
-- Every agent of a tenant, by name.
SELECT name, schema_number, schema_fingerprint, schema_min, turn_timeout_s, max_attempts, on_busy
FROM agent WHERE tenant = :tenant ORDER BY name;

-- name: arrival
-- What a message meets: its agent as last registered, the end of its session's order, and itself if it is known.
SELECT a.name, a.schema_number, a.schema_fingerprint, a.schema_min, a.turn_timeout_s, a.max_attempts, a.on_busy,
    (
        SELECT coalesce(max(place), 0) + 1 FROM turn AS o WHERE o.tenant = :tenant AND o.session_id = :session_id
    ) AS place,
    t.status, t.request_digest
FROM agent AS a
LEFT JOIN turn AS t ON t.tenant = :tenant AND t.session_id = :session_id AND t.message_id = :message_id
WHERE a.tenant = :tenant AND a.name = :agent;

-- name: insert_session
-- A session begins with its first message.
INSERT INTO session (
    tenant, session_id, agent, first_message_id, epoch, head, state_id, state_bytes, chain_bytes, chain_deltas,
    snapshot_version, snapshot_bytes, created_at_ms, updated_at_ms
)
VALUES (:tenant, :session_id, :agent, :message_id, 0, 0, :state_id, 0, 0, 0, 0, 0, :at_ms, :at_ms);

-- name: session
-- One session.
SELECT * FROM session_view WHERE tenant = :tenant AND session_id = :session_id;

-- name: sessions
-- A page of a tenant's sessions, by ID.
SELECT * FROM session_view
WHERE tenant = :tenant AND session_id > :after AND (:agent IS NULL OR agent = :agent)
ORDER BY session_id LIMIT :limit;

-- name: touch_session
-- A session changed at a time; if its epoch rose, every attempt that was started before is fenced out.
UPDATE session SET epoch = epoch + :raised, updated_at_ms = max(updated_at_ms, :at_ms)
WHERE tenant = :tenant AND session_id = :session_id RETURNING epoch;

-- name: insert_turn
-- A message enters its session's order, and perhaps runs at once.
INSERT INTO turn (
    tenant, session_id, message_id, place, status, starts, starts_before, epoch, accepted_at_ms, request_digest,
    metadata, text
)
VALUES (
    :tenant, :session_id, :message_id, :place, :status, :started, 0, :epoch, :at_ms, :request_digest, :metadata, :text
);

-- name: resend_turn
-- A failed message enters the order again, with a new count of attempts. If it never
-- started since it was last sent, its end has used up the number of a start.
UPDATE turn SET
    place = :place, status = :status, epoch = :epoch, error = NULL, finished_at_ms = NULL, worker_deadline_ms = NULL,
    starts = starts + (starts = starts_before) + :started, starts_before = starts + (starts = starts_before)
WHERE tenant = :tenant AND session_id = :session_id AND message_id = :message_id;

-- name: turn
-- One turn.
SELECT * FROM turn_view WHERE tenant = :tenant AND session_id = :session_id AND message_id = :message_id;

-- name: turns
-- The newest turns before a place, newest first.
SELECT * FROM turn_view
WHERE tenant = :tenant AND session_id = :session_id AND (:before IS NULL OR place < :before)
ORDER BY place DESC LIMIT :limit;

-- name: unfinished
-- Every turn that is queued or running.
SELECT * FROM turn_view WHERE status IN ('queued', 'running') ORDER BY tenant, session_id, place;

-- name: first_unfinished
-- The turn that is first in its session's order: one that runs, or the next to start.
SELECT message_id FROM turn
WHERE tenant = :tenant AND session_id = :session_id AND status IN ('queued', 'running')
ORDER BY place LIMIT 1;

-- name: start_turn
-- A turn runs under a new epoch.
UPDATE turn SET status = 'running', starts = starts + 1, epoch = :epoch, worker_deadline_ms = NULL
WHERE tenant = :tenant AND session_id = :session_id AND message_id = :message_id;

-- name: requeue_turn
-- A running turn waits again, at its place.
UPDATE turn SET status = 'queued', epoch = NULL
WHERE tenant = :tenant AND session_id = :session_id AND message_id = :message_id;

-- name: set_worker_deadline
-- A queued turn gets its deadline once.
UPDATE turn SET worker_deadline_ms = :deadline_ms
WHERE tenant = :tenant AND session_id = :session_id AND message_id = :message_id
    AND status = 'queued' AND worker_deadline_ms IS NULL;

-- name: end_turn
-- A turn ends without a version.
UPDATE turn SET status = :status, epoch = NULL, error = :error, worker_deadline_ms = NULL, finished_at_ms = :at_ms
WHERE tenant = :tenant AND session_id = :session_id AND message_id = :message_id;

-- name: commit_turn
-- A turn ends with a version.
UPDATE turn SET
    status = 'committed', epoch = NULL, version = :version, state_id = :state_id, finished_at_ms = :at_ms
WHERE tenant = :tenant AND session_id = :session_id AND message_id = :message_id;

-- name: committed_name
-- The state that a turn committed.
SELECT version, state_id FROM turn
WHERE tenant = :tenant AND session_id = :session_id AND message_id = :message_id AND status = 'committed';

-- name: insert_snapshot
-- A new base that deltas can stand on.
INSERT INTO snapshot (tenant, session_id, version, encoding, raw_size, checksum, size, object_hash, data)
VALUES (:tenant, :session_id, :version, :encoding, :raw_size, :checksum, :size, :object_hash, :data);

-- name: insert_version
-- A committed version, on the base it stands on.
INSERT INTO version (
    tenant, session_id, version, state_id, kind, snapshot_version, message_id, schema_number, schema_fingerprint,
    digest, committed_at_ms, encoding, raw_size, checksum, size, object_hash, data
)
VALUES (
    :tenant, :session_id, :version, :state_id, :kind, :snapshot_version, :message_id, :schema_number,
    :schema_fingerprint, :digest, :at_ms, :encoding, :raw_size, :checksum, :size, :object_hash, :data
);

-- name: move_head
-- The session stands at a new version.
UPDATE session SET
    head = :version, state_id = :state_id, schema_number = :schema_number, schema_fingerprint = :schema_fingerprint,
    state_bytes = :state_bytes, chain_bytes = :chain_bytes, chain_deltas = :chain_deltas,
    snapshot_version = :snapshot_version, snapshot_bytes = :snapshot_bytes, digest = :digest,
    updated_at_ms = max(updated_at_ms, :at_ms)
WHERE tenant = :tenant AND session_id = :session_id;

-- name: insert_events
-- A committed turn's answer and events.
INSERT INTO events (tenant, session_id, place, answer_bytes, size, object_hash, delta_version, data)
VALUES (:tenant, :session_id, :place, :answer_bytes, :size, :object_hash, :delta_version, :data);

-- name: events
-- A committed turn's events, unless retention took them.
SELECT e.size, e.object_hash, e.answer_bytes, e.data, v.encoding, v.raw_size, v.checksum, v.data FROM turn AS t
JOIN events AS e USING (tenant, session_id, place)
LEFT JOIN version AS v
    ON v.tenant = e.tenant AND v.session_id = e.session_id AND v.version = e.delta_version
WHERE t.tenant = :tenant AND t.session_id = :session_id AND t.message_id = :message_id;

-- name: snapshot_link
-- The newest snapshot at or below a version, as the first link of a chain.
SELECT v.version, v.state_id, 'snapshot', v.digest, v.schema_number, v.schema_fingerprint,
    s.encoding, s.raw_size, s.checksum, s.size, s.object_hash, s.data
FROM snapshot AS s
JOIN version AS v USING (tenant, session_id, version)
WHERE s.tenant = :tenant AND s.session_id = :session_id AND s.version <= :version
ORDER BY s.version DESC LIMIT 1;

-- name: delta_links
-- The deltas that are kept after one version and up to another, in order.
SELECT version, state_id, kind, digest, schema_number, schema_fingerprint,
    encoding, raw_size, checksum, size, object_hash, data
FROM version
WHERE tenant = :tenant AND session_id = :session_id AND version > :after AND version <= :upto
    AND snapshot_version < version
ORDER BY version;

-- name: versions
-- The newest retained versions below one, newest first.
SELECT version, state_id, kind, size, raw_size, message_id, digest, schema_number, schema_fingerprint, committed_at_ms
FROM version
WHERE tenant = :tenant AND session_id = :session_id AND (:before IS NULL OR version < :before)
ORDER BY version DESC LIMIT :limit;

-- name: version
-- The name and digest of one retained version.
SELECT state_id, digest FROM version
WHERE tenant = :tenant AND session_id = :session_id AND version = :version;

-- name: stand_on_snapshot
-- Later deltas of the chain stand on a new base.
UPDATE version SET snapshot_version = :version
WHERE tenant = :tenant AND session_id = :session_id AND version > :version AND snapshot_version < :version;

-- name: weigh_chain
-- What the deltas behind the newest snapshot weigh.
UPDATE session SET
    snapshot_version = :version, snapshot_bytes = :size, chain_deltas = head - :version,
    chain_bytes = :size + (
        SELECT coalesce(sum(v.size), 0) FROM version AS v
        WHERE v.tenant = :tenant AND v.session_id = :session_id AND v.version > :version
    )
WHERE tenant = :tenant AND session_id = :session_id;

-- name: oldest_kept_base
-- The snapshot that the oldest version to be kept is rebuilt from.
SELECT max(version) FROM snapshot
WHERE tenant = :tenant AND session_id = :session_id AND version <= :oldest;

-- name: leaning_events
-- Events that lean on a delta which an older chain than the base's has, or that led to it.
SELECT e.place, e.data, v.encoding, v.raw_size, v.checksum, v.data FROM version AS v
JOIN turn AS t USING (tenant, session_id, message_id)
JOIN events AS e USING (tenant, session_id, place)
WHERE v.tenant = :tenant AND v.session_id = :session_id AND v.version <= :base AND e.delta_version = v.version
LIMIT :limit;

-- name: free_events
-- Events that lean on nothing any more.
UPDATE events SET delta_version = NULL, data = :data
WHERE tenant = :tenant AND session_id = :session_id AND place = :place;

-- name: trim_delta_of_base
-- The oldest base no longer needs the delta that once led to it.
UPDATE version SET snapshot_version = version, object_hash = NULL, data = NULL
WHERE tenant = :tenant AND session_id = :session_id AND version = :base AND snapshot_version < :base;

-- name: trim_versions
-- Delete the versions of older chains.
DELETE FROM version WHERE tenant = :tenant AND session_id = :session_id AND version < :base;

-- name: trim_snapshots
-- Delete the bases of older chains: nothing stands on them any more.
DELETE FROM snapshot WHERE tenant = :tenant AND session_id = :session_id AND version < :base;

-- name: trim_answers
-- Delete the answers and events of all but the newest turns.
DELETE FROM events WHERE tenant = :tenant AND session_id = :session_id AND place <= (
    SELECT place FROM events WHERE tenant = :tenant AND session_id = :session_id
    ORDER BY place DESC LIMIT 1 OFFSET :kept
);

-- name: named_objects
-- Every object that a row of a session names.
SELECT object_hash FROM version WHERE tenant = :tenant AND session_id = :session_id AND object_hash IS NOT NULL
UNION
SELECT object_hash FROM snapshot WHERE tenant = :tenant AND session_id = :session_id AND object_hash IS NOT NULL
UNION
SELECT object_hash FROM events WHERE tenant = :tenant AND session_id = :session_id AND object_hash IS NOT NULL;
