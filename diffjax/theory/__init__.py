"""The mathematics under the methods, as functions: what the methods are held against."""

from diffjax.theory import (
    characteristics,
    constructions,
    doob,
    gan_dynamics,
    gan_landscape,
    generator,
    green,
    heat,
    hierarchy,
    ladders,
    linear,
    residuals,
    schroedinger,
    straightness,
    tilting,
    wasserstein_bound,
)

__all__ = [
    "characteristics",
    "constructions",
    "doob",
    "gan_dynamics",
    "gan_landscape",
    "generator",
    "green",
    "heat",
    "hierarchy",
    "ladders",
    "linear",
    "residuals",
    "schroedinger",
    "straightness",
    "tilting",
    "wasserstein_bound",
]
