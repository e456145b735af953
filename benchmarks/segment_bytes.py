"""Whether a segment of H.264 has the same bytes each time that it is encoded.

    python -m benchmarks.segment_bytes --secs=300 VIDEO...

Segments are drawn at random and encoded again and again, in memory that other arrays
have used in between; the first bytes of each are those that the others must have. Exits
with 1 if any differ. Records of one manifest must be the same whoever makes them.
"""

import argparse
import collections
import hashlib
import sys
import time

import numpy as np

from benchmarks.payloads import planes_of
from xdc_tf.data import h264_frames
from xdc_tf.data.h264_frames import H264Settings

_GOP = 8


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", nargs="+", help="files of video")
    parser.add_argument("--secs", type=float, default=120.0)
    parser.add_argument("--short_side", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    segments = []
    for path in arguments.videos:
        frames = list(planes_of(path, arguments.short_side))
        segments += [frames[k : k + _GOP] for k in range(0, len(frames), _GOP)]
    rng = np.random.default_rng(arguments.seed)
    digests: dict[int, bytes] = {}
    counts: collections.Counter[bool] = collections.Counter()
    end = time.monotonic() + arguments.secs
    while time.monotonic() < end:
        number = int(rng.integers(len(segments)))
        for size in rng.integers(1000, 300_000, 20).tolist():
            rng.integers(0, 256, size, np.uint8)  # what an encoder finds in its memory
        item = h264_frames.encode(segments[number], H264Settings(gop=_GOP))
        digest = hashlib.sha256(item).digest()
        if number in digests:
            counts[digests[number] == digest] += 1
        digests.setdefault(number, digest)
    print(
        f"{counts[True] + counts[False]} encoded again of {len(digests)} segments: "
        f"{counts[False]} have other bytes"
    )
    return int(counts[False] > 0)


if __name__ == "__main__":
    sys.exit(main())
