"""Which devices `--on` stands for: names and addresses, patterns of names, and tags, in a comma-separated list."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase

from edgemobile.devices.host.profiles import Device, find_device, load_devices
from edgemobile.errors import EdgemobileError

__all__ = ["TAG", "select_devices"]

TAG = "tag:"
_SPECIAL = set("*?[")


def select_devices(text: str) -> tuple[str, ...]:
    """The names of the devices in `text`, each once, in the order of the list and of devices.toml.

    "pi4" and "ssh://pi@pi4" are themselves, "pi-*" all boards whose names match (*, ? and [ab] as in a shell), and
    "tag:lab2" all with that tag, which may be a pattern, too. Patterns match rows of devices.toml only, not `local`.
    Raises EdgemobileError for an empty list, an unknown name, and a pattern or tag of no board.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise EdgemobileError("--on is empty. To list the devices: edgemobile devices list")
    return tuple(dict.fromkeys(name for word in words for name in _selected(word)))


def _selected(word: str) -> Iterator[str]:
    if word.startswith(TAG):
        wanted = word.removeprefix(TAG)
        yield from _matching(word, lambda row: any(fnmatchcase(tag, wanted) for tag in row.tags))
    elif ":" not in word and _SPECIAL & set(word):
        yield from _matching(word, lambda row: fnmatchcase(row.name, word))
    else:
        yield find_device(word).name


def _matching(word: str, matches: Callable[[Device], bool]) -> list[str]:
    rows = [row for row in load_devices().values() if row.scheme != "local" or row.name != row.address]
    found = [row.name for row in rows if matches(row)]
    if not found:
        known = ", ".join(f"{row.name} ({', '.join(row.tags)})" if row.tags else row.name for row in rows)
        raise EdgemobileError(
            f"--on {word}: no board of devices.toml matches. Boards (and their tags): {known or 'none'}. "
            "Add one: edgemobile devices add NAME ssh://USER@HOST --tag TAG"
        )
    return found
