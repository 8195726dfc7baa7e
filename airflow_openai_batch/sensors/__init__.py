"""What waits for batches."""
