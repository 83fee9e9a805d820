"""Flows of routines across worker processes, durable and recoverable through a shared directory."""
