"""What the sampler tests expect: published methods and solved targets in float64 NumPy, without library code."""
