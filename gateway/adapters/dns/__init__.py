"""DNS: ``resolver`` asks name servers; ``zone`` answers from what is written down, for ``explain`` and for tests."""
