"""PyTorch's side of the GPU benchmark: training and sampling of the same U-Nets, one JSON line a result.

`gpu.py [--limit 240] [--device cuda] [RUN...]` with runs CONFIG:VARIANT:BATCH, by default those of `RUNS` in the order of importance. Each run is
a process of its own under a time limit, so that none ends the others by an error, a compilation that never ends or full memory. Needs
torch alone: the network is diffusers' UNet2DModel for the configs here, module by module under its names.

A training step is forward, mean square error, backward, AdamW (fused where there is such a kernel) and one moving average of the weights;
noising, clipping and reading data are left out, in PyTorch's favour. A sampling step is one forward pass without gradients and the
combination of state and output. Times are medians over windows that end in a synchronisation.
"""

import argparse
import contextlib
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIGS = Path(__file__).parents[2] / "experiments" / "unet"
VARIANTS = ["fp32", "tf32", "bf16", "compile", "compile-reduce-overhead", "compile-max-autotune"]
RUNS = ["C:bf16:128", "C:compile:128", "C:compile-reduce-overhead:128", "C:tf32:128", "C:fp32:128", "B:compile:128", "A:compile:512", "B:bf16:128", "A:bf16:512", "C:compile-max-autotune:128"]
SAMPLING_BATCH = 64


def build(config):
    """The U-Net of a config, as diffusers builds it."""
    import torch
    import torch.nn as nn
    import torch.nn.functional as F

    groups, eps, channels = config["norm_num_groups"], config["norm_eps"], config["block_out_channels"]
    width = 4 * channels[0]

    class Resnet(nn.Module):
        def __init__(self, a, b):
            super().__init__()
            self.norm1, self.conv1 = nn.GroupNorm(groups, a, eps), nn.Conv2d(a, b, 3, padding=1)
            self.time_emb_proj = nn.Linear(width, b)
            self.norm2, self.conv2 = nn.GroupNorm(groups, b, eps), nn.Conv2d(b, b, 3, padding=1)
            self.conv_shortcut = nn.Conv2d(a, b, 1) if a != b else None

        def forward(self, x, time):
            h = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(F.silu(time))[:, :, None, None]
            h = self.conv2(F.silu(self.norm2(h)))
            return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))

    class Attention(nn.Module):
        def __init__(self, c):
            super().__init__()
            self.heads = c // (config["attention_head_dim"] or c)
            self.group_norm = nn.GroupNorm(groups, c, eps)
            self.to_q, self.to_k, self.to_v = (nn.Linear(c, c) for _ in range(3))
            self.to_out = nn.ModuleList([nn.Linear(c, c)])

        def forward(self, x):
            n, c, h, w = x.shape
            rows = self.group_norm(x).flatten(2).transpose(1, 2)
            q, k, v = (to(rows).view(n, h * w, self.heads, -1).transpose(1, 2) for to in (self.to_q, self.to_k, self.to_v))
            rows = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, h * w, c)
            return x + self.to_out[0](rows).transpose(1, 2).reshape(n, c, h, w)

    class Down(nn.Module):
        def __init__(self, c):
            super().__init__()
            self.padding = config["downsample_padding"]
            self.conv = nn.Conv2d(c, c, 3, stride=2, padding=self.padding)

        def forward(self, x):
            return self.conv(x if self.padding else F.pad(x, (0, 1, 0, 1)))

    class Up(nn.Module):
        def __init__(self, c):
            super().__init__()
            self.conv = nn.Conv2d(c, c, 3, padding=1)

        def forward(self, x):
            return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))

    class Block(nn.Module):
        def __init__(self, kind, pairs, down=None, up=None):
            super().__init__()
            self.resnets = nn.ModuleList([Resnet(a, b) for a, b in pairs])
            self.attentions = nn.ModuleList([Attention(b) for _, b in pairs]) if "Attn" in kind else None
            self.downsamplers = nn.ModuleList([Down(down)]) if down else None
            self.upsamplers = nn.ModuleList([Up(up)]) if up else None

        def forward(self, x, time, skips, descending):
            for i, resnet in enumerate(self.resnets):
                x = resnet(x if descending else torch.cat([x, skips.pop()], 1), time)
                if self.attentions is not None:
                    x = self.attentions[i](x)
                if descending:
                    skips.append(x)
            if self.downsamplers is not None:
                x = self.downsamplers[0](x)
                skips.append(x)
            return x if self.upsamplers is None else self.upsamplers[0](x)

    class Middle(nn.Module):
        def __init__(self, c):
            super().__init__()
            self.resnets = nn.ModuleList([Resnet(c, c), Resnet(c, c)])
            self.attentions = nn.ModuleList([Attention(c)]) if config["add_attention"] else None

        def forward(self, x, time):
            x = self.resnets[0](x, time)
            return self.resnets[1](x if self.attentions is None else self.attentions[0](x), time)

    class TimeEmbedding(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear_1, self.linear_2 = nn.Linear(channels[0], width), nn.Linear(width, width)

        def forward(self, t):
            half = channels[0] // 2
            rates = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / (half - config["freq_shift"]))
            angles = t.float()[:, None] * rates[None]
            waves = [angles.sin(), angles.cos()]
            waves = torch.cat(waves[::-1] if config["flip_sin_to_cos"] else waves, -1)
            return self.linear_2(F.silu(self.linear_1(waves.to(self.linear_1.weight.dtype))))

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            layers, top = config["layers_per_block"], len(channels) - 1
            self.conv_in = nn.Conv2d(config["in_channels"], channels[0], 3, padding=1)
            self.time_embedding = TimeEmbedding()
            before, skips, down = channels[0], [channels[0]], []
            for i, (kind, c) in enumerate(zip(config["down_block_types"], channels)):
                down.append(Block(kind, [(before if k == 0 else c, c) for k in range(layers)], down=c if i < top else None))
                skips += [c] * (layers + (i < top))
                before = c
            self.down_blocks = nn.ModuleList(down)
            self.mid_block = Middle(channels[-1])
            up = []
            for i, (kind, c) in enumerate(zip(config["up_block_types"], channels[::-1])):
                pairs = []
                for _ in range(layers + 1):
                    pairs.append((before + skips.pop(), c))
                    before = c
                up.append(Block(kind, pairs, up=c if i < top else None))
            self.up_blocks = nn.ModuleList(up)
            self.conv_norm_out = nn.GroupNorm(groups, channels[0], eps)
            self.conv_out = nn.Conv2d(channels[0], config["out_channels"], 3, padding=1)

        def forward(self, x, t):
            time = self.time_embedding(t)
            x = self.conv_in(x)
            skips = [x]
            for block in self.down_blocks:
                x = block(x, time, skips, True)
            x = self.mid_block(x, time)
            for block in self.up_blocks:
                x = block(x, time, skips, False)
            return self.conv_out(F.silu(self.conv_norm_out(x)))

    assert set(config["down_block_types"]) <= {"DownBlock2D", "AttnDownBlock2D"}, "a block that is not written here"
    assert config["act_fn"] == "silu" and config["time_embedding_type"] == "positional" and config["resnet_time_scale_shift"] == "default"
    assert config["num_class_embeds"] is None and not config["center_input_sample"]
    return UNet()


