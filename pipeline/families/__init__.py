"""The families: the parts of a method and of a metric, and the registries of all of them.

Both are small pure functions whose signature says everything: its positional parameters are its inputs, its keyword-only
parameters with their defaults are its settings.

    B images, K channels, C classes, h w cells of the cut layer, H W pixels of the network's input
"""

from pipeline.families.attention import Attention, attention
from pipeline.families.cam import Cam, cam, rectify
from pipeline.families.captum import Attribution, captum_method
from pipeline.families.latent import Latent, latent
from pipeline.families.masked import (
    Bernoulli,
    Channels,
    Copies,
    Even,
    Masked,
    Recipe,
    Segments,
    Spots,
    Superpixels,
    Windows,
    gaussians,
    light,
    masked,
    shadow,
)
from pipeline.families.metric import Metric, Undefined, metric
from pipeline.families.optimised import Descent, Optimised, optimised
from pipeline.families.path import Path, Walk, magnitude, noisy, path, spans
from pipeline.families.perturbations import (
    Boxed,
    ClassProbs,
    Cropped,
    Dimmed,
    Noisy,
    Perturbation,
    Powered,
    Randomised,
    Remapped,
    Removed,
    dimmed,
    equal_steps,
)
from pipeline.families.registry import METHODS, METRICS, TOGETHER, Later, Parameter, checked_inputs, inputs_of, parameters, register
from pipeline.maps.render import settled, unit, units
from pipeline.refusal import Amount, Count, Fraction, Level, Positive, Range, Share, Whole

__all__ = [
    "metric",
    "Undefined",
    "Metric",
    "METRICS",
    "TOGETHER",
    "Amount",
    "Attention",
    "Attribution",
    "Bernoulli",
    "Boxed",
    "Cam",
    "Channels",
    "Copies",
    "Count",
    "Cropped",
    "Descent",
    "Dimmed",
    "Even",
    "Fraction",
    "Later",
    "Latent",
    "Level",
    "METHODS",
    "Masked",
    "Noisy",
    "Optimised",
    "Parameter",
    "Path",
    "Perturbation",
    "Positive",
    "Powered",
    "Randomised",
    "Range",
    "Recipe",
    "Remapped",
    "Removed",
    "ClassProbs",
    "Segments",
    "Share",
    "Spots",
    "Superpixels",
    "Walk",
    "Whole",
    "Windows",
    "inputs_of",
    "attention",
    "captum_method",
    "cam",
    "dimmed",
    "equal_steps",
    "gaussians",
    "latent",
    "light",
    "magnitude",
    "masked",
    "noisy",
    "checked_inputs",
    "optimised",
    "parameters",
    "path",
    "rectify",
    "register",
    "settled",
    "shadow",
    "spans",
    "unit",
    "units",
]
