"""The mail server behind the gateway: server groups, health, pooled connections, TLS, deliveries."""
