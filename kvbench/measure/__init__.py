"""One case on one device becomes a sample: clock, memory, NVML, the stopping rule."""
