"""Data sets by name, and batches addressed by (seed, step)."""

from diffjax.data.batches import Batches as Batches
from diffjax.data.batches import batch_at as batch_at
from diffjax.data.between import between
from diffjax.data.between import crossed as crossed
from diffjax.data.between import ends as ends
from diffjax.data.captioned import captioned
from diffjax.data.card import PUBLISHED as PUBLISHED
from diffjax.data.card import card as card
from diffjax.data.card import check_here as check_here
from diffjax.data.card import here_or_kept as here_or_kept
from diffjax.data.card import keep_card as keep_card
from diffjax.data.card import of_card as of_card
from diffjax.data.cifar10 import cifar10
from diffjax.data.digits import digit_tokens, digits
from diffjax.data.folder import folder
from diffjax.data.given import asked as asked
from diffjax.data.given import check_rows as check_rows
from diffjax.data.given import check_words as check_words
from diffjax.data.given import followed as followed
from diffjax.data.given import held_out as held_out
from diffjax.data.given import known as known
from diffjax.data.given import label_of as label_of
from diffjax.data.given import told as told
from diffjax.data.hints import hinted
from diffjax.data.inputs import inputs as inputs
from diffjax.data.inputs import shown_to as shown_to
from diffjax.data.latents import latents
from diffjax.data.looks import named as named
from diffjax.data.looks import remarks as remarks
from diffjax.data.mnist import mnist
from diffjax.data.names import Rows as Rows
from diffjax.data.names import check_classes as check_classes
from diffjax.data.names import class_of as class_of
from diffjax.data.names import describe as describe
from diffjax.data.names import keep_names as keep_names
from diffjax.data.names import numbered as numbered
from diffjax.data.npz import npz
from diffjax.data.others import of_others as of_others
from diffjax.data.others import shuffled
from diffjax.data.pairs import pairs
from diffjax.data.photos import photos
from diffjax.data.records import Records as Records
from diffjax.data.source import Arrays as Arrays
from diffjax.data.source import Dataset as Dataset
from diffjax.data.source import Source as Source
from diffjax.data.source import arrays as arrays
from diffjax.data.source import blank as blank
from diffjax.data.source import fitting as fitting
from diffjax.data.source import labels as labels
from diffjax.data.text import text
from diffjax.data.tfds import tfds
from diffjax.data.tokens import tokens
from diffjax.data.toys import checkerboard, eight_gaussians, modes, moons, spirals, swiss_roll
from diffjax.data.units import keep as keep
from diffjax.data.units import kept_units as kept_units
from diffjax.data.units import standardize as standardize
from diffjax.data.units import undone as undone
from diffjax.data.vocabulary import Vocabulary as Vocabulary
from diffjax.data.words import words

__all__ = [
    "between",
    "captioned",
    "checkerboard",
    "cifar10",
    "digit_tokens",
    "digits",
    "eight_gaussians",
    "folder",
    "hinted",
    "latents",
    "mnist",
    "modes",
    "moons",
    "npz",
    "pairs",
    "photos",
    "shuffled",
    "spirals",
    "swiss_roll",
    "text",
    "tfds",
    "tokens",
    "words",
]  # what a config may name
