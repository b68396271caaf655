"""Studies of a network that no single map enters."""

from pipeline.analysis.weights import weight_similarity

__all__ = ["weight_similarity"]
