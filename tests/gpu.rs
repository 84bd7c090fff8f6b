//! The CUDA path of the built program on a machine without a GPU: `tests/emulator` takes the place
//! of NVIDIA's driver and libraries.
//!
//! What the emulator is, what it finds and what it can't: `tests/emulator/README.md`.

use serde_json::Value;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use tweedie::math::larger;

/// The gate says that it has a C++ compiler: there no test of this module may be left out.
#[test]
fn a_compiler_is_where_it_is_promised() {
    assert!(
        !cfg!(no_cxx) || std::env::var_os("TWEEDIE_NEEDS_CXX").is_none(),
        "the tests of the CUDA path need a C++ compiler on Linux, and none was found when they were built"
    );
}

/// The emulator's libraries, built once for each state of their sources.
fn emulator() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut files: Vec<PathBuf> =
            fs::read_dir(sources()).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        let mut state = DefaultHasher::new();
        for file in &files {
            fs::read(file).unwrap().hash(&mut state);
        }
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("emulator-{:016x}", state.finish()));
        if !folder.exists() {
            // Built aside and moved: whoever comes second finds it whole.
            let aside = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let built = Command::new("sh")
                .arg(sources().join("build.sh"))
                .arg(aside.path())
                .output()
                .unwrap();
            assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
            // Only the driver and the compiler: what a machine without the other libraries has.
            fs::create_dir(aside.path().join("bare")).unwrap();
            for library in ["libcuda.so", "libnvrtc.so"] {
                std::os::unix::fs::symlink(
                    Path::new("..").join(library),
                    aside.path().join("bare").join(library),
                )
                .unwrap();
            }
            let _ = fs::rename(aside.path(), &folder);
        }
        folder
    })
}

fn sources() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join("tests/emulator")
}

