//! `tweedie sample`, `certify` and `check`, run as people run them.

use ndarray::{Array3, Ix1, Ix3, OwnedRepr, arr1};
use ndarray_npy::{NpzReader, NpzWriter};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

fn tweedie(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tweedie")).args(args).current_dir(dir).output().unwrap()
}

fn trajectories() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/trajectories"))
}

fn json(out: &Output) -> serde_json::Value {
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| {
        panic!(
            "{e}: {} {}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        )
    })
}

fn check(files: &[&str], kind: &str) -> (i32, serde_json::Value) {
    let mut args = vec!["check"];
    args.extend(files);
    args.extend(["--law", "law.json", "--kind", kind, "--json", "-"]);
    let out = tweedie(trajectories(), &args);
    (out.status.code().unwrap(), json(&out))
}

#[test]
fn check_finds_what_is_wrong_with_public_schedulers() {
    for (family, order) in [("ddim-eta0.0", 1.0), ("euler-False", 1.0), ("fm-euler-1.0", 1.0)] {
        let files = [10, 20, 40].map(|n| format!("{family}-n{n}.npz"));
        let (code, report) = check(&files.each_ref().map(String::as_str), "ode");
        assert_eq!(code, 0, "{family}: {report}");
        for file in report["files"].as_array().unwrap() {
            assert_eq!(
                (&file["verdict"], file["findings"].as_array().unwrap().len()),
                (&"converging".into(), 0),
                "{file}"
            );
        }
        // Three coarse runs: within three tenths.
        assert!(
            (report["order"]["slope"].as_f64().unwrap() - order).abs() < 0.3,
            "{family}: {}",
            report["order"]
        );
    }
    // The step's previous time is not the grid's: wrong, though its error is no larger than a right
    // run's.
    let (code, report) = check(&["ddim-linspace-n20.npz"], "ode");
    let file = &report["files"][0];
    assert_eq!((code, file["verdict"].as_str()), (1, Some("off")));
    assert!(file["findings"][0].as_str().unwrap().contains("the file says"), "{file}");
    // Order three as published, order two as measured.
    let (code, report) = check(&["dpmpp-dpmsolver++-zero-3-midpoint-False-n40.npz"], "ode");
    assert_eq!(code, 0);
    assert!(
        report["files"][0]["findings"][0].as_str().unwrap().contains("lacks the factor 2"),
        "{report}"
    );
    // Two stochastic trajectories say little about a law, and nothing against it that a correct
    // sampler would not show.
    let (_, report) = check(&["euler-a-n40.npz"], "sde");
    assert!(report["files"][0]["law"]["w2"].as_f64().unwrap() > 0.0);
}

