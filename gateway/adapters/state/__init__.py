"""The state that workers share: ``memory`` for one worker, ``redis`` for any number.

A question to Redis is a ``call`` of one of the ``scripts``. It goes from ``redis`` by the ``pipeline`` of the server
that has its key (which knows when that is away) to the ``topology`` that the configuration names: a ``server``, by
itself or named by sentinels, or a ``cluster`` of them. ``view`` shows people what is kept.
"""
