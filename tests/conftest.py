"""What all tests share: the marker ``peer`` and the fixture ``conformance_data``."""

pytest_plugins = ["tests.support.peers"]
