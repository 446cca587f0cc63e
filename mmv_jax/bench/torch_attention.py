"""PyTorch's attention, one segment at a time, forward and backward: the worker of
`bench.attention`.

Arguments: the segment lengths of each row (JSON), heads, head dim. Each line of the input asks for
one run; each line of the output is its seconds.
"""

import json
import sys
import time

import torch
from torch.nn.functional import scaled_dot_product_attention


def main(rows: str, heads: str, width: str) -> None:
    # Without padding rows do not matter: all segments follow each other.
    lengths = [n for row in json.loads(rows) for n in row]
    shape = (3, int(heads), sum(lengths), int(width))
    q, k, v = (
        torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_().unbind()
    )
    for _ in sys.stdin:
        start = time.perf_counter()
        parts = zip(q.split(lengths, 1), k.split(lengths, 1), v.split(lengths, 1), strict=True)
        # One call a segment needs no mask, and computes no scores between segments.
        out = torch.cat(
            [scaled_dot_product_attention(*(x[None] for x in part))[0] for part in parts], dim=1
        )
        # The loss of `bench.attention`: the sum of squares, differentiated by q, k and v.
        torch.autograd.grad(out.square().sum(), (q, k, v))
        # flush: the other process waits for this line.
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
