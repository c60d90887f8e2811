"""Training of the mini LLaVA on the picture world: not part of the package."""
