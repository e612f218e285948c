"""What it should cost, from a model's configuration alone: pure functions, no weights, no torch."""
