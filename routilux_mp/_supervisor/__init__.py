"""The supervisor: the loop around the pure core."""
