"""Training of the embedded models: not part of the package."""
