"""Programs that measure. Not installed."""
