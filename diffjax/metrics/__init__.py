"""How far samples are from data: plain arrays in, plain floats out, float64 on the host; each number wants its floor.

`frechet` (Gaussians of features), `wasserstein` (exact and sliced W2), `neighbours` (two-sample test, coverage,
copying), `digits` (the feature network), `gate` (all of them on digits, beside their floors, and a verdict).
"""
