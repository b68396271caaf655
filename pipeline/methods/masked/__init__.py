"""Perturbation: the explained scalar of masked copies of an image."""
