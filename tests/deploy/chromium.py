"""A headless Chromium with one page, which is read from outside by its title."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.nodes import until
from tests.support.process import Process
from tests.support.wire import PATIENCE

_OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
_OPTIONS += ["--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0"]


class Chromium:
    """The browser, started with `address`. `certificates`: whether to look at them."""

    def __init__(self, address: str, certificates: bool = True) -> None:
        if shutil.which("chromium") is None:
            pytest.skip("chromium is not installed")
        # Chromium puts a Unix socket there, and the path of such a one must be short.
        directory = self._directory = Path(tempfile.mkdtemp(prefix="tab"))
        options = [*_OPTIONS, f"--user-data-dir={directory / 'profile'}"]
        options += [] if certificates else ["--ignore-certificate-errors"]
        self.process = Process(["env", f"TMPDIR={directory}", "chromium", *options, address], directory)

    def title(self) -> str:
        """Of the page, as its script has set it last."""
        line = self.process.log.wait_for(r"DevTools listening on ws://")
        [where] = re.findall(r"ws://([^/]+)/", line)
        with urllib.request.urlopen(f"http://{where}/json/list", timeout=PATIENCE) as answer:
            pages = [target for target in json.load(answer) if target["type"] == "page"]
        return str(pages[0]["title"]) if pages else ""

    def until(self, condition: Callable[[], bool]) -> None:
        """Ask until it holds; if it does not, fail with what Chromium has written."""
        try:
            until(condition, PATIENCE)
        except AssertionError as error:
            raise AssertionError(f"{error}; title {self.title()!r}; chromium wrote:\n{self.process.log}") from None

    def terminate(self) -> None:
        self.process.terminate()
        shutil.rmtree(self._directory, ignore_errors=True)
