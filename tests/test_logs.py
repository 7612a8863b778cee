"""Log lines in both formats."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest
from twisted.logger import Logger, LogLevel, LogPublisher, formatEventAsClassicLogText
from twisted.python.failure import Failure

from mqttcluster import logs


class TestLogs:
    """What a log line looks like."""

    def lines(self, format: str, level: str = "debug") -> tuple[Logger, io.StringIO]:
        stream = io.StringIO()
        return Logger("some.where", observer=LogPublisher(logs.to_stream(stream, format, level))), stream

    def test_json_is_flat_with_the_events_own_fields(self) -> None:
        """Time, level, logger and text, and beside them the named fields."""
        log, stream = self.lines("json")
        parts = [1, b"\xff", {2: None}]
        log.warn("client {client_id} sent {size} bytes", client_id='a"\n', size=3, text=9, parts=parts)
        (line,) = stream.getvalue().splitlines()
        entry = json.loads(line)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("time"))
        assert entry == {
            "level": "warn",
            "logger": "some.where",
            "text": 'client a"\n sent 3 bytes',
            "client_id": 'a"\n',
            "size": 3,
            "field_text": 9,
            "parts": [1, "\\xff", {"2": None}],
        }

    def test_json_survives_everything(self) -> None:
        """What JSON cannot hold is written as its repr, and what has none is named by its type."""

        class Rude:
            def __repr__(self) -> str:
                raise RuntimeError("no")

        log, stream = self.lines("json")
        endless: list[Any] = []
        endless.append(endless)
        log.info("x", rude=Rude(), number=float("nan"), endless=endless, lone="\ud800", type=int)
        log.info("no such {field}")
        log.info("{rude}", rude=Rude())
        entries = [json.loads(line) for line in stream.getvalue().splitlines()]
        assert len(entries) == 3
        assert entries[0]["rude"] == "<Rude, repr failed>"
        assert entries[0]["number"] == "nan"
        assert entries[0]["lone"] == "\ud800"
        assert entries[0]["type"] == "<class 'int'>"

    def test_json_failure_has_its_traceback(self) -> None:
        """An unexpected error is one line, with its traceback as a field."""
        log, stream = self.lines("json")
        try:
            raise ValueError("oh")
        except ValueError:
            log.failure("went wrong", failure=Failure())
        (line,) = stream.getvalue().splitlines()
        assert "ValueError: oh" in json.loads(line)["traceback"]
        assert json.loads(line)["level"] == LogLevel.critical.name

    @pytest.mark.parametrize("format", ["text", "json"])
    def test_level(self, format: str) -> None:
        """What is below the least level is not written."""
        log, stream = self.lines(format, "warn")
        log.info("quiet")
        log.error("loud")
        assert "quiet" not in stream.getvalue()
        assert "loud" in stream.getvalue()

    def test_text_is_twisteds(self) -> None:
        """The text format is the one that twistd users know."""
        log, stream = self.lines("text")
        log.info("hello")
        assert re.fullmatch(r"\S+ \[some\.where#info\] hello\n", stream.getvalue())

    @pytest.mark.parametrize(
        "fields",
        [
            {"log_format": "{a} {a!r:>5} {b[0]} {c.real} {{}}", "a": "x", "b": [1], "c": 2.5},
            {"log_format": "{f()} is called", "f": lambda: 7},
            {"log_format": "{missing} is not there"},
            {"log_format": "two\nlines"},
            {"log_format": ""},
            {"log_format": b"bytes"},
            {"log_format": "of a system", "log_system": "s"},
            {"log_format": "without a time", "log_time": None},
            {"log_format": "wrong", "log_failure": Failure(ValueError("oh"))},
            {"log_format": "without a name", "log_namespace": "-"},
        ],
    )
    def test_text_is_twisteds_whatever_the_event(self, fields: dict[str, Any]) -> None:
        """The plainest events are written by a shorter way, and look the same."""
        event = {"log_time": 1_700_000_000.75, "log_level": LogLevel.info, "log_namespace": "some.where", **fields}
        assert logs.as_text(event) == formatEventAsClassicLogText(event)

    def test_a_name_cannot_move_the_cursor(self) -> None:
        """A client chooses its name; as text it reaches the operator's terminal as plain text, on one line."""
        log, stream = self.lines("text")
        log.info("client {client_id}", client_id="\x1b[2Jme\r\x07\x9b1m\nforged")
        first, second = stream.getvalue().splitlines()
        assert first.endswith("client \\x1b[2Jme\\x0d\\x07\\x9b1m")
        assert second == "\tforged"
