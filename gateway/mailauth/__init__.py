"""Who sent this: SPF, DKIM, ARC and DMARC verification, and the Authentication-Results field.

Verification is handed a ``Resolver`` and gives the values of ``results``; nothing here decides what follows from them.
"""
