"""Reads many mutated files of every format, and says what became of them.

    nice -n 15 python tests/readers/fuzz.py --count 10000 --seed 0

Ends with 1 if a file killed a worker, hung, took more than 5 s of processor time, or raised
anything but Refused; those files are kept.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from mutations import Outcome, corpus, mutated, outcomes, shipped_files

SLOW_S = 5.0


def cases(files: dict[str, bytes], count: int, seed: int):
    names = sorted(files)
    for n in range(count):
        name = names[n % len(names)]
        yield name, mutated(files[name], np.random.default_rng([seed, n]))


def is_bad(outcome: Outcome) -> bool:
    return (
        outcome.word in ("died", "hung")
        or outcome.word.startswith("raised")
        or outcome.cpu_s > SLOW_S
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    words, unreadable, bad, seen = Counter(), Counter(), [], []
    seeds = corpus(folder) | shipped_files()
    print(f"{len(seeds)} seeds", flush=True)
    for n, outcome in enumerate(outcomes(cases(seeds, args.count, args.seed), folder)):
        words[outcome.word] += 1
        if outcome.word == "unreadable":
            unreadable[outcome.name, outcome.reason] += 1
        if is_bad(outcome):
            bad.append((n, outcome))
            print(f"file {n}: {outcome}", flush=True)
        seen.append((n, outcome))
        if (n + 1) % 1000 == 0:
            print(f"{n + 1} of {args.count} files, {len(bad)} bad", flush=True)
    for word, count in words.most_common():
        print(f"{count:7} {word}")
    for (name, reason), count in unreadable.most_common(20):
        print(f"{count:7} unreadable: {name}: {reason}")
    print(f"slowest: file {max(seen, key=lambda case: case[1].cpu_s)}")
    print(f"longest wall time: file {max(seen, key=lambda case: case[1].wall_s)}")
    print(f"largest growth of a worker: file {max(seen, key=lambda case: case[1].grown_mb)}")
    print(f"{len(bad)} bad; files in {folder}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
