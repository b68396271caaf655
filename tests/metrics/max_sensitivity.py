"""Facts about max-sensitivity."""

HAND = {"max_sensitivity": {"max_sensitivity": 1 / 2}}  # under noise the map is half of itself, then all of it
NO_REFERENCE = "test_faithfulness compares it with Quantus under the same noise"
COSTS = {("max_sensitivity",): 10 + 1}
ANEW = True
