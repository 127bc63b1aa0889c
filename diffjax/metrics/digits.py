"""The classifiers of the gates of digits: scikit-learn's, 8 x 8, and MNIST's, 28 x 28 (`classifier`).

Names of this module without "mnist" are those of the 8 x 8 digits.
"""

from pathlib import Path

from diffjax.metrics.classifier import DEFECTS, Classifier, Reading

SHAPE, CLASSES = (8, 8, 1), 10
FILE = Path(__file__).with_name("digits_classifier.npz")
NETWORK = Classifier(SHAPE, CLASSES, convolutions=((3, 16, 1), (3, 32, 2)), width=48, file=FILE)
MNIST = Classifier(
    (28, 28, 1),
    CLASSES,
    convolutions=((5, 16, 2), (3, 32, 2)),
    width=48,
    file=Path(__file__).with_name("mnist_classifier.npz"),
)
init, apply, save, load, read = NETWORK.init, NETWORK.apply, NETWORK.save, NETWORK.load, NETWORK.read

__all__ = ["CLASSES", "DEFECTS", "FILE", "MNIST", "NETWORK", "SHAPE", "Reading"]
__all__ += ["apply", "init", "load", "read", "save"]
