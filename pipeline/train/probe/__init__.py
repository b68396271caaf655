"""Linear probes: features of a dataset to a classifier on a frozen network."""
