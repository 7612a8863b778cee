"""Log output: Twisted's text format or one JSON object a line, from a least level upwards.

The observer is made here and put on twistd's application by `mqttcluster.tap`: it is in use from the first line.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import lru_cache
from typing import IO, Any, cast

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
    formatEventAsClassicLogText,
    formatTime,
)
from twisted.python.logfile import LogFile

#: Keys that Twisted's legacy log adds to events; they repeat what the others say.
_LEGACY = {"message", "time", "system", "isError", "failure", "why", "format", "logLevel"}
_RESERVED = {"time", "level", "logger", "text", "traceback"}
_DEPTH = 4
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}


def observer(twistd: Mapping[str, Any], format: str, level: str) -> ILogObserver | None:
    """The observer for twistd's options (a mapping with ``logfile``, ``nodaemon`` and ``syslog``).

    None leaves logging to twistd: with ``--syslog``, and where twistd itself is going to refuse.
    """
    name = twistd.get("logfile")
    if twistd.get("syslog") or (name == "-" and not twistd.get("nodaemon")):
        return None
    if name == "-" or (twistd.get("nodaemon") and not name):
        stream: Any = sys.stdout
    else:
        stream = LogFile.fromFullPath(name or "twistd.log")
    return to_stream(stream, format, level)


def to_stream(stream: IO[Any] | Any, format: str, level: str) -> ILogObserver:
    """An observer that writes to `stream`. `format` is ``text`` or ``json``."""
    # Twisted declares its interfaces with zope.interface, which mypy does not know: hence Any.
    write: Any = FileLogObserver(stream, as_json if format == "json" else as_text)
    least: Any = LogLevelFilterPredicate(defaultLogLevel=LogLevel.levelWithName(level))
    chosen: Any = FilteringLogObserver(write, [least])
    return cast(ILogObserver, chosen)


def as_text(event: Mapping[str, Any]) -> str | None:
    """As Twisted writes it, but a client's name cannot move the cursor of whoever reads the log."""
    line = _plain_text(event) or formatEventAsClassicLogText(dict(event))
    return None if line is None else line.translate(_CONTROLS)


def _plain_text(event: Mapping[str, Any]) -> str | None:
    """What Twisted makes of most events, in a tenth of the time: there is a line for each connection. None for an event
    that is not of the plainest kind."""
    format, when, level = event.get("log_format"), event.get("log_time"), event.get("log_level")
    if type(format) is not str or type(when) is not float or level is None or "(" in format:
        return None
    if "log_failure" in event or "log_system" in event or "log_flattened" in event:
        return None
    try:
        text = format.format_map(event)
    except Exception:
        return None  # Twisted knows how to say that
    if not text:
        return None
    text = text.replace("\n", "\n\t")
    return f"{_moment(int(when))} [{event.get('log_namespace', '-')}#{level.name}] {text}\n"


@lru_cache(maxsize=8)
def _moment(second: int) -> str:
    return formatTime(float(second))


def as_json(event: Mapping[str, Any]) -> str:
    """One line: time, level, logger, text, then the event's own fields. What JSON cannot hold is its repr."""
    moment = datetime.fromtimestamp(event.get("log_time", 0.0), timezone.utc)
    level = event.get("log_level")
    line: dict[str, Any] = {
        "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": level.name if level is not None else "info",
        "logger": str(event.get("log_namespace", "")),
        "text": formatEvent(dict(event)),
    }
    for name, value in event.items():
        if isinstance(name, str) and not name.startswith("log_") and name not in _LEGACY:
            line[f"field_{name}" if name in _RESERVED else name] = _plain(value, _DEPTH)
    if event.get("log_failure") is not None:
        try:
            line["traceback"] = event["log_failure"].getTraceback()
        except Exception:
            line["traceback"] = _repr(event["log_failure"])
    return json.dumps(line) + "\n"


def _plain(value: Any, depth: int) -> Any:
    kind = type(value)
    if value is None or kind in (str, int, bool):
        return value
    if kind is float:
        return value if math.isfinite(value) else repr(value)
    if kind is bytes:
        return value.decode("utf-8", "backslashreplace")
    if depth and kind in (list, tuple):
        return [_plain(item, depth - 1) for item in value]
    if depth and kind is dict:
        return {str(key) if type(key) is str else _repr(key): _plain(item, depth - 1) for key, item in value.items()}
    return _repr(value)


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__name__}, repr failed>"
