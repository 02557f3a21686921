"""The pipeline to a Redis server: what is the server's fault, and what that of a call."""

import pytest
from redis.asyncio.connection import DefaultParser

from gateway.adapters.state.pipeline import _is_fault


@pytest.mark.parametrize(
    ("said", "is_fault"),
    [
        ("READONLY You can't write against a read only replica.", True),
        ("OOM command not allowed when used memory > 'maxmemory'. script: d2191, on @user_script:27.", True),
        ("ERR Error running script (call to f_d2191): @user_script:27: -OOM command not allowed", True),
        ("LOADING Redis is loading the dataset in memory", True),
        ("MISCONF Redis is configured to save RDB snapshots", True),
        ("NOAUTH Authentication required.", True),
        ("NOPERM this user has no permissions to access one of the keys", True),
        ("CLUSTERDOWN Hash slot not served", True),
        ("ERR max number of clients reached", True),
        ("ERR wrong number of arguments for 'evalsha' command", False),
        ("ERR user_script:27: bad argument #2 to 'unpack' (data string too short) script: d2191", False),
        ("ERR Error running script (call to f_d2191): @user_script:27: user_script:27: bad argument #2", False),
        ("WRONGTYPE Operation against a key holding the wrong kind of value script: d2191", False),
        ("ERR Error running script (call to f_d2191): @user_script:9: -WRONGTYPE Operation against a key", False),
    ],
)
def test_an_error_of_one_call_is_no_outage(said: str, *, is_fault: bool) -> None:
    """As Redis says it, 7 and 6, which wraps what a script was refused."""
    error = DefaultParser.parse_error(said)  # type: ignore[no-untyped-call]  # its annotations are missing
    assert _is_fault(error) is is_fault
