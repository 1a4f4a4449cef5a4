"""The next build of the pantry agent: sessions are migrated at their next turn."""

from satchel.demo.agent import pantry

worker = pantry(build=2)
