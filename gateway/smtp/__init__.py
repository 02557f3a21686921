"""Sans-I/O SMTP, both sides: no sockets, no clock, no logging (RFC 5321 and the extensions the gateway speaks)."""