def measure(step, synchronize, seconds):
    """Milliseconds of a step: median over windows of steps, after warming up; and how far they spread."""
    for _ in range(3):
        step()
    synchronize()
    start = time.perf_counter()
    step()
    synchronize()
    window = max(1, round(0.1 / max(time.perf_counter() - start, 1e-6)))
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 200):
        start = time.perf_counter()
        for _ in range(window):
            step()
        synchronize()
        times.append(1e3 * (time.perf_counter() - start) / window)
    return {"ms": statistics.median(times), "least_ms": min(times), "most_ms": max(times), "windows": len(times), "steps": window}


def run(name, variant, batch, device, seconds, sampling_batch):
    """One variant of one config: yields a result for training and one for sampling."""
    import torch

    assert variant in VARIANTS, f"variant {variant} is none of {', '.join(VARIANTS)}"
    torch.manual_seed(0)
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    narrow, compiled = variant not in ("fp32", "tf32"), variant.startswith("compile")
    for backend in (torch.backends.cuda.matmul, torch.backends.cudnn):
        backend.allow_tf32 = variant != "fp32"
    torch.backends.cudnn.benchmark = True
    cuda = device.startswith("cuda")
    synchronize = torch.cuda.synchronize if cuda else lambda: None
    layout = torch.channels_last if narrow else torch.contiguous_format
    network = build(config).to(device=device, memory_format=layout)
    parameters = list(network.parameters())
    averages = [p.detach().clone() for p in parameters]
    adamw = torch.optim.AdamW(parameters, lr=1e-4, fused=cuda)
    modes = {"compile": None, "compile-reduce-overhead": "reduce-overhead", "compile-max-autotune": "max-autotune-no-cudagraphs"}
    model = torch.compile(network, mode=modes[variant], dynamic=False) if compiled else network
    size, shape = config["sample_size"], (config["in_channels"], config["sample_size"], config["sample_size"])
    context = {"config": name, "variant": variant, "parameters": sum(p.numel() for p in parameters), "torch": torch.__version__}
    context["device"] = torch.cuda.get_device_name() if cuda else "cpu"

    def autocast():
        return torch.autocast(device.split(":")[0], torch.bfloat16, enabled=narrow)

    def images(n):
        x = torch.randn(n, *shape, device=device).contiguous(memory_format=layout)
        return x, torch.arange(n, device=device) * 997 % 1000

    x, t = images(batch)
    target = torch.randn_like(x)

    def train():
        adamw.zero_grad(set_to_none=True)
        with autocast():
            y = model(x, t)
        ((y.float() - target) ** 2).mean().backward()
        adamw.step()
        torch._foreach_lerp_(averages, parameters, 1e-3)

    with_peak = (lambda: {"peak_mib": torch.cuda.max_memory_allocated() / 2**20}) if cuda else dict
    start = time.perf_counter()
    train()
    synchronize()
    ready = time.perf_counter() - start
    figures = measure(train, synchronize, seconds)
    yield context | {"what": "train", "batch": batch, "images_per_s": 1e3 * batch / figures["ms"], "ready_s": ready} | figures | with_peak()

    network.eval()
    adamw.zero_grad(set_to_none=True)
    x, t = images(sampling_batch)
    state = [x]

    def sample():
        with torch.no_grad(), autocast():
            y = model(x, t)
        # As a DDIM step does, on a state that stays of order 1.
        state[0] = 0.9 * state[0] + 0.1 * y.float()

    start = time.perf_counter()
    sample()
    synchronize()
    ready = time.perf_counter() - start
    figures = measure(sample, synchronize, seconds)
    yield context | {"what": "sample", "batch": sampling_batch, "images_per_s": 1e3 * sampling_batch / figures["ms"], "ready_s": ready} | figures


