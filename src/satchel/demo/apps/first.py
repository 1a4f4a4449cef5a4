"""The build of the pantry agent that the demo begins with."""

from satchel.demo.agent import pantry

worker = pantry(build=1)
