"""Training of the mini BLIP on the drawn world: not part of the package."""
