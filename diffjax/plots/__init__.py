"""Pictures of samples and of training, in one style: PNG files, no display and no global plotting state.

style    one accent, greys, thin axes, names at the ends of lines
pixels   images as boards of pixels, enlarged by whole numbers
panels   groups of examples side by side, a walk from noise to data
curves   losses, schedules, quantiles; lines of a study
"""

from diffjax.plots.curves import lines, loss_by_time, normality, schedule, training_curve
from diffjax.plots.panels import filmstrip, samples
from diffjax.plots.pixels import pictures, save_image, tile, to_pixels

__all__ = (
    "filmstrip",
    "lines",
    "loss_by_time",
    "normality",
    "pictures",
    "samples",
    "save_image",
    "schedule",
    "tile",
    "to_pixels",
    "training_curve",
)
