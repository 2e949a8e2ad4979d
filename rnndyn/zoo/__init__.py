"""Published sets of trained networks: schema, card, checksums, loading."""
