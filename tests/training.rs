//! `tweedie train` as people run it: killed, interrupted, out of room, misread; the weights are in
//! the end what they should have been.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tweedie::math::noise::Noise;
use tweedie_nn::train::Settings;

/// A run of seconds: everything that a run can have, as small as it can be.
const RECIPE: &str = r#"
seed = 3
steps = 30
batch = 6
[data]
set = "digits"
held_out_every = 9
flips = true
[network]
in_channels = 1
out_channels = 1
block_out_channels = [4, 4]
down_block_types = ["DownBlock2D", "DownBlock2D"]
up_block_types = ["UpBlock2D", "UpBlock2D"]
layers_per_block = 1
norm_num_groups = 2
add_attention = false
num_class_embeds = 11
[path]
kind = "cosine"
[objective]
prediction = "v"
weighting = "min-snr:5"
[times]
importance = true
[optimiser]
warm_up = 5
decay = "cosine"
[ema]
constant = [0.9]
power = [0.1]
[labels]
drop = 0.2
[checkpoint]
every = 1
keep = 3
[validation]
every = 10
levels = 2
images = 4
[samples]
every = 10
count = 10
steps = 2
"#;

fn start(dir: &Path, recipe: &str, args: &[&str]) -> Child {
    fs::write(dir.join("recipe.toml"), recipe).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tweedie"));
    command.args(["train", "recipe.toml", "--out", "run"]).args(args).current_dir(dir);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn train(dir: &Path, recipe: &str, args: &[&str]) -> Output {
    start(dir, recipe, args).wait_with_output().unwrap()
}

fn trained(dir: &Path, recipe: &str, args: &[&str]) {
    let out = train(dir, recipe, args);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// The one line of a run that must fail with exit code 2.
fn refused(dir: &Path, recipe: &str, args: &[&str]) -> String {
    let out = train(dir, recipe, args);
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(said.starts_with("error: ") && said.trim_end().lines().count() == 1, "{said}");
    said
}

/// Every file of a folder by its name, speeds aside: they alone may differ.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(root: &Path, folder: &Path, out: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, out);
                continue;
            }
            let mut bytes = fs::read(&path).unwrap();
            if path.ends_with("metrics.jsonl") {
                let text = String::from_utf8(bytes).unwrap();
                bytes = text
                    .lines()
                    .map(|l| l.split(",\"images_per_s").next().unwrap())
                    .collect::<Vec<_>>()
                    .join("\n")
                    .into_bytes();
            }
            out.insert(path.strip_prefix(root).unwrap().to_owned(), bytes);
        }
    }
    let mut out = BTreeMap::new();
    walk(folder, folder, &mut out);
    out
}

fn same(a: &BTreeMap<PathBuf, Vec<u8>>, b: &BTreeMap<PathBuf, Vec<u8>>) {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, bytes) in a {
        assert!(bytes == &b[name], "{} differs", name.display());
    }
}

fn lines(dir: &Path) -> usize {
    fs::read_to_string(dir.join("run/metrics.jsonl")).map_or(0, |text| text.lines().count())
}

