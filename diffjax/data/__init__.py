"""Data sets by name, and batches addressed by (seed, step)."""

from diffjax.data.batches import Batches, batch_at
from diffjax.data.digits import digits
from diffjax.data.source import Arrays, Dataset, Source

__all__ = ["Arrays", "Batches", "Dataset", "Source", "batch_at", "digits"]
