"""The protocol of a worker link, sans-IO: no socket, no event loop, no clock."""
