"""What a finished output says: summary, checks, comparisons, the page."""
