"""Limit cycles of flows: shooting, multipliers, many starts, sections."""
