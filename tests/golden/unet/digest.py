"""Digests of large golden arrays: for each tensor of a safetensors file its largest magnitude and four sums with signs from SplitMix64.

An error in any entry moves all four sums. `python digest.py FILE.safetensors OUT.json`; needs numpy alone.
"""

import json
import struct
import sys

import numpy as np


def signs(n, which):
    z = (np.arange(n, dtype=np.uint64) * np.uint64(4) + np.uint64(which)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.where((z >> np.uint64(63)) == 0, 1.0, -1.0)


def tensors(path):
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header, data = json.loads(file.read(size)), file.read()
    for name, entry in sorted(header.items()):
        if name != "__metadata__":
            assert entry["dtype"] == "F64", entry
            start, end = entry["data_offsets"]
            yield name, np.frombuffer(data[start:end], dtype="<f8")


if __name__ == "__main__":
    digests = {name: [float(np.abs(x).max())] + [float((x * signs(x.size, k)).sum()) for k in range(4)] for name, x in tensors(sys.argv[1])}
    with open(sys.argv[2], "w") as out:
        out.write("{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(d)}" for name, d in digests.items()) + "\n}\n")
