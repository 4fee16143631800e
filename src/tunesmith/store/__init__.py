"""runs/tunesmith.db: an index of the runs below a folder. What it says stands in their folders, and is true there."""