#[test]
fn samples_made_here_are_accepted_here() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("law.json"),
        r#"{"kind": "gaussian", "mean": [0.5, -1.0], "variances": [4.0, 0.25]}"#,
    )
    .unwrap();
    let run = |args: &[&str]| {
        let out = tweedie(dir.path(), args);
        assert!(
            out.status.success(),
            "{args:?}: {}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8(out.stdout).unwrap()
    };
    let text = run(&[
        "sample",
        "--law",
        "law.json",
        "--sampler",
        "heun",
        "--steps",
        "18",
        "-n",
        "2000",
        "-o",
        "s.npz",
    ]);
    assert!(text.contains("35 evaluations") && text.contains("exact W2"), "{text}");
    run(&["check", "s.npz", "--law", "law.json"]);
    run(&[
        "sample",
        "--law",
        "law.json",
        "--sampler",
        "exact",
        "--steps",
        "4",
        "--trajectory",
        "-o",
        "t.npz",
        "--path",
        "vp",
    ]);
    assert!(run(&["check", "t.npz", "--law", "law.json"]).contains("exact, 4 steps"));
    for (schedule, grid) in
        [("linear", "leading"), ("cosine", "trailing"), ("scaled-linear", "linspace")]
    {
        run(&[
            "sample",
            "--law",
            "law.json",
            "--sampler",
            "ddim",
            "--steps",
            "20",
            "--schedule",
            schedule,
            "--grid",
            grid,
            "--prediction",
            "v",
            "--trajectory",
            "-o",
            "d.npz",
        ]);
        assert!(run(&["check", "d.npz", "--law", "law.json"]).contains("converging, 20 steps"));
    }
    let bad = |args: &[&str], words: &str| {
        let out = tweedie(dir.path(), args);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(
            out.status.code() == Some(2) && text.contains(words) && text.lines().count() == 1,
            "{args:?}: {text}"
        );
    };
    bad(
        &["sample", "--law", "law.json", "--sampler", "dpmpp-4m", "--steps", "4", "-o", "x.npz"],
        "did you mean 'dpmpp-",
    );
    bad(
        &[
            "sample",
            "--law",
            "law.json",
            "--sampler",
            "ddim",
            "--steps",
            "4",
            "--grid",
            "trailing",
            "-o",
            "x.npz",
        ],
        "the path edm",
    );
    bad(&["check", "law.json", "--law", "law.json"], "is no whole .npz archive");
    bad(&["check", "s.npz", "--law", "law.json", "--kind", "ode"], "--kind samples");
    bad(
        &[
            "sample",
            "--law",
            "law.json",
            "--class",
            "0",
            "--sampler",
            "ddim",
            "--steps",
            "4",
            "-o",
            "x.npz",
        ],
        "a law of kind mixture",
    );
    bad(
        &[
            "sample",
            "--law",
            "law.json",
            "--clip",
            "0",
            "--sampler",
            "ddim",
            "--steps",
            "4",
            "-o",
            "x.npz",
        ],
        "clip: got 0",
    );
    bad(
        &[
            "sample",
            "--law",
            "law.json",
            "--shift",
            "3",
            "--sampler",
            "ddim",
            "--steps",
            "4",
            "-o",
            "x.npz",
        ],
        "shift: got 3",
    );
    bad(
        &["sample", "--law", "law.json", "--sampler", "ddim", "--steps", "4", "-o", "none/x.npz"],
        "none/x.npz: cannot be written",
    );
    assert!(!dir.path().join("x.npz").exists(), "nothing is written before all is well");
}

#[test]
fn guidance_moves_samples_towards_its_class() {
    let dir = tempfile::tempdir().unwrap();
    let law = r#"{"kind": "mixture", "weights": [1, 1], "means": [[-1.0], [1.0]], "variances": [[0.3], [0.3]]}"#;
    std::fs::write(dir.path().join("law.json"), law).unwrap();
    let mean = |more: &[&str]| {
        let args = [
            "sample",
            "--law",
            "law.json",
            "--sampler",
            "heun",
            "--steps",
            "40",
            "-n",
            "4000",
            "-o",
            "g.npz",
        ];
        let out = tweedie(dir.path(), &[&args, more].concat());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let x: ndarray::Array2<f64> =
            NpzReader::new(std::fs::File::open(dir.path().join("g.npz")).unwrap())
                .unwrap()
                .by_name("x")
                .unwrap();
        x.mean().unwrap()
    };
    // Standard errors: sqrt(1.3 / 4000) = 0.018 for the whole law, 0.009 for a class.
    assert!(mean(&[]).abs() <= 0.08);
    assert!((mean(&["--class", "1", "--guidance", "1"]) - 1.0).abs() <= 0.04);
    assert!(mean(&["--class", "1", "--guidance", "4"]) > 1.1);
    assert!(mean(&["--class", "0"]) < -0.9);
    assert!(mean(&["--clip", "0.5", "--class", "1", "--guidance", "4"]) <= 0.5);
}

