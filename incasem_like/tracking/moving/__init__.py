"""Moving and deleting runs: export, import, copy, sync, delete."""
