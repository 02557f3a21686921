"""``state:``: what a URL says, what is wrong with one, and that no password is shown."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.config.state import StateKind, StateOptions, StatePlace, parse_state
from tests.support.configuring import GOOD, loaded, problems

PLACES = {
    "memory:": StatePlace(kind=StateKind.MEMORY),
    "redis://127.0.0.1": StatePlace(kind=StateKind.SERVER, servers=(("127.0.0.1", 6379),)),
    "redis://redis.internal:7000/3": StatePlace(
        kind=StateKind.SERVER, servers=(("redis.internal", 7000),), database=3
    ),
    "rediss://u%40x:p%2F%3A@[::1]:7000/1": StatePlace(
        kind=StateKind.SERVER, tls=True, servers=(("::1", 7000),), database=1, username="u@x", password="p/:"  # noqa: S106 - of no server
    ),
    "redis://:secret@127.0.0.1": StatePlace(
        kind=StateKind.SERVER, servers=(("127.0.0.1", 6379),), password="secret"  # noqa: S106 - of no server
    ),
    "unix:///run/redis/redis.sock": StatePlace(kind=StateKind.SERVER, socket="/run/redis/redis.sock"),
    "unix:///run/redis.sock?db=2": StatePlace(kind=StateKind.SERVER, socket="/run/redis.sock", database=2),
    "redis+sentinel://a,b:7000,[::1]/mail/4": StatePlace(
        kind=StateKind.SENTINEL, servers=(("a", 26379), ("b", 7000), ("::1", 26379)), master="mail", database=4
    ),
    "rediss+cluster://a:7000,b:7001": StatePlace(
        kind=StateKind.CLUSTER, tls=True, servers=(("a", 7000), ("b", 7001))
    ),
}  # fmt: skip


@pytest.mark.parametrize(("url", "place"), PLACES.items(), ids=PLACES)
def test_urls_are_read(url: str, place: StatePlace) -> None:
    """Servers, sockets, sentinels and clusters, with users and passwords; what is shown has no password."""
    assert parse_state(url) == place
    assert place.password == "" or place.password not in str(place)
    if not place.password:
        assert parse_state(str(place)) == place


WRONG = {
    "redis": "is no place for the state",
    "http://127.0.0.1": "is no place for the state",
    "memory:/x": "'memory:' takes nothing behind it",
    "redis://": "is not a server such as 127.0.0.1:6379",
    "redis://127.0.0.1:99999": "is not a server such as 127.0.0.1:6379",
    "redis://a,b": "one server only",
    "redis://a/x": "the database must be a number, not 'x'",
    "redis://a/1/2": "has too much behind its servers",
    "redis://a?timeout=5": "has settings behind '?'",
    "unix://run/redis.sock": "a UNIX socket is written unix:///PATH",
    "redis+sentinel://a": "names no master",
    "redis+cluster://a/1": "a cluster has only the database 0",
}


@pytest.mark.parametrize(("url", "message"), WRONG.items(), ids=WRONG)
def test_what_is_no_place_is_told(tmp_path: Path, url: str, message: str) -> None:
    """At its line, in words that help."""
    (found,) = problems(tmp_path, GOOD + f"state: {url!r}\n")
    assert "state" in found
    assert message in found


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"url": "redis://a", "ca": "x.pem"}, "'ca' is for rediss://"),
        ({"url": "redis://a", "sentinel_password": "x"}, "are for redis"),
        ({"url": "redis://:x@a", "password": "y"}, "there are two passwords"),
        ({"url": "redis://a", "timeout": "0s"}, "timeout"),
        ({"url": "redis://a", "prefix": "a b"}, "prefix"),
        ({"url": "redis://a", "prefix": "a{b}"}, "prefix"),
    ],
)
def test_settings_that_do_not_fit_are_told(section: dict[str, str], message: str) -> None:
    """Beside the URL; and no message has a password."""
    with pytest.raises(ValidationError, match=message):
        StateOptions.model_validate(section)


def test_a_password_is_shown_nowhere(tmp_path: Path) -> None:
    """Not by what prints options, nor by what prints the place."""
    config = loaded(tmp_path, GOOD + "state: {url: 'redis://u@127.0.0.1', password: secret-word}\n")
    assert "secret-word" not in f"{config!r} {config.state.place} {config.state.model_dump(mode='json')}"
