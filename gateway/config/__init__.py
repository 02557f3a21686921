"""YAML to frozen, validated options: reading, units, JSON Schema, and the names of the policies.

    config = load("/etc/lychgate/lychgate.yaml")        # raises ConfigError, which says everything that is wrong

``model`` is what comes out, ``options`` what may be written, ``load`` the way between them.
"""
