"""The experiments of Dinc et al. 2023."""
