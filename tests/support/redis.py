"""Real Redis servers on loopback ports of their own, with their data in temporary folders.

    with RedisServer() as redis: ... redis.url ...

``RedisServer`` is one; stopped and started again it is empty. ``SentinelSetup`` is a
master, a replica and three sentinels; ``ClusterSetup`` a cluster of three masters. Each ends with its ``with``.
"""

import subprocess
from collections.abc import Mapping
from contextlib import suppress
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

    @property
    def client(self) -> Any:
        """A client of its own, that does not wait long."""
        password = self._settings.get("requirepass")
        return redis.Redis(port=self.port, socket_timeout=5, password=password)

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
    """

    def __init__(self) -> None:
        self.servers = [RedisServer({"repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1"})]
        self._sentinels: list[RedisServer] = []

    @property
    def url(self) -> str:
        """Where it is."""
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in self._sentinels)
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
                self._sentinels.append(RedisServer(sentinel=configuration).__enter__())
            for one in self._sentinels:
                poll(lambda one=one: one.client.sentinel_master("gateway")["num-other-sentinels"] == 2)  # type: ignore[misc]  # a default
                poll(lambda one=one: one.client.sentinel_master("gateway")["num-slaves"] == 1)  # type: ignore[misc]  # a default
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in [*self._sentinels, *self.servers]:
            one.__exit__(None, None, None)


class ClusterSetup:
    """A cluster of three masters.

    Attributes:
        servers: The nodes.
    """

    def __init__(self) -> None:
        self.servers: list[RedisServer] = []

    @property
    def url(self) -> str:
        """Where it is."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{one.port}" for one in self.servers)

    def __enter__(self) -> Self:
        try:
            for _ in range(3):
                settings = {"cluster-enabled": "yes", "cluster-port": str(free_port()), "cluster-node-timeout": "2000"}
                self.servers.append(RedisServer(settings).__enter__())
            nodes = [f"127.0.0.1:{one.port}" for one in self.servers]
            subprocess.run(
                ["redis-cli", "--cluster", "create", *nodes, "--cluster-replicas", "0", "--cluster-yes"],
                check=True, capture_output=True, timeout=60,
            )  # fmt: skip
            for one in self.servers:
                poll(lambda one=one: one.client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")  # type: ignore[misc]  # a default
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in self.servers:
            one.__exit__(None, None, None)
