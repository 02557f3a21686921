"""The way to the Redis that the configuration names: a server, the master that sentinels name, or a cluster."""

from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from gateway.adapters.state.cluster import ClusterLink
from gateway.adapters.state.link import CONNECT, Link, Script
from gateway.adapters.state.server import Server, ServerLink
from gateway.config.state import StateKind, StateOptions
from gateway.tls import OFF

SENTINEL: Final = 0.4
"""Seconds that one sentinel has to name the master: several may have to be asked within ``CONNECT``."""


def _settings(options: StateOptions) -> dict[str, Any]:
    """What every client of redis-py is given."""
    place = options.place
    password = options.password.get_secret_value() if options.password is not None else place.password
    settings: dict[str, Any] = {
        "username": options.username or place.username or None,
        "password": password or None,
        "socket_timeout": None,
        "socket_connect_timeout": CONNECT,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
        "client_name": "lychgate",
        "protocol": 2,  # in which nothing comes that was not asked for
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    if place.tls:
        authorities = None if options.ca is None else str(options.ca)
        settings |= {"ssl": True, "ssl_ca_certs": authorities, "ssl_exclude_verify_flags": list(OFF)}
    return settings


def make_link(options: StateOptions, scripts: Sequence[Script]) -> Link:
    """The way to what the options name, for these scripts; nothing is connected yet."""
    place = options.place
    settings = _settings(options)
    if place.kind is StateKind.CLUSTER:
        return ClusterLink(place.servers, lambda host, port: Server(Redis(host=host, port=port, **settings), scripts))
    if place.kind is StateKind.SENTINEL:
        secret = options.sentinel_password
        manager = Sentinel(  # type: ignore[no-untyped-call]  # its annotations are missing
            list(place.servers),
            sentinel_kwargs={
                "username": options.sentinel_username,
                "password": None if secret is None else secret.get_secret_value(),
                **{name: value for name, value in settings.items() if name not in {"username", "password"}},
                "socket_timeout": SENTINEL,
                "socket_connect_timeout": SENTINEL,
            },
        )
        client = manager.master_for(place.master, db=place.database, **settings)
        return ServerLink(Server(client, scripts), manager.sentinels)
    if place.socket is not None:
        return ServerLink(Server(Redis(unix_socket_path=place.socket, db=place.database, **settings), scripts))
    host, port = place.servers[0]
    return ServerLink(Server(Redis(host=host, port=port, db=place.database, **settings), scripts))
