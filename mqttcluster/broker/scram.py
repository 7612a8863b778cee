"""SCRAM-SHA-256 (RFC 5802, RFC 7677) as an authentication method of MQTT 5.0: the password never leaves the client, and
the file holds nothing that a client could log in with.

A line of the file is ``name:scram-sha-256:iterations:salt:stored key:server key``, the last three in base64;
``python -m mqttcluster.broker.scram NAME`` makes one. Channel binding is not offered. A name that is not in the file
gets a salt of its own, always the same, and the same work is done for it, so nobody can tell which names are there.
"""

from __future__ import annotations

import base64
import binascii
import getpass
import hashlib
import hmac
import os
import re
import stringprep
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field

from zope.interface import implementer

from mqttcluster.broker.enhanced import Answer, Challenge, Claim, Finish, IAuthenticationMethod, IExchange
from mqttcluster.broker.lines import read_users
from mqttcluster.mqtt.reasons import Reason

NAME = "SCRAM-SHA-256"
#: How much work a client is asked for, and what a file may ask for.
ITERATIONS = 20_000
_ALLOWED_ITERATIONS = range(4096, 10_000_001)
_SIZE = 32
_SALT_SIZE = 16
_NO_VERIFIER = "this is no verifier; make one with python -m mqttcluster.broker.scram NAME"
#: A message of the client, in bytes.
_LONGEST = 2048
#: First message: gs2 header (no channel binding, perhaps an authzid), name, nonce, extensions that may be ignored.
_FIRST = re.compile(r"([ny],(?:a=([^,]+))?,)(n=([^,]+),r=([!-+\--~]+)(?:,[A-Za-ln-z]=[^,]*)*)")
_FINAL = re.compile(r"(c=([A-Za-z0-9+/=]+),r=([!-+\--~]+)(?:,[A-Za-ln-z]=[^,]*)*),p=([A-Za-z0-9+/=]+)")


class ScramFileError(ValueError):
    """The file cannot be used; the text names the line and the cure, and nothing secret."""


@dataclass(slots=True)
class Verifier:
    """What the broker knows of one password."""

    iterations: int
    salt: bytes = field(repr=False)
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)


def _mac(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256")


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def prepare(text: str) -> str:
    """SASLprep (RFC 4013) of a name or password. Raises ValueError for what it forbids."""
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char for char in text if not stringprep.in_table_b1(char)
    )
    result = unicodedata.normalize("NFKC", mapped)
    forbidden = (
        stringprep.in_table_c12,
        stringprep.in_table_c21_c22,
        stringprep.in_table_c3,
        stringprep.in_table_c4,
        stringprep.in_table_c5,
        stringprep.in_table_c6,
        stringprep.in_table_c7,
        stringprep.in_table_c8,
        stringprep.in_table_c9,
        stringprep.in_table_a1,
    )
    if not result or any(test(char) for test in forbidden for char in result):
        raise ValueError("it is empty, or has characters that SASLprep forbids")
    if any(map(stringprep.in_table_d1, result)) and (
        any(map(stringprep.in_table_d2, result))
        or not (stringprep.in_table_d1(result[0]) and stringprep.in_table_d1(result[-1]))
    ):
        raise ValueError("it mixes directions of writing in a way that SASLprep forbids")
    return result


def verifier(password: str, salt: bytes, iterations: int) -> Verifier:
    """What is to be kept of a password. Slow. Raises ValueError for one that SASLprep forbids."""
    salted = hashlib.pbkdf2_hmac("sha256", prepare(password).encode(), salt, iterations, _SIZE)
    return Verifier(iterations, salt, _hash(_mac(salted, b"Client Key")), _mac(salted, b"Server Key"))


# -- the file


def line(name: str, password: str, iterations: int = ITERATIONS) -> str:
    """A line for the file. Raises ValueError for a name or password that cannot be."""
    if name != prepare(name) or name != name.strip() or name.startswith("#"):
        raise ValueError("a name is one line, and does not begin with # or a space")
    if iterations not in _ALLOWED_ITERATIONS:
        raise ValueError(f"write {_ALLOWED_ITERATIONS.start:,} to {_ALLOWED_ITERATIONS.stop - 1:,} iterations")
    made = verifier(password, os.urandom(_SALT_SIZE), iterations)
    texts = (base64.b64encode(data).decode() for data in (made.salt, made.stored_key, made.server_key))
    return f"{name}:scram-sha-256:{iterations}:{':'.join(texts)}"


def read_verifiers(path: str) -> dict[str, Verifier]:
    """The verifiers by user name. Raises ScramFileError."""
    return read_users(path, ScramFileError, _read_line)


def _read_line(line: str) -> tuple[str, Verifier]:
    try:
        name, method, iterations, *encoded = line.rstrip().rsplit(":", 5)  # a name may have a colon
        salt, stored_key, server_key = (base64.b64decode(data, validate=True) for data in encoded)
        made = Verifier(int(iterations), salt, stored_key, server_key)
    except ValueError:  # its text may have a key in it
        raise ValueError(_NO_VERIFIER) from None
    fits = made.iterations in _ALLOWED_ITERATIONS and len(stored_key) == len(server_key) == _SIZE and salt
    if method != "scram-sha-256" or not name or not fits:
        raise ValueError(_NO_VERIFIER)
    return name, made


