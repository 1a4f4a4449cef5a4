"""The durable truth: a fenced log and immutable objects."""
