"""Times numpy.linalg.eigh on a covariance: `eigen.py COV.npy RUNS` prints seconds, one run a line.

`cargo bench --bench law` calls it and prints the ratio of medians. Needs numpy.
"""

import sys
import time

import numpy as np

cov, runs = np.load(sys.argv[1]), int(sys.argv[2])
values, vectors = np.linalg.eigh(cov)
assert np.abs(vectors * values @ vectors.T - cov).max() <= 8 * len(cov) * np.finfo(float).eps * values.max()
for _ in range(runs):
    start = time.perf_counter()
    np.linalg.eigh(cov)
    print(time.perf_counter() - start)
