"""Training of the mini BLIP on the picture world: not part of the package."""
