"""What happened: identity, run folders, records, trackers."""
