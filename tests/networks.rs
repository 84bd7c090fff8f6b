//! The network against PyTorch: output, loss, every gradient and ten AdamW steps of two diffusers
//! U-Nets (`tests/golden/unet`).

use ndarray::ArrayD;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tweedie::diffusion::prediction::Prediction;
use tweedie::diffusion::{Denoiser, Path as ProcessPath};
use tweedie::math::larger;
use tweedie::npy::Archive;
use tweedie::sample::noise_source::Silence;
use tweedie::sample::registry::{Options, sampler};
use tweedie::sample::sample;
use tweedie_device::Place;
use tweedie_nn::adamw::{AdamW, State};
use tweedie_nn::checkpoint;
use tweedie_nn::cpu::Cpu;
use tweedie_nn::element::Element;
use tweedie_nn::layout::channels_last;
use tweedie_nn::pipeline::{self, Input, Pipeline, Setup, Time};
use tweedie_nn::program::Program;
use tweedie_nn::scheduler_config;
use tweedie_nn::unet::unet;

fn folder(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/unet")).join(name)
}

/// The largest error in units of the largest entry.
fn relative<T: Element>(got: &[T], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().map(|x| x.abs()).fold(0.0, larger);
    let error = got.iter().zip(want).map(|(g, w)| (g.wide() - w).abs());
    // A NaN is the largest error.
    error.fold(0.0, larger) / largest
}

