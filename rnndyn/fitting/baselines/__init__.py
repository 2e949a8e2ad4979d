"""What CORNN is measured against."""
