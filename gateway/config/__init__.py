"""YAML to frozen, validated options: reading, units, JSON Schema, and the names of the policies."""
