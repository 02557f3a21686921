"""Postfix's tcp_table(5), the client's side without I/O.

A request is the line ``get KEY``; the reply is a line with ``200`` (found), ``500`` (not found) or ``400`` (an error)
and a text. In keys and texts ``%``, white space and what can't be printed are written ``%XX``.
"""

from typing import Final
from urllib.parse import unquote_to_bytes

from gateway.lookup.answer import Answer, UnverifiableError
from gateway.lookup.socketmap import ReplyError

MAX_LINE: Final = 4096
"""Octets of a request or a reply, its line end included (tcp_table(5))."""


class TcpTable:
    """The protocol."""

    __slots__ = ()

    def request(self, key: str) -> bytes:
        """The octets that ask for a key.

        Raises:
            UnverifiableError: The key is too long to be asked for.
        """
        octets = key.encode("utf-8", "surrogateescape")
        line = b"get " + b"".join(b"%%%02X" % o if o in b"%" or not 0x21 <= o <= 0x7E else b"%c" % o for o in octets)  # noqa: PLR2004 - what can be printed
        if len(line) >= MAX_LINE:
            raise UnverifiableError("the address is too long for the protocol")
        return line + b"\n"

    def reply(self, received: bytes) -> Answer | None:
        """What the server answered; None while its reply is not whole.

        Raises:
            UnverifiableError: It could not tell.
            ReplyError: That is no reply.
        """
        line, end, rest = received.partition(b"\n")
        if not end:
            if len(line) >= MAX_LINE:
                raise ReplyError(f"a reply of more than {MAX_LINE} octets")
            return None
        code, text = line[:3], unquote_to_bytes(line[4:204]).decode("utf-8", "replace").strip()
        if rest or line[3:4] not in {b" ", b"", b"\r"} or code not in {b"200", b"400", b"500"}:
            raise ReplyError(f"{received[:40]!r} is no reply")
        words = f"{code.decode()} {text}".strip()
        if code == b"400":
            raise UnverifiableError(f"the server said {words}")
        return Answer(code == b"200", words)