/// Waits until a run has done so many steps.
fn wait_for(dir: &Path, child: &mut Child, steps: usize) {
    for _ in 0..6000 {
        if lines(dir) >= steps || child.try_wait().unwrap().is_some() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("no step in 30 seconds");
}

/// A checkpoint after every step: most kills fall into the writing of one.
#[test]
fn a_killed_run_ends_as_if_nothing_had_happened() {
    let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    trained(whole.path(), RECIPE, &[]);
    let noise = Noise::new(std::process::id().into());
    let mut kills = 0;
    for k in 0..12 {
        let mut child = start(killed.path(), RECIPE, &["--resume"]);
        let done = lines(killed.path());
        wait_for(killed.path(), &mut child, done.min(24) + (noise.uniform(0, k) * 3.0) as usize);
        std::thread::sleep(Duration::from_micros((noise.uniform(1, k) * 30_000.0) as u64));
        // SIGKILL; a run that has ended has nothing left to kill.
        kills += usize::from(child.try_wait().unwrap().is_none());
        let _ = child.kill();
        child.wait().unwrap();
    }
    assert!(kills >= 6, "{kills} of 12 runs were killed");
    trained(killed.path(), RECIPE, &["--resume"]);
    same(&files(&whole.path().join("run")), &files(&killed.path().join("run")));
}

#[test]
fn interrupted_it_saves_and_says_how_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let endless = RECIPE
        .replace("steps = 30", "steps = 10000000")
        .replace("every = 1\n", "every = 0\n")
        .replace("\"cosine\"\n[ema]", "\"constant\"\n[ema]");
    let mut child = start(dir.path(), &endless, &[]);
    wait_for(dir.path(), &mut child, 5);
    assert!(!dir.path().join("run/checkpoints").exists());
    assert!(
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success()
    );
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(130), "{}", String::from_utf8_lossy(&out.stderr));
    let steps = lines(dir.path());
    let said = String::from_utf8(out.stdout).unwrap();
    assert!(
        said.contains(&format!(
            "stopped and saved after step {steps} of 10000000; go on with --resume"
        )),
        "{said}"
    );
    // What it saved is what a run of so many steps saves.
    let other = tempfile::tempdir().unwrap();
    trained(other.path(), &endless.replace("10000000", &steps.to_string()), &[]);
    let weights =
        |dir: &Path| {
            fs::read(dir.join(format!(
                "run/checkpoints/step-{steps}/unet/diffusion_pytorch_model.safetensors"
            )))
            .unwrap()
        };
    assert!(weights(dir.path()) == weights(other.path()));
}

/// No file may grow beyond 8 blocks: what a full disk looks like, without filling one.
#[test]
fn without_room_nothing_is_lost() {
    let (dir, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let plain = RECIPE.replace("\"cosine\"\n[ema]", "\"constant\"\n[ema]");
    trained(whole.path(), &plain, &["--steps", "8"]);
    trained(dir.path(), &plain, &["--steps", "4"]);
    let before = files(&dir.path().join("run/checkpoints"));
    let line = format!(
        "trap '' XFSZ; ulimit -f 8; exec '{}' train recipe.toml --out run --resume --steps 8",
        env!("CARGO_BIN_EXE_tweedie")
    );
    let out = Command::new("sh").args(["-c", &line]).current_dir(dir.path()).output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(
        said.contains("step-5.tmp")
            && said.contains("cannot be written")
            && said.trim_end().lines().count() == 1,
        "{said}"
    );
    same(&before, &files(&dir.path().join("run/checkpoints")));
    // With room again it goes on.
    trained(dir.path(), &plain, &["--resume", "--steps", "8"]);
    same(
        &files(&whole.path().join("run/checkpoints")),
        &files(&dir.path().join("run/checkpoints")),
    );
}

#[test]
fn folders_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("run"), "a file").unwrap();
    assert!(refused(dir.path(), RECIPE, &[]).contains("run: cannot be made"));
    fs::remove_file(dir.path().join("run")).unwrap();
    trained(dir.path(), RECIPE, &["--steps", "2"]);
    assert!(
        refused(dir.path(), RECIPE, &[])
            .contains("holds a run already (run/checkpoints/step-2); pass --resume")
    );
    // Steps may grow, nothing that numbers depend on may change.
    for (from, to, key) in [
        ("batch = 6", "batch = 7", "`batch`"),
        ("warm_up = 5", "warm_up = 6", "`optimiser.warm_up`"),
        ("prediction = \"v\"", "prediction = \"eps\"", "`objective.prediction`"),
        ("steps = 30", "steps = 1", "`steps`"),
        ("[0.9]", "[0.9, 0.99]", "`ema.constant`"),
        (
            "block_out_channels = [4, 4]",
            "block_out_channels = [4, 8]",
            "`network.block_out_channels`",
        ),
    ] {
        let said = refused(dir.path(), &RECIPE.replace(from, to), &["--resume"]);
        assert!(said.contains(&format!("{key} of a resumed run")), "{said}");
    }
    trained(dir.path(), &RECIPE.replace("levels = 2", "levels = 3"), &["--resume", "--steps", "3"]);
    // A damaged checkpoint is named, and so is a pointer to none.
    let weights =
        dir.path().join("run/checkpoints/step-3/unet/diffusion_pytorch_model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    assert!(
        refused(dir.path(), RECIPE, &["--resume"])
            .contains("diffusion_pytorch_model.safetensors: has changed since it was written")
    );
    fs::write(dir.path().join("run/checkpoints/latest"), "step-99").unwrap();
    assert!(
        refused(dir.path(), RECIPE, &["--resume"])
            .contains("names `step-99`, which is no checkpoint beside it")
    );
}

