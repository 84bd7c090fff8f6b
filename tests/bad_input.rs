//! What a hostile or broken input costs: one line, exit code 1 or 2, little memory and time; never
//! a panic, a signal or a NaN that nobody mentions.

use ndarray::{Array1, Array3, ArrayD, s};
use ndarray_npy::{NpzReader, NpzWriter, write_npy};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Address space of a command, in kB: programs that are started take some 1 GB of it for their
/// threads.
const MEMORY: u64 = 6 << 20;
/// Generous: the slowest takes a second on an idle machine.
const TIME: Duration = Duration::from_secs(60);

/// Runs the program with limits of memory and time.
fn limited(dir: &Path, args: &[&str]) -> Output {
    let mut child = Command::new("sh")
        .args([
            "-c",
            &format!("ulimit -v {MEMORY}; exec \"$0\" \"$@\""),
            env!("CARGO_BIN_EXE_tweedie"),
        ])
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    // What a command prints here fits into its pipes.
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > TIME {
            child.kill().unwrap();
            panic!("{args:?} runs for more than {TIME:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

/// That it is refused in one line that says this, and that nothing was written.
fn refused(dir: &Path, args: &[&str], says: &str) {
    let out = limited(dir, args);
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{args:?}: {said}");
    assert!(
        said.starts_with("error: ") && said.lines().count() == 1 && said.contains(says),
        "{args:?}: {said}"
    );
    assert!(!dir.join("o").exists(), "{args:?} left a file");
}

/// The bundled network as a folder, and an input for it.
fn model() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let from =
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join("experiments/models/digits");
    fs::create_dir_all(dir.path().join("m/unet")).unwrap();
    for file in ["tweedie.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"] {
        fs::copy(from.join(file), dir.path().join("m").join(file)).unwrap();
    }
    let mut npz = NpzWriter::new(File::create(dir.path().join("in.npz")).unwrap());
    npz.add_array("x", &ArrayD::from_elem(vec![2, 1, 8, 8], 0.5)).unwrap();
    npz.add_array("t", &Array1::from(vec![1.0, 500.0])).unwrap();
    npz.add_array("labels", &Array1::from(vec![0.0, 1.0])).unwrap();
    npz.finish().unwrap();
    dir
}

fn changed(file: &Path, key: &str, value: &Value) {
    let mut settings: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    settings[key] = value.clone();
    fs::write(file, settings.to_string()).unwrap();
}

#[test]
fn sizes_of_a_config_are_held_to_limits_before_memory_is_taken() {
    let dir = model();
    let config = dir.path().join("m/unet/config.json");
    let whole = fs::read(&config).unwrap();
    let huge = [1u64 << 40, 1 << 53, 1 << 63, u64::MAX];
    let mut cases: Vec<(&str, Value)> = vec![
        ("block_out_channels", json!([1_000_000, 1_000_000])),
        ("layers_per_block", json!(65_536)),
        ("layers_per_block", json!(0)),
        ("num_class_embeds", json!(1_000_000_000)),
        ("num_class_embeds", json!(0)),
        ("sample_size", json!(1_000_000)),
        ("sample_size", json!(0)),
        ("sample_size", json!([1, 1u64 << 40])),
    ];
    for key in [
        "layers_per_block",
        "num_class_embeds",
        "sample_size",
        "in_channels",
        "out_channels",
        "time_embedding_dim",
    ] {
        cases.extend(huge.iter().map(|size| (key, json!(size))));
    }
    for (key, value) in &cases {
        changed(&config, key, value);
        for command in [
            &["net", "ops", "--model", "m", "--json", "o"][..],
            &["net", "forward", "--model", "m", "in.npz", "-o", "o"],
            &[
                "bench",
                "unet",
                "--config",
                "m/unet/config.json",
                "--batch",
                "1",
                "--reps",
                "1",
                "--json",
                "o",
            ],
            &["sample", "--model", "m", "--sampler", "ddim", "--steps", "2", "-n", "2", "-o", "o"],
        ] {
            refused(dir.path(), command, key);
        }
        fs::write(&config, &whole).unwrap();
    }
    // The last is within the limits and beyond the memory that the command has.
    changed(&config, "block_out_channels", &json!([65_536, 65_536]));
    refused(
        dir.path(),
        &["net", "ops", "--model", "m", "--json", "o"],
        "memory for the network's parameters: got",
    );
    fs::write(&config, &whole).unwrap();
    // And what was refused is so for its numbers alone.
    assert!(
        limited(dir.path(), &["net", "forward", "--model", "m", "in.npz", "-o", "o"])
            .status
            .success()
    );
}

#[test]
fn a_setup_and_a_scheduler_are_held_to_the_network_and_to_limits() {
    let dir = model();
    let sample =
        ["sample", "--model", "m", "--sampler", "ddim", "--steps", "2", "-n", "2", "-o", "o"];
    let setup = dir.path().join("m/tweedie.json");
    let whole = fs::read(&setup).unwrap();
    for shape in [
        json!([1, 4096, 4096]),
        json!([1, 8, 100_000_000_000u64]),
        json!([1u64 << 61, 8, 8]),
        json!([3, 8, 8]),
    ] {
        changed(&setup, "shape", &shape);
        refused(dir.path(), &sample, "the network's config says 1 x 8 x 8");
    }
    fs::write(&setup, &whole).unwrap();
    let table = json!({"kind": "discrete", "schedule": {"kind": "linear", "beta_start": 1e-4, "beta_end": 0.02}, "steps": 10_000_000, "zero_terminal_snr": false});
    changed(&setup, "path", &table);
    refused(dir.path(), &sample, "tweedie.json: is no model setup");
    fs::write(&setup, &whole).unwrap();
    let law = dir.path().join("law.json");
    fs::write(&law, r#"{"kind": "gaussian", "mean": [0, 1], "variances": [4, 0.25]}"#).unwrap();
    fs::create_dir(dir.path().join("m/scheduler")).unwrap();
    for class in ["DEISMultistepScheduler", "EulerAncestralDiscreteScheduler"] {
        let text = format!(r#"{{"_class_name": "{class}", "num_train_timesteps": 10000000}}"#);
        fs::write(dir.path().join("m/scheduler/scheduler_config.json"), text).unwrap();
        refused(
            dir.path(),
            &["sample", "--law", "law.json", "--model", "m", "--steps", "3", "-o", "o"],
            "at most 100000",
        );
    }
}

#[test]
fn a_recipe_is_held_to_limits() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = |data: &str, layers: u64, more: &str| {
        let text = format!(
            "steps = 1\nbatch = 4\n[data]\n{data}\n[network]\nin_channels = 1\nout_channels = 1\nblock_out_channels = [8, 8]\n\
             down_block_types = [\"DownBlock2D\", \"DownBlock2D\"]\nup_block_types = [\"UpBlock2D\", \"UpBlock2D\"]\nlayers_per_block = {layers}\n\
             norm_num_groups = 4\nadd_attention = false\n[path]\nkind = \"cosine\"\n[objective]\nprediction = \"v\"\n{more}\n"
        );
        fs::write(dir.path().join("r.toml"), text).unwrap();
    };
    fs::write(
        dir.path().join("law.json"),
        r#"{"kind": "gaussian", "mean": [0, 1], "variances": [4, 0.25]}"#,
    )
    .unwrap();
    let (digits, train) = ("set = \"digits\"", ["train", "r.toml", "--out", "o"]);
    for (data, layers, more, says) in [
        (digits, 1_000_000, "", "layers_per_block"),
        (digits, 1 << 40, "", "layers_per_block"),
        (
            "random_field = { size = [1000000, 1000000], slope = 2.0, var = 0.5 }",
            1,
            "",
            "data.random_field.size: got (1000000, 1000000)",
        ),
        (
            "law = \"law.json\"\nshape = [2305843009213693952, 8, 8]",
            1,
            "",
            "data.shape: got (2305843009213693952, 8, 8)",
        ),
        (digits, 1, "[validation]\nlevels = 1000000", "validation.levels: got 1000000"),
        (digits, 1, "[validation]\nimages = 1000000000", "validation.images: got 1000000000"),
        (digits, 1, "[samples]\nsteps = 1000000000", "samples.steps: got 1000000000"),
    ] {
        recipe(data, layers, more);
        refused(dir.path(), &train, says);
    }
}

#[test]
fn files_that_unpack_to_more_than_they_hold_or_never_end_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    put("law.json", r#"{"kind": "gaussian", "mean": [0, 1], "variances": [4, 0.25]}"#);
    // 120 MB of zeros in 120 kB.
    let mut npz = NpzWriter::new_compressed(File::create(dir.path().join("bomb.npz")).unwrap());
    npz.add_array("x", &ndarray::Array2::<f64>::zeros((7_500_000, 2))).unwrap();
    npz.finish().unwrap();
    refused(dir.path(), &["check", "bomb.npz", "--law", "law.json"], "unpacks from");
    put("r.toml", &recipe_of("bomb.npz"));
    refused(dir.path(), &["train", "r.toml", "--out", "o"], "unpacks from");
    // MNIST's format with a promise of 4 GB.
    let mut gz = flate2::write::GzEncoder::new(
        File::create(dir.path().join("bomb-idx3-ubyte")).unwrap(),
        flate2::Compression::best(),
    );
    gz.write_all(&[0, 0, 8, 3, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0]).unwrap();
    gz.write_all(&vec![0; 1 << 20]).unwrap();
    gz.finish().unwrap();
    put("r.toml", &recipe_of("bomb-idx3-ubyte"));
    refused(
        dir.path(),
        &["train", "r.toml", "--out", "o"],
        "the header promises shape [65536, 256, 256]",
    );
    // A picture that a decoder would take.
    fs::create_dir(dir.path().join("pictures")).unwrap();
    image::GrayImage::new(5000, 5000).save(dir.path().join("pictures/p.png")).unwrap();
    put("r.toml", &recipe_of("pictures"));
    refused(
        dir.path(),
        &["train", "r.toml", "--out", "o"],
        "25000000 pixels, allowed: at most 4194304",
    );
    // Settings longer than any.
    File::create(dir.path().join("long.json")).unwrap().set_len(1 << 30).unwrap();
    refused(
        dir.path(),
        &["bench", "unet", "--config", "long.json", "--batch", "1"],
        "wanted settings of at most 16777216",
    );
    #[cfg(unix)]
    {
        put("r.toml", &recipe_of("/dev/zero"));
        refused(dir.path(), &["train", "r.toml", "--out", "o"], "it is a pipe or a device");
        assert!(Command::new("mkfifo").arg(dir.path().join("pipe")).status().unwrap().success());
        for file in ["/dev/zero", "pipe"] {
            refused(dir.path(), &["check", file, "--law", "law.json"], "it is a pipe or a device");
            refused(dir.path(), &["check", "bomb.npz", "--law", file], "it is a pipe or a device");
            refused(
                dir.path(),
                &[
                    "solve", "--law", "law.json", "--path", "vp", "--from", "1", "--to", "0", file,
                    "-o", "o",
                ],
                "it is a pipe",
            );
            refused(
                dir.path(),
                &["bench", "unet", "--config", file, "--batch", "1"],
                "it is a pipe or a device",
            );
            refused(dir.path(), &["train", file, "--out", "o"], "it is a pipe or a device");
        }
    }
    // A law whose modes alone take 80 GB.
    put(
        "wide.json",
        &json!({"kind": "gaussian", "mean": vec![0; 100_000], "variances": vec![1; 100_000]})
            .to_string(),
    );
    refused(
        dir.path(),
        &["sample", "--law", "wide.json", "--sampler", "ddim", "--steps", "2", "-o", "o"],
        "memory for the covariance",
    );
    // More samples than there is room for.
    refused(
        dir.path(),
        &[
            "sample",
            "--law",
            "law.json",
            "--sampler",
            "ddim",
            "--steps",
            "1000",
            "-n",
            "1000000",
            "--trajectory",
            "-o",
            "o",
        ],
        "memory for 1000000 samples of dimension 2: got 48.",
    );
}

fn recipe_of(set: &str) -> String {
    let recipe = fs::read_to_string(
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
            .join("experiments/recipes/train-digits-small.toml"),
    )
    .unwrap();
    recipe.replace("set = \"digits\"", &format!("set = \"{set}\""))
}

#[test]
fn what_is_not_finite_is_never_written() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    put("e.json", r#"{"kind": "empirical", "data": "pts.npy"}"#);
    write_npy(dir.path().join("pts.npy"), &ndarray::array![[0.0, 1.0], [2.0, 3.0], [-1.0, 0.5]])
        .unwrap();
    refused(
        dir.path(),
        &[
            "sample",
            "--law",
            "e.json",
            "--sampler",
            "rk4",
            "--steps",
            "4",
            "-n",
            "2",
            "-o",
            "o",
            "--prediction=v",
            "--s-min=1e-320",
        ],
        "",
    );
    for variance in ["1e154", "1e300"] {
        put(
            "law.json",
            &format!(
                r#"{{"kind":"mixture","weights":[1,1],"means":[[1,2],[0,1]],"variances":[[{variance},1],[1,1]]}}"#
            ),
        );
        refused(
            dir.path(),
            &["sample", "--law", "law.json", "--sampler", "ddim", "--steps", "3", "-o", "o"],
            "at most 1e140",
        );
    }
    // Weights whose sum is no number have proportions all the same.
    put(
        "law.json",
        r#"{"kind":"mixture","weights":[1e308,1e308],"means":[[1,2],[1,3]],"variances":[[1,1],[1,1]]}"#,
    );
    let out = limited(
        dir.path(),
        &[
            "sample",
            "--law",
            "law.json",
            "--sampler",
            "dpmpp-2m",
            "--steps",
            "9",
            "-n",
            "4",
            "-o",
            "good.npz",
        ],
    );
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    // A table has numbers or is refused by the place of the first that is none.
    let out = limited(
        dir.path(),
        &[
            "tabulate",
            "--schedule",
            "linear",
            "--steps",
            "100000",
            "--zero-terminal-snr",
            "-o",
            "t.csv",
        ],
    );
    match out.status.code() {
        Some(0) => assert!(!fs::read_to_string(dir.path().join("t.csv")).unwrap().contains("nan")),
        code => {
            let said = String::from_utf8_lossy(&out.stderr);
            assert!(
                code == Some(2)
                    && said.contains("of the table, ")
                    && !dir.path().join("t.csv").exists(),
                "{code:?} {said}"
            );
        }
    }
    // A network that overflows.
    let model = model();
    let weights = model.path().join("m/unet/diffusion_pytorch_model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[header..].chunks_exact_mut(4).for_each(|w| w.copy_from_slice(&3e38f32.to_le_bytes()));
    fs::write(&weights, bytes).unwrap();
    refused(
        model.path(),
        &["net", "forward", "--model", "m", "in.npz", "-o", "o"],
        "y[0, 0, 0, 0]: got NaN, allowed: finite numbers",
    );
}

/// A right trajectory with something in place of states inside, and what is said of it.
#[test]
fn nonsense_inside_a_trajectory_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("gaussian.json"),
        r#"{"kind": "gaussian", "mean": [0.5, -1.0, 2.0], "variances": [4.0, 0.25, 0.0]}"#,
    )
    .unwrap();
    let mixture = r#"{"kind": "mixture", "weights": [1, 2], "means": [[2, 0, 1], [-2, 1, 0]], "variances": [[0.1, 0.2, 0.3], [0.3, 0.1, 0.2]]}"#;
    fs::write(dir.path().join("mixture.json"), mixture).unwrap();
    type Change = fn(&mut Array3<f64>);
    let changes: [(&str, Change, usize); 6] = [
        ("all zero", |x| x.slice_mut(s![1..20, .., ..]).fill(0.0), 1),
        ("one zero", |x| x.slice_mut(s![7, .., ..]).fill(0.0), 7),
        ("one entry", |x| x[[9, 3, 1]] = 1e6, 9),
        (
            "noise",
            |x| {
                x.slice_mut(s![15, .., ..])
                    .iter_mut()
                    .enumerate()
                    .for_each(|(i, v)| *v = (1.7 * (i * i) as f64).sin())
            },
            15,
        ),
        (
            "rows shuffled",
            |x| {
                let turned = x.slice(s![12, ..;-1, ..]).to_owned();
                x.slice_mut(s![12, .., ..]).assign(&turned)
            },
            12,
        ),
        (
            "another state",
            |x| {
                let late = x.slice(s![18, .., ..]).to_owned();
                x.slice_mut(s![4, .., ..]).assign(&late)
            },
            4,
        ),
    ];
    for law in ["gaussian.json", "mixture.json"] {
        for sampler in ["ddim", "dpmpp-2m", "heun"] {
            let run = |args: &[&str]| limited(dir.path(), args);
            let out = run(&[
                "sample",
                "--law",
                law,
                "--sampler",
                sampler,
                "--steps",
                "20",
                "-n",
                "32",
                "--trajectory",
                "-o",
                "t.npz",
            ]);
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            let out = run(&["check", "t.npz", "--law", law]);
            assert!(
                out.status.success(),
                "{law} {sampler}: {}",
                String::from_utf8_lossy(&out.stdout)
            );
            let mut npz = NpzReader::new(File::open(dir.path().join("t.npz")).unwrap()).unwrap();
            let right: Array3<f64> = npz.by_name("x").unwrap();
            let levels: [Array1<f64>; 2] =
                ["alpha", "sigma"].map(|name| npz.by_name(name).unwrap());
            for (what, change, first) in &changes {
                let mut x = right.clone();
                change(&mut x);
                let mut npz = NpzWriter::new(File::create(dir.path().join("b.npz")).unwrap());
                npz.add_array("x", &x).unwrap();
                npz.add_array("alpha", &levels[0]).unwrap();
                npz.add_array("sigma", &levels[1]).unwrap();
                npz.finish().unwrap();
                let out = run(&["check", "b.npz", "--law", law]);
                let said = String::from_utf8_lossy(&out.stdout).into_owned();
                assert_eq!(out.status.code(), Some(1), "{law} {sampler} {what}: {said}");
                assert!(
                    said.contains(&format!("state {first} (")),
                    "{law} {sampler} {what}: {said}"
                );
            }
        }
    }
}

#[test]
fn numbers_whose_squares_overflow_are_found_and_not_computed_with() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("law.json"),
        r#"{"kind":"mixture","weights":[1,2],"means":[[1,2],[0,-1]],"variances":[[2,3],[0.1,0]]}"#,
    )
    .unwrap();
    for value in [1e308, -1e155, 1e71, f64::NAN, f64::INFINITY] {
        let mut x = Array3::from_shape_fn((4, 6, 2), |(k, i, j)| 0.3 * (k + i) as f64 - j as f64);
        x[[2, 1, 1]] = value;
        let mut npz = NpzWriter::new(File::create(dir.path().join("x.npz")).unwrap());
        npz.add_array("x", &x).unwrap();
        npz.add_array("alpha", &Array1::from(vec![0.1, 0.5, 0.9, 1.0])).unwrap();
        npz.add_array("sigma", &Array1::from(vec![0.99, 0.8, 0.4, 0.0])).unwrap();
        npz.finish().unwrap();
        for kind in ["ode", "sde"] {
            let out = limited(dir.path(), &["check", "x.npz", "--law", "law.json", "--kind", kind]);
            let said = String::from_utf8_lossy(&out.stdout).into_owned();
            assert!(
                out.status.code() == Some(1) && said.contains("state 2 ("),
                "{value} {kind}: {said}"
            );
        }
    }
    // No states at all.
    let mut npz = NpzWriter::new(File::create(dir.path().join("x.npz")).unwrap());
    npz.add_array("x", &Array3::<f64>::zeros((0, 6, 2))).unwrap();
    npz.add_array("alpha", &Array1::<f64>::zeros(0)).unwrap();
    npz.add_array("sigma", &Array1::<f64>::zeros(0)).unwrap();
    npz.finish().unwrap();
    refused(dir.path(), &["check", "x.npz", "--law", "law.json"], "wanted at least one state");
}

