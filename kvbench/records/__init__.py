"""The data that both wings share: samples, the run folder and the environment, as plain data."""