/// By tensor: the largest magnitude, and four sums with signs (`digest.py`).
fn digests(path: PathBuf) -> BTreeMap<String, [f64; 5]> {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn digest<T: Element>(x: &[T], which: u64) -> f64 {
    let sign = |i: usize| {
        let mut z = (i as u64 * 4 + which).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        if z >> 63 == 0 { 1.0 } else { -1.0 }
    };
    x.iter().enumerate().map(|(i, x)| sign(i) * x.wide()).sum()
}

/// The largest error of a sum in units of the largest entry anywhere times the root of the tensor's
/// length.
fn digest_error<T: Element>(
    values: &[T],
    program: &Program,
    want: &BTreeMap<String, [f64; 5]>,
) -> f64 {
    assert_eq!(program.params.len(), want.len());
    let scale = want.values().map(|d| d[0]).fold(0.0, larger);
    let mut worst = 0.0;
    for param in &program.params {
        let (x, want) =
            (checkpoint::arranged(param, &values[param.at.clone()], true), want[&param.name]);
        for k in 0..4 {
            let error =
                (digest(&x, k as u64) - want[1 + k]).abs() / (scale * (x.len() as f64).sqrt());
            worst = if error <= worst { worst } else { error };
        }
    }
    worst
}

struct Golden<T> {
    program: Program,
    params: Vec<T>,
    x: Vec<T>,
    times: Vec<f64>,
    labels: Vec<usize>,
    target: Vec<T>,
    io: BTreeMap<String, ArrayD<f64>>,
}

fn golden<T: Element>(name: &str) -> Golden<T> {
    let (config, weights) = checkpoint::open(&folder(name)).unwrap();
    let (height, width) = config.sample_shape().unwrap();
    let program = unet(&config, height, width).unwrap();
    let params = checkpoint::read(&weights, &program).unwrap();
    let path = folder(name).join("io.npz");
    let mut archive = Archive::open(&path).unwrap();
    let io: BTreeMap<_, _> = archive
        .names()
        .into_iter()
        .map(|key| (key.clone(), archive.array(&key).unwrap().unwrap().0))
        .collect();
    let last = |key: &str| channels_last(&io[key]).iter().map(|x| T::of(*x)).collect::<Vec<T>>();
    let (x, target, times) = (last("x"), last("target"), io["t"].iter().copied().collect());
    let labels = io.get("labels").map_or(vec![], |l| l.iter().map(|l| *l as usize).collect());
    Golden { program, params, x, times, labels, target, io }
}

/// Loss, and its gradient by the output.
fn loss<T: Element>(y: &[T], target: &[T]) -> (f64, Vec<T>) {
    let n = y.len() as f64;
    let sum: f64 = y.iter().zip(target).map(|(y, t)| (y.wide() - t.wide()).powi(2)).sum();
    (sum / n, y.iter().zip(target).map(|(y, t)| T::of(2.0 / n) * (*y - *t)).collect())
}

fn equals_pytorch<T: Element>(name: &str, tolerance: f64) {
    let mut g = golden::<T>(name);
    let mut cpu = Cpu::new(g.program.clone(), g.times.len());
    cpu.load(&g.params);
    let y = cpu.forward(&g.x, &g.times, &[]).unwrap().to_vec();
    let want = |key: &str| channels_last(&g.io[key]);
    let error = relative(&y, &want("out_f64"));
    assert!(error <= tolerance, "{name}: output {error:e}");
    let (value, dy) = loss(&y, &g.target);
    let want_loss = g.io["loss_f64"].iter().next().unwrap();
    assert!((value / want_loss - 1.0).abs() <= tolerance, "{name}: loss {value}");

    let mut grads = vec![T::nan(); g.params.len()];
    cpu.backward(&dy, &mut grads);
    let error = digest_error(&grads, &g.program, &digests(folder(name).join("grads.json")));
    assert!(error <= tolerance, "{name}: gradients {error:e}");
    let error = relative(cpu.input_gradient(), &want("grad_x_f64"));
    assert!(error <= tolerance, "{name}: gradient of the input {error:e}");

    let (adamw, mut state) = (AdamW::default(), State::new(g.params.len()));
    for step in 0..10 {
        cpu.load(&g.params);
        let (value, dy) = loss(cpu.forward(&g.x, &g.times, &[]).unwrap(), &g.target);
        let want = g.io["adamw_losses_f64"].as_slice().unwrap()[step];
        // A step divides by the root of the squared gradient: where that is tiny, rounding moves
        // the step.
        assert!(
            (value / want - 1.0).abs() <= 10.0 * tolerance,
            "{name}: loss {value} before step {step}, not {want}"
        );
        cpu.backward(&dy, &mut grads);
        adamw.step(&mut state, &mut g.params, &grads);
    }
    let error = digest_error(&g.params, &g.program, &digests(folder(name).join("adamw10.json")));
    assert!(error <= 10.0 * tolerance, "{name}: ten AdamW steps {error:e}");
}

#[test]
fn f64_equals_pytorch_to_1e_10() {
    equals_pytorch::<f64>("A", 1e-10);
    equals_pytorch::<f64>("D", 1e-10);
}

#[test]
fn f32_equals_pytorch_to_1e_4() {
    equals_pytorch::<f32>("A", 1e-4);
    equals_pytorch::<f32>("D", 1e-4);
}

/// Tiny networks, one for each group of config keys (`variants.py`).
const VARIANTS: [&str; 8] = [
    "scale_shift",
    "scale_shift_norm",
    "fourier",
    "learned",
    "classes",
    "resnet_resampling",
    "no_mid",
    "odd",
];

#[test]
fn every_kind_of_config_equals_pytorch() {
    fn outputs<T: Element>(name: &str, tolerance: f64) -> Golden<T> {
        let g = golden::<T>(name);
        let mut cpu = Cpu::new(g.program.clone(), g.times.len());
        cpu.load(&g.params);
        let y = cpu.forward(&g.x, &g.times, &g.labels).unwrap().to_vec();
        let error = relative(&y, &channels_last(&g.io["out"]));
        assert!(error <= tolerance, "{name}: output {error:e}");
        // diffusers rounds the angles of the positional embedding to f32: 999 radians are then 6e-5
        // off, and these networks pass on less than a hundredth of it.
        let error = relative(&y, &channels_last(&g.io["out_f32emb"]));
        assert!(error <= tolerance.max(1e-6), "{name}: output with diffusers' embedding {error:e}");

        let (_, dy) = loss(&y, &g.target);
        let mut grads = vec![T::nan(); g.params.len()];
        cpu.backward(&dy, &mut grads);
        let error = digest_error(&grads, &g.program, &digests(folder(name).join("grads.json")));
        assert!(error <= tolerance, "{name}: gradients {error:e}");
        let error = relative(cpu.input_gradient(), &channels_last(&g.io["grad_x"]));
        assert!(error <= tolerance, "{name}: gradient of the input {error:e}");
        g
    }
    for name in VARIANTS.map(|name| format!("variants/{name}")) {
        outputs::<f64>(&name, 1e-10);
        outputs::<f32>(&name, 1e-4);
    }
}

/// Folders that diffusers saved, sampled in ten steps by diffusers and here from the same start
/// (`pipelines.py`).
#[test]
fn a_published_folder_gives_diffusers_samples() {
    // With the method that diffusers' scheduler is in these settings.
    for (name, method, kind, time) in [
        ("ddim_eps", "ddim", Prediction::Eps, Time::Step),
        ("ddim_v", "ddim", Prediction::V, Time::Step),
        ("dpmpp_x0", "ddim", Prediction::X0, Time::Step),
        ("flow", "fm-euler", Prediction::Velocity, Time::Scaled(1000.0)),
        ("edm", "euler", Prediction::F, Time::CNoise(1.0)),
    ] {
        let folder = folder("pipelines").join(name);
        let pipeline = Pipeline::open(&folder).unwrap();
        assert_eq!(
            (pipeline.setup.prediction, pipeline.setup.time, pipeline.setup.shape),
            (kind, time, (2, 4, 4)),
            "{name}"
        );
        let mut setting = scheduler_config::read(&folder).unwrap();
        setting.grid.steps = 10;
        let points = setting.points().unwrap();
        let file = folder.join("samples.npz");
        let mut archive = Archive::open(&file).unwrap();
        let mut states = |key: &str| {
            archive.array(key).unwrap().unwrap().0.into_shape_with_order((2, 32)).unwrap()
        };
        let (start, want, want_f64) = (states("start"), states("x"), states("x_f64"));
        let method = sampler(method, &Options::DEFAULT).unwrap();
        let run = |model: &dyn Denoiser| {
            sample(&method, model, &points, start.clone(), &mut Silence).unwrap().x
        };
        let error = |got: &ndarray::Array2<f64>, want: &ndarray::Array2<f64>| {
            relative(got.as_slice().unwrap(), want.as_slice().unwrap())
        };
        let (single, double) = (
            run(&pipeline.network::<f32>(2, &Place::Cpu).unwrap()),
            run(&pipeline.network::<f64>(2, &Place::Cpu).unwrap()),
        );
        // What f32 costs diffusers itself is 1e-7 to 3e-7 here; ours may cost as much again.
        let (s, d) = (error(&single, &want), error(&double, &want_f64));
        assert!(s <= 2e-6 && d <= 1e-6, "{name}: {s:e} in f32, {d:e} in f64");
    }
}

#[test]
fn a_folder_written_is_the_one_opened() {
    let dir = tempfile::tempdir().unwrap();
    for (name, scheduler, index) in [
        ("ddim_eps", Some("DDPMScheduler"), true),
        ("ddim_v", Some("DDPMScheduler"), true),
        ("dpmpp_x0", Some("DDPMScheduler"), true),
        ("flow", Some("FlowMatchEulerDiscreteScheduler"), true),
        ("edm", Some("EDMEulerScheduler"), false),
    ] {
        let from = Pipeline::open(&folder("pipelines").join(name)).unwrap();
        let program = from.program().unwrap();
        let params = checkpoint::read::<f32>(&from.weights, &program).unwrap();
        let to = dir.path().join(name);
        pipeline::write(&to, &from.config, &from.setup, &program, &params).unwrap();
        let back = Pipeline::open(&to).unwrap();
        assert_eq!((&back.config, &back.setup), (&from.config, &from.setup), "{name}");
        assert_eq!(checkpoint::read::<f32>(&back.weights, &program).unwrap(), params, "{name}");
        let text = |file: &str| std::fs::read_to_string(to.join(file)).ok();
        let class = text("scheduler/scheduler_config.json")
            .map(|t| serde_json::from_str::<serde_json::Value>(&t).unwrap());
        assert_eq!(class.as_ref().and_then(|c| c["_class_name"].as_str()), scheduler, "{name}");
        assert_eq!(text("model_index.json").is_some(), index, "{name}");
        // What diffusers is told means the same as what is said exactly.
        std::fs::remove_file(to.join(pipeline::SETUP)).unwrap();
        assert_eq!(Pipeline::open(&to).unwrap().setup, from.setup, "{name}");
    }
    // A setup that no scheduler of diffusers means.
    let from = Pipeline::open(&folder("pipelines").join("flow")).unwrap();
    let program = from.program().unwrap();
    let params = checkpoint::read::<f32>(&from.weights, &program).unwrap();
    let setup = Setup {
        path: ProcessPath::VP,
        input: Input::UnitVariance,
        time: Time::LogSnr(0.125),
        ..from.setup
    };
    let to = dir.path().join("vp");
    pipeline::write(&to, &from.config, &setup, &program, &params).unwrap();
    assert_eq!(Pipeline::open(&to).unwrap().setup, setup);
    assert!(!to.join("scheduler").exists() && !to.join("model_index.json").exists());
    let left: Vec<_> = std::fs::read_dir(&to).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "nothing is left aside: {left:?}");
}

