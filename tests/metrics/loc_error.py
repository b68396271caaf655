"""Facts about the localisation error."""

HAND = {"loc_error": {"loc_error": 1 / 3}}
