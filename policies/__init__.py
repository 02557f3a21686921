"""The policies, one a file. Each states what it found; the operator decides what to do about it."""
