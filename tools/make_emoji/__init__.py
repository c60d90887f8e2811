"""The sheet of emoji that the picture world is made of: not part of the package."""
