"""``lychgate state``: what is counted, in a Redis and in a worker's memory."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.adapters.redis_state import RedisState
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
            await state.greet(Greet(client="domain=a", envelope="e", delay=300, window=3600, keep=86_400, passes=5))
            await state._lanes[""].stop()  # not the connection that is held
            await state._link.close()

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
        key = "rate:{client_address=192.0.2.1}:per-client:10/h"
        assert _run("clear", key, "--config", config) == (0, "cleared\n")
        status, text = _run("clear", key, "--config", config)
        assert (status, "there is no entry" in text) == (1, True)
    status, text = _run("--config", config)
    assert status == 1
    assert "the state can't be reached" in text
    assert "secret-word" not in text


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
