"""What a network written here says of itself, which no trace shows."""

from torch import Tensor, nn


class StatingNetwork(nn.Module):
    """Base class of the networks written here. Attributes of the same names mean something else in a user's network, and are ignored.

    Attributes:
        default_layer: the layer that it is cut at where none is named.
        feature_layer: the layer whose output is its feature.
        text_weights: see `Backbone.text`.
    """

    default_layer: str | None = None
    feature_layer: str | None = None
    text_weights: Tensor | None = None


def default_layer(network: object) -> str | None:
    return network.default_layer if isinstance(network, StatingNetwork) else None


def feature_layer(network: object) -> str | None:
    return network.feature_layer if isinstance(network, StatingNetwork) else None


def text_weights(network: object) -> Tensor | None:
    return network.text_weights if isinstance(network, StatingNetwork) else None


def has_no_classifier(network: object) -> bool:
    """Whether a network says, as timm's do, that its output is a feature."""
    count = getattr(network, "num_classes", None)
    return type(count) is int and count == 0


def prefix_tokens(network: object) -> int | None:
    """The number of tokens before those of the grid, where a network says so, as timm's do."""
    count = getattr(network, "num_prefix_tokens", None)
    return count if type(count) is int else None
