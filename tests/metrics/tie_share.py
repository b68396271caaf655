"""Facts about the share of ties."""

HAND = {"tie_share": {"tie_share": 12 / 16}}  # nine zeros and three quarters
NO_SOURCE = "a count"
