"""Facts about cascading randomisation."""

NO_HAND = "the image of the case is too small for it; test_analyses has its numbers"
ANEW = True
