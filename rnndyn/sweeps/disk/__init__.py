"""What a sweep leaves on disk, and who may write it."""
