"""The demo's agent in two builds, each an app that a worker process loads."""
