"""The mail server behind the gateway: server groups, health, pooled connections, TLS, deliveries."""

from gateway.backend.auth import AuthRelay
from gateway.backend.delivery import Delivery
from gateway.backend.group import ServerGroup

__all__ = ["AuthRelay", "Delivery", "ServerGroup"]