/// Every file of a checkpoint, one bit of it flipped or the file gone, is noticed by name; one of
/// an older version is read without that.
#[test]
fn a_damaged_checkpoint_is_never_used() {
    let dir = tempfile::tempdir().unwrap();
    trained(dir.path(), RECIPE, &["--steps", "2"]);
    let checkpoint = dir.path().join("run/checkpoints/step-2");
    let sums = fs::read_to_string(checkpoint.join("training/SHA256SUMS")).unwrap();
    let mut listed: Vec<PathBuf> =
        sums.lines().map(|line| line.split_once("  ").unwrap().1.into()).collect();
    listed.push("training/SHA256SUMS".into());
    listed.sort();
    let all = files(&checkpoint);
    assert_eq!(all.keys().cloned().collect::<Vec<_>>(), listed);
    let noise = Noise::new(1);
    let sample = |model: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tweedie"));
        command.args([
            "sample",
            "--model",
            model,
            "--sampler",
            "ddim",
            "--steps",
            "2",
            "-n",
            "1",
            "-o",
            "x.npz",
        ]);
        let out = command.current_dir(dir.path()).output().unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    for (k, (name, bytes)) in all.iter().enumerate() {
        let mut damaged = bytes.clone();
        let bit = (noise.uniform(0, k as u64) * (8 * bytes.len()) as f64) as usize;
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(checkpoint.join(name), damaged).unwrap();
        let said = refused(dir.path(), RECIPE, &["--resume"]);
        assert!(
            name.ends_with("SHA256SUMS") || said.contains(&format!("step-2/{}: ", name.display())),
            "{said}"
        );
        // Used as a model, its own files are looked at.
        if let Ok(inner) = name.strip_prefix("ema-0.9") {
            for model in ["run/checkpoints/step-2", "run/checkpoints/step-2/ema-0.9"] {
                let (code, said) = sample(model);
                assert!(
                    code == Some(2)
                        && said.contains(&inner.display().to_string())
                        && said.contains("has changed"),
                    "{said}"
                );
            }
        }
        fs::remove_file(checkpoint.join(name)).unwrap();
        if !name.ends_with("SHA256SUMS") {
            assert!(
                refused(dir.path(), RECIPE, &["--resume"])
                    .contains(&format!("step-2/{}: cannot be read", name.display()))
            );
        }
        fs::write(checkpoint.join(name), bytes).unwrap();
    }
    assert_eq!(sample("run"), (Some(0), String::new()));
    // As an older version wrote it.
    fs::remove_file(checkpoint.join("training/SHA256SUMS")).unwrap();
    let (code, said) = sample("run/checkpoints/step-2");
    assert!(
        code == Some(0)
            && said.starts_with("note: ")
            && said
                .ends_with("step-2 was written without checksums: damage to it can't be noticed\n"),
        "{said}"
    );
    let out = train(dir.path(), RECIPE, &["--resume", "--steps", "3"]);
    assert!(
        out.status.success()
            && String::from_utf8(out.stderr)
                .unwrap()
                .contains("step-2 was written without checksums")
    );
}

/// What the samples and the files of a run refuse is refused before anything of it is there.
#[test]
fn a_refused_recipe_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for (from, to, says) in [
        ("steps = 2\n", "steps = 2\nsampler = \"x\"\n", "sampler"),
        ("steps = 2\n", "steps = 2\nsampler = \"teleport+ddim\"\n", "law"),
        ("steps = 2\n", "steps = 2\nsampler = \"exact\"\n", "exact"),
    ] {
        let recipe =
            RECIPE.replacen(&format!("count = 10\n{from}"), &format!("count = 10\n{to}"), 1);
        assert_ne!(recipe, RECIPE);
        let said = refused(dir.path(), &recipe, &[]);
        assert!(said.contains(says), "{said}");
        assert!(!dir.path().join("run").exists(), "{said}");
    }
    trained(dir.path(), RECIPE, &["--steps", "2"]);
    let run = dir.path().join("run");
    fs::remove_file(run.join("validation.jsonl")).unwrap();
    fs::create_dir(run.join("validation.jsonl")).unwrap();
    let before = fs::read(run.join("run.json")).unwrap();
    let said = refused(dir.path(), RECIPE, &["--resume", "--steps", "3"]);
    assert!(said.contains("validation.jsonl: cannot be read"), "{said}");
    assert_eq!(before, fs::read(run.join("run.json")).unwrap());
}