#[test]
fn a_scheduler_folder_sets_path_grid_and_prediction() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("law.json"),
        r#"{"kind": "gaussian", "mean": [0.5, -1.0], "variances": [4.0, 0.25]}"#,
    )
    .unwrap();
    let run = |config: &str, more: &[&str]| {
        let folder = dir.path().join("model/scheduler");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("scheduler_config.json"), config).unwrap();
        let args = [
            "sample",
            "--law",
            "law.json",
            "--model",
            "model",
            "--steps",
            "10",
            "--trajectory",
            "-o",
            "m.npz",
            "--json",
            "-",
        ];
        tweedie(dir.path(), &[&args, more].concat())
    };
    let sigma = || -> Vec<f64> {
        let file = std::fs::File::open(dir.path().join("m.npz")).unwrap();
        NpzReader::new(file).unwrap().by_name::<OwnedRepr<f64>, Ix1>("sigma").unwrap().to_vec()
    };
    // sigma^2 after so many of Stable Diffusion's steps, from diffusers' own table.
    let stable = r#""beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012"#;
    for (config, sampler, prediction, first, last) in [
        (
            format!(
                r#"{{"_class_name": "DDIMScheduler", {stable}, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}}"#
            ),
            "ddim",
            "v",
            0.995_330,
            0.0,
        ),
        (
            format!(r#"{{"_class_name": "PNDMScheduler", {stable}, "steps_offset": 1}}"#),
            "plms",
            "eps",
            0.985_995,
            0.00085,
        ),
        (
            r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}"#.into(),
            "fm-euler",
            "velocity",
            1.0,
            0.0,
        ),
        (
            r#"{"_class_name": "EDMEulerScheduler", "sigma_max": 40}"#.into(),
            "euler",
            "f",
            1600.0,
            0.0,
        ),
        (
            r#"{"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": true}"#.into(),
            "dpmpp-2m",
            "eps",
            0.999_959_6,
            0.0,
        ),
    ] {
        let out = run(&config, &[]);
        assert!(out.status.success(), "{config}: {}", String::from_utf8_lossy(&out.stderr));
        let summary = json(&out);
        assert_eq!(
            (summary["sampler"].as_str(), summary["prediction"].as_str()),
            (Some(sampler), Some(prediction)),
            "{summary}"
        );
        let sigma = sigma();
        assert!((sigma[0].powi(2) / first - 1.0).abs() <= 1e-5, "{config}: {}", sigma[0].powi(2));
        assert!((sigma[10].powi(2) - last).abs() <= 1e-6, "{config}: {sigma:?}");
    }
    let refused =
        |out: Output| (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned());
    for (config, more, words) in [
        (
            r#"{"_class_name": "MyScheduler"}"#,
            &[][..],
            "_class_name 'MyScheduler', allowed: DDPMScheduler",
        ),
        (
            r#"{"_class_name": "DDIMScheduler", "beta_schedule": "laplace"}"#,
            &[],
            "beta_schedule 'laplace', allowed: linear",
        ),
        (
            r#"{"_class_name": "DDIMScheduler", "beta_end": 0.02, "beta_end": 0.03}"#,
            &[],
            "duplicate key `beta_end`",
        ),
        (
            r#"{"_class_name": "DDIMScheduler", "of_a_later_version": 1, "of_a_later_version": 2}"#,
            &[],
            "duplicate key `of_a_later_version`",
        ),
        (
            r#"{"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": true, "timestep_spacing": "trailing"}"#,
            &[],
            "eps",
        ),
        (
            r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": true}"#,
            &[],
            "pass --shift",
        ),
        ("{", &[], "is no scheduler config"),
        (
            r#"{"_class_name": "DDIMScheduler"}"#,
            &["--schedule", "linear"],
            "the folder says the schedule",
        ),
    ] {
        let (code, text) = refused(run(config, more));
        assert!(
            code == Some(2) && text.contains(words) && text.lines().count() == 1,
            "{config}: {text}"
        );
    }
    let (code, text) = refused(tweedie(
        dir.path(),
        &["sample", "--model", "none", "--law", "law.json", "--steps", "4", "-o", "x.npz"],
    ));
    assert!(
        code == Some(2) && text.contains("none/scheduler/scheduler_config.json: cannot be read"),
        "{text}"
    );
}

