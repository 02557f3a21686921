"""libopendkim as a verifier, by its C interface (``dkim.h`` of Debian's libopendkim-dev) without a compiler.

A line in: the message and the key record, each in hexadecimal digits. A line out: the result. The process has no other
work: a mistake in the library would end it.
"""

import ctypes
import sys
from ctypes import CFUNCTYPE, POINTER, byref, c_char_p, c_int, c_size_t, c_void_p
from typing import Final

_OK: Final = 0
_NO_SIGNATURE: Final = 2
_CONTINUE: Final = 0  # of the callback: the key has been found

_LIBRARY: Final = ctypes.CDLL("libopendkim.so.11")
_KEY_LOOKUP: Final = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_size_t)

# With the types of what they take: a pointer that is taken for an int loses its upper half.
for _name, _result, _arguments in (
    ("dkim_init", c_void_p, (c_void_p, c_void_p)),
    ("dkim_set_key_lookup", c_int, (c_void_p, _KEY_LOOKUP)),
    ("dkim_verify", c_void_p, (c_void_p, c_char_p, c_void_p, POINTER(c_int))),
    ("dkim_chunk", c_int, (c_void_p, c_char_p, c_size_t)),
    ("dkim_eom", c_int, (c_void_p, c_void_p)),
    ("dkim_free", c_int, (c_void_p,)),
    ("dkim_getresultstr", c_char_p, (c_int,)),
):
    _function = getattr(_LIBRARY, _name)
    _function.restype, _function.argtypes = _result, _arguments


class _Verifier:
    """The library, with a key record in place of the DNS."""

    def __init__(self) -> None:
        self._record = b""
        self._lookup = _KEY_LOOKUP(self._answer)  # the library keeps its address only
        self._library = _LIBRARY.dkim_init(None, None)
        _LIBRARY.dkim_set_key_lookup(self._library, self._lookup)

    def _answer(self, _dkim: int, _signature: int, buffer: int, size: int) -> int:
        """Write the record into the library's buffer, as text of C: up to the first zero octet."""
        text = self._record.partition(b"\0")[0][: size - 1] + b"\0"
        ctypes.memmove(buffer, text, len(text))
        return _CONTINUE

    def result(self, message: bytes, record: bytes) -> str:
        """``pass``, ``none``, or what the library calls the error."""
        self._record = record
        status = c_int(_OK)
        handle = _LIBRARY.dkim_verify(self._library, b"1", None, byref(status))
        code = status.value
        if handle is not None:
            code = _LIBRARY.dkim_chunk(handle, ctypes.create_string_buffer(message), len(message))
            if code == _OK:
                code = _LIBRARY.dkim_chunk(handle, None, 0)
            if code == _OK:
                code = _LIBRARY.dkim_eom(handle, None)
            _LIBRARY.dkim_free(handle)
        if code == _OK:
            return "pass"
        return "none" if code == _NO_SIGNATURE else str(_LIBRARY.dkim_getresultstr(code).decode("ascii"))


def main() -> None:
    """Answer each line."""
    verifier = _Verifier()
    for line in sys.stdin:
        message, record = (bytes.fromhex(part) for part in line.rstrip("\n").split("\t"))
        sys.stdout.write(verifier.result(message, record) + "\n")


if __name__ == "__main__":
    main()
