"""Delivery over a pool of warm SMTP sessions, for any number of threads."""

import logging
import os
import random
import ssl
import threading
import time
from collections.abc import Callable

from messaging import metrics
from messaging.mail.failures import (
    AllInUse,
    DeliveryError,
    NoMoreSessions,
    OutcomeUnknown,
    PermanentFailure,
    SessionFailure,
    TransientFailure,
    words_of,
)
from messaging.mail.session import Limits, Session, SmtpConfig

__all__ = [
    "AllInUse",
    "DeliveryError",
    "OutcomeUnknown",
    "PermanentFailure",
    "SessionFailure",
    "SmtpConfig",
    "SmtpPool",
    "TransientFailure",
]

PAUSE_FIRST = 1.0
PAUSE_LONGEST = 30.0
# Seconds after which a relay that granted no more sessions is asked for one more, and for which it may still count a
# session that we have left
GRANT_AGAIN = 60.0
STILL_COUNTED = 1.0
# and after which a message asks again that found none free
IN_USE_RETRY = 5.0
_JITTER = 0.2
_PROBE_RETRY = 1.0  # seconds to wait while another thread tries the relay

_log = logging.getLogger(__name__)


class SmtpPool:
    """Sends messages over sessions that stay open from one to the next; the last used is the first used again.

    As many sessions are open as threads send at once, or as the relay grants: one that greets with a 421 while others
    are open wants no more of them, and messages wait for one of these then. After a session failure the pool pauses,
    1 s doubling to 30 s, and fails at once meanwhile; then one message is let through as a probe. Safe for threads, and
    for processes forked while no message is being sent (a child opens its own sessions).
    """

    def __init__(self, config: SmtpConfig, clock: Callable[[], float] = time.monotonic) -> None:
        """Open nothing yet. `clock` times the pauses, in seconds."""
        self._config = config
        self._clock = clock
        self._lock = threading.Lock()
        self._idle: list[Session] = []
        # all that are ready or in use, and how many are about to be
        self._sessions: set[Session] = set()
        self._opening = 0
        # how many the relay grants, as far as is known, until when that is believed, and that one may be had
        self._granted: int | None = None
        self._granted_until = 0.0
        # until when the relay may still count a session that we have left, and before when it is not asked again
        self._counted_until = self._ask_from = float("-inf")
        self._freed = threading.Condition(self._lock)
        self._process = os.getpid()
        self._context: ssl.SSLContext | None = None
        self._problem: str | None = None
        self._pauses = 0  # how many since the last success
        self._pause_number = 0  # how many ever; a failure of a message from before the last one is no news
        self._paused_until = 0.0
        self._probing = False
        self._random = random.SystemRandom()  # workers started as one must not come back as one

    @property
    def problem(self) -> str | None:
        """Why the pool pauses, or None when the last try found the relay well."""
        return self._problem

    def send(self, sender: str, recipient: str, data: bytes) -> str:
        """Deliver one message and return the server's final reply, such as `250 2.0.0 Ok: queued as 4F2A`.

        Args:
            sender: the envelope's sender, a plain ASCII address.
            recipient: the envelope's recipient, likewise.
            data: the message; its line ends and leading dots are put right for SMTP.

        Raises:
            PermanentFailure: 5xx to RCPT, to DATA or to the message.
            TransientFailure: 4xx to one of these; `retry_after` holds the server's wish in seconds.
            AllInUse: all the sessions that the relay grants are in use for longer than one step may take.
            SessionFailure: everything before that; `retry_after` holds the rest of the pause in seconds.
            OutcomeUnknown: the link failed, or time ran out, between the final dot and the reply.
        """
        number = self._enter()
        outcome: DeliveryError | None = None
        finished = False
        try:
            with metrics.delivery():
                reply = self._deliver(sender, recipient, data)
            finished = True
        except DeliveryError as error:
            outcome = error
            finished = True
        finally:
            self._leave(number, outcome, finished=finished)
        if outcome is None:
            return reply
        # Raised anew, without a context: what lies below may hold the login.
        outcome.__context__ = outcome.__cause__ = None
        raise outcome.with_traceback(None)

    def close(self) -> None:
        """Say goodbye on all idle sessions. The pool may be used again."""
        with self._lock:
            idle, self._idle = self._idle, []
        for session in idle:
            session.quit()
            self._forget(session)

    def _deliver(self, sender: str, recipient: str, data: bytes) -> str:
        session = self._start(sender, recipient, len(data))
        try:
            return session.transfer(recipient, data)
        except DeliveryError:
            raise
        except BaseException:  # a time limit of Celery, for example: nobody knows where the session stands
            session.usable = False
            raise
        finally:
            self._give_back(session)

    def _start(self, sender: str, recipient: str, size: int) -> Session:
        """A session on which MAIL FROM was accepted: a warm one, or else a fresh one."""
        # all the waiting too: a worker that is told to stop has no more time than this
        limits = Limits(self._config.timeout, self._config.send_seconds)
        deadline = time.monotonic() + limits.step()
        while True:
            session = self._take(deadline)
            if session is not None:
                try:
                    self._begin(session, sender, recipient, size, limits)
                except SessionFailure as error:
                    _log.debug("replaced a stale session: %s", error.reason)
                    with self._lock:
                        self._opening += 1
                else:
                    return session
            session = self._open(limits, deadline)
            if session is not None:
                self._begin(session, sender, recipient, size, limits)
                return session

    def _begin(self, session: Session, sender: str, recipient: str, size: int, limits: Limits) -> None:
        try:
            session.start(sender, recipient, size, limits)
        except BaseException:
            session.close()
            self._forget(session)
            raise

    def _take(self, deadline: float) -> Session | None:
        """The idle session that was used last, if one is still good, or None, where one is to be opened.

        While the relay grants no more it waits for one.

        Raises:
            AllInUse: there was none until `deadline`.
        """
        while True:
            with self._lock:
                if self._process != os.getpid():  # forked: the sessions are the parent's
                    self._process, inherited = os.getpid(), self._idle
                    self._idle, self._sessions, self._opening = [], set(), 0
                    for session in inherited:
                        session.close()
                good = [session for session in self._idle if not (session.expired() or session.spoken_to())]
                bad = [session for session in self._idle if session not in good]
                taken = good.pop() if good else None
                self._idle = good
            for session in bad:
                self._quit(session)
            if taken is not None:
                return taken
            with self._lock:
                if not self._idle:
                    full = self._full_for()
                    if not full:
                        self._opening += 1
                        return None
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise AllInUse("all the sessions that the relay grants were in use", IN_USE_RETRY)
                    self._freed.wait(min(left, full))

    def _full_for(self) -> float:
        """Seconds until one more session may be asked for than there are, 0 for now. `_lock` is held."""
        now = self._clock()
        if now < self._ask_from:
            return self._ask_from - now
        if self._granted is None or len(self._sessions) + self._opening < self._granted:
            return 0.0
        if now < self._granted_until:
            return self._granted_until - now
        self._granted, self._granted_until = self._granted + 1, now + GRANT_AGAIN
        return 0.0

    def _open(self, limits: Limits, deadline: float) -> Session | None:
        """A fresh session, or None if the relay grants no more than there are.

        Raises:
            SessionFailure: it does not let us in at all.
        """
        session = None
        try:
            session = Session.open(self._config, limits, self._tls())
        except NoMoreSessions as error:
            refused = error
        finally:
            with self._lock:
                self._opening -= 1
                if session is not None:
                    self._sessions.add(session)
                    if self._granted is not None:
                        self._granted = max(self._granted, len(self._sessions))
                self._freed.notify_all()
        if session is not None:
            return session
        with self._lock:
            # of those that were asked for at the same time one may still be granted
            self._freed.wait_for(lambda: self._sessions or not self._opening, deadline - time.monotonic())
            now, granted = self._clock(), len(self._sessions)
            if now < self._counted_until:
                # it may count one that we have left: not fewer than before, and soon to be had again
                granted, self._ask_from = max(granted, self._granted or 1), self._counted_until
            if not granted:
                raise SessionFailure(refused.reason)
            self._granted, self._granted_until = granted, now + GRANT_AGAIN
            _log.info("the relay grants no more than %s sessions: %s", self._granted, refused.reason)
        return None

    def _give_back(self, session: Session) -> None:
        session.rest()
        if session.usable and not session.expired():
            with self._lock:
                self._idle.append(session)
                self._freed.notify()
            return
        if session.usable:
            self._quit(session)
        else:
            session.close()
            self._forget(session)

    def _quit(self, session: Session) -> None:
        """Say goodbye, which the relay may take in later than its next greeting."""
        if session.expired():
            self._counted_until = self._clock() + STILL_COUNTED
        session.quit()
        self._forget(session)

    def _forget(self, session: Session) -> None:
        """Count with a session no more."""
        with self._lock:
            self._sessions.discard(session)
            self._freed.notify()

    def _tls(self) -> ssl.SSLContext | None:
        """The context for new sessions, made once.

        Raises:
            SessionFailure: the file of trusted certificates cannot be used.
        """
        if self._config.security == "none":
            return None
        with self._lock:
            if self._context is None:
                try:
                    self._context = ssl.create_default_context(cafile=self._config.ca_file or None)
                except OSError as error:
                    raise SessionFailure(f"smtp_ca_file {self._config.ca_file}: {words_of(error)}") from None
                self._context.minimum_version = ssl.TLSVersion.TLSv1_2
            return self._context

    def _enter(self) -> int:
        """Let a message through, or fail while the pool pauses. Returns the number of pauses so far."""
        with self._lock:
            if self._problem is not None:
                left = self._paused_until - self._clock()
                if left > 0 or self._probing:
                    raise SessionFailure(self._problem, retry_after=max(left, _PROBE_RETRY))
                self._probing = True
            return self._pause_number

    def _leave(self, number: int, outcome: DeliveryError | None, *, finished: bool) -> None:
        """Learn from how a message ended that was let through after `number` pauses."""
        with self._lock:
            if number != self._pause_number:
                return
            was_probe, self._probing = self._probing, False
            if isinstance(outcome, SessionFailure) or (was_probe and isinstance(outcome, OutcomeUnknown)):
                pause = min(PAUSE_LONGEST, PAUSE_FIRST * 2**self._pauses)
                pause *= self._random.uniform(1 - _JITTER, 1 + _JITTER)
                self._pauses = min(self._pauses + 1, 16)
                self._pause_number += 1
                self._paused_until = self._clock() + pause
                self._problem = outcome.reason
                outcome.retry_after = pause
                # A changed file of certificates is read at the next try.
                self._context = None
            elif finished and not isinstance(outcome, OutcomeUnknown | AllInUse):
                self._problem, self._pauses = None, 0
