-- name: begin_object
-- Make room for an object, or keep the row that is there.
INSERT INTO object (tenant, session_id, content_hash, size, is_whole, touched_at_ms)
VALUES (:tenant, :session_id, :content_hash, :size, 0, :now_ms)
ON CONFLICT DO UPDATE SET touched_at_ms = max(touched_at_ms, excluded.touched_at_ms)
RETURNING is_whole;

-- name: put_piece
-- Write one piece; a piece that an interrupted put left behind is replaced.
INSERT OR REPLACE INTO piece (tenant, session_id, content_hash, number, data)
VALUES (:tenant, :session_id, :content_hash, :number, :data);

-- name: finish_object
-- Make an object readable: all its pieces are durable.
UPDATE object SET is_whole = 1, touched_at_ms = max(touched_at_ms, :now_ms)
WHERE tenant = :tenant AND session_id = :session_id AND content_hash = :content_hash
RETURNING 1;

-- name: pieces
-- The bytes of a whole object, in order.
SELECT p.data FROM object AS o
JOIN piece AS p USING (tenant, session_id, content_hash)
WHERE o.tenant = :tenant AND o.session_id = :session_id AND o.content_hash = :content_hash AND o.is_whole = 1
ORDER BY p.number;

-- name: is_whole
-- Whether an object can be read.
SELECT 1 FROM object
WHERE tenant = :tenant AND session_id = :session_id AND content_hash = :content_hash AND is_whole = 1;

-- name: untouched
-- A page of objects, whole or not, that no put touched since a time.
SELECT tenant, session_id, content_hash, size FROM object
WHERE touched_at_ms < :older_than_ms
    AND (tenant, session_id, content_hash) > (:tenant, :session_id, :content_hash)
ORDER BY tenant, session_id, content_hash
LIMIT :limit;

-- name: delete_object
-- Delete an object with its pieces, unless a put touched it since a time.
DELETE FROM object
WHERE tenant = :tenant AND session_id = :session_id AND content_hash = :content_hash
    AND touched_at_ms < :older_than_ms
RETURNING 1;
