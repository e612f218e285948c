"""How each family of models reads its configuration."""
