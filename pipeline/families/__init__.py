"""The method families: what a method is made of, and the table of all methods.

A method is a small pure function whose signature says everything the engine must know: its positional parameters are what it
asks the engine for, its keyword-only parameters with their defaults are what a user may set.

    B images, K channels, C classes, h w cells of the cut layer, H W pixels of the network's input
"""

from pipeline.families.attentions import Attention, attention
from pipeline.families.cams import Cam, cam, rectify
from pipeline.families.copies import Bernoulli, Channels, Copies, Even, Masked, Segments, Spots, Superpixels, Windows, gaussians, masked
from pipeline.families.descents import Descent, Optimised, optimised
from pipeline.families.registry import METHODS, Parameter, asked_for, offered, parameters, register
from pipeline.families.walks import Path, Walk, magnitude, noisy, path, spans

__all__ = [
    "Attention",
    "Bernoulli",
    "Cam",
    "Channels",
    "Copies",
    "Descent",
    "Even",
    "METHODS",
    "Masked",
    "Optimised",
    "Parameter",
    "Path",
    "Segments",
    "Spots",
    "Superpixels",
    "Walk",
    "Windows",
    "asked_for",
    "attention",
    "cam",
    "gaussians",
    "magnitude",
    "masked",
    "noisy",
    "offered",
    "optimised",
    "parameters",
    "path",
    "rectify",
    "register",
    "spans",
]
