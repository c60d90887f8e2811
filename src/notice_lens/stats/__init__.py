"""Statistics of clustered pairs: NumPy and SciPy only."""