#[test]
fn damaged_recordings_are_one_line_and_exit_code_2() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("law.json"),
        r#"{"kind": "gaussian", "mean": [0.5, -1.0], "variances": [4.0, 0.25]}"#,
    )
    .unwrap();
    let path = dir.path().join("t.npz");
    let refused = |what: &str, words: &str| {
        let out = tweedie(dir.path(), &["check", "t.npz", "--law", "law.json"]);
        let text = String::from_utf8_lossy(&out.stderr);
        assert!(
            out.status.code() == Some(2)
                && text.starts_with("error: t.npz: ")
                && text.contains(words),
            "{what}: {text}"
        );
        assert_eq!((text.lines().count(), out.stdout.len()), (1, 0), "{what}: {text}");
    };
    let sigma = arr1(&[3.0, 1.0, 0.5]);
    let write = |x: &dyn Fn(&mut NpzWriter<std::fs::File>), alpha: &[f64], sigma: &[f64]| {
        let mut npz = NpzWriter::new(std::fs::File::create(&path).unwrap());
        x(&mut npz);
        if !alpha.is_empty() {
            npz.add_array("alpha", &arr1(alpha)).unwrap();
        }
        if !sigma.is_empty() {
            npz.add_array("sigma", &arr1(sigma)).unwrap();
        }
        npz.finish().unwrap();
    };
    let states = |shape: [usize; 3]| {
        move |npz: &mut NpzWriter<std::fs::File>| {
            npz.add_array("x", &Array3::<f64>::ones(shape)).unwrap()
        }
    };
    let (good, ones, s) = (states([3, 4, 2]), [1.0; 3], sigma.as_slice().unwrap());
    for (what, shape, alpha, sigma, words) in [
        (
            "another dimension",
            [3, 4, 5],
            &ones[..],
            s,
            "wanted 2 for its last axis, the law's dimension",
        ),
        ("no rows", [3, 0, 2], &ones, s, "wanted"),
        ("too few levels", [3, 4, 2], &ones[..2], s, "x has 3 states, alpha 2 and sigma 3"),
        ("no sigma", [3, 4, 2], &ones, &[], "holds alpha and no sigma"),
        ("no levels", [3, 4, 2], &[], &[], "holds no alpha and sigma"),
        ("NaN among levels", [3, 4, 2], &[1.0, f64::NAN, 1.0], s, "state 1 has alpha = NaN"),
        ("a negative level", [3, 4, 2], &[-1.0, 1.0, 1.0], s, "state 0 has alpha = -1"),
        (
            "from data to noise",
            [3, 4, 2],
            &ones,
            &[0.5, 1.0, 3.0],
            "in sampling order, from noise to data",
        ),
        ("one state", [1, 4, 2], &ones[..1], &s[..1], "holds one state"),
    ] {
        write(&states(shape), alpha, sigma);
        refused(what, words);
    }
    write(&|npz| npz.add_array("x", &arr1(&[1.0, 2.0])).unwrap(), &ones, s);
    refused("one axis", "x has shape [2], wanted (K+1, n, d)");
    write(&|npz| npz.add_array("y", &arr1(&[1.0, 2.0])).unwrap(), &ones, s);
    refused("another name", "holds no array 'x', only: y, alpha, sigma");
    write(&|npz| npz.add_array("x", &arr1(&[true])).unwrap(), &ones, s);
    refused("no numbers", "element type '|b1'");
    write(&good, &ones, s);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    refused("cut short", "is no whole .npz archive");
    let mut flipped = whole.clone();
    flipped[200] ^= 0xff;
    std::fs::write(&path, flipped).unwrap();
    refused("a bit flipped", "array 'x'");
    std::fs::write(&path, b"").unwrap();
    refused("empty", "is no whole .npz archive");
    // A header that promises a terabyte.
    let header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000, 64, 2), }\n";
    let npy = [&b"\x93NUMPY\x01\x00"[..], &(header.len() as u16).to_le_bytes(), header, &[0; 64]]
        .concat();
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    zip.start_file("x.npy", zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(&npy).unwrap();
    zip.finish().unwrap();
    refused("a promise", "and 64 bytes of data follow it");
    std::fs::remove_file(&path).unwrap();
    refused("missing", "cannot be read");
    // NaN among the states is the sampler's doing, not the file's.
    write(
        &|npz| npz.add_array("x", &Array3::<f64>::from_elem((3, 4, 2), f64::NAN)).unwrap(),
        &ones,
        s,
    );
    let out = tweedie(dir.path(), &["check", "t.npz", "--law", "law.json", "--json", "-"]);
    let report = json(&out);
    assert_eq!(
        (out.status.code(), report["files"][0]["final_rel_err"].as_str()),
        (Some(1), Some("nan")),
        "{report}"
    );
    assert!(
        report["files"][0]["findings"][0]
            .as_str()
            .unwrap()
            .starts_with("state 0 (alpha = 1, sigma = 3) holds NaN"),
        "{report}"
    );
}

