"""One file for each on-policy algorithm: a function from a model to its phases."""
