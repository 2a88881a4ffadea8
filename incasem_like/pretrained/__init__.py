"""Published models: which there are, their download, and their import as tracked runs."""
