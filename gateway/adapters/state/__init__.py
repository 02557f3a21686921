"""The state that workers share: ``memory`` for one worker, ``redis`` for any number.

A question to Redis goes from ``redis`` by a ``lane`` (one for each server; it knows when that is away) and a ``link``
(what is behind the address: a server, sentinels' master, a cluster) over a ``line`` (one connection); ``scripts`` are
carried out there. ``view`` shows people what is kept.
"""
