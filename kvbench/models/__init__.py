"""Models: from the hub, a folder, a GGUF file, or an architecture with random weights."""
