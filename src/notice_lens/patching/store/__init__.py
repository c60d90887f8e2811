"""Stores: results on disk, written a few pairs at a time, so that a killed sweep resumes."""
