"""Real Redis servers on loopback ports of their own, with their data in temporary folders.

    with RedisServer() as redis: ... redis.url ...

``RedisServer`` is one; stopped and started again it is empty. ``SentinelSetup`` is a
master, a replica and three sentinels; ``ClusterSetup`` a cluster of three masters. Each ends with its ``with``.
"""

import subprocess
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from types import TracebackType
from typing import Any, Self

import redis
from redis.exceptions import RedisError

from tests.support.gateway import poll
from tests.support.ports import free_port
from tests.support.server_process import ServerProcess


class RedisServer(ServerProcess):
    """One server.

    Args:
        settings: Settings beyond the common ones, as on the command line.
        sentinel: Whether it is a sentinel, and then its configuration.
    """

    def __init__(self, settings: Mapping[str, str] | None = None, *, sentinel: str | None = None) -> None:
        super().__init__()
        self._settings = dict(settings or {})
        self._sentinel = sentinel

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.port}/0"

    @cached_property
    def client(self) -> Any:
        """A client that does not wait long; closed with the server."""
        password = self._settings.get("requirepass")
        return redis.Redis(port=self.port, socket_timeout=5, password=password)

    def replicate_to(self, replica: "RedisServer") -> None:
        """Wait until a replica has what was written so far. ``WAIT`` does so for its own connection only."""
        written = self.client.info("replication")["master_repl_offset"]
        poll(lambda: replica.client.info("replication")["slave_repl_offset"] >= written)

    def stop(self) -> None:
        """See ``ServerProcess``."""
        self.client.close()  # connects again where it is needed
        super().stop()

    def _command(self) -> list[str]:
        file = self.folder / "redis.conf"
        settings = {"save": '""', "appendonly": "no", "dir": str(self.folder), "bind": "127.0.0.1"} | self._settings
        if self._sentinel is not None:
            settings = {"dir": str(self.folder), "bind": "127.0.0.1"}
        lines = [f"port {self.port}", *(f"{name} {value}" for name, value in settings.items()), self._sentinel or ""]
        file.write_text("\n".join(lines) + "\n", "utf-8")
        return ["redis-server" if self._sentinel is None else "redis-sentinel", str(file)]

    def _answers(self) -> bool:
        with suppress(RedisError):
            return bool(self.client.ping())
        return False


class SentinelSetup:
    """A master, a replica and three sentinels, which agree by two; the master's name is ``gateway``.

    Attributes:
        servers: The two servers; the first begins as the master.
        sentinels: The three, in the order in which they are asked.
    """

    def __init__(self) -> None:
        self.servers = [RedisServer({"repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1"})]
        self.sentinels: list[RedisServer] = []

    @property
    def url(self) -> str:
        """Where it is."""
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in self.sentinels)
        return f"redis+sentinel://{hosts}/gateway/0"

    def __enter__(self) -> Self:
        try:
            master = self.servers[0].__enter__()
            settings = {"replicaof": f"127.0.0.1 {master.port}", "repl-ping-replica-period": "1"}
            self.servers.append(RedisServer(settings).__enter__())
            poll(lambda: self.servers[1].client.info("replication")["master_link_status"] == "up")
            configuration = (
                f"sentinel monitor gateway 127.0.0.1 {master.port} 2\n"
                "sentinel down-after-milliseconds gateway 700\nsentinel failover-timeout gateway 3000"
            )
            for _ in range(3):
                self.sentinels.append(RedisServer(sentinel=configuration).__enter__())
            for one in self.sentinels:
                poll(lambda one=one: one.client.sentinel_master("gateway")["num-other-sentinels"] == 2)  # type: ignore[misc]  # a default
                poll(lambda one=one: one.client.sentinel_master("gateway")["num-slaves"] == 1)  # type: ignore[misc]  # a default
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in [*self.sentinels, *self.servers]:
            one.__exit__(None, None, None)


class ClusterSetup:
    """A cluster of three masters.

    Args:
        settings: Settings beyond the common ones.
        replica_of: The number of the master that gets a replica, which takes over when that is gone.

    Attributes:
        servers: The nodes; the replica is the last.
    """

    def __init__(self, settings: Mapping[str, str] | None = None, *, replica_of: int | None = None) -> None:
        self.servers: list[RedisServer] = []
        self._settings = {"cluster-enabled": "yes", "cluster-node-timeout": "2000", **(settings or {})}
        self._replica_of = replica_of

    @property
    def url(self) -> str:
        """Where it is."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{one.port}" for one in self.servers)

    def __enter__(self) -> Self:
        try:
            nodes = [self._add() for _ in range(3)]
            self._manage("create", *nodes, "--cluster-replicas", "0", "--cluster-yes")
            self._settle()
            if self._replica_of is not None:
                name = self.servers[self._replica_of].client.execute_command("CLUSTER MYID").decode()
                replica = self._add()
                self._manage("add-node", replica, nodes[0], "--cluster-slave", "--cluster-master-id", name)
                self._settle()
                poll(lambda: self.servers[-1].client.info("replication").get("master_link_status") == "up")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _add(self) -> str:
        server = RedisServer({**self._settings, "cluster-port": str(free_port())}).__enter__()
        self.servers.append(server)
        return f"127.0.0.1:{server.port}"

    def _manage(self, *words: str) -> None:
        subprocess.run(["redis-cli", "--cluster", *words], check=True, capture_output=True, timeout=60)

    def _settle(self) -> None:
        """Wait until every node knows all nodes and that all is well."""
        for one in self.servers:
            poll(lambda one=one: _is_whole(one, len(self.servers)))  # type: ignore[misc]  # a default

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in self.servers:
            one.__exit__(None, None, None)


def _is_whole(server: RedisServer, nodes: int) -> bool:
    found = server.client.execute_command("CLUSTER INFO")
    return bool(found["cluster_state"] == "ok" and int(found["cluster_known_nodes"]) == nodes)
