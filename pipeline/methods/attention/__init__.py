"""Attention: the class token's attention to the grid, block upon block."""
