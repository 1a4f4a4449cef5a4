"""The command line: one command per file; each calls the public API only."""
