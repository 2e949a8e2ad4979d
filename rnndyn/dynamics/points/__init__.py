"""Fixed points and slow points: searches, their starts, and the float64 certificate."""