#[test]
fn a_run_replaces_only_what_runs_have_written() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str| {
        fs::create_dir_all(dir.path().join("run").join(name).parent().unwrap()).unwrap();
        fs::write(dir.path().join("run").join(name), "mine").unwrap();
    };
    for (file, named) in [
        ("metrics.jsonl", "metrics.jsonl"),
        ("validation.jsonl", "validation.jsonl"),
        ("run.json", "run.json"),
        ("samples/step-10.png", "samples"),
        ("checkpoints/step-1/thesis.txt", "checkpoints"),
    ] {
        for args in [&[][..], &["--resume"]] {
            put(file);
            let before = files(&dir.path().join("run"));
            let said = refused(dir.path(), RECIPE, args);
            let problem = format!(
                "run/{named}: is in the way, and run is no folder of a run's; move it elsewhere, or pass another --out"
            );
            assert!(said.contains(&problem), "{said}");
            same(&before, &files(&dir.path().join("run")));
        }
        fs::remove_dir_all(dir.path().join("run")).unwrap();
    }
    // Beside a run's own files others' stay, whatever their names.
    put("notes.md");
    trained(dir.path(), RECIPE, &["--steps", "2"]);
    let others = [
        "notes.md",
        "checkpoints/step-1/thesis.txt",
        "checkpoints/step-x",
        "checkpoints/step-3.tmp/thesis.txt",
    ];
    fs::remove_dir_all(dir.path().join("run/checkpoints/step-1")).unwrap();
    others.iter().for_each(|name| put(name));
    trained(dir.path(), RECIPE, &["--resume", "--steps", "8"]);
    put("checkpoints/step-9/thesis.txt");
    let said = refused(dir.path(), RECIPE, &["--resume", "--steps", "10"]);
    assert!(
        said.contains("step-9: is in the way of a checkpoint, and is none; move it elsewhere"),
        "{said}"
    );
    for name in others.iter().chain(&["checkpoints/step-9/thesis.txt"]) {
        assert_eq!(fs::read_to_string(dir.path().join("run").join(name)).unwrap(), "mine");
    }
}

#[test]
fn checkpoints_that_nothing_names_are_found() {
    let (dir, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let plain = RECIPE.replace("\"cosine\"\n[ema]", "\"constant\"\n[ema]");
    trained(whole.path(), &plain, &["--steps", "8"]);
    trained(dir.path(), &plain, &["--steps", "5"]);
    let checkpoints = dir.path().join("run/checkpoints");
    fs::remove_file(checkpoints.join("latest")).unwrap();
    assert!(
        refused(dir.path(), &plain, &[])
            .contains("holds a run already (run/checkpoints/step-5); pass --resume")
    );
    // The newest is damaged, the one before is not.
    let state = checkpoints.join("step-5/training/first.safetensors");
    fs::write(&state, "damage").unwrap();
    let out = train(dir.path(), &plain, &["--resume", "--steps", "8"]);
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.success(), "{said}");
    assert!(
        said.contains("note: run/checkpoints has no `latest`: going on from run/checkpoints/step-4, the newest whole one"),
        "{said}"
    );
    same(&files(&whole.path().join("run/checkpoints")), &files(&checkpoints));
    // None is whole: nothing is begun over them.
    fs::remove_file(checkpoints.join("latest")).unwrap();
    for step in 6..=8 {
        fs::write(checkpoints.join(format!("step-{step}/training/first.safetensors")), "damage")
            .unwrap();
    }
    for args in [&[][..], &["--resume"]] {
        assert!(
            refused(dir.path(), &plain, args)
                .contains("step-8/training/first.safetensors: has changed since it was written")
        );
    }
}

