"""Files of users and rules, as lines."""

from __future__ import annotations


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
