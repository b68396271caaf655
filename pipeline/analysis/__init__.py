"""Studies of a network, of its weights alone."""

from pipeline.analysis.weights import weight_similarity

__all__ = ["weight_similarity"]
