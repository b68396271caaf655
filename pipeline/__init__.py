"""Saliency Atlas: every image of a dataset explained by every method, as tables."""

from pipeline.notebook import explain
from pipeline.questions import Network

__all__ = ["Network", "explain"]
