"""Where the wings meet: samples, the run folder and the environment, as plain data."""
