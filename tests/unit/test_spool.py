"""The spool gives back the octets that it was given, wherever it keeps them."""

import asyncio
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.form import HeaderReader
from gateway.mailauth.signature import Signature
from gateway.session import Message
from gateway.spool import BLOCK, CROWDED, Spool, SpoolMemory

READER = HeaderReader()

OCTETS = st.binary(max_size=200) | st.lists(
    st.sampled_from([b"\r\n", b"\r", b"\n", b"Subject: x", b"a", b" folded"]), max_size=20
).map(b"".join)
MEMORY = st.sampled_from([0, 1, 7, 100, 10_000])


def cut(octets: bytes, places: list[int]) -> list[bytes]:
    """The octets in pieces."""
    ends = sorted({min(place, len(octets)) for place in places})
    return [octets[start:end] for start, end in zip([0, *ends], [*ends, len(octets)], strict=True)]


async def written(octets: bytes, pieces: list[bytes], memory: int) -> Spool:
    """A spool that has them."""
    spool = Spool(memory, None, READER)
    for piece in pieces:
        await spool.write(piece)
    assert spool.size == len(octets)
    return spool


async def read(spool: Spool) -> bytes:
    """All that it has."""
    return b"".join([chunk async for chunk in spool.chunks()])


@given(octets=OCTETS, places=st.lists(st.integers(0, 200), max_size=6), memory=MEMORY)
def test_any_octets_in_any_pieces_come_back(octets: bytes, places: list[int], memory: int) -> None:
    """In memory and on disk, as often as they are read; the header and the last line's end are those of the whole."""

    async def run() -> None:
        spool = await written(octets, cut(octets, places), memory)
        try:
            assert await read(spool) == octets
            assert await read(spool) == octets
            header, end, _ = (b"\r\n" + octets).partition(b"\r\n\r\n")
            assert spool.header == (header + end[:2])[2:]
            assert spool.ends_with_newline == (octets == b"" or octets.endswith(b"\r\n"))
        finally:
            spool.close()

    asyncio.run(run())


async def test_more_than_a_block_is_read_in_blocks(tmp_path: Path) -> None:
    """A large message goes through the file; what waits in memory is bounded."""
    spool = Spool(1000, tmp_path, READER)
    piece = bytes(range(256)) * 300
    for _ in range(20):
        await spool.write(piece)
        assert spool._waiting <= BLOCK + len(piece)
    chunks = [chunk async for chunk in spool.chunks()]
    assert b"".join(chunks) == piece * 20
    assert max(map(len, chunks)) == BLOCK
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - it has no name; pathlib is for synchronous code
    spool.close()


async def test_without_unnamed_files_a_named_one_is_unlinked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without O_TMPFILE works as well, and leaves nothing behind."""
    monkeypatch.delattr(os, "O_TMPFILE")
    spool = Spool(0, tmp_path, READER)
    await spool.write(b"Subject: x\r\n")
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - as above
    assert await read(spool) == b"Subject: x\r\n"
    spool.close()


async def test_a_missing_folder_is_an_oserror(tmp_path: Path) -> None:
    """What can't be kept is told to the caller, who answers 452."""
    spool = Spool(0, tmp_path / "missing", READER)
    with pytest.raises(FileNotFoundError):
        await spool.write(b"x")
    spool.close()


