"""Turn samples into summaries, ratios, and intervals: pure functions on records and tables."""
