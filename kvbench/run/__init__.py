"""Carry out a plan: the order of the work, an engine that does it, a folder that keeps it."""
