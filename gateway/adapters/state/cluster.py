"""A Redis Cluster, whose servers share the keys by their slots.

Each server has a client of redis-py of its own, so that servers fail one by one. redis-py's client for a cluster is one
thing (docs/decisions/state.md).
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, MovedError, RedisError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.adapters.state.call import Call, ElsewhereError, Result
from gateway.adapters.state.server import Server, within

REDIRECTS: Final = 5
"""Servers of a cluster to which one call is sent on: one that has moved on, and some that have not heard of it yet."""


class Cluster:
    """A Redis Cluster (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/); a ``Topology``.

    Which server has which slot is asked of whichever server answers, at the beginning and whenever one was away;
    what ``MOVED`` says in between is kept. Servers fail one by one: what is away of one keeps nobody from the others.

    Args:
        servers: Some of its servers.
        make: Makes a server of its host and port.
    """

    spread = True

    def __init__(self, servers: Sequence[tuple[str, int]], make: Callable[[str, int], Server]) -> None:
        self._first = [f"{host}:{port}" for host, port in servers]
        self._make = make
        self._servers: dict[str, Server] = {}
        self._homes = [""] * REDIS_CLUSTER_HASH_SLOTS

    async def execute(self, calls: Sequence[Call], timeout: float) -> list[Result]:  # noqa: ASYNC109 - see ``within``
        """All on the server that has the first key; what it does not have (any more) where it says."""
        try:
            async with within(timeout):
                home = await self._home(calls[0].keys[0])
                results = await self._server(home).run(calls)
                for _ in range(REDIRECTS):
                    if not await self._follow(calls, results, home):
                        break
        except (RedisError, OSError, TimeoutError) as error:
            return [error] * len(calls)
        return [
            ElsewhereError(str(result)) if isinstance(result, AskError | TryAgainError) else result
            for result in results
        ]

    async def _follow(self, calls: Sequence[Call], results: list[Result], home: str) -> bool:
        """Send what is with other servers there, and put in what comes of it; says whether there was any."""
        groups: dict[tuple[str, bool], list[int]] = {}
        for index, result in enumerate(results):
            if isinstance(result, AskError):
                name = f"{result.host or home.rpartition(':')[0]}:{result.port}"
                has_moved = isinstance(result, MovedError)
                if has_moved:
                    self._homes[result.slot_id] = name
                groups.setdefault((name, has_moved), []).append(index)
        for (name, has_moved), indexes in groups.items():
            some = [calls[index] for index in indexes]
            try:
                found = await self._server(name).run(some, () if has_moved else ("ASKING",))
            except (RedisError, OSError) as error:
                found = [ElsewhereError(f"{name}: {error}")] * len(some)
            for index, result in zip(indexes, found, strict=True):
                results[index] = result
        return bool(groups)

    def home(self, key: str) -> str:
        """The server that has the key's slot, as far as is known."""
        return self._homes[key_slot(key.encode())]

    async def _home(self, key: str) -> str:
        if not self.home(key):
            await self._learn()
        if not self.home(key):
            raise RedisConnectionError("no server of the cluster has the slot")
        return self.home(key)

    def _server(self, name: str) -> Server:
        server = self._servers.get(name)
        if server is None:
            host, _, port = name.rpartition(":")
            server = self._servers[name] = self._make(host, int(port))
        return server

    async def _learn(self) -> None:
        """Ask who has which slot, those first that were there just now."""
        names = dict.fromkeys([*self._servers, *self._first])
        problem: Exception | None = None
        for name in sorted(names, key=lambda name: not self._server(name).is_there):
            try:
                found = await self._server(name).slots()
            except (RedisError, OSError, TimeoutError) as error:
                problem = problem or error
            else:
                homes = [""] * REDIS_CLUSTER_HASH_SLOTS
                for first, last, (host, port, *_), *_ in found:
                    home = f"{(host or b'').decode() or name.rpartition(':')[0]}:{port}"
                    homes[first : last + 1] = [home] * (last + 1 - first)
                await self._keep(homes)
                return
        raise problem or RedisConnectionError("the cluster has no servers")

    async def _keep(self, homes: list[str]) -> None:
        self._homes = homes
        for name in set(self._servers) - set(homes) - set(self._first):
            server = self._servers.pop(name, None)
            if server is not None:  # nobody else did meanwhile
                await server.close()

    async def renew(self, key: str) -> None:
        """Learn the slots again, and connect to the server that has the key's."""
        await self._learn()
        await self._server(await self._home(key)).renew()

    async def keys(self, pattern: str) -> AsyncIterator[bytes]:
        """By SCAN on every server that has slots."""
        await self._learn()
        for name in sorted(set(self._homes) - {""}):
            async for key in self._server(name).keys(pattern):
                yield key

    async def delete(self, key: str) -> bool:
        """See ``Topology``."""
        await self._learn()
        return await self._server(await self._home(key)).delete(key)

    async def close(self) -> None:
        """Disconnect."""
        for server in list(self._servers.values()):
            await server.close()
