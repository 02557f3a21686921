"""What knows the recipients of a domain and has to be asked: databases, directories, look-up servers, web services.

One file a kind of source, each a ``gateway.lookup.answer.Lookup``; ``cache`` remembers what they say, ``sources`` makes
them of the configuration.
"""
