"""Networks, each cut into trunk and head."""

from pipeline.backbones.backbone import Backbone
from pipeline.backbones.loading import like, load
from pipeline.backbones.preprocess import Preprocessing

__all__ = ["Backbone", "Preprocessing", "like", "load"]
