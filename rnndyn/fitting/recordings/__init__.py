"""From NWB files to rates."""
