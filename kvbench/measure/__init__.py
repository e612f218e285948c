"""Turn one case on one device into a sample: clock, memory, NVML, the stopping rule."""
