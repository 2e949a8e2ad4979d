"""Private foundations; everything public is re-exported by the rooms."""
