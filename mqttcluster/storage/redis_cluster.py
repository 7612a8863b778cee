"""What the store and the backplane have in common: how to reach a Redis, and the cluster that was founded in it.

A cluster is founded once: key ``{c}:cfg`` holds the format of all keys, `run` (a random name for this data, by which a
node notices that a Redis has been emptied and founded anew) and how many partitions there are.
"""

from __future__ import annotations

import os
import secrets
import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit, urlunsplit

from redis import ConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from mqttcluster.storage.interfaces import StoreError
from mqttcluster.storage.redis_scripts import script

#: The format of keys, scripts and envelopes. Another number in ``cfg`` is another release's, and not to be touched.
FORMAT = 1
#: The oldest release whose commands the scripts know.
OLDEST = (6, 2)
#: What a URL may say behind its question mark, as redis-py names it: with rediss, PEM files, and whether the
#: certificate must have the host's name. All else would change what the nodes rely on.
FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_QUERY = {"redis": {"db"}, "rediss": {"db", "ssl_check_hostname", *FILES}, "unix": {"db"}}


class Commands(Protocol):
    """`redis.Redis`, or anything else that runs one command and waits for its answer."""

    def execute_command(self, *args: Any) -> Any: ...


class Connection(Protocol):
    """The part of a connection of redis-py that sends many commands before it reads the answers."""

    def connect(self) -> None: ...
    def disconnect(self) -> None: ...
    def send_command(self, *args: Any, check_health: bool = True) -> None: ...
    def pack_commands(self, commands: Iterable[Sequence[object]]) -> list[bytes]: ...
    def send_packed_command(self, command: list[bytes], check_health: bool = True) -> None: ...
    def read_response(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """What all nodes of a cluster agree on: `run` and the numbers of partitions of client ids and of topics."""

    run: str
    partitions: int
    retained_partitions: int


def found(connection: Commands, prefix: str, partitions: int = 16, retained_partitions: int = 16) -> ClusterConfig:
    """Found the cluster whose keys begin with `prefix`, unless it is there. The numbers count only for the founder.

    Raises `StoreError` if another release's data is there; nothing is changed then."""
    run = secrets.token_hex(8)
    answer = connection.execute_command(
        "EVAL", script("found").text, 1, f"{prefix}{{c}}:cfg", FORMAT, run, partitions, retained_partitions
    )
    values = [_text(value) for value in answer]
    if values[0] != str(FORMAT):
        raise StoreError(
            f"the keys {prefix}* have format {values[0] or 'unknown'}, this release has format {FORMAT};"
            " run the release that wrote them, or choose another prefix"
        )
    try:
        config = ClusterConfig(values[1], int(values[2]), int(values[3]))
    except ValueError:
        config = ClusterConfig("", 0, 0)
    if not (config.run and config.partitions > 0 and config.retained_partitions > 0):
        raise StoreError(f"the key {prefix}{{c}}:cfg is damaged; restore this Redis from a backup, or empty it")
    return config


def server_id(connection: Commands) -> str:
    """The id of the Redis process behind this connection, new at each of its starts.

    Raises `StoreError` if it is of a kind that cannot hold a cluster's data."""
    info = connection.execute_command("INFO", "server")
    if not isinstance(info, dict):
        lines = (line.partition(":") for line in _text(info).splitlines())
        info = {name: value for name, _, value in lines}
    # Valkey gives itself the version of the Redis whose commands it has, and calls the mode server_mode.
    version, mode = str(info.get("redis_version", "0")), info.get("redis_mode", info.get("server_mode", "standalone"))
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST:
        raise StoreError(f"Redis {version} is too old; upgrade it to {OLDEST[0]}.{OLDEST[1]} or newer")
    if mode != "standalone":
        raise StoreError(f"this Redis runs in {mode} mode; name a standalone Redis")
    return str(info["run_id"])


def connections(url: str, timeout: float) -> Callable[[], Connection]:
    """A function that makes connections, not yet connected. `timeout` in seconds bounds each answer.

    A connection never reconnects and retries nothing by itself: its user must notice that it met another process.
    With TLS the files are read anew for each. Raises `StoreError` for a URL that says nothing."""
    try:
        scheme = urlsplit(url).scheme
        if scheme not in _QUERY:
            raise ValueError("the scheme must be redis, rediss or unix")
        for name in _query(url):
            if name not in _QUERY[scheme]:
                raise ValueError(f"{scheme} has no option {name}")
        pool = ConnectionPool.from_url(
            url,
            protocol=2,
            socket_timeout=timeout,
            socket_connect_timeout=min(timeout, 2.0),
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
            client_name="mqttcluster",
            **({"ssl_check_hostname": True} if scheme == "rediss" else {}),
        )
        make: Callable[[], Connection] = partial(pool.connection_class, **pool.connection_kwargs)
        make()
    except (ValueError, TypeError, RedisError) as problem:
        raise StoreError(f"is no URL of a Redis ({problem}); write redis://HOST:PORT/DB") from None
    return make  # not the pool's own way, which counts connections and never forgets one


def check_files(url: str) -> None:
    """Read the files that a URL with rediss names, as a connection will. Raises `StoreError` if one is of no use."""
    files = {name: path for name, path in _query(url).items() if name in FILES}
    for name, path in files.items():
        if not os.path.isabs(path):
            raise StoreError(f"{name} is {path!r}; write the whole path, from the root on")
    context = ssl.create_default_context()
    if "ssl_ca_certs" in files:
        _use("ssl_ca_certs", files["ssl_ca_certs"], context.load_verify_locations)
    if "ssl_certfile" in files:
        key = files.get("ssl_keyfile")
        # Without a password given, the one of an encrypted key would be asked for on the terminal.
        _use("ssl_certfile", files["ssl_certfile"], lambda path: context.load_cert_chain(path, key, lambda: ""))
    elif "ssl_keyfile" in files:
        raise StoreError("there is an ssl_keyfile and no ssl_certfile; write both")


def _use(name: str, path: str, read: Callable[[str], object]) -> None:
    try:
        read(path)
    except (OSError, ValueError) as problem:
        raise StoreError(f"{name}, {path}, cannot be used ({problem}); name a readable PEM file, and its key") from None


def _query(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query, keep_blank_values=True).items()}


def redacted(url: str) -> str:
    """The URL as it may be shown: without password and options."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "redis"
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else "" if value is None else str(value)
