"""The picture world: emoji on grounds, with exact masks."""
