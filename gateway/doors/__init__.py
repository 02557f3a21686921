"""The doors: the only code that listens on sockets."""
