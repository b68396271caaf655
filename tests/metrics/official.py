"""Facts about the official metric."""

HAND = {"official": {"official": 1 / 3}}
SILENT = ("no label",)