fn golden(name: &str) -> String {
    format!("{}/tests/golden/unet/{name}", concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The program with an emulated GPU; settings are the emulator's. Compiled kernels are kept beside
/// the emulator that made them.
fn command(emulator: &Path, dir: &Path, args: &[&str], settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tweedie"));
    for (key, _) in std::env::vars_os()
        .filter(|(key, _)| key.to_string_lossy().starts_with("TWEEDIE_EMULATOR_"))
    {
        command.env_remove(key);
    }
    let settings = settings.iter().map(|(key, value)| (format!("TWEEDIE_EMULATOR_{key}"), value));
    command
        .args(args)
        .current_dir(dir)
        .envs(settings)
        .env("LD_LIBRARY_PATH", emulator)
        .env("XDG_CACHE_HOME", emulator);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn tweedie(emulator: &Path, dir: &Path, args: &[&str], settings: &[(&str, &str)]) -> Output {
    command(emulator, dir, args, settings).output().unwrap()
}

/// Standard output of a run that must succeed.
#[track_caller]
fn stdout(out: Output) -> String {
    assert!(
        out.status.success(),
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

/// The one line of a run that must fail with exit code 2.
#[track_caller]
fn refused(out: Output) -> String {
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(said.starts_with("error: ") && said.trim_end().lines().count() == 1, "{said}");
    said
}

/// Every number of a safetensors file, tensor after tensor.
fn numbers(path: &Path) -> Vec<f64> {
    let bytes = fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors = file.tensors();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let numbers = |(_, t): &(String, safetensors::tensor::TensorView)| -> Vec<f64> {
        match t.dtype() {
            safetensors::Dtype::F64 => t
                .data()
                .chunks_exact(8)
                .map(|b| f64::from_le_bytes(b.try_into().unwrap()))
                .collect(),
            _ => t
                .data()
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()).into())
                .collect(),
        }
    };
    tensors.iter().flat_map(numbers).collect()
}

/// The largest error in units of the largest entry; a NaN is the largest error.
fn error(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().map(|x| x.abs()).fold(0.0, larger);
    got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, larger) / largest
}

/// Output, or gradients, of a golden network.
fn network(
    libraries: &Path,
    name: &str,
    pass: &str,
    device: &str,
    precision: &str,
    settings: &[(&str, &str)],
) -> Vec<f64> {
    let dir = tempfile::tempdir().unwrap();
    let (model, io) = (golden(name), golden(&format!("{name}/io.npz")));
    let out = dir.path().join("out");
    let args = [
        "net",
        pass,
        "--model",
        &model,
        &io,
        "-o",
        "out",
        "--device",
        device,
        "--precision",
        precision,
    ];
    stdout(tweedie(libraries, dir.path(), &args, settings));
    if pass == "backward" {
        return numbers(&out);
    }
    let mut file = ndarray_npy::NpzReader::new(fs::File::open(&out).unwrap()).unwrap();
    match precision {
        "f64" => file
            .by_name::<ndarray::OwnedRepr<f64>, ndarray::IxDyn>("y")
            .unwrap()
            .into_iter()
            .collect(),
        _ => file
            .by_name::<ndarray::OwnedRepr<f32>, ndarray::IxDyn>("y")
            .unwrap()
            .iter()
            .map(|x| f64::from(*x))
            .collect(),
    }
}

/// What the gradients of a network of some 60 operations may be off, in units of the largest: a few
/// hundred roundings of each format.
const PRECISIONS: [(&str, f64); 4] =
    [("f64", 1e-13), ("f32", 1e-5), ("tf32", 1e-2), ("bf16", 5e-2)];

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
#[cfg_attr(no_cxx, ignore = "no C++ compiler was found when this was built")]
fn the_emulator_runs_what_it_must_and_lets_no_mistake_pass() {
    let emulator = emulator();
    let dir = tempfile::tempdir().unwrap();
    let check = dir.path().join("check");
    let built = Command::new("c++")
        .args(["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror"])
        .arg(sources().join("check.cpp"))
        .args(["-l:libcuda.so.1", "-l:libnvrtc.so.12", "-L"])
        .arg(emulator)
        .arg("-o")
        .arg(&check)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    for order in ["forward", "reverse", "7"] {
        let out = Command::new(&check)
            .env("LD_LIBRARY_PATH", emulator)
            .env("TWEEDIE_EMULATOR_ORDER", order)
            .output()
            .unwrap();
        assert_eq!(stdout(out), "the emulator holds\n", "{order}");
    }
}

#[test]
#[cfg_attr(no_cxx, ignore = "no C++ compiler was found when this was built")]
fn doctor_finds_the_emulated_device_and_its_libraries() {
    let emulator = emulator();
    let dir = tempfile::tempdir().unwrap();
    let survey = |settings: &[(&str, &str)]| -> Value {
        serde_json::from_str(&stdout(tweedie(
            emulator,
            dir.path(),
            &["doctor", "--json", "-"],
            settings,
        )))
        .unwrap()
    };
    let cuda = &survey(&[])["cuda"];
    assert_eq!(cuda["devices"].as_array().unwrap().len(), 1, "{cuda}");
    assert_eq!(cuda["devices"][0]["name"], "tweedie emulator");
    assert_eq!(cuda["devices"][0]["capability"], serde_json::json!([9, 0]));
    assert_eq!(cuda["devices"][0]["memory"], 4u64 << 30);
    let versions = [
        ("driver", "13.0"),
        ("nvrtc", "12.9"),
        ("cublas", "12.9.1"),
        ("cublaslt", "12.9.1"),
        ("cudnn", "9.10.2"),
        ("nccl", "2.27.3"),
    ];
    for (name, version) in versions {
        let library =
            cuda["libraries"].as_array().unwrap().iter().find(|l| l["name"] == name).unwrap();
        assert_eq!(library["version"], version, "{library}");
    }
    assert_eq!(survey(&[("DEVICES", "3")])["cuda"]["devices"].as_array().unwrap().len(), 3);
    let none = &survey(&[("DEVICES", "0")])["cuda"];
    assert!(none["problem"].as_str().unwrap().contains("NO_DEVICE"), "{none}");
}

/// Every golden network, forward and back, in every precision: convolutions by cuDNN and products
/// by cuBLAS, then by our own kernels.
#[test]
#[cfg_attr(no_cxx, ignore = "no C++ compiler was found when this was built")]
fn networks_are_the_cpus_in_every_precision() {
    let emulator = emulator();
    let bare = emulator.join("bare");
    let names: Vec<String> = ["A", "D"]
        .map(String::from)
        .into_iter()
        .chain(VARIANTS.map(|v| format!("variants/{v}")))
        .collect();
    for name in &names {
        let want = network(emulator, name, "backward", "cpu", "f64", &[]);
        // Every operation is held in all of them by the self-check: here all variants in the most
        // exact and the coarsest.
        let whole = matches!(name.as_str(), "A" | "D");
        for (precision, tolerance) in
            PRECISIONS.into_iter().filter(|(p, _)| whole || matches!(*p, "f64" | "bf16"))
        {
            for libraries in [emulator, &bare] {
                let got = network(libraries, name, "backward", "cuda:0", precision, &[]);
                let e = error(&got, &want);
                assert!(
                    e <= tolerance,
                    "{name}, gradients in {precision}, libraries of {}: {e:e}",
                    libraries.display()
                );
                // And it is that precision that was computed in.
                let least = [("f64", 0.0), ("f32", 1e-9), ("tf32", 1e-9), ("bf16", 1e-5)]
                    .iter()
                    .find(|(p, _)| *p == precision)
                    .unwrap()
                    .1;
                assert!(e >= least, "{name}, gradients in {precision}: {e:e} is too good");
            }
        }
    }
    for name in ["A", "variants/classes"] {
        let want = network(emulator, name, "forward", "cpu", "f64", &[]);
        for (precision, tolerance) in PRECISIONS {
            let e = error(&network(emulator, name, "forward", "cuda:0", precision, &[]), &want);
            assert!(e <= tolerance, "{name}, output in {precision}: {e:e}");
        }
    }
}

/// What hardware or a library may yet refuse costs time, not the run: recording, and convolutions
/// that cuDNN had promised.
#[test]
#[cfg_attr(no_cxx, ignore = "no C++ compiler was found when this was built")]
fn what_is_refused_is_done_in_another_way() {
    let emulator = emulator();
    let refuse = [("REFUSE", "recording,convolutions")];
    let e = error(
        &network(emulator, "D", "backward", "cuda:0", "f32", &refuse),
        &network(emulator, "D", "backward", "cpu", "f64", &[]),
    );
    assert!(e > 0.0 && e <= 1e-5, "{e:e}");
    let (plain, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let on = ["--device", "cuda:0", "--precision", "f64"];
    trained(emulator, plain.path(), &on, &[]);
    trained(emulator, other.path(), &on, &refuse);
    let e = error(&losses(other.path()), &losses(plain.path()));
    assert!(e <= 1e-12, "{e:e}");
}

/// A missing barrier shows where the threads of a block run in another order.
#[test]
#[cfg_attr(no_cxx, ignore = "no C++ compiler was found when this was built")]
fn the_order_of_threads_changes_no_bit() {
    let emulator = emulator();
    let bare = emulator.join("bare");
    for (name, precision) in
        [("D", "f32"), ("variants/scale_shift_norm", "bf16"), ("variants/odd", "f64")]
    {
        let run = |settings: &[(&str, &str)]| {
            network(&bare, name, "backward", "cuda:0", precision, settings)
        };
        let want = run(&[]);
        for settings in
            [[("ORDER", "reverse"), ("THREADS", "1")], [("ORDER", "1"), ("THREADS", "3")]]
        {
            assert!(run(&settings) == want, "{name} in {precision} with {settings:?}");
        }
    }
}

/// A run of seconds with all that a training step has.
const RECIPE: &str = r#"
seed = 3
steps = 8
batch = 6
[data]
set = "digits"
held_out_every = 9
flips = true
[network]
in_channels = 1
out_channels = 1
block_out_channels = [8, 16]
down_block_types = ["DownBlock2D", "AttnDownBlock2D"]
up_block_types = ["AttnUpBlock2D", "UpBlock2D"]
layers_per_block = 1
norm_num_groups = 4
attention_head_dim = 8
num_class_embeds = 11
[path]
kind = "cosine"
[objective]
prediction = "v"
weighting = "min-snr:5"
[optimiser]
warm_up = 5
clip = 1.0
[ema]
constant = [0.9]
power = [0.1]
[labels]
drop = 0.2
[checkpoint]
every = 2
[validation]
levels = 2
images = 2
[samples]
count = 2
steps = 2
"#;

fn train(emulator: &Path, dir: &Path, args: &[&str], settings: &[(&str, &str)]) -> Child {
    fs::write(dir.join("recipe.toml"), RECIPE).unwrap();
    command(emulator, dir, &[&["train", "recipe.toml", "--out", "run"], args].concat(), settings)
        .spawn()
        .unwrap()
}

#[track_caller]
fn trained(emulator: &Path, dir: &Path, args: &[&str], settings: &[(&str, &str)]) {
    stdout(train(emulator, dir, args, settings).wait_with_output().unwrap());
}

/// The weights after a step.
fn weights(dir: &Path, step: usize) -> Vec<f64> {
    numbers(
        &dir.join(format!("run/checkpoints/step-{step}/unet/diffusion_pytorch_model.safetensors")),
    )
}

fn losses(dir: &Path) -> Vec<f64> {
    let text = fs::read_to_string(dir.join("run/metrics.jsonl")).unwrap();
    text.lines()
        .map(|l| serde_json::from_str::<Value>(l).unwrap()["loss"].as_f64().unwrap())
        .collect()
}

#[test]
#[cfg_attr(no_cxx, ignore = "no C++ compiler was found when this was built")]
fn training_on_the_device_is_the_cpus_and_resumes_to_the_bit() {
    let emulator = emulator();
    let cpu = tempfile::tempdir().unwrap();
    trained(emulator, cpu.path(), &["--device", "cpu", "--precision", "f64"], &[]);
    for (precision, tolerance) in PRECISIONS {
        let on = ["--device", "cuda:0", "--precision", precision];
        let dir = tempfile::tempdir().unwrap();
        trained(emulator, dir.path(), &on, &[]);
        let e = error(&losses(dir.path()), &losses(cpu.path()));
        assert!(e <= tolerance, "losses in {precision}: {e:e}");
        // Adam's step has the size of the learning rate however small the gradient: rounding may
        // turn one around.
        let e = error(&weights(dir.path(), 8), &weights(cpu.path(), 8));
        assert!(e <= tolerance * 10.0, "weights in {precision}: {e:e}");
        if matches!(precision, "f32" | "tf32") {
            // What is saved does not depend on the arithmetic: one of each storage type is enough.
            continue;
        }
        // Cut in two, it ends with the same bits: the network, its averages and the optimiser's
        // state go on.
        let halves = tempfile::tempdir().unwrap();
        trained(emulator, halves.path(), &[&on[..], &["--steps", "4"]].concat(), &[]);
        trained(emulator, halves.path(), &[&on[..], &["--resume"]].concat(), &[]);
        assert!(weights(halves.path(), 8) == weights(dir.path(), 8), "resumed in {precision}");
        assert_eq!(losses(halves.path()), losses(dir.path()), "{precision}");
    }
}

/// Two processes, a device each, sums by NCCL: the weights of one process to rounding, and of one
/// another to the bit.
#[test]
#[cfg_attr(no_cxx, ignore = "no C++ compiler was found when this was built")]
fn two_processes_train_as_one() {
    let emulator = emulator();
    let on = ["--device", "cuda", "--precision", "f64"];
    let alone = tempfile::tempdir().unwrap();
    trained(emulator, alone.path(), &on, &[]);
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
        .to_string();
    let both = tempfile::tempdir().unwrap();
    fs::write(both.path().join("recipe.toml"), RECIPE).unwrap();
    let start = |rank: &str| {
        let args = [&["train", "recipe.toml", "--out", "run"], &on[..]].concat();
        let mut command = command(emulator, both.path(), &args, &[("DEVICES", "2")]);
        command.envs([
            ("RANK", rank),
            ("LOCAL_RANK", rank),
            ("WORLD_SIZE", "2"),
            ("MASTER_ADDR", "127.0.0.1"),
            ("MASTER_PORT", &port),
        ]);
        command.spawn().unwrap()
    };
    for process in [start("0"), start("1")] {
        stdout(process.wait_with_output().unwrap());
    }
    assert!(!both.path().join("run/.tweedie-secret").exists());
    let e = error(&weights(both.path(), 8), &weights(alone.path(), 8));
    assert!(e <= 1e-11, "{e:e}");
}

#[test]
#[cfg_attr(no_cxx, ignore = "no C++ compiler was found when this was built")]
fn samples_on_the_device_are_the_cpus() {
    let emulator = emulator();
    let samples = |sampler: &str, device: &str, precision: &str| -> Vec<f64> {
        let dir = tempfile::tempdir().unwrap();
        let model = golden("pipelines/ddim_v");
        let args = [
            "sample",
            "--model",
            &model,
            "--sampler",
            sampler,
            "--path",
            "vp",
            "--steps",
            "4",
            "-n",
            "3",
            "-o",
            "x.npz",
        ];
        stdout(tweedie(
            emulator,
            dir.path(),
            &[&args[..], &["--device", device, "--precision", precision]].concat(),
            &[],
        ));
        let mut file =
            ndarray_npy::NpzReader::new(fs::File::open(dir.path().join("x.npz")).unwrap()).unwrap();
        file.by_name::<ndarray::OwnedRepr<f64>, ndarray::Ix2>("x").unwrap().into_iter().collect()
    };
    // Deterministic, of two evaluations a step, of several steps' memory, with noise.
    for sampler in ["ddim", "heun", "dpmpp-2m", "ddpm"] {
        let want = samples(sampler, "cpu", "f64");
        for (precision, tolerance) in PRECISIONS {
            let e = error(&samples(sampler, "cuda:0", precision), &want);
            assert!(e <= tolerance, "{sampler} in {precision}: {e:e}");
        }
    }
}

#[test]
#[cfg_attr(no_cxx, ignore = "no C++ compiler was found when this was built")]
fn kept_kernels_that_are_damaged_are_compiled_again() {
    let emulator = emulator();
    let (dir, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (model, io) = (golden("A"), golden("A/io.npz"));
    let run = || {
        let args =
            ["net", "forward", "--model", &model, &io, "-o", "out.npz", "--device", "cuda:0"];
        stdout(
            command(emulator, dir.path(), &args, &[])
                .env("XDG_CACHE_HOME", cache.path())
                .output()
                .unwrap(),
        );
        fs::read(dir.path().join("out.npz")).unwrap()
    };
    let want = run();
    let kernels = || {
        let all = fs::read_dir(cache.path().join("tweedie")).unwrap().map(|e| e.unwrap().path());
        all.filter(|path| path.extension().is_some_and(|e| e == "kernels")).collect::<Vec<_>>()
    };
    let [kept] = &kernels()[..] else { panic!("{:?}", kernels()) };
    let whole = fs::read(kept).unwrap();
    // Sealed as it should be around an image that is none: the length of the key stands behind
    // length and digest of all.
    let key = usize::try_from(u64::from_le_bytes(whole[40..48].try_into().unwrap())).unwrap();
    let no_image = tweedie_files::sealed(&[&whole[40..48 + key], b"no image"].concat());
    let middle = whole.len() / 2;
    let flipped: Vec<u8> =
        whole.iter().enumerate().map(|(i, b)| if i == middle { b ^ 16 } else { *b }).collect();
    for damaged in [flipped, whole[..middle].to_vec(), vec![], no_image] {
        fs::write(kept, damaged).unwrap();
        assert!(run() == want);
        // Compiled again, and kept: a compiler may give other bytes, but what is there is sealed.
        assert!(
            tweedie_files::opened(&fs::read(kept).unwrap())
                .is_some_and(|kept| kept.len() > key + 1000)
        );
    }
}

#[test]
#[cfg_attr(no_cxx, ignore = "no C++ compiler was found when this was built")]
fn what_goes_wrong_is_one_line_and_the_checkpoint_is_kept() {
    let emulator = emulator();
    let dir = tempfile::tempdir().unwrap();
    let (model, io) = (golden("A"), golden("A/io.npz"));
    let args = ["net", "forward", "--model", &model, &io, "-o", "out", "--device", "cuda:0"];
    let said = |libraries: &Path, settings: &[(&str, &str)]| {
        refused(tweedie(libraries, dir.path(), &args, settings))
    };
    for (settings, word) in [
        (("MEMORY", "1"), "out of memory"),
        (("DEVICES", "0"), "NO_DEVICE"),
        (("DRIVER", "11040"), "the driver is too old: it knows CUDA 11.4"),
        (("FAIL", "ecc:20"), "CUDA_ERROR_ECC_UNCORRECTABLE"),
        (("FAIL", "address:0"), "CUDA_ERROR_ILLEGAL_ADDRESS"),
    ] {
        let line = said(emulator, &[settings]);
        assert!(line.contains("device cuda:0") && line.contains(word), "{line}");
    }
    // Without NVRTC, and without anything.
    let (driver, nothing) = (dir.path().join("driver"), dir.path().join("nothing"));
    fs::create_dir_all(&driver).unwrap();
    fs::create_dir_all(&nothing).unwrap();
    fs::copy(emulator.join("libcuda.so"), driver.join("libcuda.so")).unwrap();
    assert!(said(&driver, &[]).contains("NVRTC"));
    assert!(said(&nothing, &[]).contains("no NVIDIA driver"));

    // A device that is lost in a run: what was saved before is whole, and the run goes on from it.
    let (whole, lost) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let on = ["--device", "cuda:0"];
    trained(emulator, whole.path(), &on, &[]);
    trained(emulator, lost.path(), &[&on[..], &["--steps", "4"]].concat(), &[]);
    let line = refused(
        train(emulator, lost.path(), &[&on[..], &["--resume"]].concat(), &[("FAIL", "ecc:900")])
            .wait_with_output()
            .unwrap(),
    );
    assert!(line.contains("ECC_UNCORRECTABLE"), "{line}");
    trained(emulator, lost.path(), &[&on[..], &["--resume"]].concat(), &[]);
    assert!(weights(lost.path(), 8) == weights(whole.path(), 8));
}

/// Every kernel of a network and of a training step under the address and undefined-behaviour
/// sanitizers, in every storage type. Minutes of compilation: a step of its own in the gate,
/// `cargo test --release --test main gpu::sanitized -- --ignored`.
#[test]
#[ignore = "a minute of compilation by a C++ compiler"]
fn sanitized_kernels_touch_nothing_that_is_not_theirs() {
    let emulator = emulator();
    let found = Command::new("c++").arg("-print-file-name=libasan.so").output().unwrap();
    let asan = String::from_utf8(found.stdout).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let bare = emulator.join("bare");
    let settings = [
        ("CXXFLAGS", "-O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all"),
        ("KEEP", "1"),
    ];
    let run = |args: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("recipe.toml"), RECIPE).unwrap();
        let mut command = command(&bare, dir.path(), args, &settings);
        command.env("XDG_CACHE_HOME", cache.path()).env("TMPDIR", cache.path());
        command.env("LD_PRELOAD", asan.trim()).env("ASAN_OPTIONS", "detect_leaks=0");
        stdout(command.output().unwrap());
    };
    for precision in ["f64", "f32", "bf16"] {
        let on = ["--device", "cuda:0", "--precision", precision];
        for name in ["D", "variants/odd"] {
            let (model, io) = (golden(name), golden(&format!("{name}/io.npz")));
            run(&[&["net", "backward", "--model", &model, &io, "-o", "out"], &on[..]].concat());
        }
        run(&[&["train", "recipe.toml", "--out", "run", "--steps", "3"], &on[..]].concat());
        let model = golden("pipelines/ddim_v");
        let sample = [
            "sample",
            "--model",
            &model,
            "--sampler",
            "ddpm",
            "--path",
            "vp",
            "--steps",
            "3",
            "-n",
            "3",
            "-o",
            "x.npz",
        ];
        run(&[&sample[..], &on[..]].concat());
    }
}

#[test]
#[cfg_attr(no_cxx, ignore = "no C++ compiler was found when this was built")]
fn the_self_check_finds_nothing_wrong_and_writes_its_page() {
    let emulator = emulator();
    let folder = tempfile::tempdir().unwrap();
    // PyTorch has no device here, and NVIDIA's sanitizer is not here: both are said, neither is a
    // failure.
    let run = [
        "gpu",
        "--quick",
        "--commit",
        "test",
        "--out",
        "out",
        "--python",
        "no-such-python",
        "--peers",
        "no-such-script",
    ];
    let said = stdout(tweedie(emulator, folder.path(), &run, &[]));
    assert!(said.contains(" 0 failures") && said.contains("no-such-script is not here"), "{said}");
    let read = |name: &str| std::fs::read_to_string(folder.path().join("out").join(name)).unwrap();
    let results: serde_json::Value = serde_json::from_str(&read("gpu.json")).unwrap();
    let precisions = |key: &str| {
        results[key]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["precision"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    for precision in ["f64", "f32", "tf32", "bf16"] {
        assert!(
            precisions("checks").iter().filter(|p| *p == precision).count() > 20,
            "{precision}"
        );
    }
    assert_eq!(results["speeds"].as_array().unwrap().len(), 2);
    assert!(read("index.html").contains("Held to f64") && read("checks.csv").lines().count() > 100);
    // What is run is named: nothing is looked for in the current folder.
    let unnamed =
        tweedie(emulator, folder.path(), &["gpu", "--quick", "--python", "no-such-python"], &[]);
    assert!(
        unnamed.status.code() == Some(2)
            && String::from_utf8_lossy(&unnamed.stderr).contains("--peers")
    );
    // A limit that is spent leaves parts out; nothing fails.
    let short = stdout(tweedie(
        emulator,
        folder.path(),
        &["gpu", "--quick", "--limit", "1", "--out", "out"],
        &[],
    ));
    assert!(short.contains("not run") && short.contains(" 0 failures"), "{short}");
    let wrong = tweedie(emulator, folder.path(), &["gpu", "--only", "operation"], &[]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("did you mean operations?"));
}
