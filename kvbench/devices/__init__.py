"""The devices that generations run on: one file per kind."""
