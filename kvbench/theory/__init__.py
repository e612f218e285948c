"""Predict costs from a model's configuration alone: pure functions, no weights, no torch."""
