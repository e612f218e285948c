"""Read the configuration of each family of models."""
