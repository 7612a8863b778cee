"""The client's side of SCRAM-SHA-256, written from RFC 5802 and sharing nothing with the broker."""

from __future__ import annotations

import base64
import hashlib
import hmac


class ScramClient:
    """One conversation. `header` is the gs2 header."""

    def __init__(self, name: str, password: str, nonce: str = "fyko+d2lbbFgONRv9qkxdawL", header: str = "n,,") -> None:
        self.password = password
        self.header = header
        self.bare = f"n={name},r={nonce}"
        self.challenge = ""
        self.signature = b""

    def first(self) -> bytes:
        return (self.header + self.bare).encode()

    def fields(self) -> dict[str, str]:
        return dict(part.split("=", 1) for part in self.challenge.split(","))

    def final(self, challenge: bytes, nonce: str | None = None) -> bytes:
        self.challenge = challenge.decode()
        fields = self.fields()
        salted = self.password.encode()
        block = hmac.new(salted, base64.b64decode(fields["s"]) + b"\0\0\0\1", hashlib.sha256).digest()
        result = int.from_bytes(block, "big")
        for _ in range(int(fields["i"]) - 1):
            block = hmac.new(salted, block, hashlib.sha256).digest()
            result ^= int.from_bytes(block, "big")
        salted = result.to_bytes(32, "big")
        client_key = hmac.new(salted, b"Client Key", hashlib.sha256).digest()
        stored_key = hashlib.sha256(client_key).digest()
        server_key = hmac.new(salted, b"Server Key", hashlib.sha256).digest()
        bound = base64.b64encode(self.header.encode()).decode()
        without_proof = f"c={bound},r={nonce or fields['r']}"
        said = ",".join((self.bare, self.challenge, without_proof)).encode()
        signature = hmac.new(stored_key, said, hashlib.sha256).digest()
        proof = bytes(one ^ other for one, other in zip(client_key, signature))
        self.signature = hmac.new(server_key, said, hashlib.sha256).digest()
        return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()

    def believes(self, outcome: bytes) -> bool:
        """Whether the server has proved that it knows the password's verifier."""
        return outcome == b"v=" + base64.b64encode(self.signature)
