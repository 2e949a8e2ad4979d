"""The phase diagrams of Kurtkaya, Dinc et al. 2025."""
