"""The engine: from a plan of edits to the metrics of every patched run."""
