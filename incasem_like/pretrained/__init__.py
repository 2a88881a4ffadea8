"""Published models: their list, download, and import as tracked runs."""