#[test]
fn single_precision_and_names_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let law = trajectories().join("law.json");
    let single = |name: &str| {
        let mut npz =
            NpzReader::new(std::fs::File::open(trajectories().join(name)).unwrap()).unwrap();
        let mut out = NpzWriter::new_compressed(
            std::fs::File::create(dir.path().join("single.npz")).unwrap(),
        );
        out.add_array("x", &npz.by_name::<OwnedRepr<f64>, Ix3>("x").unwrap().mapv(|v| v as f32))
            .unwrap();
        for name in ["alpha", "sigma"] {
            out.add_array(name, &npz.by_name::<OwnedRepr<f64>, Ix1>(name).unwrap()).unwrap();
        }
        out.finish().unwrap();
        json(&tweedie(
            dir.path(),
            &["check", "single.npz", "--law", law.to_str().unwrap(), "--json", "-"],
        ))["files"][0]
            .clone()
    };
    for (name, verdict, words) in [
        ("ddim-eta0.0-n20.npz", "converging", None),
        ("dpmpp-dpmsolver++-zero-2-midpoint-False-n20.npz", "converging", None),
        ("fm-euler-1.0-n40.npz", "converging", None),
        ("ddim-linspace-n20.npz", "off", Some("the step's own next time is not the grid's")),
    ] {
        let file = single(name);
        assert_eq!(
            (&file["verdict"], &file["name"], &file["steps"].is_u64()),
            (&verdict.into(), &"single".into(), &true),
            "{name}: {file}"
        );
        assert_eq!(
            file["findings"].as_array().unwrap().len(),
            usize::from(words.is_some()),
            "{name}: {file}"
        );
        assert!(
            words.is_none_or(|w| file["findings"][0].as_str().unwrap().contains(w)),
            "{name}: {file}"
        );
    }
    let (_, report) = check(&["ddim-eta0.0-n10.npz"], "ode");
    let file = &report["files"][0];
    assert_eq!(
        (&file["name"], &file["nfe"], file["per_step"].as_array().unwrap().len()),
        (&"ddim-eta0.0-n10".into(), &10.into(), 11)
    );
    for key in ["k", "alpha", "sigma", "rel_err"] {
        assert!(file["per_step"][10].get(key).is_some(), "{key}");
    }
}

#[test]
fn certify_tells_the_two_third_order_updates_apart() {
    let out = tweedie(
        Path::new("."),
        &["certify", "--sampler", "dpmpp-3m", "--sampler", "dpmpp-3m-published", "--json", "-"],
    );
    let report = json(&out);
    let verdicts: Vec<_> = report["certificates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["verdict"].as_str().unwrap())
        .collect();
    assert_eq!(
        (out.status.code(), verdicts),
        (Some(0), vec!["as declared", "order below declared"])
    );
}
