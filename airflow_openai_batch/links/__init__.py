"""Links on a task in the UI."""
