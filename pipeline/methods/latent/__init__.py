"""Latent: maps that a network has by design."""
