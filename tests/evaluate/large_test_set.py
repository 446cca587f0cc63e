"""Peak memory of judging 25,596 test studies, as many as NIH ChestX-ray14 has.

  python tests/evaluate/large_test_set.py

On synthetic features. Prints the peak resident memory and the processor time: two encoders are
probed, each metric has its interval, the operating point its rates, and the encoders' difference is
tested.
"""

import resource
import time

import numpy as np

from mmv_jax.evaluate.measure import compare, measure
from mmv_jax.evaluate.operating import measure_operating
from mmv_jax.evaluate.tasks.task import Task

TRAIN, VAL, TEST, WIDTH, OF_A_PATIENT = 2000, 500, 25_596, 768, 3


def main() -> None:
    began, count = time.process_time(), TRAIN + VAL + TEST
    split = np.repeat(["train", "val", "test"], [TRAIN, VAL, TEST])
    patients = (np.arange(count) // OF_A_PATIENT).astype(str)
    label = (np.random.default_rng(0).uniform(size=count) < 0.1).astype(float)

    def features(seed: int) -> np.ndarray:
        x = np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)
        x[:, 0] += label
        return x

    task = Task("finding", "classification", np.arange(count), split, patients, label)
    results = [
        found
        for seed, name in enumerate(("trained", "random"), start=1)
        for found in measure(name, {"": features(seed)}, [task])
    ]
    compare(results, "trained", ("random",))
    measure_operating(results)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
    print(f"{peak:.2f} GiB at the peak, {time.process_time() - began:.0f} s of processor time")


if __name__ == "__main__":
    main()
