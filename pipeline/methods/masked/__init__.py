"""Perturbation: what the network says of masked copies of an image."""