async def test_a_closed_spool_lets_a_write_under_way_finish_in_its_own_file(tmp_path: Path) -> None:
    """A thread that still writes keeps the descriptor: its number can't be another file's meanwhile."""
    spool = Spool(0, tmp_path, READER)
    await spool.write(b"x")
    file = spool._file
    assert file is not None
    spool.close()
    other = os.open(tmp_path / "other", os.O_CREAT | os.O_RDWR)
    file.write([b"late"])
    assert os.read(other, 10) == b""
    os.close(other)
    descriptor = file._descriptor
    await asyncio.get_running_loop().shutdown_default_executor()  # its thread may still hold what it has just done
    del file
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_full_disk_is_an_oserror(tmp_path: Path) -> None:
    """With no room for more, the write that does not fit raises; it does not pass for done."""
    code = f"""
import asyncio, resource, signal
from pathlib import Path
from gateway.form import HeaderReader
from gateway.spool import Spool
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

async def run():
    spool = Spool(10, Path({str(tmp_path)!r}), HeaderReader())
    try:
        for _ in range(100):
            await spool.write(b"x" * 10_000)
    except OSError as error:
        print(type(error).__name__, error.errno)
    spool.close()

asyncio.run(run())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "OSError 27\n"  # EFBIG


def body_hash(message: Message) -> bytes | None:
    """The hash of the body for the signature on top, as it was made while the message came."""
    assert message.body_hashes is not None
    signature = message.body_hashes.parsed(message.fields[0])
    assert isinstance(signature, Signature)
    found = message.body_hashes.of(signature)
    assert found is not None
    return found.digest


SIGNED = (
    b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/simple; d=example.org; s=s; h=from;\r\n"
    b" bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=; b=AAAA\r\n"
    b"From: a@example.org\r\n\r\nHello,\r\n\r\nbody\r\n\r\n\r\n"
)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
async def test_the_body_is_hashed_while_it_comes(tmp_path: Path, size: int) -> None:
    """What is hashed begins behind the empty line, however the message is cut; what is spooled is all of it."""
    spool = Spool(1_000_000, tmp_path, READER, signatures=1)
    for start in range(0, len(SIGNED), size):
        await spool.write(SIGNED[start : start + size])
    message = spool.message()
    assert [field.name for field in message.fields] == ["dkim-signature", "from"]
    wanted = hashlib.sha256(b"Hello,\r\n\r\nbody\r\n").digest()  # RFC 6376 3.4.3: no empty lines at its end
    assert body_hash(message) == wanted
    assert b"".join([chunk async for chunk in spool.chunks()]) == SIGNED


async def test_no_body_is_hashed_that_nobody_asks_for(tmp_path: Path) -> None:
    """Without a policy that reads the hashes there are none; a message that is only a header has an empty body."""
    unasked = Spool(1_000_000, tmp_path, READER)
    await unasked.write(SIGNED)
    assert unasked.message().body_hashes is None
    endless = Spool(1_000_000, tmp_path, READER, signatures=1)
    await endless.write(SIGNED.partition(b"\r\n\r\n")[0] + b"\r\n")
    made = endless.message()
    assert [field.name for field in made.fields] == ["dkim-signature", "from"]
    assert body_hash(made) == hashlib.sha256(b"\r\n").digest()
    assert endless.message().fields is made.fields


@pytest.mark.parametrize("step", [1, 7, 1000])
async def test_the_body_that_is_hashed_begins_where_the_header_ends(tmp_path: Path, step: int) -> None:
    """A line that is no field ends the header: it and all that follows it is the body, the empty line included."""
    broken = SIGNED.replace(b"\r\n\r\n", b"\r\nno field\r\nX: y\r\n\r\n", 1)
    spool = Spool(1_000_000, tmp_path, READER, signatures=1)
    for start in range(0, len(broken), step):
        await spool.write(broken[start : start + step])
    body = b"no field\r\nX: y\r\n\r\n" + SIGNED.partition(b"\r\n\r\n")[2]
    made = spool.message()
    assert body_hash(made) == hashlib.sha256(body.rstrip() + b"\r\n").digest()
    forwarded = b"".join([chunk async for chunk in made.forwarded.chunks()])
    assert forwarded == made.header + b"\r\n" + body


async def test_pieces_of_an_octet_each_do_not_fill_the_memory() -> None:
    """A message in very many very small packets goes to the file when its pieces, not its octets, take the memory."""
    spool = Spool(100_000, None, READER)
    for _ in range(2_000):
        await spool.write(b"x")
    assert spool.parts is None
    assert await read(spool) == b"x" * 2_000
    spool.close()


async def test_messages_together_take_no_more_memory_than_they_may(tmp_path: Path) -> None:
    """Where others take all of it a message goes to its file early; what is written or closed takes nothing more."""
    shared = SpoolMemory(100_000)
    others = [Spool(1_000_000, tmp_path, READER, shared=shared) for _ in range(2)]
    for other in others:
        await other.write(b"x" * 60_000)
        assert other.parts is not None or shared.used <= shared.limit
    assert others[1].parts is None, "it was one too many"
    small, large = (Spool(1_000_000, tmp_path, READER, shared=shared) for _ in range(2))
    await others[0].write(b"x" * 39_000)
    await small.write(b"y" * (CROWDED - 1000))
    assert small.parts is not None, "a small one needs no file"
    await large.write(b"z" * CROWDED)
    assert large.parts is None
    assert await read(large) == b"z" * CROWDED
    for spool in (*others, small, large, large):
        spool.close()
    assert shared.used == 0
