"""A session's SQLite database, wherever it is open."""
