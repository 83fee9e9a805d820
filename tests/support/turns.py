"""Threads that run one at a time, in an order that a test decides.

Not here: who comes next. The rule it owns: exactly one actor holds the baton; an actor lets go of
it only in `Stage.switch`, so a run depends on the choices alone and not on the machine.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from tests.support.faulty import Crashed


class Actor:
    """One thread of a process; it starts when it is first switched to."""

    def __init__(self, stage: Stage, name: str, body: Callable[[], None]) -> None:
        self.name = name
        self.is_done = False
        #: What ended it, unless it returned or was killed.
        self.failure: BaseException | None = None
        self.is_killed = False
        self.stage = stage
        self.baton = threading.Lock()
        self.baton.acquire()
        self._body = body
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Hand it the baton."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"actor {self.name}", daemon=True)
            self._thread.start()
        else:
            self.baton.release()

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            if not self.is_killed:
                self._body()
        except Crashed:
            pass
        except BaseException as error:  # reported by `Stage.close`: a thread has nobody above it
            self.failure = error
        self.is_done = True
        self.stage.leave()


class Stage:
    """The actors of one test. The thread that makes it is the director: it holds the baton first and last."""

    def __init__(self) -> None:
        self.actors: list[Actor] = []
        self._director = threading.Lock()
        self._director.acquire()
        #: Who has the baton; None: the director.
        self.current: Actor | None = None
        #: Whom an actor that ended hands the baton to; None: the director.
        self.heir: Callable[[], Actor | None] = lambda: None

    def enter(self, name: str, body: Callable[[], None]) -> Actor:
        actor = Actor(self, name, body)
        self.actors.append(actor)
        return actor

    def switch(self, to: Actor | None) -> None:
        """Go on as `to` (None: the director); returns when the caller is switched to again."""
        me = self.current
        if to is me:
            return
        self._hand(to)
        (me.baton if me is not None else self._director).acquire()
        if me is not None and me.is_killed:
            raise Crashed(me.name)

    def leave(self) -> None:
        """The current actor has ended."""
        self._hand(self.heir())

    def kill(self, actor: Actor) -> None:
        """The actor gets no further than where it stands. Called by the director."""
        actor.is_killed = True
        if not actor.is_done:
            heir, self.heir = self.heir, lambda: None
            self.switch(actor)
            self.heir = heir
        actor.join()

    def close(self) -> None:
        """Kill whoever is left; report what ended the others."""
        for actor in self.actors:
            self.kill(actor)
        failed = [actor.failure for actor in self.actors if actor.failure is not None]
        if failed:
            raise failed[0]

    def _hand(self, to: Actor | None) -> None:
        self.current = to
        if to is None:
            self._director.release()
        else:
            to.wake()
