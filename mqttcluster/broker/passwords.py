"""A file of user names and password hashes, one ``name:hash`` a line.

Two kinds of hashes are read: Argon2id (``$argon2id$...``), made by ``mqttcluster-passwd`` (`mqttcluster.passwd`), and
those of mosquitto_passwd (``$7$``, PBKDF2 with SHA-512). Empty lines and lines that begin with ``#`` say nothing.

Hashing is slow on purpose, so it is done in threads, a few at a time. An unknown name costs the same as a wrong
password: it is checked against a hash that nothing fits.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Callable
from typing import Any, Protocol

from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import Argon2Error, InvalidHash
from twisted.internet.defer import Deferred, DeferredSemaphore, succeed
from zope.interface import implementer

from mqttcluster.broker.auth import Credentials, IAuthenticator, Verdict
from mqttcluster.broker.lines import read_users
from mqttcluster.mqtt.reasons import Reason

#: Checks that may wait for a thread. More clients are told that the server is busy.
MAX_WAITING = 200
#: Least and most work a hash may ask for: a file is trusted, a typing mistake in it is not.
_ITERATIONS = range(1, 10_000_001)
_ARGON2_KIB = range(8, (1 << 20) + 1)


class PasswordFileError(Exception):
    """The file cannot be used; the text names the line and the cure, and nothing secret."""


class Hash(Protocol):
    """A password hash."""

    def fits(self, password: bytes) -> bool:
        """Whether it is the hash of `password`. Slow; for a thread."""

    def like(self) -> Hash:
        """A hash that costs the same and that no password fits."""


class Argon2:
    """An encoded Argon2 hash. Raises ValueError if it is none."""

    def __init__(self, encoded: str) -> None:
        try:
            self._parameters = extract_parameters(encoded)
        except InvalidHash as error:
            raise ValueError("this is no Argon2 hash") from error
        if self._parameters.memory_cost not in _ARGON2_KIB:
            raise ValueError("its memory cost is out of bounds")
        self._encoded = encoded

    def fits(self, password: bytes) -> bool:
        try:
            return PasswordHasher().verify(self._encoded, password)
        except (Argon2Error, InvalidHash):
            return False

    def like(self) -> Hash:
        parts = self._encoded.split("$")
        for index in (-1, -2):
            size = len(base64.b64decode(parts[index] + "=" * (-len(parts[index]) % 4)))
            parts[index] = base64.b64encode(os.urandom(size)).decode().rstrip("=")
        return Argon2("$".join(parts))


class Pbkdf2:
    """What mosquitto_passwd writes: iterations, salt, hash. Raises ValueError if they cannot be."""

    def __init__(self, iterations: int, salt: bytes, digest: bytes) -> None:
        if iterations not in _ITERATIONS or len(digest) != 64:
            raise ValueError("this is no hash of mosquitto_passwd")
        self._iterations, self._salt, self._digest = iterations, salt, digest

    @classmethod
    def read(cls, encoded: str) -> Pbkdf2:
        try:
            iterations, salt, digest = encoded.removeprefix("$7$").split("$")
            return cls(int(iterations), base64.b64decode(salt, validate=True), base64.b64decode(digest, validate=True))
        except (ValueError, binascii.Error) as error:
            raise ValueError("this is no hash of mosquitto_passwd") from error

    def fits(self, password: bytes) -> bool:
        digest = hashlib.pbkdf2_hmac("sha512", password, self._salt, self._iterations, len(self._digest))
        return hmac.compare_digest(digest, self._digest)

    def like(self) -> Hash:
        return Pbkdf2(self._iterations, os.urandom(len(self._salt)), os.urandom(len(self._digest)))


def read_passwords(path: str) -> dict[str, Hash]:
    """The hashes by user name. Raises PasswordFileError."""
    return read_users(path, PasswordFileError, _read_line)


def _read_line(line: str) -> tuple[str, Hash]:
    # A hash has no colon; a user name may.
    name, colon, encoded = line.rpartition(":")
    if not colon or not name:
        raise ValueError("write name:hash")
    try:
        return name, _read_hash(encoded.strip())
    except ValueError as error:
        raise ValueError(f"{error}; make one with mqttcluster-passwd or mosquitto_passwd") from None


def _read_hash(encoded: str) -> Hash:
    if encoded.startswith("$argon2id$"):
        return Argon2(encoded)
    if encoded.startswith("$7$"):
        return Pbkdf2.read(encoded)
    raise ValueError("the hash is neither $argon2id$ nor $7$")


@implementer(IAuthenticator)
class PasswordFile:
    """The authenticator that asks a file. It has no opinion of a client without a user name, and of one whose name is
    not in the file. `run` calls a function in a thread; `at_once` checks run side by side."""

    def __init__(
        self,
        hashes: dict[str, Hash],
        run: Callable[[Callable[[bytes], bool], bytes], Deferred[bool]],
        at_once: int = 2,
    ) -> None:
        self._run = run
        self._limit = DeferredSemaphore(at_once)
        self._waiting = 0
        self._secret = os.urandom(16)
        self.change(hashes)

    def change(self, hashes: dict[str, Hash]) -> None:
        """The file was read again."""
        self._hashes = hashes
        self._kinds = list(hashes.values())

    def _nobody(self, name: str) -> Hash:
        """What an unknown name is checked against. Each kind of hash in the file has a cost of its own: such a name has
        that of one of the known, always the same, and nobody but us can say of which."""
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), key=self._secret, digest_size=8).digest()
        return self._kinds[int.from_bytes(digest, "big") % len(self._kinds)].like()

    def authenticate(self, credentials: Credentials) -> Deferred[Verdict]:
        if credentials.username is None:
            return succeed(None)
        if self._waiting >= MAX_WAITING:
            return succeed(Reason.SERVER_BUSY)
        self._waiting += 1
        known = self._hashes.get(credentials.username)
        fits = (known or self._nobody(credentials.username)).fits
        given = credentials.password is not None
        # Whoever waits may give up; the thread goes on and keeps its place until it is done.
        answer: Deferred[Verdict] = Deferred()

        def done(right: Any) -> Any:
            self._waiting -= 1
            return right

        checked: Deferred[bool] = self._limit.run(self._run, fits, credentials.password or b"")
        checked.addBoth(done).addCallback(lambda right: None if known is None else right and given)
        checked.addCallbacks(answer.callback, answer.errback)
        return answer


def line(name: str, password: str) -> str:
    """A line for the file. Raises ValueError for a name that cannot stand in it."""
    if not name or name != name.strip() or name.startswith("#") or "\n" in name or "\r" in name or "\0" in name:
        raise ValueError("a name is one line, and does not begin with # or a space")
    return f"{name}:{PasswordHasher().hash(password)}"
