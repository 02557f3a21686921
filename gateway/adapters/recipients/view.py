"""What the sources remember, as values that JSON can hold: for the control socket."""

import time
from collections.abc import Iterable
from itertools import islice
from typing import Annotated, Any, Final

import msgspec

from gateway.adapters.recipients.cache import CachedSource

_WORDS: Final = {True: "yes", False: "no", None: "unknown"}


class Chosen(msgspec.Struct):
    """Which addresses: all by default."""

    local_part: str | None = None
    domain: str | None = None


class Wanted(Chosen):
    """Which addresses, and of each source how many at most; 0 for all."""

    limit: Annotated[int, msgspec.Meta(ge=0)] = 0


def listing(sources: Iterable[CachedSource], request: Wanted) -> list[dict[str, Any]]:
    """What each source remembers, the address used last first."""
    return [_source(source, request.local_part, request.domain, request.limit) for source in sources]


def flush(sources: Iterable[CachedSource], request: Chosen) -> int:
    """Let the sources forget; returns how many addresses they forgot."""
    return sum(source.flush(request.local_part, request.domain) for source in sources)


def _source(source: CachedSource, local_part: str | None, domain: str | None, limit: int) -> dict[str, Any]:
    wanted = None if local_part is None else source.key(local_part, "")[0]
    chosen = [
        {
            "address": f"{each}@{its_domain}",
            "answer": _WORDS[entry.exists],
            "stale": entry.stale,
            "said": entry.words,
            "age": round(age, 1),
            "holds": round(holds, 1),
        }
        for each, its_domain, entry, age, holds in source.entries()
        if wanted in {None, each} and domain in {None, its_domain}
    ]
    shown = list(islice(reversed(chosen), limit or None))
    since = source.breaker.health.since
    return {
        "source": source.name,
        "away": None if since is None else round(max(0.0, time.time() - since), 1),
        "remembered": len(chosen),
        "hits": source.hits,
        "asked": source.asked,
        "failures": source.failures,
        "entries": shown,
        "left_out": len(chosen) - len(shown),
    }
