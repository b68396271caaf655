"""Studies of a network: of its weights alone, and of how its maps of classes go with its maps of texts."""

from pipeline.analysis.attributes import attribute_examination
from pipeline.analysis.weights import weight_similarity

__all__ = ["attribute_examination", "weight_similarity"]
