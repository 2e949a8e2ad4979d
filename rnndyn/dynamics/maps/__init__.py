"""What maps have and flows have not: k-cycles, invariant circles, linear pieces."""
