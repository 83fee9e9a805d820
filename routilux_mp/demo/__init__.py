"""The main job and its demonstrations: what ``routilux-mp demo`` and ``scripts/run`` show.

Ordinary user programs over the public API; nothing else in the package knows them.
"""
