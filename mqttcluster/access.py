"""Who may come in and do what, put together from the configuration; and read again without a restart.

`Access.read` reads the files and finds the objects that the configuration names. `reload` reads the files again: one
that cannot be used changes nothing, and the log says so.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from mqttcluster.broker.acl import AclFile, AclFileError, read_acl
from mqttcluster.broker.auth import Authenticator, Authorizer, IAuthenticator, IAuthorizer
from mqttcluster.broker.authentication import CertificateNames, Chain
from mqttcluster.broker.authorization import Rules
from mqttcluster.broker.enhanced import IAuthenticationMethod
from mqttcluster.broker.metrics import Metrics
from mqttcluster.broker.passwords import PasswordFile, PasswordFileError, read_passwords
from mqttcluster.broker.scram import Scram, ScramFileError, read_verifiers
from mqttcluster.config import Config
from mqttcluster.loading import Loaded

log = Logger(namespace="mqttcluster")

T = TypeVar("T")


class Access:
    """The parts. `authenticators` and `authorizers` are those from outside."""

    def __init__(
        self,
        config: Config,
        passwords: PasswordFile | None,
        acl: AclFile | None,
        authenticators: list[Any],
        authorizers: list[Any],
        methods: list[Any],
        scram: Scram | None,
    ) -> None:
        self._config = config
        self._passwords = passwords
        self._acl = acl
        self._authenticators = authenticators
        self._authorizers = authorizers
        self._methods = methods
        self._scram = scram
        self._rules: Rules | None = None

    @classmethod
    def read(cls, loaded: Loaded) -> Access:
        """What the configuration says; what is wrong with it is added to its problems."""
        config = loaded.config
        passwords: PasswordFile | None = None
        acl: AclFile | None = None
        if config.passwords:
            try:
                passwords = PasswordFile(read_passwords(config.passwords), _in_thread)
            except PasswordFileError as error:
                loaded.complain("passwords", str(error))
        if config.acl:
            try:
                acl = read_acl(config.acl)
            except AclFileError as error:
                loaded.complain("acl", str(error))
        scram: Scram | None = None
        if config.scram:
            try:
                scram = Scram(read_verifiers(config.scram))
            except ScramFileError as error:
                loaded.complain("scram", str(error))
        if acl is not None and acl.needs_users and not config.has_users:
            loaded.complain(
                "acl", "its rules speak of users, but anybody can give any name; give --passwords FILE as well"
            )
        if config.administrators and not config.has_users:
            loaded.complain(
                "administrators", "anybody can give any name; give --passwords FILE as well, or leave them out"
            )
        return cls(
            config,
            passwords,
            acl,
            _named(loaded, "authenticator", config.authenticator, IAuthenticator),
            _named(loaded, "authorizer", config.authorizer, IAuthorizer),
            _named(loaded, "authentication-method", config.authentication_method, IAuthenticationMethod),
            scram,
        )

    def authenticator(self, metrics: Metrics, clock: IReactorTime) -> Authenticator:
        """Certificates first, then the authenticators from outside, then the password file."""
        config = self._config
        chain: list[Any] = [CertificateNames()] if config.tls_identity != "none" else []
        chain += self._authenticators
        if self._passwords is not None:
            chain.append(self._passwords)
        return Chain(chain, metrics, clock, config.auth_timeout, names_count=config.has_users)

    @property
    def methods(self) -> list[Any]:
        """Each an `IAuthenticationMethod`."""
        return [*self._methods, *([self._scram] if self._scram is not None else [])]

    def authorizer(self, metrics: Metrics, clock: IReactorTime) -> Authorizer:
        """The authorizers from outside, then the ACL file."""
        config = self._config
        self._rules = Rules(
            self._authorizers,
            self._acl,
            metrics,
            clock,
            config.auth_timeout,
            users=config.has_users,
            administrators=config.administrators,
        )
        return self._rules

    async def reload(self, metrics: Metrics) -> None:
        """Read the files again, and let the objects from outside do so if they have a `reload`. However long a file is,
        clients are served meanwhile; what was read is put into force in one turn."""
        for what, put_into_force in await deferToThread(self._read_files):
            attempt(metrics, what, put_into_force)
        for thing in (*self._authenticators, *self._authorizers, *self._methods):
            if hasattr(thing, "reload"):
                attempt(metrics, "objects", thing.reload)

    def _read_files(self) -> list[tuple[str, Callable[[], object]]]:
        """In a thread: what is in each file, as what puts it into force, or raises what is wrong with it."""
        config, found = self._config, []
        if self._passwords is not None:
            found.append(("passwords", _outcome(lambda: read_passwords(config.passwords), self._passwords.change)))
        if self._scram is not None:
            found.append(("scram", _outcome(lambda: read_verifiers(config.scram), self._scram.change)))
        if self._rules is not None and self._acl is not None:
            found.append(("acl", _outcome(self._read_acl, self._rules.change)))
        return found

    def _read_acl(self) -> AclFile:
        acl = read_acl(self._config.acl)
        if acl.needs_users and not self._config.has_users:
            raise AclFileError("its rules speak of users, and there were none when this node started")
        return acl


def _outcome(read: Callable[[], T], change: Callable[[T], object]) -> Callable[[], object]:
    """What `change` is to be told, or the error, kept for another thread."""
    try:
        content = read()
    except Exception as error:
        return partial(_fail, error)
    return partial(change, content)


def _fail(error: Exception) -> None:
    raise error


def attempt(metrics: Metrics, what: str, read: Callable[[], object]) -> None:
    """Read something again; if that fails, what was read before stays in force."""
    try:
        read()
    except (PasswordFileError, AclFileError, ValueError) as error:
        log.error("{what} not read again, what was read before stays in force: {error}", what=what, error=error)
        metrics.reloaded(what, False)
    except Exception:
        log.failure("{what} not read again", what=what)
        metrics.reloaded(what, False)
    else:
        log.info("{what} read again", what=what)
        metrics.reloaded(what, True)


def _named(loaded: Loaded, option: str, paths: tuple[str, ...], interface: Any) -> list[Any]:
    """The objects of those names; a class or function among them is called."""
    found = []
    for path in paths:
        try:
            module, _, name = path.rpartition(".")
            thing = getattr(importlib.import_module(module), name)
            if not interface.providedBy(thing) and callable(thing):
                thing = thing()
            if not interface.providedBy(thing):
                raise TypeError(f"it does not provide {interface.__module__}.{interface.__name__}")
        except Exception as error:  # whatever somebody else's module does as it is imported
            loaded.complain(
                option,
                f"{path} cannot be used ({type(error).__name__}: {error}); docs/authentication.md has an example",
            )
        else:
            found.append(thing)
    return found


def _in_thread(function: Callable[[bytes], bool], argument: bytes) -> Deferred[bool]:
    return deferToThread(function, argument)
