"""Lychgate, an inbound mail policy gateway: everything but the policies themselves."""

__version__ = "0.1.0"
