"""Where a framework's state lives in a session: one file for each framework, imported only by who uses it."""
