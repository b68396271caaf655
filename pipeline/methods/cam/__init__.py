"""Class activation maps: weighted sums of the cut layer's channels."""
