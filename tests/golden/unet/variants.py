"""Tiny U-Nets of diffusers, one for each group of config keys: weights, output, and digests of all gradients, in f64.

    pip install torch==2.15.0 diffusers==0.42.1 && python3 tests/golden/unet/variants.py

Weights are drawn in f16, which f64 holds exactly, so that the files are small. diffusers computes the positional embedding of the time in
f32 whatever the network's type, which is worth 1e-4 at t = 999; here it is computed in f64, so that everything else can be held to 1e-10. What
diffusers gives as it is stands beside it as `out_f32emb`.
"""

import json
import math
import pathlib

import diffusers.models.embeddings as embeddings
import numpy as np
import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file

from digest import signs

HERE = pathlib.Path(__file__).parent / "variants"

BASE = dict(
    sample_size=4, in_channels=2, out_channels=2, block_out_channels=(4, 6), layers_per_block=1, norm_num_groups=2, attention_head_dim=6,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)
VARIANTS = {
    # Under scale_shift the middle attention has no norm unless its groups are named.
    "scale_shift": dict(resnet_time_scale_shift="scale_shift", mid_block_scale_factor=math.sqrt(2), attention_head_dim=2),
    "scale_shift_norm": dict(resnet_time_scale_shift="scale_shift", attn_norm_num_groups=3),
    "fourier": dict(time_embedding_type="fourier", flip_sin_to_cos=True),
    "learned": dict(time_embedding_type="learned", num_train_timesteps=10),
    "classes": dict(num_class_embeds=5, center_input_sample=True, time_embedding_dim=12),
    # Blocks without attention resample by convolutions whatever is asked for.
    "resnet_resampling": dict(
        downsample_type="resnet", upsample_type="resnet", block_out_channels=(4, 2, 4), sample_size=8, attention_head_dim=2, resnet_time_scale_shift="scale_shift",
        down_block_types=("AttnDownBlock2D", "DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    ),
    "no_mid": dict(mid_block_type=None, attention_head_dim=None, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1, sample_size=(4, 6)),
    # An odd number of channels leaves the embedding's last at zero.
    "odd": dict(block_out_channels=(3, 5), norm_num_groups=1, add_attention=False, attention_head_dim=1, act_fn="swish", norm_eps=1e-3),
}


def embedding_f64(timesteps, dim, flip_sin_to_cos=False, downscale_freq_shift=1, scale=1, max_period=10000):
    half = dim // 2
    w = torch.exp(-math.log(max_period) * torch.arange(half, dtype=torch.float64) / (half - downscale_freq_shift))
    angle = scale * timesteps[:, None].double() * w[None, :]
    parts = [torch.cos(angle), torch.sin(angle)] if flip_sin_to_cos else [torch.sin(angle), torch.cos(angle)]
    return torch.cat(parts + [torch.zeros(len(timesteps), dim % 2, dtype=torch.float64)], dim=-1)


def digest(x):
    x = x.detach().numpy().ravel()
    return [float(np.abs(x).max())] + [float((x * signs(x.size, k)).sum()) for k in range(4)]


def main():
    for k, (name, keys) in enumerate(VARIANTS.items()):
        torch.manual_seed(k)
        net = UNet2DModel(**{**BASE, **keys})
        with torch.no_grad():
            for key, p in net.named_parameters():
                # Norms and zero-initialised layers too, so that no path is dead.
                p.copy_((p + 0.3 * torch.randn_like(p) / max(1, p[0].numel()) ** 0.5).half())
        folder = HERE / name
        folder.mkdir(parents=True, exist_ok=True)
        net.save_config(folder)
        weights = {key: p.detach().half().clone().contiguous() for key, p in net.state_dict().items()}
        save_file(weights, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
        net.double()

        size = net.config.sample_size
        h, w = (size, size) if isinstance(size, int) else size
        n = 2
        x = torch.randn(n, 2, h, w, dtype=torch.float64, requires_grad=True)
        t = {"fourier": torch.tensor([0.01, 80.0]), "learned": torch.tensor([0, 9])}.get(keys.get("time_embedding_type"), torch.tensor([0.5, 999.0]))
        t = t.double() if t.is_floating_point() else t
        labels = torch.tensor([4, 2]) if keys.get("num_class_embeds") else None
        target = torch.randn(n, 2, h, w, dtype=torch.float64)
        with torch.no_grad():
            as_it_is = net(x, t, class_labels=labels).sample
        original, embeddings.get_timestep_embedding = embeddings.get_timestep_embedding, embedding_f64
        out = net(x, t, class_labels=labels).sample
        ((out - target) ** 2).mean().backward()
        embeddings.get_timestep_embedding = original
        io = dict(x=x.detach(), t=t.double(), target=target, out=out.detach(), out_f32emb=as_it_is, grad_x=x.grad)
        if labels is not None:
            io["labels"] = labels.double()
        np.savez_compressed(folder / "io.npz", **{key: value.numpy() for key, value in io.items()})
        # The Fourier frequencies are fixed.
        digests = {key: digest(p.grad if p.grad is not None else torch.zeros_like(p)) for key, p in sorted(net.named_parameters())}
        text = ",\n".join(f"{json.dumps(key)}: {json.dumps(d)}" for key, d in digests.items())
        (folder / "grads.json").write_text("{\n" + text + "\n}\n")
        print(name, sum(p.numel() for p in net.parameters()), float((out - as_it_is).detach().abs().max() / out.detach().abs().max()))


if __name__ == "__main__":
    main()
