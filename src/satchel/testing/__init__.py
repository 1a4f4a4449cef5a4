"""For users who test an agent, and for authors of stores."""

from satchel.testing.session import SessionUnderTest, session

__all__ = ["SessionUnderTest", "session"]
