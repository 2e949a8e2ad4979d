"""Delayed activation in rank-2 networks."""
