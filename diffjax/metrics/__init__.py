"""How far samples are from data: plain arrays in, plain floats out, float64 on the host; each number wants its floor.

`frechet` (Gaussians of features, and what their distance is for equal laws), `kid`, `manifold` (precision, recall,
density, coverage), `wasserstein` (exact and sliced W2), `neighbours` (two-sample test, coverage, copying); `features`
(the spaces that images are turned into: `digits`, `efficientnet`), `statistics` (their moments, in files); `gate` (all
of them on digits, beside their floors, and a verdict), `judges` and `spaces` (the sections of a report).
"""
