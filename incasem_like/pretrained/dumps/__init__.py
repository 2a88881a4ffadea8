"""Reading what ``mongodump`` wrote: archives and folders, and the runs in them."""
