"""Builders: data sets as their owners publish them become minimal pairs."""
