"""CORNN: the convex fit, its constraints, its derivative, and its stream."""
