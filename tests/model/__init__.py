"""The ownership protocol as a model, every reachable state of it, and its tie to the real store."""