/// Of several outputs all can be written, or none is.
#[test]
fn an_impossible_output_leaves_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let law = r#"{"kind": "gaussian", "mean": [0, 1], "variances": [4, 0.25]}"#;
    fs::write(dir.path().join("law.json"), law).unwrap();
    write_npy(dir.path().join("x.npy"), &ndarray::arr2(&[[0.5, 0.25]])).unwrap();
    fs::create_dir(dir.path().join("folder")).unwrap();
    let commands = [
        "solve --law law.json --path vp --from 1 --to 0 x.npy -o o --json",
        "sample --law law.json --sampler ddim --steps 2 -n 2 -o o --json",
        "tabulate --schedule linear -o o --json",
    ];
    for command in commands {
        for (place, says) in
            [("none/j", "cannot be written"), ("folder", "is a folder"), ("x.npy/j", "written")]
        {
            let args: Vec<&str> = command.split(' ').chain([place]).collect();
            refused(dir.path(), &args, says);
        }
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
}

/// A key that stands twice is refused, whichever of the two a reader would have kept.
#[test]
fn a_key_that_stands_twice_is_refused() {
    let dir = model();
    let command = ["net", "forward", "--model", "m", "in.npz", "-o", "o"];
    let config = dir.path().join("m/unet/config.json");
    let whole = fs::read_to_string(&config).unwrap();
    fs::write(&config, whole.replacen('{', "{\"act_fn\": \"silu\", ", 1)).unwrap();
    refused(dir.path(), &command, "duplicate key `act_fn`");
    fs::write(&config, &whole).unwrap();

    let weights = dir.path().join("m/unet/diffusion_pytorch_model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
    let (header, numbers) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let table: Value = serde_json::from_slice(header).unwrap();
    let (name, entry) = table.as_object().unwrap().iter().find(|e| *e.0 != "__metadata__").unwrap();
    let header = String::from_utf8(header.to_vec()).unwrap();
    let header = header.replacen('{', &format!("{{\"{name}\":{entry},"), 1);
    let length = (header.len() as u64).to_le_bytes();
    fs::write(&weights, [&length[..], header.as_bytes(), numbers].concat()).unwrap();
    refused(dir.path(), &command, &format!("duplicate key `{name}`"));
}

/// A recording's name is one text.
#[test]
fn a_name_of_several_texts_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let law = r#"{"kind": "gaussian", "mean": [0], "variances": [1]}"#;
    fs::write(dir.path().join("law.json"), law).unwrap();
    let header = |descr: &str, shape: &str| {
        let mut text =
            format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
        text += &" ".repeat(63 - (10 + text.len()) % 64);
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((text.len() as u16 + 1).to_le_bytes());
        bytes.extend(text.bytes().chain([b'\n']));
        bytes
    };
    let mut zip = zip::ZipWriter::new(File::create(dir.path().join("x.npz")).unwrap());
    let letters = [0x61u32, 0x62].map(u32::to_le_bytes).concat();
    let x: Vec<u8> = [0.5f64, -0.5].map(f64::to_le_bytes).concat();
    for (name, bytes) in [
        ("x.npy", [header("<f8", "(2, 1)"), x].concat()),
        ("name.npy", [header("<U1", "(2,)"), letters].concat()),
    ] {
        zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(&bytes).unwrap();
    }
    zip.finish().unwrap();
    let command = ["check", "x.npz", "--law", "law.json", "--kind", "samples", "--json", "o"];
    refused(dir.path(), &command, "array 'name' has shape [2], wanted (), one text");
}
