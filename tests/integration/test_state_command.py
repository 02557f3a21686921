"""``lychgate state``: what is counted, in a Redis and in a worker's memory."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.adapters.state.redis import RedisState
from gateway.cli.app import app
from gateway.config.state import StateOptions
from gateway.state import Enter, Greet, Take
from tests.support.redis import RedisServer
from tests.support.serving import serving

TAKE = Take(name="per-client:10/h", subject="client_address=192.0.2.1", rate=10 / 3600, burst=10.0)


def _run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["state", *arguments])
    return result.exit_code, result.output


def _file(folder: Path, state: Any, **more: Any) -> str:
    written = {
        "hostname": "mx.example.com",
        "listeners": [{"smtp": "127.0.0.1:2525"}],
        "backends": {"backend": {"servers": ["127.0.0.1:10025"]}},
        "policies": ["relay"],
        "state": state,
        **more,
    }
    path = folder / "lychgate.yaml"
    path.write_text(json.dumps(written), "utf-8")
    return str(path)


@pytest.mark.peer("redis-server")
def test_it_shows_the_fullest_first_and_clears_one(tmp_path: Path) -> None:
    """Limits, connections and triplets with their keys; one can be cleared; the password is nowhere to be seen."""
    with RedisServer({"requirepass": "secret-word"}) as redis:
        section = {"url": redis.url, "password": "secret-word"}
        config = _file(tmp_path, section)

        async def fill() -> None:
            state = RedisState(StateOptions.model_validate({**section, "timeout": "5s"}))
            await state.ask([TAKE])
            for _ in range(9):
                await state.ask([Take(name="full", subject="helo_name=a", rate=0.001, burst=9.0)])
            await state.ask([Enter(name="room", subject="client_address=192.0.2.1", member="S1", limit=2)])
            await state.greet(
                Greet(client="domain=a", envelope="sender=carol@a", delay=300, window=3600, keep=86_400, passes=5)
            )
            await state._pipelines[""].stop()  # not the connection that is held
            await state._topology.close()

        asyncio.run(fill())
        status, text = _run("--config", config, "--json")
        assert status == 0
        told = json.loads(text)
        assert told["state"] == redis.url
        assert [(entry["kind"], entry["level"], entry["limit"]) for entry in told["entries"]] == [
            ("rate", pytest.approx(9, abs=0.1), 9), ("concurrency", 1, 2), ("rate", pytest.approx(1, abs=0.1), 10),
            ("greylist", 0, None),
        ]  # fmt: skip
        assert told["total"] == 4
        status, text = _run("--config", config, "--kind", "rate", "--subject", "192.0.2.1", "--limit", "1")
        assert (status, "per-client:10/h" in text, "full" in text, "secret-word" in text) == (0, True, False, False)
        assert f"1 entry in {redis.url}\n" in text
        status, text = _run("--config", config, "--subject", "carol@")
        assert (status, "sender=carol@a" in text, "0 passed, first came 1s ago" in text) == (0, True, True)
        assert "192.0.2.1" not in text
        key = "rate:{client_address=192.0.2.1}:per-client:10/h"
        assert _run("clear", key, "--config", config) == (0, "cleared\n")
        status, text = _run("clear", key, "--config", config)
        assert (status, "there is no entry" in text) == (1, True)
        redis.pause()
        for arguments in (["--config", config], ["clear", key, "--config", config]):
            status, text = _run(*arguments)
            assert (status, "the state can't be reached" in text, "no answer in time" in text) == (1, True, True)
    status, text = _run("--config", config)
    assert (status, "the state can't be reached" in text, "secret-word" in text) == (1, True, False)


@pytest.mark.peer("redis-server")
async def test_it_shows_how_each_worker_gets_on_with_redis(tmp_path: Path) -> None:
    """Whether it is away for the worker, and how often it was."""
    with RedisServer() as redis:
        section = {"state": redis.url, "runtime_folder": str(tmp_path / "run")}
        file = _file(tmp_path, redis.url, runtime_folder=str(tmp_path / "run"))
        async with serving(tmp_path, section) as site:
            status, text = await asyncio.to_thread(_run, "workers", "--config", file)
            assert (status, "has asked nothing so far" in text) == (0, True)
            state: Any = site.worker._state
            await state.ask([TAKE])
            status, text = await asyncio.to_thread(_run, "workers", "--config", file)
            assert (status, f"{redis.url}: available, 0 outages so far, 0 questions without" in text) == (0, True)
            await asyncio.to_thread(redis.stop)
            await state.ask([TAKE])
            status, text = await asyncio.to_thread(_run, "workers", "--config", file, "--json")
            (servers,) = json.loads(text).values()
            status, words = await asyncio.to_thread(_run, "workers", "--config", file)
            assert (status, "1 outage so far, 1 question without an answer" in words) == (0, True)
            assert (servers[0]["outages"], servers[0]["unanswered"], servers[0]["away"] >= 0) == (1, 1, True)


async def test_a_workers_memory_is_asked_by_its_control_socket(tmp_path: Path) -> None:
    """With ``memory:`` the running service answers, for the same command."""
    runtime = tmp_path / "run"
    file = _file(tmp_path, "memory:", runtime_folder=str(runtime))
    async with serving(tmp_path, {"runtime_folder": str(runtime)}) as site:
        await site.worker._state.ask([TAKE])
        status, text = await asyncio.to_thread(_run, "--config", file, "--json")
        assert status == 0, text
        (entry,) = json.loads(text)["entries"]
        assert (entry["subject"], entry["level"]) == ("client_address=192.0.2.1", 1)
        assert await asyncio.to_thread(_run, "clear", entry["key"], "--config", file) == (0, "cleared\n")
        assert (await asyncio.to_thread(_run, "clear", entry["key"], "--config", file))[0] == 1


@pytest.mark.peer("redis-server")
@pytest.mark.parametrize("place", ["redis", "memory"])
async def test_explain_looks_at_the_state_and_counts_nothing(tmp_path: Path, place: str) -> None:
    """A limit that is full in Redis, or in the running worker, refuses an imagined client, and is no fuller then."""
    with RedisServer() as redis:
        state = redis.url if place == "redis" else "memory:"
        more = {
            "runtime_folder": str(tmp_path / "run"), "domains": {"example.com": {}},
            "policies": ["relay", {"rate_limit": {"limit": "2/h", "id": "few"}}], "dns": {"client_names": False},
        }  # fmt: skip
        file = _file(tmp_path, state, **more)
        take = Take(name="few:2/h", subject="client_address=192.0.2.1", rate=2 / 3600, burst=2.0)
        said = ["--client-address", "192.0.2.1", "--mail-from", "a@example.org", "--rcpt", "alice@example.com"]

        def explained(*options: str) -> int:
            return CliRunner().invoke(app, ["explain", "--config", file, *said, *options]).exit_code

        async with serving(tmp_path, {"state": state, "runtime_folder": str(tmp_path / "run")}) as site:
            own: Any = site.worker._state
            assert await asyncio.to_thread(explained) == 0
            await own.ask([take])
            for _ in range(3):
                assert await asyncio.to_thread(explained) == 0
            await own.ask([take])
            before = [entry.level async for entry in own.entries()]
            assert await asyncio.to_thread(explained) == 3
            assert await asyncio.to_thread(explained, "--no-state") == 0
            after = [entry.level async for entry in own.entries()]
            assert after == pytest.approx(before, abs=0.1)
