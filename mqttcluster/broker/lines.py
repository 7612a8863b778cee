"""Files of users and rules, as lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def read_lines(path: str, refuse: type[Exception]) -> list[str]:
    """The lines of a text file. Raises `refuse`, with a text that names the file and the cure, for one that cannot be
    read."""
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read().split("\n")
    except OSError as error:
        raise refuse(f"cannot read {path}: {error.strerror}; name a readable file") from error
    except UnicodeDecodeError as error:
        raise refuse(f"{path} is not UTF-8; save it as UTF-8") from error


def read_users(path: str, refuse: type[Exception], read: Callable[[str], tuple[str, T]]) -> dict[str, T]:
    """What a file with one user a line says of each, by name. Empty lines and those that begin with # say nothing.

    `read` makes name and value of any other line; it raises ValueError with a text that has the cure and nothing
    secret, for it gets into a `refuse`."""
    found: dict[str, T] = {}
    for number, text in enumerate(read_lines(path, refuse), 1):
        text = text.strip("\r")
        if not text.strip() or text.startswith("#"):
            continue
        try:
            name, value = read(text)
        except ValueError as error:
            raise refuse(f"{path}, line {number}: {error}") from None
        if name in found:
            raise refuse(f"{path}, line {number}: the name is there twice; remove one")
        found[name] = value
    if not found:
        raise refuse(f"{path} holds no user; add one, or leave the option out")
    return found
