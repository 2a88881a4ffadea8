"""Reading the output of ``mongodump``: archives and folders, and the runs in them."""