def say(line):
    print(json.dumps(line), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="CONFIG:VARIANT:BATCH", help=f"variants: {', '.join(VARIANTS)}; default: {' '.join(RUNS)}")
    parser.add_argument("--limit", type=float, default=240.0, help="seconds for all runs")
    parser.add_argument("--each", type=float, default=120.0, help="seconds for one run, compilation included")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds of measuring, for training and for sampling")
    parser.add_argument("--sampling-batch", type=int, default=SAMPLING_BATCH)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--here", action="store_true", help="in this process, the first run alone")
    args = parser.parse_args()
    # So that whoever ends this process ends those that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    runs = args.runs or RUNS
    if args.here:
        name, variant, batch = runs[0].split(":")
        for result in run(name, variant, int(batch), args.device, args.seconds, args.sampling_batch):
            say(result)
        return
    end = time.monotonic() + args.limit
    for text in runs:
        name, variant, _ = text.split(":")
        left = min(args.each, end - time.monotonic())
        failed = lambda problem: say({"config": name, "variant": variant, "error": problem})
        # Less than a process needs to import torch and compile nothing.
        if left < min(15.0, args.limit / 2):
            failed(f"not run: the limit of {args.limit:.0f} s is spent")
            continue
        command = [sys.executable, __file__, text, "--here", "--device", args.device, "--seconds", str(args.seconds)]
        command += ["--sampling-batch", str(args.sampling_batch)]
        # Files, not pipes, and a group of its own: compilers leave processes behind that hold both.
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)
            try:
                code = process.wait(left)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            out.seek(0)
            err.seek(0)
            print("".join(line for line in out if line.startswith("{")), end="", flush=True)
            if code is None:
                failed(f"not ready within {left:.0f} s")
            elif code != 0:
                failed((err.read().strip().splitlines() or [f"exit code {code}"])[-1][:300])


if __name__ == "__main__":
    main()
