"""Every error of the package, by phase and by whose fault it is.

A class's docstring is its default message. Types that the seeds document (``ValueError``,
``TypeError``, ``RuntimeError``) are kept by multiple inheritance, so that a user's
``except ValueError`` goes on working.
"""

from __future__ import annotations


class RoutiluxError(Exception):
    """Something in routilux_mp went wrong."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(args or ((type(self).__doc__ or "").strip(),)))


# -- the flow is wrong, found before anything runs --------------------------------------------


class DefinitionError(RoutiluxError, ValueError):
    """The flow is not well defined."""


class NotShippable(DefinitionError, TypeError):
    """Code of this flow cannot be sent to a worker process."""


class NotSerializable(DefinitionError, TypeError):
    """This object cannot be serialised."""


# -- a call is wrong ----------------------------------------------------------------------------


class UsageError(RoutiluxError):
    """This call is not possible now."""


class FlowMismatch(UsageError, ValueError):
    """The job belongs to another flow."""


class CodeChanged(UsageError, ValueError):
    """The code of unfinished or stateful work has changed since the job was begun."""


class UnknownName(UsageError, ValueError):
    """No such flow, routine, slot, event or job."""


class NeverBegan(UnknownName):
    """The job was made, and its maker ended before its first record was written."""


class RuntimeClosed(UsageError, RuntimeError):
    """The runtime has been shut down."""


class NotInHandler(UsageError, RuntimeError):
    """No handler is running here."""


class SettingInvalid(UsageError, ValueError):
    """A setting has a value that cannot be used."""


# -- an activation failed -----------------------------------------------------------------------


class ActivationError(RoutiluxError):
    """An activation failed."""


class ActivationTimeout(ActivationError):
    """The handler ran longer than its timeout_s and its worker was killed."""


class WorkerCrashed(ActivationError):
    """The worker process died while it ran the activation."""


class EmissionNotSerializable(ActivationError, TypeError):
    """A value that was emitted or stored cannot be serialised."""


class PolicyAnswerInvalid(ActivationError, ValueError):
    """An activation policy gave an answer that cannot be followed."""


class BareYield(ActivationError):
    """A generator handler must yield a cursor: a bare yield looks like a first run on resume."""


# -- the checkpoint directory -------------------------------------------------------------------


class StorageError(RoutiluxError):
    """The checkpoint directory cannot be used."""


class StorageBlocked(StorageError):
    """Nothing was written and nothing is lost: the same bytes are tried again (disk full, quota, read-only)."""


class OutcomeUnknown(StorageError):
    """An I/O error came at or after the commit; whether it stands can only be read by the next owner."""


class CheckpointDamaged(StorageError):
    """A checkpoint file is truncated or damaged."""


class BlobMissing(CheckpointDamaged):
    """A payload's file is not there: it was collected after it was consumed, or it is lost."""


class CheckpointFormat(StorageError):
    """The checkpoint was written in a format that this version must not touch."""


class SignatureInvalid(StorageError):
    """A signed part of the checkpoint does not verify; nothing of it was loaded."""


class KeyUnavailable(StorageError):
    """The signing key is missing, unreadable or has the wrong owner or mode."""


class MultiHostUnsupported(StorageError):
    """This file system cannot keep one owner per job between hosts."""


# -- ownership ----------------------------------------------------------------------------------


class LeaseError(RoutiluxError):
    """This process does not own the job."""


class Fenced(LeaseError):
    """Another owner has taken the job over; nothing more can be committed here."""


class HandedOver(LeaseError):
    """The job was handed over, as it was asked for; whoever takes it goes on with it."""


class JobOwned(LeaseError):
    """Another living supervisor owns the job."""


# -- workers ------------------------------------------------------------------------------------


class BackendError(RoutiluxError):
    """The worker processes cannot be run."""
