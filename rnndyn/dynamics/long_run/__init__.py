"""Where trajectories end: attractors, basins, exponents."""
