"""Masks found by descent."""
