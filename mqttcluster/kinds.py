"""Kinds of option values: how each is read from a string or a TOML value, and what to write instead when it is wrong.

`Kind.read` raises ValueError with a text that names the cure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mqttcluster.mqtt.topics import valid_name
from mqttcluster.net.handshake import check_origin
from mqttcluster.storage.interfaces import NEVER, StoreError
from mqttcluster.storage.redis_cluster import connections, redacted

_UNITS = {"": 1, "k": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mib": 1 << 20, "g": 1 << 30, "gib": 1 << 30}
_SPANS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True)
class Kind:
    """`label` stands for the value in help texts; `bounds` says what is allowed, `show` writes a value for people."""

    label: str
    read: Callable[[Any], Any]
    bounds: str = ""
    show: Callable[[Any], str] = str


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text; put it in quotes")
    if not value or "\0" in value:
        raise ValueError("it is empty; leave the option out, or give it a value")
    return value


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).lower()
    if word in ("true", "yes", "on", "1"):
        return True
    if word in ("false", "no", "off", "0"):
        return False
    raise ValueError(f"{value!r} is neither true nor false; write one of them")


def _number(value: Any, units: dict[str, int], cure: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{value!r} is no number; write {cure}")
    if isinstance(value, str):
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)", value.strip().lower().replace("_", ""))
        if match is None or match[2] not in units:
            raise ValueError(f"{value!r} cannot be read; write {cure}")
        return float(match[1]) * units[match[2]] if "." in match[1] else int(match[1]) * units[match[2]]
    if not math.isfinite(value):
        raise ValueError(f"{value!r} is no number; write {cure}")
    return value


def _bounded(number: float, low: float, high: float, show: Callable[[Any], str]) -> float:
    if not low <= number <= high:
        raise ValueError(f"{show(number)} is out of bounds; write {show(low)} to {show(high)}")
    return number


def _whole(number: float, cure: str) -> int:
    if number != int(number):
        raise ValueError(f"{number} is not whole; write {cure}")
    return int(number)


def show_count(value: float) -> str:
    return f"{value:,}"


def show_size(value: float) -> str:
    for unit, factor in (("g", 1 << 30), ("m", 1 << 20), ("k", 1 << 10)):
        if value >= factor and value % factor == 0:
            return f"{int(value / factor)}{unit}"
    return f"{value}"


def show_seconds(value: float) -> str:
    return f"{value:g} s"


def count(low: int, high: int) -> Kind:
    """A whole number."""

    def read(value: Any) -> int:
        return _whole(_bounded(_number(value, {"": 1}, "a whole number"), low, high, show_count), "a whole number")

    return Kind("number", read, f"{show_count(low)} to {show_count(high)}", show_count)


def size(low: int, high: int) -> Kind:
    """Bytes."""
    cure = "bytes, or a number with k, m or g"

    def read(value: Any) -> int:
        return _whole(_bounded(_number(value, _UNITS, cure), low, high, show_size), cure)

    return Kind("size", read, f"{show_size(low)} to {show_size(high)}", show_size)


def seconds(low: float, high: float) -> Kind:
    """A time."""
    cure = "seconds, or a number with s, m, h or d"

    def read(value: Any) -> float:
        return float(_bounded(_number(value, _SPANS, cure), low, high, show_seconds))

    return Kind("time", read, f"{show_seconds(low)} to {show_seconds(high)}", show_seconds)


def choice(*words: str) -> Kind:
    """One of some words."""

    def read(value: Any) -> str:
        if value not in words:
            raise ValueError(f"{value!r} is not known; write {' or '.join(words)}")
        return str(value)

    return Kind("|".join(words), read)


def _expiry(value: Any) -> int:
    cure = "never, or seconds, or a number with s, m, h or d"
    if value == "never":
        return NEVER
    return _whole(_bounded(_number(value, _SPANS, cure), 0, NEVER - 1, show_count), cure)


def _store(value: Any) -> str:
    text = _text(value)
    scheme, colon, rest = text.partition(":")
    if scheme == "memory" and colon and not rest:
        return text
    if scheme == "sqlite" and rest:
        return text
    if scheme in ("redis", "rediss") and rest.startswith("//"):
        try:
            connections(text, 1.0)
        except StoreError as problem:
            raise ValueError(f"{redacted(text)!r} {problem}") from None
        return text
    if scheme in ("redis+sentinel", "redis+cluster"):
        raise ValueError(f"this release has no {scheme}: store; write redis://HOST:PORT/0, sqlite:PATH or memory:")
    raise ValueError(f"{redacted(text)!r} is no store; write redis://HOST:PORT/0, sqlite:PATH or memory:")


def _url_path(value: Any) -> str:
    text = _text(value)
    if not re.fullmatch(r"/[!-~]*", text) or re.search(r"[?#]", text):
        raise ValueError(f"{text!r} is no path of a URL; write something like /mqtt")
    return text


def _origin(value: Any) -> str:
    text = _text(value).lower().rstrip("/")
    try:
        if re.search(r"\s", text):
            raise ValueError(f"{value!r} has a space in it")
        return check_origin(text)
    except ValueError as error:
        raise ValueError(f"{error}; write it as a browser sends it") from None


def _node(value: Any) -> str:
    text = _text(value)
    if len(text) > 128 or re.search(r"[+#/\s\x00-\x1f]", text):
        raise ValueError(f"{text!r} is no name; write at most 128 characters, without spaces, +, # and /")
    return text


def _topic(value: Any) -> str:
    text = _text(value)
    if not valid_name(text) or len(text.encode()) > 1024:
        raise ValueError(f"{text!r} is no topic name; write one without + and #, of at most 1024 bytes")
    return text.rstrip("/")


def _reference(value: Any) -> str:
    text = " ".join(_text(value).split())
    if not text or len(text) > 1024 or not text.isprintable():
        raise ValueError(f"{text!r} is no server reference; write HOST:PORT")
    return text


def _object(value: Any) -> str:
    text = _text(value)
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", text):
        raise ValueError(f"{text!r} is no name of a Python object; write package.module.object")
    return text


FLAG = Kind("true|false", _flag, show=lambda value: str(value).lower())
FILE = Kind("file", _text)
ENDPOINT = Kind("endpoint", _text)
STORE = Kind("url", _store)
URL_PATH = Kind("path", _url_path)
ORIGIN = Kind("origin", _origin)
NODE = Kind("name", _node)
USER = Kind("name", _text)
OBJECT = Kind("object", _object)
TOPIC = Kind("topic", _topic)
REFERENCE = Kind("servers", _reference)
EXPIRY = Kind("time|never", _expiry, "0 to 4,294,967,294 s, or never", show_count)