#[test]
fn every_module_equals_pytorch() {
    let g = golden::<f64>("D");
    let mut cpu = Cpu::new(g.program.clone(), g.times.len());
    cpu.load(&g.params);
    cpu.forward(&g.x, &g.times, &[]).unwrap();
    let want = digests(folder("D").join("acts.json"));
    let mut seen = 0;
    for (id, tensor) in g.program.tensors.iter().enumerate() {
        // A module's output is its last operation's; an attention's norm and heads have names of
        // their own here.
        let name = ["", ".conv2", ".linear_2", ".to_out.0", ".conv"]
            .iter()
            .filter_map(|part| tensor.name.strip_suffix(part))
            .find(|name| want.contains_key(*name));
        let Some(name) = name.filter(|n| *n != "conv_norm_out") else { continue };
        // PyTorch's order: channels first.
        let x = cpu.value(id);
        let (rows, channels) = (tensor.rows(), tensor.channels);
        let first: Vec<f64> = (0..x.len())
            .map(|i| (i / (rows * channels), i / rows % channels, i % rows))
            .map(|(n, c, p)| x[(n * rows + p) * channels + c])
            .collect();
        for k in 0..4 {
            let error = (digest(&first, k as u64) - want[name][1 + k]).abs();
            assert!(error <= 1e-12 * want[name][0] * x.len() as f64, "{name}: {error:e}");
        }
        seen += 1;
    }
    assert_eq!(seen, want.len() - 1, "modules compared, conv_norm_out aside: its SiLU is fused");
}

