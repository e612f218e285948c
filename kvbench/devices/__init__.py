"""The devices that generations run on: one file for each kind."""
