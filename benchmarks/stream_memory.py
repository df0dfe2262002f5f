"""Peak memory of ``--cache=none`` for data sets of several sizes.

    python -m benchmarks.stream_memory --counts=2000,20000

Draws data sets of small raw images, and for each takes the same number of training batches in a
process of its own: that many images are read, shuffled, decoded and cropped, and none is kept.
Shards and shuffle buffer are the same for all sizes; give enough images for more than 16 shards,
which is how many are open at a time. What may grow is what is kept an image: its label, keyed
patient id and position (data/pipeline.py), 45 bytes with five labels, twice that while read.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from medcolor_tf.data import schema

OBSERVATIONS = tuple(schema.PAPER_POLICY)
SIZE = (32, 40)
BATCH = 32
MEASURE = """
import json, sys, time
import numpy as np
from medcolor_tf.data.pipeline import Split

def told(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))

folder, steps, buffer = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
begin, split = told("VmRSS"), Split(folder, "train")
opened, start = told("VmRSS"), time.perf_counter()
for images, labels in split.training_batches(32, shuffle_buffer=buffer).take(steps):
    images.numpy().sum()
seconds = time.perf_counter() - start
print(json.dumps([begin, opened - begin, told("VmHWM"), seconds]))
"""


def main(argv=None) -> None:
    """Prints a line a data set: memory before and after it is opened, and the peak."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", default="2000,20000", help="images of each data set")
    parser.add_argument("--steps", type=int, default=1250, help=f"batches of {BATCH}")
    parser.add_argument("--records_per_shard", type=int, default=100)
    parser.add_argument("--shuffle_buffer", type=int, default=1000)
    options = parser.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for count in map(int, options.counts.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            size = _write(Path(folder), count, options.records_per_shard)
            arguments = folder, str(options.steps), str(options.shuffle_buffer)
            done = subprocess.run(
                [sys.executable, "-c", MEASURE, *arguments],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
        begin, opened, peak, seconds = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{count:>8,} images ({size / 1e6:,.0f} MB of records): {begin:.0f} MiB before, "
            f"{opened:+.1f} once opened, peak of {options.steps} batches {peak:.0f} MiB; "
            f"{options.steps * BATCH / seconds:,.0f} images/s",
            flush=True,
        )


def _write(folder: Path, count: int, records_per_shard: int) -> int:
    """Writes a training split of noise; returns the bytes of its records."""
    import tensorflow as tf

    random = np.random.default_rng(0)
    raw = random.integers(0, 2, (count, len(OBSERVATIONS))).astype(np.float32)
    noise, shards = random.bytes(2 * SIZE[0] * SIZE[1]), []
    number_of_shards = -(-count // records_per_shard)
    for shard in range(number_of_shards):
        rows = range(shard * records_per_shard, min(count, (shard + 1) * records_per_shard))
        name = schema.shard_name("train", shard, number_of_shards)
        with tf.io.TFRecordWriter(str(folder / name)) as writer:
            for row in rows:
                first = row % (SIZE[0] * SIZE[1])
                pixels = noise[first : first + SIZE[0] * SIZE[1]]
                record = [pixels], SIZE, raw[row], raw[row], row, f"p{row // 3}", f"i{row}"
                writer.write(schema.encode_example(*record))
        size = (folder / name).stat().st_size
        shards.append(schema.Shard(name, "train", len(rows), size, ""))
    patient = np.array([hashlib.sha256(b"%d" % (i // 3)).hexdigest()[:16] for i in range(count)])
    schema.SplitIndex(np.arange(count), raw, patient.astype("S16")).save(folder, "train")
    _describe(count, shards).save(folder)
    return sum(shard.bytes for shard in shards)


def _describe(count: int, shards: list[schema.Shard]) -> schema.DatasetInfo:
    return schema.DatasetInfo(
        source="noise",
        observations=OBSERVATIONS,
        uncertain_policy=schema.PAPER_POLICY,
        blank_policy="zeros",
        encoding="raw",
        bits=8,
        channels=1,
        short_side=min(SIZE),
        pixel_mean=0.5,
        pixel_std=0.25,
        label_counts={"train": {}},
        images={"train": count},
        patients={"train": -(-count // 3)},
        rejected=0,
        seed=0,
        shards=tuple(shards),
        index_sha256={},
        fingerprint="noise",
    )


if __name__ == "__main__":
    main()
