"""Admission: one client's way through the chain, whatever door it came by, and the record at its end."""
