"""What runs and what could run: the registry of flows by name."""

from .flow_registry import FlowRegistry
from .hooks import ExecutionHooks

__all__ = ["ExecutionHooks", "FlowRegistry"]
