"""Satchel carries the state of AI-agent sessions between a durable hub and a fleet of stateless workers."""
