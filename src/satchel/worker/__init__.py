"""The SDK and its process."""
