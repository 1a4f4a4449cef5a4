"""What an application imports to talk to a hub."""
