"""What to measure: read and validate a plan file, expand its grid into cases. Torch-free."""