#[test]
fn one_process_at_a_time_trains_in_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let endless = RECIPE
        .replace("steps = 30", "steps = 10000000")
        .replace("every = 1\n", "every = 1000000\n");
    let mut child = start(dir.path(), &endless, &[]);
    wait_for(dir.path(), &mut child, 3);
    for args in [&[][..], &["--resume"]] {
        let said = refused(dir.path(), &endless, args);
        let held = format!("run: is being written by process {} on ", child.id());
        assert!(
            said.contains(&held)
                && said.contains("wait until it has ended, or choose another folder"),
            "{said}"
        );
    }
    // Killed it holds nothing.
    child.kill().unwrap();
    child.wait().unwrap();
    trained(dir.path(), &endless, &["--steps", "2"]);
    assert!(!dir.path().join("run/.tweedie.lock").exists());
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let wild = RECIPE
        .replace("[optimiser]\nwarm_up = 5", "[optimiser]\nlearning_rate = 1e30\nwarm_up = 0");
    let said = refused(dir.path(), &wild, &[]);
    assert!(
        said.contains(
            "of training is singular at step 2: it is NaN; lower optimiser.learning_rate"
        ),
        "{said}"
    );
    assert_eq!(fs::read_to_string(dir.path().join("run/checkpoints/latest")).unwrap(), "step-1");
}

#[test]
fn a_recipe_is_read_strictly() {
    let cases = [
        ("batch = 6", "batchs = 6", "line 4: unknown field `batchs`", "did you mean `batch`?"),
        ("batch = 6", "batch = 0", "batch: got 0", "1 to 65536"),
        ("flips = true", "flip = true", "line 8: unknown field `flip`", "did you mean `flips`?"),
        ("set = \"digits\"", "set = \"digts\"", "data set: got 'digts'", "did you mean 'digits'?"),
        ("set = \"digits\"", "", "[data]: got none of them", "one of set, law, random_field"),
        (
            "prediction = \"v\"",
            "prediction = \"velocty\"",
            "unknown variant `velocty`",
            "did you mean `velocity`?",
        ),
        ("min-snr:5", "min-snr:-5", "min-snr's gamma: got -5", "> 0"),
        (
            "kind = \"cosine\"",
            "kind = \"cosin\"",
            "unknown variant `cosin`",
            "did you mean `cosine`?",
        ),
        (
            "norm_num_groups = 2",
            "norm_num_group = 2",
            "line 9: U-Net config: ",
            "unknown key `norm_num_group`",
        ),
        (
            "in_channels = 1",
            "in_channels = 3",
            "network.in_channels: got 3",
            "1, the channels of the data",
        ),
        (
            "num_class_embeds = 11",
            "num_class_embeds = 10",
            "network.num_class_embeds: got 10",
            "11: a row for each class and one for none",
        ),
        ("constant = [0.9]", "constant = [1.0]", "ema.constant: got 1", "(0, 1)"),
        (
            "importance = true",
            "law = \"log-normal:0\"",
            "law of the times: got log-normal:0",
            "log-normal[:MEAN:STD]",
        ),
        ("importance = true", "range = [3, 2]", "times.range", "two rising positive numbers"),
        (
            "decay = \"cosine\"",
            "decay = \"cosin\"",
            "unknown variant `cosin`",
            "did you mean `cosine`?",
        ),
        ("steps = 30", "steps = -1", "line 3", "-1"),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (from, to, problem, mend) in cases {
        assert!(RECIPE.contains(from), "{from}");
        let said = refused(dir.path(), &RECIPE.replacen(from, to, 1), &[]);
        assert!(said.contains(problem) && said.contains(mend), "{to}\n{said}");
    }
    assert!(refused(dir.path(), RECIPE, &["--device", "cuda:7"]).contains("device"));
    assert!(!dir.path().join("run").exists());
}

#[test]
fn every_recipe_of_the_repository_is_read() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../experiments/recipes"));
    let recipes = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let recipes: Vec<PathBuf> = recipes
        .filter(|p| p.file_name().unwrap().to_string_lossy().starts_with("train-"))
        .collect();
    assert!(!recipes.is_empty());
    for recipe in recipes {
        let settings = Settings::read(&recipe).unwrap();
        assert_eq!(settings.departs_from(&settings), None);
    }
}

