"""Attention: what the class token looks at, block upon block."""
