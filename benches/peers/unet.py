"""The U-Net against PyTorch in one run: `unet.py TWEEDIE [ROUNDS [NAME:BATCH...]]` prints each ratio and its spread.

Both run the same config and batch in f32 on the same number of threads, in turns: `tweedie bench unet` (which checks its output before it
times it), then diffusers' UNet2DModel, eager. A training step is forward, mean square, backward and AdamW. Needs torch and diffusers.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from diffusers import UNet2DModel

CONFIGS = Path(__file__).parents[2] / "experiments" / "unet"


def torch_times(config, batch, reps):
    torch.manual_seed(0)
    model = UNet2DModel.from_config({k: v for k, v in config.items() if not k.startswith("_")})
    size = config["sample_size"]
    x = torch.randn(batch, config["in_channels"], size, size)
    t = torch.arange(batch) * 997 % 1000
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-3)
    forward, step = [], []
    for rep in range(reps + 1):
        start = time.perf_counter()
        with torch.no_grad():
            model(x, t).sample
        middle = time.perf_counter()
        adamw.zero_grad()
        model(x, t).sample.square().mean().backward()
        adamw.step()
        if rep > 0:
            forward.append(1e3 * (middle - start))
            step.append(1e3 * (time.perf_counter() - middle))
    return statistics.median(forward), statistics.median(step)


def tweedie_times(binary, name, batch, reps):
    command = [binary, "bench", "unet", "--config", str(CONFIGS / f"{name}.json"), "--batch", str(batch), "--reps", str(reps), "--json", "-"]
    figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return figures["forward_ms"], figures["train_step_ms"]


def main():
    binary = sys.argv[1]
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    runs = sys.argv[3:] or ["A:128", "B:32", "C:4"]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; ms, medians of {rounds} paired runs; ratio = tweedie / torch (least to most)")
    for run in runs:
        name, batch = run.split(":")
        config = json.loads((CONFIGS / f"{name}.json").read_text())
        pairs = [(tweedie_times(binary, name, int(batch), 5), torch_times(config, int(batch), 5)) for _ in range(rounds)]
        for k, what in enumerate(["forward", "step"]):
            ours, theirs = [p[0][k] for p in pairs], [p[1][k] for p in pairs]
            ratios = sorted(a / b for a, b in zip(ours, theirs))
            print(
                f"{name} batch {batch:>3} {what:8} {statistics.median(ours):8.1f} {statistics.median(theirs):8.1f}"
                f"  ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            )


main()
