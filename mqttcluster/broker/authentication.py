"""One authenticator after the other, until one of them decides.

What an authenticator from outside may do wrong is dealt with here: one that raises, answers nonsense or takes too long
refuses the client, with a line in the log and a count. Nobody's session is touched before the answer is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred, TimeoutError, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from mqttcluster.broker.auth import Allow, Credentials, IAuthenticator, Verdict
from mqttcluster.broker.metrics import Metrics
from mqttcluster.mqtt.reasons import Reason

log = Logger(namespace="mqttcluster.authentication")

#: How long an authenticator or authorizer may take, in seconds.
TIMEOUT = 5.0


def ask(question: Callable[..., Any], *arguments: Any, clock: IReactorTime, timeout: float) -> Deferred[Any]:
    """Call `question`, which answers at once, by a Deferred, or is a coroutine. Fails with what it raises, and with
    `TimeoutError` after `timeout` seconds."""
    asked: Deferred[Any] = maybeDeferred(question, *arguments)
    if not asked.called:
        asked.addTimeout(timeout, cast(Any, clock))
    return asked


class Chain:
    """The `Authenticator` that asks others in turn.

    Without an answer a client is let in if it has no user name and anonymous clients are welcome where it came through.
    If `names_count` is false nobody looks at names, and one with a name is let in there as well.
    """

    def __init__(
        self,
        authenticators: Sequence[IAuthenticator],
        metrics: Metrics,
        clock: IReactorTime,
        timeout: float = TIMEOUT,
        names_count: bool = True,
    ) -> None:
        self._authenticators = authenticators
        self._metrics = metrics
        self._clock = clock
        self._timeout = timeout
        self._names_count = names_count

    def authenticate(self, credentials: Credentials) -> Deferred[Reason]:
        """The answer; `credentials.username` is then who the client is taken for."""
        if self._authenticators:
            return Deferred.fromCoroutine(self._authenticate(credentials))
        return succeed(self._note(*self._by_listener(credentials), 0.0))

    async def _authenticate(self, credentials: Credentials) -> Reason:
        begin = self._clock.seconds()
        reason, result = await self._decide(credentials)
        if reason is Reason.SERVER_BUSY:
            result = "busy"
        return self._note(reason, result, self._clock.seconds() - begin)

    def _note(self, reason: Reason, result: str, seconds: float) -> Reason:
        self._metrics.authentications[result] += 1
        self._metrics.authentication_seconds.observe(seconds)
        return reason

    async def _decide(self, credentials: Credentials) -> tuple[Reason, str]:
        for authenticator in self._authenticators:
            name = type(authenticator).__name__
            try:
                verdict = await ask(authenticator.authenticate, credentials, clock=self._clock, timeout=self._timeout)
                reason = self._reason(verdict, credentials)
            except TimeoutError:
                log.error("{name} took more than {timeout} seconds", name=name, timeout=self._timeout)
                return Reason.SERVER_UNAVAILABLE, "timeout"
            except (Exception, CancelledError):
                log.failure("{name} failed", name=name)
                return Reason.SERVER_UNAVAILABLE, "error"
            if reason is not None:
                return reason, "allowed" if reason is Reason.SUCCESS else "denied"
        return self._by_listener(credentials)

    def _by_listener(self, credentials: Credentials) -> tuple[Reason, str]:
        """Nobody has an opinion."""
        if credentials.username is not None and self._names_count:
            return Reason.BAD_USER_NAME_OR_PASSWORD, "denied"
        if credentials.anonymous_allowed:
            return Reason.SUCCESS, "allowed"
        return Reason.NOT_AUTHORIZED, "denied"

    def _reason(self, verdict: Verdict, credentials: Credentials) -> Reason | None:
        if verdict is None:
            return None
        if verdict is True:
            return Reason.SUCCESS
        if verdict is False:
            return Reason.BAD_USER_NAME_OR_PASSWORD
        if isinstance(verdict, Allow):
            credentials.username = verdict.username
            return Reason.SUCCESS
        if isinstance(verdict, Reason) and (verdict is Reason.SUCCESS or verdict >= 0x80):
            return verdict
        raise TypeError(f"an authenticator answered {type(verdict).__name__}")


@implementer(IAuthenticator)
class CertificateNames:
    """Whoever has shown a certificate is the user whose name stands in it; a user name or password is not looked at."""

    def authenticate(self, credentials: Credentials) -> Verdict:
        return None if credentials.certificate_name is None else Allow(credentials.certificate_name)
