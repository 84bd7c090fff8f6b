//! `tweedie sample --model` and `tweedie net` on folders that are whole, and on folders that are
//! not.

use ndarray::{Array2, Array3};
use ndarray_npy::NpzReader;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tweedie::math::larger;
use tweedie::sample::registry::SAMPLERS;

fn tweedie(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tweedie")).args(args).current_dir(dir).output().unwrap()
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

fn golden(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/unet")).join(name)
}

/// A copy of a folder that may be damaged, as `model` in a folder of its own.
fn copy(name: &str) -> tempfile::TempDir {
    fn all(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
            let to = to.join(entry.file_name());
            if entry.path().is_dir() {
                all(&entry.path(), &to)
            } else {
                fs::write(to, fs::read(entry.path()).unwrap()).unwrap()
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    all(&golden(name), &dir.path().join("model"));
    dir
}

/// Samples of `model`, with what the command says as JSON.
fn samples(dir: &Path, more: &[&str]) -> (Array2<f64>, Value) {
    let args =
        ["sample", "--model", "model", "--steps", "4", "-n", "3", "-o", "x.npz", "--json", "-"];
    let out = tweedie(dir, &[&args, more].concat());
    assert!(out.status.success(), "{more:?}: {}", said(&out));
    let x =
        NpzReader::new(fs::File::open(dir.join("x.npz")).unwrap()).unwrap().by_name("x").unwrap();
    (x, serde_json::from_slice(&out.stdout).unwrap())
}

/// One line, exit code 2, and these words in it; nothing is written.
#[track_caller]
fn refused(dir: &Path, args: &[&str], words: &[&str]) {
    let out = tweedie(dir, args);
    let text = said(&out);
    assert_eq!((out.status.code(), text.lines().count()), (Some(2), 1), "{args:?}: {text}");
    for word in words {
        assert!(text.contains(word), "{args:?}: no `{word}` in {text}");
    }
    assert!(!dir.join("bad.npz").exists(), "{args:?}");
}

const BAD: [&str; 9] = ["sample", "--model", "model", "--steps", "4", "-n", "2", "-o", "bad.npz"];

#[track_caller]
fn refused_with(dir: &Path, more: &[&str], words: &[&str]) {
    refused(dir, &[&BAD, more].concat(), words);
}

fn largest(x: &Array2<f64>) -> f64 {
    x.iter().map(|x| x.abs()).fold(0.0, larger)
}

#[test]
fn every_sampler_takes_a_network() {
    let dir = copy("pipelines/ddim_v");
    for entry in SAMPLERS.iter().filter(|e| e.name != "exact") {
        // A table's even steps from pure noise are for methods that start there.
        let (x, summary) = samples(dir.path(), &["--sampler", entry.name, "--path", "vp"]);
        assert_eq!(
            (x.dim(), &summary["sampler"], &summary["dim"]),
            ((3, 32), &json!(entry.name), &json!(32))
        );
        assert!(largest(&x).is_finite() && largest(&x) > 0.0, "{}", entry.name);
    }
    for name in ["exact", "teleport+heun"] {
        refused_with(dir.path(), &["--sampler", name], &[name.split('+').next().unwrap()]);
    }
}

#[test]
fn flags_go_over_the_folder() {
    let dir = copy("pipelines/ddim_eps");
    let (plain, summary) = samples(dir.path(), &[]);
    assert_eq!(
        (&summary["sampler"], &summary["prediction"], &summary["nfe"]),
        (&json!("ddim"), &json!("eps"), &json!(4))
    );
    assert_eq!(samples(dir.path(), &["--precision", "f32"]).0, plain);
    let double = samples(dir.path(), &["--precision", "f64"]).0;
    assert!(largest(&(&plain - &double)) <= 1e-4 * largest(&double) && plain != double);
    assert!(samples(dir.path(), &["--seed", "1"]).0 != plain);
    assert!(samples(dir.path(), &["--grid", "trailing"]).0 != plain);
    assert!(samples(dir.path(), &["--prediction", "v"]).0 != plain);
    assert!(largest(&samples(dir.path(), &["--clip", "1"]).0) <= 1.0);
    // Another path, the same noise levels: the same samples in the data's unit of length.
    let levels = ["--grid", "log-snr", "--s-max", "20", "--s-min", "0.02", "--precision", "f64"];
    let (there, summary) = samples(dir.path(), &[&levels[..], &["--path", "edm"]].concat());
    assert_eq!(summary["sampler"], "ddim");
    let here = samples(dir.path(), &[&levels[..], &["--schedule", "linear"]].concat()).0;
    // The start's deviation is 1 here and 20 there, where sqrt(1 + 20^2) would be the same: an
    // eps-network at 1.00125 times the state.
    assert!(largest(&(&there - &here)) <= 0.05 * largest(&here), "{there} {here}");
    let out = tweedie(
        dir.path(),
        &["sample", "--model", "model", "--steps", "5", "--trajectory", "-o", "t.npz"],
    );
    assert!(
        out.status.success()
            && String::from_utf8_lossy(&out.stdout).contains("16 samples of dimension 32 by ddim")
    );
    let mut file = NpzReader::new(fs::File::open(dir.path().join("t.npz")).unwrap()).unwrap();
    let x: Array3<f64> = file.by_name("x").unwrap();
    assert_eq!(x.dim(), (6, 16, 32));
}

#[test]
fn classes_and_guidance_reach_the_network() {
    let dir = copy("variants/classes");
    let setup = |null: Value| {
        let mut setup = json!({"path": {"kind": "fm"}, "prediction": "velocity", "sigma_data": 0.5, "input": "state",
                               "time": {"scaled": 1000.0}, "shape": [2, 4, 4]});
        if null != Value::Null {
            setup["null_class"] = null;
        }
        fs::write(dir.path().join("model/tweedie.json"), setup.to_string()).unwrap();
    };
    setup(json!(4));
    let (free, summary) = samples(dir.path(), &["--precision", "f64"]);
    assert_eq!(summary["sampler"], "fm-euler");
    let of = |class: &str, weight: &str| {
        samples(dir.path(), &["--precision", "f64", "--class", class, "--guidance", weight]).0
    };
    assert_eq!(of("4", "1"), free, "the null class is no class");
    assert!(largest(&(of("2", "0") - &free)) <= 1e-12 * largest(&free));
    assert_eq!(of("2", "1"), samples(dir.path(), &["--precision", "f64", "--class", "2"]).0);
    assert!(of("2", "1") != of("1", "1") && of("2", "3") != of("2", "1"));
    refused_with(dir.path(), &["--class", "5"], &["class: got 5", "0 to 4"]);
    setup(Value::Null);
    refused_with(dir.path(), &[], &["class: got none", "choose a class"]);
    refused_with(
        dir.path(),
        &["--class", "1", "--guidance", "2"],
        &["guidance: got 2", "null_class"],
    );
    samples(dir.path(), &["--class", "1"]);
    setup(json!(5));
    refused_with(dir.path(), &["--class", "1"], &["null_class", "got 5"]);
    let plain = copy("pipelines/flow");
    refused_with(plain.path(), &["--class", "1"], &["the network has no classes"]);
}

#[test]
fn samples_are_a_picture_too() {
    let dir = copy("A");
    let setup = json!({"path": {"kind": "cosine"}, "prediction": "v", "sigma_data": 0.5, "input": "state", "time": {"scaled": 1000.0},
                       "shape": [1, 8, 8]});
    fs::write(dir.path().join("model/tweedie.json"), setup.to_string()).unwrap();
    samples(dir.path(), &["--png", "x.png"]);
    assert!(fs::read(dir.path().join("x.png")).unwrap().starts_with(b"\x89PNG"));
    let two = copy("pipelines/flow");
    let out = tweedie(two.path(), &[&BAD[..], &["--png", "x.png"]].concat());
    assert!(
        out.status.code() == Some(2) && said(&out).contains("pictures are grey or RGB"),
        "{}",
        said(&out)
    );
    assert!(!two.path().join("bad.npz").exists() && !two.path().join("x.png").exists());
}

#[test]
fn folders_that_say_too_little_or_something_else_are_refused() {
    let dir = copy("pipelines/ddim_eps");
    let model = dir.path().join("model");
    let config = fs::read_to_string(model.join("unet/config.json")).unwrap();
    let with = |key: &str, value: Value| {
        let mut config: Value = serde_json::from_str(&config).unwrap();
        config[key] = value;
        fs::write(model.join("unet/config.json"), config.to_string()).unwrap();
    };
    for (key, value, words) in [
        (
            "block_out_chanels",
            json!([4, 6]),
            &["unknown key `block_out_chanels`", "did you mean `block_out_channels`?"][..],
        ),
        ("act_fn", json!("gelu"), &["`act_fn`", "got gelu", "silu"]),
        ("dropout", json!(0.1), &["`dropout`", "got 0.1", "nothing but training"]),
        (
            "down_block_types",
            json!(["DownBlock2D", "SkipDownBlock2D"]),
            &["`down_block_types`", "SkipDownBlock2D"],
        ),
        ("up_block_types", json!(["UpBlock2D"]), &["`up_block_types`", "1 blocks"]),
        (
            "mid_block_type",
            json!("UNetMidBlock2DCrossAttn"),
            &["`mid_block_type`", "UNetMidBlock2DCrossAttn"],
        ),
        ("class_embed_type", json!("identity"), &["`class_embed_type`", "got identity"]),
        ("class_embed_type", json!("timestep"), &["`class_embed_type`", "got timestep"]),
        (
            "class_embed_type",
            json!("projection"),
            &["`class_embed_type`", "projection", "timestep"],
        ),
        ("norm_num_groups", json!(null), &["`norm_num_groups`", "null"]),
        ("norm_num_groups", json!(5), &["groups of 4 channels", "got 5", "norm_num_groups"]),
        ("attention_head_dim", json!(4), &["heads of 6 channels", "got 4"]),
        ("freq_shift", json!(2), &["`freq_shift`", "got 2"]),
        ("layers_per_block", json!(-1), &["`layers_per_block`", "-1"]),
        ("time_embedding_type", json!("learned"), &["`num_train_timesteps`"]),
        ("sample_size", json!(5), &["5 x 5", "multiples of 2"]),
        ("sample_size", json!(null), &["`sample_size`"]),
        ("out_channels", json!(4), &["shape"]),
        (
            "_class_name",
            json!("UNet2DConditionModel"),
            &["`_class_name`", "UNet2DConditionModel", "UNet2DModel"],
        ),
    ] {
        with(key, value);
        refused_with(dir.path(), &[], words);
    }
    fs::write(model.join("unet/config.json"), "[1").unwrap();
    refused_with(dir.path(), &[], &["config.json"]);
    fs::write(model.join("unet/config.json"), &config).unwrap();

    let setup = |text: &str| fs::write(model.join("tweedie.json"), text).unwrap();
    let whole = r#"{"path": {"kind": "vp", "beta_min": 0.1, "beta_max": 20.0}, "prediction": "eps", "sigma_data": 0.5, "input": "state", "time": {"scaled": 1000.0}, "shape": [2, 4, 4]}"#;
    for (part, other, words) in [
        (
            "sigma_data",
            "sigma_dta",
            &["unknown field `sigma_dta`", "did you mean `sigma_data`?"][..],
        ),
        ("beta_max", "beta_mx", &["unknown field `beta_mx`", "did you mean `beta_max`?"]),
        (r#""vp""#, r#""vpp""#, &["unknown variant `vpp`", "did you mean `vp`?"]),
        (r#""eps""#, r#""epsilon""#, &["unknown variant `epsilon`", "did you mean `eps`?"]),
        ("20.0", "0.05", &["beta_min, beta_max"]),
        ("0.5,", "-0.5,", &["`sigma_data`", "got -0.5"]),
        (
            "[2, 4, 4]",
            "[1, 4, 4]",
            &["`shape` is 1 x 4 x 4", "the network's config says 2 x 4 x 4"],
        ),
        (r#"{"scaled": 1000.0}"#, r#""step""#, &["`time`", "step on the path vp"]),
        (r#"{"scaled": 1000.0}"#, r#"{"scaled": 0}"#, &["`time`", "got 0"]),
        (r#""input": "state", "#, "", &["missing field `input`"]),
        ("}", "", &["tweedie.json"]),
    ] {
        setup(&whole.replacen(part, other, 1));
        refused_with(dir.path(), &[], words);
    }
    setup(whole);
    samples(dir.path(), &[]);
    refused_with(
        dir.path(),
        &["--sampler", "em", "--path", "ve", "--s-max", "1e4", "--sigma-max", "1e5"],
        &["vp"],
    );
    fs::remove_file(model.join("tweedie.json")).unwrap();
    fs::remove_dir_all(model.join("scheduler")).unwrap();
    refused_with(dir.path(), &[], &["scheduler_config.json", "cannot be read"]);
    fs::remove_dir_all(&model).unwrap();
    refused_with(dir.path(), &[], &["model", "holds neither config.json nor unet/config.json"]);
    refused_with(dir.path(), &["--precision", "bf16"], &["precision: got bf16"]);
    refused(
        dir.path(),
        &[
            "sample",
            "--law",
            "l.json",
            "--png",
            "x",
            "--sampler",
            "ddim",
            "--steps",
            "2",
            "-o",
            "bad.npz",
        ],
        &["--png"],
    );
}

/// A file of tensors, taken apart.
struct Tensors {
    header: serde_json::Map<String, Value>,
    data: Vec<u8>,
}

impl Tensors {
    fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let size = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        Self {
            header: serde_json::from_slice(&bytes[8..8 + size]).unwrap(),
            data: bytes[8 + size..].to_vec(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let header = serde_json::to_vec(&self.header).unwrap();
        [&(header.len() as u64).to_le_bytes()[..], &header, &self.data].concat()
    }
}

#[test]
fn damaged_weights_are_refused_by_the_name_of_what_was_hit() {
    let dir = copy("pipelines/edm");
    let path = dir.path().join("model/unet/diffusion_pytorch_model.safetensors");
    let whole = fs::read(&path).unwrap();
    let refused = |bytes: &[u8], words: &[&str]| {
        fs::write(&path, bytes).unwrap();
        refused_with(dir.path(), &[], &[words, &["diffusion_pytorch_model.safetensors"]].concat());
    };
    const HIT: &str = "mid_block.attentions.0.to_q.weight";
    let changed = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors = Tensors::read(&path);
        change(&mut tensors);
        let bytes = tensors.bytes();
        fs::write(&path, &whole).unwrap();
        bytes
    };
    let of = |t: &Tensors, k: usize| t.header[HIT]["data_offsets"][k].as_u64().unwrap() as usize;

    let renamed = changed(&|t| {
        let entry = t.header.remove(HIT).unwrap();
        t.header.insert("other.weight".into(), entry);
    });
    refused(&renamed, &[HIT, "is missing"]);
    fs::write(&path, &whole).unwrap();
    let extra = changed(&|t| {
        let end = t.data.len();
        t.data.extend([0; 4]);
        t.header.insert(
            "extra.bias".into(),
            json!({"dtype": "F32", "shape": [1], "data_offsets": [end, end + 4]}),
        );
    });
    refused(&extra, &["`extra.bias` is not part of the network"]);
    fs::write(&path, &whole).unwrap();
    refused(&changed(&|t| t.header[HIT]["shape"] = json!([4, 9])), &[HIT, "[4, 9]", "[6, 6]"]);
    fs::write(&path, &whole).unwrap();
    // f16 NaN in the third place.
    let nan = changed(&|t| {
        let at = of(t, 0) + 4;
        t.data[at..at + 2].copy_from_slice(&0x7e00u16.to_le_bytes());
    });
    refused(&nan, &[HIT, "NaN at 2"]);
    fs::write(&path, &whole).unwrap();
    refused(
        &changed(&|t| t.header[HIT]["dtype"] = json!("I16")),
        &[HIT, "of type I16", "F64, F32, F16, BF16"],
    );
    const BROKEN: &[&str] = &["not a complete safetensors file"];
    for bytes in [&whole[..whole.len() - 1], &whole[..100], &whole[..7], b""] {
        refused(bytes, BROKEN);
    }
    // A header that lies about its size, or about where its tensors lie, or how large they are.
    for size in [u64::MAX, 1 << 63, whole.len() as u64, whole.len() as u64 - 8, 100_000_000, 1] {
        let mut bytes = whole.clone();
        bytes[..8].copy_from_slice(&size.to_le_bytes());
        refused(&bytes, BROKEN);
    }
    for lie in [
        json!({"dtype": "F16", "shape": [6, 6], "data_offsets": [0, u64::MAX]}),
        json!({"dtype": "F16", "shape": [u64::MAX, u64::MAX], "data_offsets": [0, 72]}),
        json!({"dtype": "F16", "shape": [6, 6], "data_offsets": [72, 0]}),
        json!({"dtype": "F16", "shape": [6, 6], "data_offsets": [0, 72]}),
        json!({"dtype": "F128", "shape": [6, 6], "data_offsets": [0, 72]}),
        json!("nothing"),
    ] {
        fs::write(&path, &whole).unwrap();
        refused(&changed(&|t| t.header[HIT] = lie.clone()), BROKEN);
    }
    fs::remove_file(&path).unwrap();
    refused_with(dir.path(), &[], &["diffusion_pytorch_model.safetensors", "No such file"]);
}
