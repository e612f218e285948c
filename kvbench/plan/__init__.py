"""What to measure: a plan file read and validated, the grid, and a case of it; torch-free."""
