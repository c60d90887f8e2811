"""Images from the web: fetch, check, report."""
