"""Who authenticates: the name in a SASL exchange that passes through (RFC 4954, RFC 4616, RFC 5802).

The gateway checks no password; it reads the name only for the record and the log. What it can't read it calls by the
mechanism.
"""

import re
from collections.abc import Sequence
from typing import Final

from gateway.smtp.encoded import decode_base64

_SHOWN: Final = 255
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def login_name(mechanism: str, responses: Sequence[bytes]) -> str:
    """The name that a successful exchange was about.

    Args:
        mechanism: In upper case.
        responses: The client's lines in base64, the initial response first.
    """
    decoded = [_decode(response) for response in responses]
    name = ""
    if not decoded:
        pass
    elif mechanism == "PLAIN":  # RFC 4616 2: [authzid] NUL authcid NUL passwd
        parts = decoded[-1].split("\0")
        name = parts[1] if len(parts) > 1 else ""
    elif mechanism == "LOGIN":
        name = decoded[0]
    elif mechanism == "CRAM-MD5":  # RFC 2195 2: name, space, digest
        name = decoded[-1].rpartition(" ")[0]
    elif mechanism.startswith("SCRAM-"):  # RFC 5802 7: n=name
        match = re.search(r"(?:^|,)n=([^,]*)", decoded[0])
        name = match[1].replace("=2C", ",").replace("=3D", "=") if match else ""
    elif mechanism in {"XOAUTH2", "OAUTHBEARER"}:
        match = re.search(r"user=([^\x01]*)|(?:^|,)a=([^,]*)", decoded[0])
        name = (match[1] or match[2] or "") if match else ""
    return _UNPRINTABLE.sub("?", name)[:_SHOWN] or f"({mechanism})"


def _decode(response: bytes) -> str:
    try:
        return decode_base64(response.decode("latin-1")).decode("utf-8", "replace")
    except ValueError:
        return ""
