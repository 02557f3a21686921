"""The state's ways into Redis: a UNIX socket, TLS, users and passwords, sentinels that want one."""

from pathlib import Path
from typing import Any

import pytest
import trustme

from gateway.adapters.state.redis import RedisState
from gateway.config.state import StateOptions
from gateway.state import Answer, Enter, Greet, Kind, Take
from tests.support.ports import free_port
from tests.support.redis import RedisServer

pytestmark = pytest.mark.peer("redis-server")

COMMANDS = (
    "+hello +auth +ping +asking +select +client|setname +script|load +eval +evalsha +scan +del +cluster|slots "
    "+get +set +type +time +pttl +pexpire +zadd +zrem +zcard +zcount +zscore +zrange +zremrangebyscore"
)
"""What a user needs, as docs/scaling.md says."""

TAKE = Take(name="limit", subject="s", rate=0.001, burst=5.0)


async def _outcome(section: dict[str, Any]) -> str:
    """How often it was counted by then, or why it was not."""
    state = RedisState(StateOptions.model_validate({"timeout": "5s", **section}))
    await state.start()
    (answer,) = await state.ask([TAKE])
    await state.stop()
    return f"{answer.level:.0f}" if isinstance(answer, Answer) else str(answer).partition(":")[0]


async def test_a_unix_socket(tmp_path: Path) -> None:
    """With the number of a database."""
    path = tmp_path / "redis.sock"
    with RedisServer({"unixsocket": str(path)}) as redis:
        assert await _outcome({"url": f"unix://{path}"}) == "1"
        assert await _outcome({"url": f"unix://{path}?db=3"}) == "1"
        assert await _outcome({"url": redis.url}) == "2"


async def test_users_and_passwords() -> None:
    """In the URL or beside it; without the right one nothing can be told."""
    users = {"requirepass": "pass/word", "user": f"gate on >secret ~lychgate:* -@all {COMMANDS}"}
    with RedisServer(users) as redis:
        assert redis.client.execute_command("ACL DRYRUN", "gate", "ASKING") == b"OK"  # where a slot of a cluster moves
        where = f"127.0.0.1:{redis.port}/0"
        assert await _outcome({"url": f"redis://:pass%2Fword@{where}"}) == "1"
        assert await _outcome({"url": redis.url, "password": "pass/word"}) == "2"
        assert await _outcome({"url": f"redis://gate:secret@{where}"}) == "3"
        assert await _outcome({"url": redis.url, "username": "gate", "password": "secret"}) == "4"
        state = RedisState(StateOptions(url=f"redis://gate:secret@{where}", timeout="5s"))
        await state.start()
        enter = Enter(name="room", subject="s", member="S1", limit=2)
        assert [isinstance(answer, Answer) for answer in await state.ask([enter])] == [True]
        await state.renew()
        await state.greet(Greet(client="c", envelope="e", delay=1, window=60, keep=60, passes=5))
        assert {entry.kind async for entry in state.entries()} == set(Kind)
        state.leave(enter)
        assert await state.clear("rate:{s}:limit")
        assert state.pipelines[""].breaker.health.failed == 0
        await state.stop()
        for wrong in ({"password": "wrong"}, {}, {"username": "gate", "password": "wrong"}):
            assert await _outcome({"url": redis.url, **wrong}) == "the state is unavailable"
        assert await _outcome({"url": f"redis://gate:secret@{where}", "prefix": "other"}) == "the state is unavailable"


async def test_tls_with_a_certificate_that_is_verified(tmp_path: Path) -> None:
    """By the authorities in ``ca``, and for the name in the URL."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    port = free_port()
    settings = {
        "tls-port": str(port), "tls-cert-file": str(tmp_path / "cert.pem"), "tls-key-file": str(tmp_path / "key.pem"),
        "tls-ca-cert-file": str(tmp_path / "ca.pem"), "tls-auth-clients": "no",
    }  # fmt: skip
    with RedisServer(settings):
        right = {"url": f"rediss://localhost:{port}/0", "ca": str(tmp_path / "ca.pem")}
        assert await _outcome(right) == "1"
        assert await _outcome({**right, "ca": str(tmp_path / "other.pem")}) == "the state is unavailable"
        assert await _outcome({**right, "url": f"rediss://127.0.0.1:{port}/0"}) == "the state is unavailable"


@pytest.mark.peer("redis-sentinel")
async def test_sentinels_that_want_a_password() -> None:
    """Another one than the master's."""
    with RedisServer({"requirepass": "master-word"}) as master:
        configuration = (
            f"requirepass sentinel-word\nsentinel monitor gateway 127.0.0.1 {master.port} 1\n"
            "sentinel auth-pass gateway master-word"
        )
        with RedisServer({"requirepass": "sentinel-word"}, sentinel=configuration) as sentinel:
            url = f"redis+sentinel://127.0.0.1:{sentinel.port}/gateway/0"
            right = {"url": url, "password": "master-word", "sentinel_password": "sentinel-word"}
            assert await _outcome(right) == "1"
            assert await _outcome({**right, "sentinel_password": "wrong"}) == "the state is unavailable"
            assert await _outcome({**right, "password": "wrong"}) == "the state is unavailable"
