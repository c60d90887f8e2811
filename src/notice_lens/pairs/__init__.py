"""Minimal pairs: what they are, where they come from, and whether they are what they say."""
