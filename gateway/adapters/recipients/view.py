"""What the sources remember, as values that JSON can hold: for the control socket."""

import time
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Final

from gateway.adapters.recipients.cache import CachedSource

_WORDS: Final = {True: "yes", False: "no", None: "unknown"}


def listing(sources: Iterable[CachedSource], request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each source remembers, the address used last first.

    Args:
        sources: The sources.
        request: ``limit``, the most addresses of each (0 for all), and perhaps ``local_part`` and ``domain``.

    Raises:
        ValueError: The request is wrong.
    """
    limit = request.get("limit", 0)
    if not isinstance(limit, int) or limit < 0:
        raise ValueError("limit must be a number")
    local_part, domain = _chosen(request)
    return [_source(source, local_part, domain, limit) for source in sources]


def flush(sources: Iterable[CachedSource], request: Mapping[str, Any]) -> int:
    """Let the sources forget; returns how many addresses they forgot.

    Raises:
        ValueError: The request is wrong.
    """
    local_part, domain = _chosen(request)
    return sum(source.flush(local_part, domain) for source in sources)


def _chosen(request: Mapping[str, Any]) -> tuple[str | None, str | None]:
    local_part, domain = request.get("local_part"), request.get("domain")
    if not isinstance(local_part, str | None) or not isinstance(domain, str | None):
        raise ValueError("local_part and domain must be text")  # noqa: TRY004 - the request is wrong, not the code
    return local_part, domain


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
