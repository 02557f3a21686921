"""A real Postfix that delivers all mail into one maildir, and what it stored.

    with delivering({"xclient": {"smtpd_authorized_xclient_hosts": "127.0.0.1"}}) as maildir:
        ... maildir.ports["xclient"] ...
        maildir.messages({"any1@example.com"})["any1@example.com"]

A message is found by its recipient: give each one another.
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.support.gateway import poll
from tests.support.postfix import Postfix

_NOBODY: Final = 65534
_DELIVERED_TO: Final = re.compile(rb"^Delivered-To: (\S+)$", re.MULTILINE)


class Maildir:
    """What a Postfix delivered.

    Args:
        ports: The port of each of its services on 127.0.0.1.
        folder: The maildir.

    Attributes:
        ports: The same.
    """

    def __init__(self, ports: Mapping[str, int], folder: Path) -> None:
        self.ports = ports
        self._new = folder / "new"
        self._messages: dict[str, bytes] = {}
        self._seen: set[Path] = set()

    def messages(self, recipients: Collection[str]) -> dict[str, bytes]:
        """The messages to these recipients, as stored, in LF lines; waits until all are there."""
        poll(lambda: self._all(recipients))
        return {recipient: self._messages[recipient] for recipient in recipients}

    def _all(self, recipients: Collection[str]) -> bool:
        for file in set(self._new.iterdir() if self._new.is_dir() else ()) - self._seen:
            text = file.read_bytes()
            found = _DELIVERED_TO.search(text)
            assert found, text[:300]
            self._messages[found[1].decode("ascii")] = text
            self._seen.add(file)
        return self._messages.keys() >= set(recipients)


@contextmanager
def delivering(services: Mapping[str, Mapping[str, str]]) -> Iterator[Maildir]:
    """A Postfix with its defaults that takes mail for any address at its domain."""
    # Below pytest's own folder Postfix, which delivers as another user, could not write.
    with TemporaryDirectory(prefix="maildir-test-") as folder:
        settings = {
            "in_flow_delay": "0",
            "virtual_mailbox_maps": "static:box/",
            "virtual_mailbox_base": folder,
            "virtual_mailbox_limit": "0",
            "virtual_uid_maps": f"static:{_NOBODY}",
            "virtual_gid_maps": f"static:{_NOBODY}",
            "smtpd_recipient_restrictions": "reject_unauth_destination",
        }
        with Postfix(services, settings) as postfix:
            os.chown(folder, _NOBODY, _NOBODY)
            yield Maildir(postfix.ports, Path(folder) / "box")
