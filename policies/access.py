"""access: allow and deny lists.

Each list is looked at when what it names is known:

================ ======= =================================================================
List             Stage   Entries
================ ======= =================================================================
``clients``      connect networks and addresses
``client_names`` connect the client's name as the DNS confirms it, ``.example.com`` for all below
``helo_names``   helo    what the client says in HELO or EHLO
``senders``      mail    addresses, ``@domain``, ``.domain``, ``user@``, ``<>``
``recipients``   rcpt    addresses, ``@domain``, ``.domain``, ``user@``
================ ======= =================================================================

A match in a list under ``deny`` refuses, unless a list under ``allow`` matches too, at this stage or an earlier one:
an allowed client may say any HELO name and send from any address, an allowed sender may write to any recipient, and
an allowed recipient gets everything that this policy had not refused before. Narrower entries do not win over wider
ones; for a deny list inside an allowed network put ``access`` into the chain twice, each time with an ``id`` of its
own. What ``allow`` lifts are the deny lists of this same entry in the chain and nothing else; to spare someone
another policy write an exception.

A client's name is looked up only when a list of names can decide. When the DNS gives no answer, a deny list of names
is not applied (``skipped``), because a client whose name nobody knows would pass it just as well; but a client that
is denied otherwise, and whose name might allow it, is told to come again (``unverifiable``): a fault of the DNS
refuses nothing for good.
"""

from pydantic import Field

from gateway.policy import OnError, Options, Policy
from gateway.resolver import NameStatus
from gateway.session import Recipient, Session, Transaction
from gateway.smtp.reply import Reply
from gateway.tables import AddressTable, NameTable, NetworkTable
from gateway.verdict import Action, Finding, Outcome

_DENIED = Reply(554, "5.7.1", "Access denied")
_NO_NAME = Reply(451, "4.4.3", "Your host name can't be looked up now, try again later")  # RFC 3463 X.4.3


class AccessLists(Options):
    """Lists of everything that can be allowed or denied."""

    clients: NetworkTable = Field(default=NetworkTable(), description="Networks and addresses of clients.")
    client_names: NameTable = Field(default=NameTable(), description="Names of clients, as the DNS confirms them.")
    helo_names: NameTable = Field(default=NameTable(), description="Names that clients say in HELO or EHLO.")
    senders: AddressTable = Field(default=AddressTable(), description="Addresses and domains of senders, and <>.")
    recipients: AddressTable = Field(default=AddressTable(), description="Addresses and domains of recipients.")


class AccessOptions(Options):
    """The options of ``access``."""

    allow: AccessLists = Field(default=AccessLists(), description="What the lists under deny do not apply to.")
    deny: AccessLists = Field(default=AccessLists(), description="What is refused.")


class Access(Policy[AccessOptions]):
    """Applies allow and deny lists."""

    name = "access"
    on_error = OnError.DEFER

    denied = Outcome("denied", Action.REJECT, _DENIED, "A deny list matches, and no allow list does.")
    allowed = Outcome("allowed", Action.PASS, _DENIED, "A deny list matches, and an allow list lifts it.")
    unverifiable = Outcome(
        "unverifiable",
        Action.DEFER,
        _NO_NAME,
        "A deny list matches, and whether the client's name lifts it could not be found out now.",
    )
    skipped = Outcome(
        "skipped",
        Action.PASS,
        _NO_NAME,
        "The client's name could not be found out now, so the deny list of names was not applied.",
    )

    async def on_connect(self, session: Session) -> Finding | None:
        """Look at the client's address, then at its name."""
        deny = self.options.deny
        entry = deny.clients.find(session.client_address)
        if entry is not None:
            return await self._denied("clients", entry, session)
        if deny.client_names.is_empty or session.client_address in self.options.allow.clients:
            return None
        client_name = await session.resolve_client_name()
        if client_name.status is NameStatus.TEMPORARY:
            return self.skipped(list="client_names")
        entry = deny.client_names.find(client_name.name) if client_name.name is not None else None
        return await self._denied("client_names", entry, session) if entry is not None else None

    async def on_helo(self, session: Session) -> Finding | None:
        """Look at the HELO name."""
        entry = self.options.deny.helo_names.find(session.helo_name or "")
        return await self._denied("helo_names", entry, session) if entry is not None else None

    async def on_mail(self, transaction: Transaction) -> Finding | None:
        """Look at the reverse-path."""
        entry = self.options.deny.senders.find(transaction.reverse_path)
        return await self._denied("senders", entry, transaction.session, transaction) if entry is not None else None

    async def on_rcpt(self, transaction: Transaction, recipient: Recipient) -> Finding | None:
        """Look at the recipient."""
        entry = self.options.deny.recipients.find(recipient.path)
        if entry is None:
            return None
        return await self._denied("recipients", entry, transaction.session, transaction, recipient)

    async def _denied(
        self,
        deny_list: str,
        entry: str,
        session: Session,
        transaction: Transaction | None = None,
        recipient: Recipient | None = None,
    ) -> Finding:
        """A deny list matches: look whether an allow list does, the client's name last, because it costs a look-up."""
        lifted = self._allowed(session, transaction, recipient)
        if lifted is None and not self.options.allow.client_names.is_empty:
            client_name = await session.resolve_client_name()
            if client_name.status is NameStatus.TEMPORARY:
                return self.unverifiable(list=deny_list, entry=entry)
            name_entry = (
                self.options.allow.client_names.find(client_name.name) if client_name.name is not None else None
            )
            lifted = None if name_entry is None else ("client_names", name_entry)
        if lifted is None:
            return self.denied(list=deny_list, entry=entry)
        return self.allowed(list=deny_list, entry=entry, allow_list=lifted[0], allow_entry=lifted[1])

    def _allowed(
        self, session: Session, transaction: Transaction | None, recipient: Recipient | None
    ) -> tuple[str, str] | None:
        """The allow list and its entry that match what is known so far, the client's name aside."""
        allow = self.options.allow
        entry = allow.clients.find(session.client_address)
        if entry is not None:
            return "clients", entry
        entry = allow.helo_names.find(session.helo_name) if session.helo_name is not None else None
        if entry is not None:
            return "helo_names", entry
        entry = allow.senders.find(transaction.reverse_path) if transaction is not None else None
        if entry is not None:
            return "senders", entry
        entry = allow.recipients.find(recipient.path) if recipient is not None else None
        return None if entry is None else ("recipients", entry)
