"""Where flows are slow: ghosts, passages, slow manifolds."""
