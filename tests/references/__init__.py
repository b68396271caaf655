"""Slow references: formulas in double precision, one image at a time, that tests of several files compare with."""
