"""Builders: from published data sets to minimal pairs."""
