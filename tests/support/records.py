"""Decision records for tests."""

from typing import Any

import msgspec

from gateway.mailauth.results import AlignmentMode, ArcResult, Disposition, DkimResult, DmarcResult, SpfResult
from gateway.records import (
    VERSION,
    AlignmentRecord,
    ArcRecord,
    AuthenticationRecord,
    BackendRecord,
    ClientRecord,
    DecisionPart,
    DecisionRecord,
    DkimRecord,
    DmarcRecord,
    HeloRecord,
    MessageRecord,
    RecipientRecord,
    ReplyRecord,
    SpfRecord,
    TlsRecord,
)
from gateway.verdict import Action, Check, Stage

ACCEPTED = DecisionRecord(
    version=VERSION,
    id="0K3F5Z8Q2M7A1B.1",
    kind="transaction",
    session_id="0K3F5Z8Q2M7A1B",
    gateway="mx1.example.com",
    listener="0.0.0.0:25",
    time="2026-11-21T09:30:00.123Z",
    duration_ms=12.5,
    client=ClientRecord(
        address="192.0.2.1",
        port=40000,
        name="mail.example.org",
        tls=TlsRecord(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", bits=256),
        login=None,
    ),
    helo=HeloRecord(name="mail.example.org", extended=True),
    reverse_path="carol@example.org",
    recipients=[
        RecipientRecord(
            address="alice@example.com",
            verdict="accepted",
            decided_by=None,
            reply=ReplyRecord(code=250, enhanced="2.1.5", text="Ok"),
        )
    ],
    message=MessageRecord(
        size=4096, declared_size=None, message_id="<1@example.org>", removed=[], mended=[], malformed=None
    ),
    authentication=AuthenticationRecord(
        spf=SpfRecord(mail_from=SpfResult.PASS, helo=SpfResult.NONE, domain="example.org", reason="matched mx"),
        dkim=[
            DkimRecord(domain="example.org", selector="s1", algorithm="rsa-sha256", result=DkimResult.PASS, reason="")
        ],
        arc=ArcRecord(result=ArcResult.NONE, oldest_pass=None, sealer=None, reason=""),
        dmarc=DmarcRecord(
            result=DmarcResult.PASS,
            policy=Disposition.REJECT,
            disposition=Disposition.NONE,
            domain="example.org",
            record_domain="example.org",
            alignment=AlignmentRecord(
                spf="example.org", dkim="example.org", spf_mode=AlignmentMode.RELAXED, dkim_mode=AlignmentMode.STRICT
            ),
            trusted_sealer=None,
            record="v=DMARC1; p=reject; adkim=s",
            reason="",
        ),
    ),
    checks=[
        Check(
            policy="size",
            stage=Stage.MESSAGE,
            recipient=None,
            outcome=None,
            action=Action.PASS,
            observed=False,
            exempted=None,
            evidence={"size": 4096},
            duration_us=7,
        )
    ],
    decision=DecisionPart(result="accepted", policy=None, stage=None, outcome=None),
    reply=ReplyRecord(code=250, enhanced="2.0.0", text="Ok: queued as 4D2A1"),
    backend=BackendRecord(
        group="postfix",
        server="127.0.0.1:10025",
        reply=ReplyRecord(code=250, enhanced="2.0.0", text="Ok: queued as 4D2A1"),
        queue_id="4D2A1",
    ),
)
"""A transaction that went well."""


def record(**changes: Any) -> DecisionRecord:
    """The accepted transaction with changes."""
    return msgspec.structs.replace(ACCEPTED, **changes)
