"""The chain: one stage's policies, one after the other: what they find, and what is ruled on it."""
