"""Pairs in and out: rows of any origin, records, and folders on disk."""
