"""The real dependencies behind the interfaces: DNS, record files."""
