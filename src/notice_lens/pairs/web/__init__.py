"""Images from the web: fetched, checked, reported."""
