"""For users who test an agent, and for authors of stores."""
