"""The real dependencies behind the interfaces: DNS, the state, sources of recipients, record files, Prometheus."""
