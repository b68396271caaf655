"""Gradients of the explained scalar along a walk through the input space."""