#[test]
fn a_checkpoint_written_is_the_one_read() {
    let g = golden::<f32>("D");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(checkpoint::WEIGHTS);
    std::fs::write(&path, checkpoint::to_bytes(&g.params, &g.program).unwrap()).unwrap();
    assert_eq!(checkpoint::read::<f32>(&path, &g.program).unwrap(), g.params);

    // Damage is refused by the name of what it hit.
    let bytes = std::fs::read(&path).unwrap();
    let refused = |bytes: &[u8], program: &Program| {
        std::fs::write(&path, bytes).unwrap();
        checkpoint::read::<f32>(&path, program).unwrap_err().to_string()
    };
    assert!(
        refused(&bytes[..bytes.len() - 1], &g.program).contains("not a complete safetensors file")
    );
    assert!(refused(&[255; 64], &g.program).contains("not a complete safetensors file"));
    assert!(refused(b"", &g.program).contains("not a complete safetensors file"));
    let mut nan = g.params.clone();
    let hit = g.program.params.iter().find(|p| !p.dense && p.at.len() > 3).unwrap();
    nan[hit.at.start + 3] = f32::NAN;
    let message = refused(&checkpoint::to_bytes(&nan, &g.program).unwrap(), &g.program);
    assert!(message.contains(&hit.name) && message.contains("NaN at 3"), "{message}");
    let mut other = g.program.clone();
    other.params[0].shape.push(2);
    assert!(
        refused(&bytes, &other).contains("conv_in.weight` has shape")
            || refused(&bytes, &other).contains(&other.params[0].name)
    );
    other = g.program.clone();
    other.params[0].name = "absent.weight".into();
    assert!(refused(&bytes, &other).contains("`absent.weight` is missing"));
    other = g.program.clone();
    other.params.pop();
    assert!(refused(&bytes, &other).contains("is not part of the network"));
}