/// The exact losses of a law of 400 dimensions go through an eigenproblem that is solved on all
/// threads.
#[test]
fn a_run_is_the_same_on_any_number_of_threads() {
    const D: usize = 400;
    let rows: Vec<Vec<f64>> =
        (0..D).map(|i| (0..D).map(|j| 0.9f64.powi(i.abs_diff(j) as i32)).collect()).collect();
    let law =
        serde_json::json!({"kind": "gaussian", "mean": vec![0.0; D], "cov": rows}).to_string();
    let recipe = "steps = 4\nbatch = 4\n[data]\nlaw = \"law.json\"\nshape = [1, 20, 20]\n[network]\nin_channels = 1\nout_channels = 1\n\
                  block_out_channels = [4, 4]\ndown_block_types = [\"DownBlock2D\", \"DownBlock2D\"]\n\
                  up_block_types = [\"UpBlock2D\", \"UpBlock2D\"]\nlayers_per_block = 1\nnorm_num_groups = 2\nadd_attention = false\n\
                  [path]\nkind = \"fm\"\n[objective]\nprediction = \"velocity\"\n[validation]\nlevels = 4\nimages = 64";
    let run = |threads: &str| {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("law.json"), &law).unwrap();
        fs::write(dir.path().join("recipe.toml"), recipe).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tweedie"));
        let out = command
            .args(["train", "recipe.toml", "--out", "run"])
            .current_dir(dir.path())
            .env("RAYON_NUM_THREADS", threads)
            .output();
        let out = out.unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        files(&dir.path().join("run"))
    };
    let one = run("1");
    assert!(!one[Path::new("validation.jsonl")].is_empty());
    same(&one, &run("2"));
    same(&one, &run("3"));
}

#[test]
fn a_law_is_trained_on_and_its_least_loss_told() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("law.json"),
        r#"{"kind":"gaussian","mean":[0,0,1,1],"variances":[1,1,0.25,0.25]}"#,
    )
    .unwrap();
    // The network from a file beside the recipe, as diffusers writes it.
    let config = r#"{"_class_name": "UNet2DModel", "_diffusers_version": "0.42.1", "in_channels": 1, "out_channels": 1, "block_out_channels": [4],
        "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "layers_per_block": 1, "norm_num_groups": 2, "add_attention": false}"#;
    fs::write(dir.path().join("unet.json"), config).unwrap();
    let recipe = "steps = 20\nbatch = 8\n[data]\nlaw = \"law.json\"\nshape = [1, 2, 2]\n[network]\nconfig = \"unet.json\"\n[path]\nkind = \"fm\"\n\
                  [objective]\nprediction = \"velocity\"\n[validation]\nlevels = 3\nimages = 500\n[samples]\ncount = 2\nsteps = 2";
    trained(dir.path(), recipe, &[]);
    let text = fs::read_to_string(dir.path().join("run/validation.jsonl")).unwrap();
    let levels: Vec<serde_json::Value> =
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(levels.len(), 3);
    for level in levels {
        let number = |key: &str| level[key].as_f64().unwrap();
        // Of each pixel lambda sigma^2 / (lambda + sigma^2), with sigma in units of alpha; a mean
        // of 2,000 squares, four of its errors.
        let noise = number("edm_sigma").powi(2);
        let want =
            [1.0, 1.0, 0.25, 0.25].map(|l| l * noise / (l + noise)).iter().sum::<f64>() / 4.0;
        assert!(
            (number("exact") - want).abs() <= 4.0 * want * (2.0 / 2000f64).sqrt(),
            "{level} {want}"
        );
        assert!(
            level["set"] == "law" && number("exact") <= number("network") && number("excess") > 0.0,
            "{level}"
        );
    }
    let said = refused(
        dir.path(),
        &recipe.replace("config = \"unet.json\"", "config = \"unet.json\"\nin_channels = 1"),
        &["--resume"],
    );
    assert!(said.contains("[network] has `config` and other keys"), "{said}");
    let said = refused(dir.path(), &recipe.replace("[1, 2, 2]", "[1, 2, 3]"), &["--resume"]);
    assert!(said.contains("law: got shape [4], wanted 1 x 2 x 3 = 6"), "{said}");
}
