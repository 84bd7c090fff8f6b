"""Tiny pipelines as diffusers saves them, and ten steps of diffusers with each from a given start.

    pip install torch==2.15.0 diffusers==0.42.1 && python3 tests/golden/unet/pipelines.py

The networks are random: what is compared is the arithmetic between a folder and its samples. `x` is run in f32 as the pipelines do it, `x_f64`
with network and state in f64: there diffusers' own f32 remains, in its tables of the schedule and in the embedding of the time.
"""

import json
import pathlib

import numpy as np
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler, UNet2DModel
from safetensors.torch import save_file

from variants import BASE

HERE = pathlib.Path(__file__).parent / "pipelines"
STEPS = 10
PIPELINES = {
    "ddim_eps": DDIMScheduler(clip_sample=False),
    "ddim_v": DDIMScheduler(
        clip_sample=False, prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing", rescale_betas_zero_snr=True
    ),
    "dpmpp_x0": DPMSolverMultistepScheduler(prediction_type="sample", solver_order=1, final_sigmas_type="zero", lower_order_final=False),
    "flow": FlowMatchEulerDiscreteScheduler(shift=3.0),
    "edm": EDMEulerScheduler(sigma_max=40.0, sigma_data=0.7),
}


def run(net, scheduler, x):
    scheduler.set_timesteps(STEPS)
    for t in scheduler.timesteps:
        shown = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(net(shown.to(net.dtype), t).sample, t, x).prev_sample
    return x


def main():
    for k, (name, scheduler) in enumerate(PIPELINES.items()):
        torch.manual_seed(100 + k)
        net = UNet2DModel(**BASE)
        with torch.no_grad():
            for p in net.parameters():
                p.copy_((p + 0.3 * torch.randn_like(p) / max(1, p[0].numel()) ** 0.5).half())
        folder = HERE / name
        (folder / "unet").mkdir(parents=True, exist_ok=True)
        net.save_config(folder / "unet")
        scheduler.save_config(folder / "scheduler")
        save_file(
            {key: p.detach().half().clone().contiguous() for key, p in net.state_dict().items()},
            folder / "unet" / "diffusion_pytorch_model.safetensors",
            metadata={"format": "pt"},
        )
        index = {"_class_name": "DDIMPipeline", "_diffusers_version": "0.42.1"}
        index |= {"scheduler": ["diffusers", type(scheduler).__name__], "unet": ["diffusers", "UNet2DModel"]}
        (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
        scheduler.set_timesteps(STEPS)
        start = torch.randn(2, 2, 4, 4, dtype=torch.float64).float() * float(getattr(scheduler, "init_noise_sigma", 1.0))
        with torch.no_grad():
            x = run(net, type(scheduler).from_config(scheduler.config), start)
            x_f64 = run(net.double(), type(scheduler).from_config(scheduler.config), start.double())
        np.savez_compressed(folder / "samples.npz", start=start.double().numpy(), x=x.double().numpy(), x_f64=x_f64.double().numpy())
        print(name, float(x.abs().max()), float((x - x_f64).abs().max() / x.abs().max()))


main()
