"""What ``lychgate state`` shows, as JSON values: entries, and what only a worker can tell.

That is what it has in its memory, or how it gets on with Redis.
"""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

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


class Wanted(msgspec.Struct):
    """Which entries, all by default, and how many at most; 0 for all. The subject can be a part of one."""

    kind: Kind | None = None
    subject: str = ""
    limit: Annotated[int, msgspec.Meta(ge=0)] = 0


class Cleared(msgspec.Struct):
    """The key of the entry to forget."""

    key: str


def listing(state: "MemoryState", request: Wanted) -> dict[str, Any]:
    """What a worker's memory has."""
    found = [entry_json(entry) for entry in state.known(request.kind) if is_about(entry, request.subject)]
    return {"total": len(found), "entries": nearest(found, request.limit)}


def clear(state: "MemoryState", request: Cleared) -> bool:
    """Forget an entry; returns whether it was there."""
    return state.forget(request.key)


def health(state: "RedisState", _request: msgspec.Struct) -> list[dict[str, Any]]:
    """How a worker gets on with each server of Redis that it has asked."""
    now = time.time()
    return [
        {
            "server": pipeline.name,
            "away": None
            if pipeline.breaker.health.since is None
            else round(max(0.0, now - pipeline.breaker.health.since), 1),
            "outages": pipeline.breaker.health.outages,
            "unanswered": pipeline.breaker.health.failed,
        }
        for pipeline in state.pipelines.values()
    ]
