"""Names of dimensions that effects share."""

HEADS = ("layer", "head")
"""The dimensions that name a head."""
