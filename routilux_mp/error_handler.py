"""What happens when a handler raises: STOP, CONTINUE, RETRY or SKIP.

The engine decides by the :class:`ErrorSpec` that a handler gives; the count it shows comes from
the job. :meth:`ErrorHandler.handle_error` is the same decision for code that asks by hand.
"""

from __future__ import annotations

import builtins
import logging
import sys
import time
from collections.abc import Callable
from enum import Enum
from typing import Any

from ._core.topology import ErrorSpec
from ._serialization.registry import Serializable, register_serializable
from .errors import DefinitionError

_log = logging.getLogger(__name__)

#: Types of exceptions, and names of those that could not be found when the handler was restored.
Retryable = tuple[type[BaseException] | str, ...]


class ErrorStrategy(Enum):
    """How a failure is dealt with."""

    #: The job fails.
    STOP = "stop"
    #: The failure is recorded and the job goes on.
    CONTINUE = "continue"
    #: The activation is tried again, ``max_retries`` times, with growing waits; then the job fails.
    RETRY = "retry"
    #: The routine is marked as skipped and the job goes on.
    SKIP = "skip"

    def __str__(self) -> str:
        return f"ErrorStrategy.{self.name}"


@register_serializable
class ErrorHandler(Serializable):
    """A routine's or a flow's rule for failures. The routine's counts before the flow's."""

    def __init__(
        self,
        strategy: ErrorStrategy | str = "stop",
        max_retries: int = 3,
        retry_delay: float = 1.0,
        retry_backoff: float = 2.0,
        retryable_exceptions: tuple[type[BaseException], ...] | type[BaseException] | None = None,
        is_critical: bool = False,
    ) -> None:
        """
        Args:
            strategy: the enum or its value.
            max_retries: attempts after the first one.
            retry_delay: wait before the first retry, seconds.
            retry_backoff: factor by which each further wait grows.
            retryable_exceptions: types that RETRY tries again; any other fails at once. None: every ``Exception``.
            is_critical: the routine must succeed: without it the job fails, whatever the strategy.
        """
        super().__init__()
        #: Always the enum.
        self.strategy: ErrorStrategy = _strategy(strategy)
        self.max_retries = max_retries
        self.retry_delay = retry_delay
        self.retry_backoff = retry_backoff
        self.is_critical = is_critical
        self._retryable: Retryable = _as_retryable(retryable_exceptions)
        self._retry_count = 0
        self._live_count: Callable[[], int] | None = None
        self.add_serializable_fields(
            [
                "strategy",
                "max_retries",
                "retry_delay",
                "retry_backoff",
                "is_critical",
                "retry_count",
                "retryable_exceptions",
            ]
        )
        self._check()

    @property
    def retryable_exceptions(self) -> tuple[type[BaseException], ...]:
        """The types that are tried again; see also :meth:`is_retryable`."""
        return tuple(t for t in self._retryable if isinstance(t, type))

    @retryable_exceptions.setter
    def retryable_exceptions(self, types: tuple[type[BaseException], ...] | type[BaseException] | None) -> None:
        self._retryable = _as_retryable(types)

    @property
    def retry_count(self) -> int:
        """Retries of the latest failing activation: of the flow's most recent job, or set by hand."""
        return self._live_count() if self._live_count is not None else self._retry_count

    @retry_count.setter
    def retry_count(self, count: int) -> None:
        self._live_count = None
        self._retry_count = count

    def mirror(self, count: Callable[[], int] | None) -> None:
        """Show a job's count from now on; None: keep the last one seen."""
        if count is None:
            self._retry_count = self.retry_count
        self._live_count = count

    def reset(self) -> None:
        """Start counting at 0. A running job keeps its own count."""
        self.retry_count = 0

    def is_retryable(self, error: BaseException) -> bool:
        """Whether RETRY tries again after ``error``."""
        names = [t for t in self._retryable if isinstance(t, str)]
        return isinstance(error, self.retryable_exceptions) or any(
            _type_name(cls) in names or cls.__name__ in _short(names) for cls in type(error).__mro__
        )

    def spec(self) -> ErrorSpec:
        """What the core needs to know of this handler."""
        return ErrorSpec(
            self.strategy.value, self.max_retries, float(self.retry_delay), float(self.retry_backoff), self.is_critical
        )

    def handle_error(
        self,
        error: BaseException,
        routine: Any,
        routine_id: str,
        flow: Any,
        job_state: Any = None,
        context: dict[str, Any] | None = None,
    ) -> bool:
        """Decide by hand what the engine decides by itself: True to go on, False to stop.

        RETRY waits out its delay and then says True, until ``retry_count >= max_retries``.
        """
        _log.warning("error in routine", extra={"routine_id": routine_id, "error": repr(error), "context": context})
        match self.strategy:
            case ErrorStrategy.STOP:
                return False
            case ErrorStrategy.CONTINUE:
                if job_state is not None:
                    data = {"error": str(error), "error_type": type(error).__name__}
                    job_state.record_execution(routine_id, "error_continued", data)
                return not self.is_critical
            case ErrorStrategy.SKIP:
                if job_state is not None:
                    job_state.update_routine_state(routine_id, {"status": "skipped", "error": str(error)})
                return not self.is_critical
            case ErrorStrategy.RETRY:
                return self._try_again(error)

    def _try_again(self, error: BaseException) -> bool:
        count = self.retry_count
        if count >= self.max_retries or not self.is_retryable(error):
            return False
        self.retry_count = count + 1
        time.sleep(self.retry_delay * self.retry_backoff**count)
        return True

    def serialize(self) -> dict[str, Any]:
        """As JSON-able data; exception types as ``module:qualname``."""
        return {
            "_type": type(self).__name__,
            "strategy": self.strategy.value,
            "max_retries": self.max_retries,
            "retry_delay": self.retry_delay,
            "retry_backoff": self.retry_backoff,
            "is_critical": self.is_critical,
            "retry_count": self.retry_count,
            "retryable_exceptions": [t if isinstance(t, str) else _type_name(t) for t in self._retryable],
        }

    def _restore(self, data: dict[str, Any]) -> None:
        self.strategy = _strategy(data.get("strategy", self.strategy))
        self.max_retries = data.get("max_retries", self.max_retries)
        self.retry_delay = data.get("retry_delay", self.retry_delay)
        self.retry_backoff = data.get("retry_backoff", self.retry_backoff)
        self.is_critical = data.get("is_critical", self.is_critical)
        self.retry_count = data.get("retry_count", 0)
        names = data.get("retryable_exceptions")
        if names is not None:
            self._retryable = tuple(_find_type(name) for name in names)
        self._check()

    def __getstate__(self) -> dict[str, Any]:
        # A worker gets the count as it is now, not the job that the caller's object looks at.
        return {**self.__dict__, "_retry_count": self.retry_count, "_live_count": None}

    def _check(self) -> None:
        if type(self.max_retries) is not int or self.max_retries < 0:
            raise DefinitionError(f"max_retries must be a whole number of at least 0, got {self.max_retries!r}")
        if not self.retry_delay >= 0 or not self.retry_backoff >= 0:
            raise DefinitionError(
                f"retry_delay and retry_backoff must be at least 0, got {self.retry_delay!r} and {self.retry_backoff!r}"
            )

    def __repr__(self) -> str:
        return f"ErrorHandler({self.strategy}, max_retries={self.max_retries}, retry_count={self.retry_count})"


def _strategy(value: ErrorStrategy | str) -> ErrorStrategy:
    try:
        return ErrorStrategy(value.lower() if isinstance(value, str) else value)
    except ValueError:
        known = ", ".join(repr(s.value) for s in ErrorStrategy)
        raise DefinitionError(f"no error strategy {value!r}; there are: {known}") from None


def _as_retryable(types: Any) -> Retryable:
    if types is None:
        return (Exception,)
    types = (types,) if isinstance(types, type) else tuple(types)
    for item in types:
        if not (isinstance(item, type) and issubclass(item, BaseException)):
            raise DefinitionError(f"retryable_exceptions takes exception types, got {item!r}")
    return types  # type: ignore[no-any-return]


def _type_name(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _short(names: list[str]) -> set[str]:
    return {name.rpartition(":")[2].rpartition(".")[2] for name in names}


def _find_type(name: str) -> type[BaseException] | str:
    """The exception type of a name if its module is loaded; else the name, which matches by itself."""
    module, _, qualname = name.rpartition(":")
    found: Any = sys.modules.get(module) if module else builtins
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else name