# -- the method


@implementer(IAuthenticationMethod)
class Scram:
    """The method. `nonce` makes the server's part of a nonce, 18 random bytes in base64 by default."""

    name = NAME

    def __init__(self, verifiers: dict[str, Verifier], nonce: Callable[[], str] | None = None) -> None:
        self._nonce = nonce or (lambda: base64.b64encode(os.urandom(18)).decode())
        self.change(verifiers)

    def change(self, verifiers: dict[str, Verifier]) -> None:
        """The file was read again."""
        self._verifiers = verifiers
        first = next(iter(verifiers.values()))
        # The same on every node and after a restart, as long as the first line of the file stays.
        self._secret = _mac(first.server_key, b"names that are not there")
        self._iterations = first.iterations
        self._salt_size = len(first.salt)

    def begin(self, claim: Claim) -> _Exchange:
        """A new conversation."""
        return _Exchange(self, self._nonce())

    def find(self, name: str) -> tuple[Verifier, bool]:
        """The verifier of a user, and whether there is such a user."""
        known = self._verifiers.get(name)
        if known is not None:
            return known, True
        seed = _mac(self._secret, name.encode())
        salt = hashlib.shake_256(seed).digest(self._salt_size)
        return Verifier(self._iterations, salt, _mac(seed, b"stored"), _mac(seed, b"server")), False


@implementer(IExchange)
class _Exchange:
    """Client first, server first, client final, server final."""

    def __init__(self, scram: Scram, nonce: str) -> None:
        self._scram = scram
        self._nonce = nonce
        self._name = ""
        self._header = b""
        self._said = b""
        self._verifier: Verifier | None = None
        self._known = False

    def step(self, data: bytes) -> Answer:
        if not data and self._verifier is None:
            return Challenge(b"")  # it is the client that begins
        try:
            text = data[:_LONGEST].decode()
        except UnicodeDecodeError:
            return Reason.NOT_AUTHORIZED
        if len(data) > _LONGEST:
            return Reason.NOT_AUTHORIZED
        return self._first(text) if self._verifier is None else self._final(text, self._verifier)

    def _first(self, text: str) -> Answer:
        match = _FIRST.fullmatch(text)
        if match is None:  # also one that asks for channel binding
            return Reason.NOT_AUTHORIZED
        header, actor, bare, name, nonce = match.groups()
        try:
            self._name = prepare(_plain(name))
            if actor is not None and prepare(_plain(actor)) != self._name:
                return Reason.NOT_AUTHORIZED
        except ValueError:
            return Reason.BAD_USER_NAME_OR_PASSWORD
        self._verifier, self._known = self._scram.find(self._name)
        self._nonce = nonce + self._nonce
        salt = base64.b64encode(self._verifier.salt).decode()
        challenge = f"r={self._nonce},s={salt},i={self._verifier.iterations}".encode()
        self._header = header.encode()
        self._said = b"%b,%b," % (bare.encode(), challenge)
        return Challenge(challenge)

    def _final(self, text: str, known: Verifier) -> Answer:
        match = _FINAL.fullmatch(text)
        if match is None:
            return Reason.NOT_AUTHORIZED
        without_proof, header, nonce, encoded = match.groups()
        try:
            proof = base64.b64decode(encoded, validate=True)
            bound = base64.b64decode(header, validate=True) == self._header
        except binascii.Error:
            return Reason.NOT_AUTHORIZED
        if not bound or nonce != self._nonce or len(proof) != _SIZE:
            return Reason.NOT_AUTHORIZED
        said = self._said + without_proof.encode()
        signature = _mac(known.stored_key, said)
        key = bytes(one ^ other for one, other in zip(proof, signature, strict=True))
        right = hmac.compare_digest(_hash(key), known.stored_key)
        if not (right and self._known):
            return Reason.BAD_USER_NAME_OR_PASSWORD
        return Finish(self._name, b"v=" + base64.b64encode(_mac(known.server_key, said)))


def _plain(name: str) -> str:
    """A name as it is, from a message in which commas and equals signs are written otherwise."""
    if re.search(r"=(?!2C|3D)", name):
        raise ValueError("an equals sign that stands for nothing")
    return name.replace("=2C", ",").replace("=3D", "=")


def main() -> None:
    """``python -m mqttcluster.broker.scram NAME [ITERATIONS]``: ask for a password (or read it from a pipe), write the
    line."""
    arguments = sys.argv[1:]
    if len(arguments) not in (1, 2) or not all(argument.isdigit() for argument in arguments[1:]):
        sys.exit("usage: python -m mqttcluster.broker.scram NAME [ITERATIONS] >> FILE")
    if sys.stdin.isatty():
        password = getpass.getpass()
        if password != getpass.getpass("Again: "):
            sys.exit("they differ")
    else:
        password = sys.stdin.readline().rstrip("\n")
    try:
        sys.stdout.write(line(arguments[0], password, *map(int, arguments[1:])) + "\n")
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
