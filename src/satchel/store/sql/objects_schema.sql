-- Objects: immutable bytes by session and content hash. Every key begins with the tenant.

-- The format of both files, and the name that they share.
CREATE TABLE meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    format INTEGER NOT NULL,
    store_id BLOB NOT NULL
) STRICT;

-- One row an object. It can be read once it is whole; until then only its pieces are there.
CREATE TABLE object (
    tenant TEXT NOT NULL,
    session_id TEXT NOT NULL,
    content_hash BLOB NOT NULL,
    size INTEGER NOT NULL,
    is_whole INTEGER NOT NULL CHECK (is_whole IN (0, 1)),
    touched_at_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, session_id, content_hash)
) STRICT, WITHOUT ROWID;

-- The bytes of objects, in order, at most one piece a transaction.
CREATE TABLE piece (
    tenant TEXT NOT NULL,
    session_id TEXT NOT NULL,
    content_hash BLOB NOT NULL,
    number INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (tenant, session_id, content_hash, number),
    FOREIGN KEY (tenant, session_id, content_hash) REFERENCES object (tenant, session_id, content_hash)
        ON DELETE CASCADE
) STRICT;
