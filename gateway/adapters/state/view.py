"""What ``lychgate state`` shows, as JSON values: entries, and what only a worker can tell.

That is what it has in its memory, or how it gets on with Redis.
"""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gateway.state import Entry, Kind

if TYPE_CHECKING:
    from gateway.adapters.state.memory import MemoryState
    from gateway.adapters.state.redis import RedisState


def entry_json(entry: Entry) -> dict[str, Any]:
    """An entry."""
    return {
        "key": entry.key,
        "kind": entry.kind.value,
        "name": entry.name,
        "subject": entry.subject,
        "level": round(entry.level, 3),
        "limit": entry.limit,
        "expires": round(entry.expires, 1),
        **entry.detail,
    }


def entry_of(data: Mapping[str, Any]) -> Entry:
    """An entry of what ``entry_json`` made of it."""
    own = {"key", "kind", "name", "subject", "level", "limit", "expires"}
    return Entry(
        key=data["key"],
        kind=Kind(data["kind"]),
        name=data["name"],
        subject=data["subject"],
        level=data["level"],
        limit=data["limit"],
        expires=data["expires"],
        detail={name: value for name, value in data.items() if name not in own},
    )


def is_about(entry: Entry, part: str) -> bool:
    """Whether a text is a part of whom an entry is about; of a triplet, of its sender and recipient, too."""
    return part in entry.subject or part in str(entry.detail.get("envelope", ""))


def fullness(entry: Mapping[str, Any]) -> float:
    """By what entries are put in order: how full, and of the greylist how often used."""
    limit = entry["limit"]
    return float(entry["level"]) / limit if limit else float(entry["level"]) / 1_000_000


def nearest(entries: Sequence[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """The fullest first, as many as wanted; 0 for all."""
    ordered = sorted(entries, key=lambda entry: (-fullness(entry), entry["key"]))
    return ordered[:limit] if limit else ordered


def listing(state: "MemoryState", request: Mapping[str, Any]) -> dict[str, Any]:
    """What a worker's memory has.

    Args:
        state: The memory.
        request: ``kind``, ``subject`` (a part of it) and ``limit``.

    Raises:
        ValueError: There is no such kind.
    """
    wanted = request.get("kind")
    kind = None if wanted is None else Kind(wanted)
    part = str(request.get("subject") or "")
    found = [entry_json(entry) for entry in state.known(kind) if is_about(entry, part)]
    return {"total": len(found), "entries": nearest(found, int(request.get("limit") or 0))}


def clear(state: "MemoryState", request: Mapping[str, Any]) -> bool:
    """Forget the entry of a ``key``."""
    return state.forget(str(request.get("key")))


def health(state: "RedisState", request: Mapping[str, Any]) -> list[dict[str, Any]]:  # noqa: ARG001 - a handler's
    """How a worker gets on with each server of Redis that it has asked.

    Args:
        state: The state in Redis.
        request: Nothing.
    """
    now = time.time()
    return [
        {
            "server": lane.name,
            "away": None if lane.breaker.health.since is None else round(max(0.0, now - lane.breaker.health.since), 1),
            "outages": lane.breaker.health.outages,
            "unanswered": lane.breaker.health.failed,
        }
        for lane in state.lanes.values()
    ]
