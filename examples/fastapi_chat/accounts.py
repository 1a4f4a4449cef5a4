"""The app's users, as it had them before: names and passwords in its own database, a token for each login.

Nothing here knows of Satchel. A public site needs more beside it: a limit on tries,
a way to set a new password.
"""

import contextlib
import hashlib
import hmac
import pathlib
import secrets
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

LOGIN_S: Final = 14 * 24 * 3600
"""How long a login lasts."""

TABLES: Final = """
CREATE TABLE IF NOT EXISTS user (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never given to a second user
    name TEXT NOT NULL UNIQUE COLLATE NOCASE,
    salt BLOB NOT NULL,
    password_hash BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS login (
    token_hash BLOB PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES user (id) ON DELETE CASCADE,
    ends_at REAL NOT NULL
) STRICT;
"""


@dataclass(frozen=True)
class User:
    id: int
    name: str


class Accounts:
    """Users and their logins in the SQLite file *path*. Every method may block."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def open(self) -> None:
        """Make the file and its tables, unless they are there."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._database() as database:
            database.executescript(TABLES)

    def sign_up(self, name: str, password: str) -> User | None:
        """Add a user; ``None`` if the name is taken."""
        salt = secrets.token_bytes(16)
        with self._database() as database:
            row = database.execute(
                "INSERT INTO user (name, salt, password_hash) VALUES (?, ?, ?) ON CONFLICT DO NOTHING RETURNING id",
                (name, salt, hashed(password, salt)),
            ).fetchone()
        return User(row[0], name) if row else None

    def user_with(self, name: str, password: str) -> User | None:
        """Return the user of that name and password; ``None`` as slowly if there is none."""
        with self._database() as database:
            found = database.execute(
                "SELECT id, name, salt, password_hash FROM user WHERE name = ?", (name,)
            ).fetchone()
        user_id, name, salt, expected = found or (0, name, bytes(16), bytes(64))
        is_right = hmac.compare_digest(hashed(password, salt), expected)
        return User(user_id, name) if found and is_right else None

    def begin_login(self, user: User) -> str:
        """Return a new token that stands for *user* until it is ended or too old. The file holds its hash alone."""
        token = secrets.token_urlsafe(32)
        with self._database() as database:
            database.execute("DELETE FROM login WHERE ends_at < ?", (time.time(),))
            database.execute("INSERT INTO login VALUES (?, ?, ?)", (token_hash(token), user.id, time.time() + LOGIN_S))
        return token

    def user_of(self, token: str) -> User | None:
        """Return whose login *token* is; ``None`` if it is nobody's."""
        with self._database() as database:
            row = database.execute(
                "SELECT user.id, name FROM login JOIN user ON user.id = user_id WHERE token_hash = ? AND ends_at >= ?",
                (token_hash(token), time.time()),
            ).fetchone()
        return User(*row) if row else None

    def end_login(self, token: str) -> None:
        """Make *token* worth nothing. Idempotent."""
        with self._database() as database:
            database.execute("DELETE FROM login WHERE token_hash = ?", (token_hash(token),))

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection of this thread's own, its changes kept unless the body raises."""
        with contextlib.closing(sqlite3.connect(self._path)) as database, database:
            database.execute("PRAGMA foreign_keys = ON")
            yield database


def hashed(password: str, salt: bytes) -> bytes:
    """Return what is stored of a password: some tenths of a second of work, for a thief as well."""
    return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=5)


def token_hash(token: str) -> bytes:
    """Return what is stored of a token. It is random, so that one fast hash is enough and a look-up tells nothing."""
    return hashlib.sha256(token.encode()).digest()
