//! The built program, run as people run it: help, full error messages, exit codes, files.

use ndarray::{Array1, Array2, ArrayD, array};
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn tweedie(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tweedie")).args(args).current_dir(dir).output().unwrap()
}

/// Standard output of a run that must succeed without a word on stderr.
fn stdout(dir: &Path, args: &[&str]) -> String {
    let out = tweedie(dir, args);
    assert!(
        out.status.success() && out.stderr.is_empty(),
        "{args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

/// Columns by name of a CSV table.
fn columns(text: &str) -> Vec<(String, Vec<f64>)> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let names: Vec<String> = reader.headers().unwrap().iter().map(str::to_owned).collect();
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    names
        .into_iter()
        .enumerate()
        .map(|(k, name)| (name, rows.iter().map(|r| r[k].parse().unwrap()).collect()))
        .collect()
}

fn write_npy(path: &Path, x: &ArrayD<f64>) {
    ndarray_npy::write_npy(path, x).unwrap();
}

const COMMANDS: [&str; 13] = [
    "report", "verify", "explain", "tabulate", "solve", "sample", "certify", "check", "train",
    "net", "bench", "gpu", "doctor",
];

#[test]
fn help_lists_the_commands_and_each_has_an_example() {
    let dir = tempfile::tempdir().unwrap();
    let help = stdout(dir.path(), &["--help"]);
    for command in COMMANDS {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
        let help = stdout(dir.path(), &[command, "--help"]);
        assert!(
            help.contains("Example") && help.contains(&format!("\n  tweedie {command} ")),
            "{help}"
        );
    }
    // Only what exists is shown.
    let listed = help
        .lines()
        .skip_while(|l| *l != "Commands:")
        .skip(1)
        .take_while(|l| !l.is_empty())
        .count();
    assert_eq!(listed, COMMANDS.len() + 1, "{help}");
    assert_eq!(
        stdout(dir.path(), &["--version"]),
        format!("tweedie {}\n", env!("CARGO_PKG_VERSION"))
    );
    // No command at all is a mistake, and help is the answer.
    let bare = tweedie(dir.path(), &[]);
    assert_eq!((bare.status.code(), bare.stdout.len()), (Some(2), 0));
    assert!(String::from_utf8(bare.stderr).unwrap().contains("Usage: tweedie <COMMAND>"));
}

#[test]
fn bad_input_is_one_line_that_says_how_to_mend_it() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("law.json"), r#"{"kind":"gaussian","mean":[0,1],"variances":[4,0.25]}"#).unwrap();
    fs::write(at("typo.json"), r#"{"kind":"gausian","mean":[0],"variances":[1]}"#).unwrap();
    fs::write(at("both.json"), r#"{"kind":"gaussian","mean":[0],"variances":[1],"cov":[[1]]}"#)
        .unwrap();
    fs::write(at("negative.json"), r#"{"kind":"gaussian","mean":[0],"variances":[-1]}"#).unwrap();
    fs::write(at("empirical.json"), r#"{"kind":"empirical","data":"none.npy"}"#).unwrap();
    fs::write(at("text.npy"), "1,2,3").unwrap();
    write_npy(&at("x.npy"), &Array2::zeros((3, 2)).into_dyn());
    write_npy(&at("x3.npy"), &Array2::zeros((2, 3)).into_dyn());
    write_npy(&at("nan.npy"), &array![[0.0, f64::NAN]].into_dyn());
    fs::create_dir(at("folder")).unwrap();

    let law_shape =
        r#"write for example {"kind": "gaussian", "mean": [0, 1], "variances": [4, 0.25]}"#;
    let numpy = "write it again with numpy, as uint8, float32 or float64";
    let table: &[(&str, String)] = &[
        ("tabulat", "unrecognized subcommand 'tabulat'; a similar subcommand exists: 'tabulate'; see 'tweedie --help'".into()),
        ("--quiet", "unexpected argument '--quiet' found; see 'tweedie --help'".into()),
        // tabulate
        ("tabulate", "the following required arguments were not provided: --schedule <S>; see 'tweedie tabulate --help'".into()),
        ("tabulate --stepz 3", "unexpected argument '--stepz' found; a similar argument exists: '--steps'; see 'tweedie tabulate --help'".into()),
        (
            "tabulate --schedule lineer",
            "invalid value 'lineer' for '--schedule <S>'; allowed: linear, scaled-linear, cosine, sigmoid, vp, ve, edm, fm; a similar value exists: 'linear'; \
             see 'tweedie tabulate --help'"
                .into(),
        ),
        ("tabulate --schedule linear --steps 0", "invalid value '0' for '--steps <N>': 0 is not in 1..=1000000; see 'tweedie tabulate --help'".into()),
        ("tabulate --schedule linear --steps 1e3", "invalid value '1e3' for '--steps <N>': invalid digit found in string; see 'tweedie tabulate --help'".into()),
        ("tabulate --schedule cosine --steps 3 --at 0.5", "the argument '--steps <N>' cannot be used with '--at <T,T,...>'; see 'tweedie tabulate --help'".into()),
        (
            "tabulate --schedule linear --at 0.5",
            "schedule with --at: got 'linear', whose steps are discrete, allowed: vp, ve, edm, cosine, fm, which are continuous; give --steps instead of --at".into(),
        ),
        (
            "tabulate --schedule vp --zero-terminal-snr",
            "schedule with --zero-terminal-snr: got 'vp', a continuous path, allowed: linear, scaled-linear, cosine, sigmoid, with --steps; \
             leave --zero-terminal-snr out"
                .into(),
        ),
        ("tabulate --schedule vp --beta-start 0.1", "parameters of 'vp': got --beta-start, allowed: --beta-min, --beta-max; leave it out".into()),
        ("tabulate --schedule fm --sigma-max 3", "parameters of 'fm': got --sigma-max, allowed: none; leave it out".into()),
        (
            "tabulate --schedule vp --beta-min 30",
            "beta_min, beta_max: got 30, 20, allowed: 0 < first < second < inf; pass them in ascending order".into(),
        ),
        (
            "tabulate --schedule linear --beta-end 3",
            "beta_start, beta_end: got 0.0001, 3, allowed: both strictly between 0 and 1; a beta is the share of variance replaced in one step".into(),
        ),
        ("tabulate --schedule fm --at 0,-0.5", "time t: got -0.5, allowed: [0, 1], 0 for data and 1 for noise; divide a step index by the number of steps".into()),
        ("tabulate --schedule fm --at NaN", "time t: got NaN, allowed: [0, 1], 0 for data and 1 for noise; divide a step index by the number of steps".into()),
        (
            "tabulate --schedule vp --at 0",
            "the rate of the path vp is singular at t = 0: d_sigma is infinite, because sigma grows like the root of t; \
             keep a distance from the end point, such as t = 1e-5"
                .into(),
        ),
        ("tabulate --schedule vp --at 0.5,x", "invalid value 'x' for '--at <T,T,...>': invalid float literal; see 'tweedie tabulate --help'".into()),
        (
            "tabulate --schedule fm --steps 2 -o none/x.csv",
            "none/x.csv: cannot be written: No such file or directory (os error 2); check that its folder exists, may be written and has room".into(),
        ),
        ("tabulate --schedule fm --steps 2 --json folder", format!("{}: is a folder; name a file in it", at("folder").canonicalize().unwrap().display())),
        // solve
        (
            "solve",
            "the following required arguments were not provided: --law <LAW.json> --path <P> --from <T> --to <T> --output <Y.npy> <X.npy>; \
             see 'tweedie solve --help'"
                .into(),
        ),
        (
            "solve --law none.json --path vp --from 1 --to 0 x.npy -o y.npy",
            "none.json: cannot be read: No such file or directory (os error 2); check the path and its permissions".into(),
        ),
        (
            "solve --law typo.json --path vp --from 1 --to 0 x.npy -o y.npy",
            format!("typo.json: is not a law: unknown variant `gausian`, expected one of `gaussian`, `mixture`, `empirical` at line 1 column 17; {law_shape}"),
        ),
        (
            "solve --law both.json --path vp --from 1 --to 0 x.npy -o y.npy",
            format!("both.json: is not a law: covariance of gaussian: got both, allowed: either a full one or variances; give one of the two; {law_shape}"),
        ),
        (
            "solve --law negative.json --path vp --from 1 --to 0 x.npy -o y.npy",
            format!("negative.json: is not a law: variance of a coordinate: got -1, allowed: >= 0; pass variances, not logarithms or deviations; {law_shape}"),
        ),
        (
            "solve --law empirical.json --path vp --from 1 --to 0 x.npy -o y.npy",
            "none.npy: cannot be read: No such file or directory (os error 2); check the path and its permissions".into(),
        ),
        (
            "solve --law law.json --path vp --from 2 --to 0 x.npy -o y.npy",
            "time t: got 2, allowed: [0, 1], 0 for data and 1 for noise; divide a step index by the number of steps".into(),
        ),
        (
            "solve --law law.json --path vp --from 1 --to 0 text.npy -o y.npy",
            format!("text.npy: begins with bytes [31, 2c, 32, 2c], a .npy file begins with 93 4e 55 4d 50 59; {numpy}"),
        ),
        (
            "solve --law law.json --path vp --from 1 --to 0 nan.npy -o y.npy",
            "nan.npy: element 1 is NaN, wanted finite numbers; remove or replace it before saving".into(),
        ),
        (
            "solve --law law.json --path vp --from 1 --to 0 x3.npy -o y.npy",
            "x3.npy: shape [2, 3], wanted (n, 2) or (2,), the law's dimension; pass states of the law's dimension".into(),
        ),
        // report
        (
            "report digit-theory --out out",
            "experiment: got digit-theory, allowed: digits-theory, schedules, elbo, preconditioning, natural-patches, langevin, samplers, flow-matching, \
             guidance, latent, digits-unet, equivalence, grf, claims, gpu; did you mean digits-theory?"
                .into(),
        ),
        (
            "report --profile quik",
            "invalid value 'quik' for '--profile <PROFILE>'; allowed: quick, full; a similar value exists: 'quick'; see 'tweedie report --help'".into(),
        ),
        (
            "report --device gpu",
            "invalid value 'gpu' for '--device <DEVICE>': device: got 'gpu', allowed: auto, cpu, cuda, cuda:N; write for example cuda:0; \
             see 'tweedie report --help'"
                .into(),
        ),
        (
            "report --device cuda:1",
            "device: got cuda:1, allowed: auto, cpu (closed forms are computed in f64 on the CPU); leave --device out".into(),
        ),
        ("report --seed -1", "invalid value '-1' for '--seed <N>': invalid digit found in string; see 'tweedie report --help'".into()),
    ];
    for (line, want) in table {
        let out = tweedie(dir.path(), &line.split(' ').collect::<Vec<_>>());
        assert_eq!(
            String::from_utf8(out.stderr).unwrap(),
            format!("error: {want}\n"),
            "tweedie {line}"
        );
        assert_eq!((out.status.code(), out.stdout.len()), (Some(2), 0), "tweedie {line}");
    }
    // None of them left a file behind.
    let mut names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "both.json",
            "empirical.json",
            "folder",
            "law.json",
            "nan.npy",
            "negative.json",
            "text.npy",
            "typo.json",
            "x.npy",
            "x3.npy"
        ]
    );
}

#[test]
fn tabulate_gives_the_library_s_numbers_to_the_bit() {
    use tweedie::diffusion::path::Path;
    use tweedie::diffusion::schedule::{Schedule, Table};
    let dir = tempfile::tempdir().unwrap();
    let names = "t,beta,alpha_step,alpha_bar,alpha,sigma,snr,log_snr,posterior_coef_x0,posterior_coef_xt,posterior_var,vlb_weight_beta,vlb_weight_posterior";
    let table = columns(&stdout(dir.path(), &["tabulate", "--schedule", "linear"]));
    assert_eq!(table.iter().map(|c| c.0.as_str()).collect::<Vec<_>>().join(","), names);
    let want = Table::new(Schedule::LINEAR, 1000, false).unwrap();
    for (k, row) in want.rows().iter().enumerate() {
        let got: Vec<f64> = table.iter().map(|c| c.1[k]).collect();
        let want = [
            row.t as f64,
            row.beta,
            row.alpha_step,
            row.alpha_bar,
            row.alpha,
            row.sigma,
            row.snr,
            row.log_snr,
            row.posterior_coef_x0,
            row.posterior_coef_xt,
            row.posterior_var,
            row.vlb_weight_beta,
            row.vlb_weight_posterior,
        ];
        assert_eq!(got, want);
    }
    assert_eq!(table[0].1.len(), 1000);
    assert_eq!(table[12].1[0], f64::INFINITY);

    // Options reach the schedule; a file holds what standard output would.
    let line = [
        "tabulate",
        "--schedule",
        "scaled-linear",
        "--steps",
        "7",
        "--beta-start",
        "0.001",
        "--beta-end",
        "0.3",
        "--zero-terminal-snr",
    ];
    let text = stdout(dir.path(), &line);
    let want =
        Table::new(Schedule::ScaledLinear { beta_start: 0.001, beta_end: 0.3 }, 7, true).unwrap();
    assert_eq!(columns(&text)[4].1, want.rows().iter().map(|r| r.alpha).collect::<Vec<_>>());
    assert_eq!(stdout(dir.path(), &[&line[..], &["-o", "table.csv"]].concat()), "");
    assert_eq!(fs::read_to_string(dir.path().join("table.csv")).unwrap(), text);

    // A path at given times, and cosine, which is a schedule with --steps and a path with --at.
    let table = columns(&stdout(
        dir.path(),
        &["tabulate", "--schedule", "vp", "--beta-max", "12", "--at", "1e-3,0.5,1"],
    ));
    assert_eq!(
        table.iter().map(|c| c.0.as_str()).collect::<Vec<_>>().join(","),
        "t,alpha,sigma,d_alpha,d_sigma,snr,log_snr"
    );
    for (k, t) in [1e-3, 0.5, 1.0].into_iter().enumerate() {
        let row = Path::Vp { beta_min: 0.1, beta_max: 12.0 }.row(t).unwrap();
        let got: Vec<f64> = table.iter().map(|c| c.1[k]).collect();
        assert_eq!(got, [t, row.alpha, row.sigma, row.d_alpha, row.d_sigma, row.snr, row.log_snr]);
    }
    assert_eq!(
        columns(&stdout(dir.path(), &["tabulate", "--schedule", "cosine", "--at", "0.5"])).len(),
        7
    );
    assert_eq!(
        columns(&stdout(dir.path(), &["tabulate", "--schedule", "cosine", "--steps", "5"])).len(),
        13
    );
    let grid = columns(&stdout(dir.path(), &["tabulate", "--schedule", "fm", "--steps", "4"]));
    assert_eq!((&grid[0].1, grid[6].1[3]), (&vec![0.25, 0.5, 0.75, 1.0], f64::NEG_INFINITY));
}

#[test]
fn json_shows_what_the_table_shows() {
    let dir = tempfile::tempdir().unwrap();
    let line = ["tabulate", "--schedule", "linear", "--steps", "3"];
    let csv = columns(&stdout(dir.path(), &line));
    // To standard output it replaces the table; to a file it comes beside it.
    let text = stdout(dir.path(), &[&line[..], &["--json", "-"]].concat());
    stdout(dir.path(), &[&line[..], &["--json", "table.json"]].concat());
    assert_eq!(fs::read_to_string(dir.path().join("table.json")).unwrap(), text);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["schedule"], "linear");
    for (k, (name, column)) in csv.iter().enumerate() {
        assert_eq!(json["columns"][k], name.as_str());
        for (i, want) in column.iter().enumerate() {
            let cell = &json["rows"][i][k];
            // JSON has no infinity; it is the string "inf".
            let got = cell.as_f64().unwrap_or_else(|| cell.as_str().unwrap().parse().unwrap());
            assert_eq!(got.to_bits(), want.to_bits(), "{name} {i}");
        }
    }
    let doctor: serde_json::Value =
        serde_json::from_str(&stdout(dir.path(), &["doctor", "--json", "-"])).unwrap();
    assert!(doctor["threads"].as_u64().unwrap() >= 1);
    let text = stdout(dir.path(), &["doctor"]);
    assert!(
        ["threads", "simd", "memory", "lapack", "cuda"]
            .iter()
            .all(|key| text.contains(&format!("\n{key} "))),
        "{text}"
    );
}

#[test]
fn solve_moves_a_gaussian_by_its_standard_deviations() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("law.json"),
        r#"{"kind":"gaussian","mean":[1,-2],"variances":[4,0.25]}"#,
    )
    .unwrap();
    let z = array![[0.3, -1.2], [2.0, 0.0], [-0.7, 0.9]];
    write_npy(&dir.path().join("x.npy"), &z.clone().into_dyn());
    // On flow matching x_1 is pure noise, and the map to data is mean + std z.
    let said = stdout(
        dir.path(),
        &[
            "solve", "--law", "law.json", "--path", "fm", "--from", "1", "--to", "0", "x.npy",
            "-o", "y.npy",
        ],
    );
    assert_eq!(said, "y.npy: 3 states of dimension 2, closed form\n");
    let y = tweedie::npy::read(dir.path().join("y.npy")).unwrap();
    let want = &z * &array![2.0, 0.5] + array![1.0, -2.0];
    // A root, a product and a sum of numbers below 5.
    assert!((&y - &want.into_dyn()).iter().all(|e| e.abs() <= 4.0 * 5.0 * f64::EPSILON), "{y}");
    // There and back on VP, and one state as a vector.
    let there = [
        "solve",
        "--law",
        "law.json",
        "--path",
        "vp",
        "--beta-max",
        "12",
        "--from",
        "0.8",
        "--to",
        "0.1",
    ];
    let back = [
        "solve",
        "--law",
        "law.json",
        "--path",
        "vp",
        "--beta-max",
        "12",
        "--from",
        "0.1",
        "--to",
        "0.8",
    ];
    write_npy(&dir.path().join("v.npy"), &array![0.3, -1.2].into_dyn());
    stdout(dir.path(), &[&there[..], &["v.npy", "-o", "w.npy"]].concat());
    let json = stdout(dir.path(), &[&back[..], &["w.npy", "-o", "v2.npy", "--json", "-"]].concat());
    assert_eq!(json, "{\"states\":1,\"dim\":2,\"method\":\"closed form\"}\n");
    let v: Array1<f64> =
        tweedie::npy::read(dir.path().join("v2.npy")).unwrap().into_dimensionality().unwrap();
    // The map expands by psi and its inverse contracts by 1/psi: errors of either, times the gains'
    // ratio, about 10.
    assert!((&v - &array![0.3, -1.2]).iter().all(|e| e.abs() <= 32.0 * f64::EPSILON), "{v}");
}

#[test]
fn solve_takes_every_kind_of_law() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("laws")).unwrap();
    fs::write(
        dir.path().join("laws/gaussian.json"),
        r#"{"kind":"gaussian","mean":[1,-2],"cov":[[2,1],[1,2]]}"#,
    )
    .unwrap();
    // The same Gaussian twice is still that Gaussian, and goes through the integrator.
    let twice = r#"{"kind":"mixture","weights":[1,3],"means":[[1,-2],[1,-2]],"covs":[[[2,1],[1,2]],[[2,1],[1,2]]]}"#;
    fs::write(dir.path().join("laws/mixture.json"), twice).unwrap();
    // The data's path is relative to the law's folder, not to where the program runs.
    fs::write(
        dir.path().join("laws/empirical.json"),
        r#"{"kind":"empirical","data":"points.npy"}"#,
    )
    .unwrap();
    write_npy(&dir.path().join("laws/points.npy"), &array![[3.0, 4.0]].into_dyn());
    write_npy(&dir.path().join("x.npy"), &array![[0.3, -1.2], [2.0, 0.5]].into_dyn());
    let solve = |law: &str, to: &str| {
        let law = format!("laws/{law}.json");
        let said = stdout(
            dir.path(),
            &[
                "solve",
                "--law",
                &law,
                "--path",
                "edm",
                "--sigma-max",
                "10",
                "--from",
                "1",
                "--to",
                to,
                "x.npy",
                "-o",
                "y.npy",
            ],
        );
        (said, tweedie::npy::read(dir.path().join("y.npy")).unwrap())
    };
    let ((_, exact), (said, integrated)) = (solve("gaussian", "0.05"), solve("mixture", "0.05"));
    // What it says of its error is above the error, and not by far.
    let (steps, error) = said
        .strip_prefix("y.npy: 2 states of dimension 2, adaptive integrator, ")
        .unwrap()
        .split_once(" steps, error about ")
        .unwrap();
    let error: f64 = error.strip_suffix(" of the law's deviation\n").unwrap().parse().unwrap();
    assert!(steps.parse::<usize>().unwrap() > 3 && error <= 1e-11, "{said}");
    // The deviation is sqrt 2; one digit is printed.
    assert!(
        (&integrated - &exact).iter().all(|e| e.abs() <= 1.5 * error * 2f64.sqrt()),
        "{integrated} {exact} {error:e}"
    );
    // One point: the trajectory is the straight line through it, x = x0 + sigma eps.
    let (_, line) = solve("empirical", "0.5");
    let want = array![[0.3, -1.2], [2.0, 0.5]] * 0.5 + array![3.0, 4.0] * 0.5;
    assert!((&line - &want.into_dyn()).iter().all(|e| e.abs() <= 2e-12), "{line}");
}

/// A report that is stopped leaves nothing where the page goes; a signal ends it although it waits
/// while files are written.
#[test]
#[cfg(unix)]
fn a_stopped_report_leaves_nothing_half_written() {
    use std::os::unix::process::ExitStatusExt;
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_tweedie"))
        .args(["report", "samplers", "natural-patches", "--out", "site"])
        .current_dir(dir.path())
        .env("XDG_CACHE_HOME", dir.path().join("cache"))
        .spawn()
        .unwrap();
    // It computes for many seconds.
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert!(
        Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success()
    );
    assert_eq!(child.wait().unwrap().signal(), Some(15));
    assert!(!dir.path().join("site").exists());
}

#[test]
#[cfg(unix)]
fn a_closed_pipe_is_quiet_and_a_full_disk_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    // 20,000 rows (3 MB) never fit in a pipe: the reader leaves after a few bytes.
    let mut child = Command::new(env!("CARGO_BIN_EXE_tweedie"))
        .args(["tabulate", "--schedule", "fm", "--steps", "20000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 8];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(
        (&first, out.status.code(), String::from_utf8(out.stderr).unwrap().as_str()),
        (b"t,alpha,", Some(0), "")
    );

    let full = "No space left on device (os error 28)";
    if Path::new("/dev/full").exists() {
        let out = tweedie(
            dir.path(),
            &["tabulate", "--schedule", "fm", "--steps", "2", "-o", "/dev/full"],
        );
        let want = format!(
            "error: /dev/full: cannot be written: {full}; check that its folder exists, may be written and has room\n"
        );
        assert_eq!((String::from_utf8(out.stderr).unwrap(), out.status.code()), (want, Some(2)));
        let out = Command::new(env!("CARGO_BIN_EXE_tweedie"))
            .args(["tabulate", "--schedule", "fm", "--steps", "2"])
            .stdout(fs::OpenOptions::new().write(true).open("/dev/full").unwrap())
            .output()
            .unwrap();
        let want = format!(
            "error: standard output: cannot be written: {full}; free space, or write to a file\n"
        );
        assert_eq!((String::from_utf8(out.stderr).unwrap(), out.status.code()), (want, Some(2)));
    }
}

/// A process without standard output, or with a full one, has not said what it was asked for.
#[test]
#[cfg(target_os = "linux")]
fn what_could_not_be_said_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let shell = |line: &str| {
        let out = Command::new("sh")
            .args(["-c", &line.replace("tweedie", env!("CARGO_BIN_EXE_tweedie"))])
            .current_dir(dir.path())
            .output()
            .unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    for command in [
        "--help",
        "--version",
        "tabulate --help",
        "doctor",
        "doctor --json -",
        "tabulate --schedule fm --steps 2",
        "explain ghent/snr",
    ] {
        for (to, problem) in
            [("> /dev/full", "No space left on device (os error 28)"), (">&-", "it is closed")]
        {
            let want = format!(
                "error: standard output: cannot be written: {problem}; free space, or write to a file\n"
            );
            assert_eq!(
                shell(&format!("tweedie {command} {to}")),
                (Some(2), want),
                "{command} {to}"
            );
        }
        assert_eq!(
            shell(&format!("tweedie {command} > /dev/null")),
            (Some(0), String::new()),
            "{command}"
        );
        assert_eq!(
            shell(&format!("tweedie {command} 1<> /dev/null")),
            (Some(0), String::new()),
            "{command}"
        );
    }
    // Who has nothing to say needs nobody to listen.
    assert_eq!(
        shell("tweedie tabulate --schedule fm --steps 2 -o x.csv >&-"),
        (Some(0), String::new())
    );
}

#[test]
#[cfg(unix)]
fn two_outputs_never_share_a_place() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("law.json"), r#"{"kind":"gaussian","mean":[0],"variances":[1]}"#)
        .unwrap();
    write_npy(&dir.path().join("x.npy"), &Array2::zeros((1, 1)).into_dyn());
    std::os::unix::fs::symlink("out", dir.path().join("link")).unwrap();
    let tabulate = ["tabulate", "--schedule", "fm", "--steps", "2"];
    let solve =
        ["solve", "--law", "law.json", "--path", "fm", "--from", "1", "--to", "0.5", "x.npy"];
    let sample = ["sample", "--law", "law.json", "--sampler", "ddim", "--steps", "2", "-n", "1"];
    let verify = ["verify", "--claim", "ghent/example-loss", "--record"];
    let compare = ["report", "--compare", "a", "b", "--out", "c"];
    let cases: [(&[&str], &[&str], &str, &str); 9] = [
        (&tabulate, &["-o", "out", "--json", "./out"], "-o and --json", "./out"),
        (&tabulate, &["-o", "link", "--json", "out"], "-o and --json", "out"),
        (&tabulate, &["-o", "-", "--json", "-"], "-o and --json", "standard output"),
        (&tabulate, &["-o", "/dev/stdout", "--json", "-"], "-o and --json", "standard output"),
        (&solve, &["-o", "out", "--json", "link"], "-o and --json", "link"),
        (&sample, &["-o", "out", "--json", "out"], "-o and --json", "out"),
        (&sample, &["-o", "-", "--json", "-"], "-o and --json", "standard output"),
        (&verify, &["--snapshot", "out", "--json", "./link"], "--record and --json", "./link"),
        (&compare, &["--json", "./c/index.html"], "--out and --json", "./c/index.html"),
    ];
    for (command, outputs, options, place) in cases {
        let out = tweedie(dir.path(), &[command, outputs].concat());
        let want = format!(
            "error: outputs {options}: got {place} for both, allowed: a place of its own for each; write one of them elsewhere\n"
        );
        assert_eq!(
            (String::from_utf8(out.stderr).unwrap(), out.status.code(), out.stdout.len()),
            (want, Some(2), 0),
            "{outputs:?}"
        );
    }
    assert!(!dir.path().join("out").exists() && !dir.path().join("c").exists());
    stdout(dir.path(), &[&tabulate[..], &["-o", "out", "--json", "other"]].concat());
}

#[test]
#[cfg(unix)]
fn a_read_only_output_is_refused_and_permissions_stay() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.csv");
    let line = ["tabulate", "--schedule", "fm", "--steps", "2", "-o", "x.csv"];
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    let out = tweedie(dir.path(), &line);
    let want = format!(
        "error: {}: is read-only; name another file, or make this one writable\n",
        path.canonicalize().unwrap().display()
    );
    assert_eq!((String::from_utf8(out.stderr).unwrap(), out.status.code()), (want, Some(2)));
    assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    stdout(dir.path(), &line);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::read_to_string(&path).unwrap().starts_with("t,alpha"));
}

#[test]
#[cfg(target_os = "linux")]
fn threads_and_stack_of_any_size() {
    let dir = tempfile::tempdir().unwrap();
    let run = |threads: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tweedie"));
        command
            .args(["tabulate", "--schedule", "fm", "--steps", "2"])
            .env("RAYON_NUM_THREADS", threads)
            .output()
            .unwrap()
    };
    for threads in ["100000", "-1", "two", "1e3"] {
        let out = run(threads);
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(2), "{threads}");
        assert!(
            said.starts_with(&format!("error: RAYON_NUM_THREADS: got {threads}, allowed: 1 to ")),
            "{said}"
        );
        assert!(said.ends_with(", or 0 for one on each processor; unset it\n"), "{said}");
    }
    assert!(["", "0", "1", "3"].iter().all(|threads| run(threads).status.success()));
    // A small stack for the main thread, as some batch systems set it.
    for command in [
        "tabulate --schedule linear",
        "verify --claim 'ghent/*'",
        "certify --sampler ddim",
        "--help",
    ] {
        let line = format!("ulimit -s 64; exec '{}' {command}", env!("CARGO_BIN_EXE_tweedie"));
        let out = Command::new("sh").args(["-c", &line]).current_dir(dir.path()).output().unwrap();
        assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

/// Files that no report has written stay, and are named.
#[test]
fn a_report_replaces_only_what_reports_have_written() {
    let dir = tempfile::tempdir().unwrap();
    let report = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tweedie"));
        command
            .args(["report", "gpu", "--out", "mine"])
            .current_dir(dir.path())
            .env("XDG_CACHE_HOME", dir.path().join("cache"));
        let out = command.output().unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    let refused = |file: &str| {
        let want = format!(
            "error: {file}: is in the way, and no report has written it; move it elsewhere, or choose another --out\n"
        );
        assert_eq!(report(), (Some(2), want));
        assert_eq!(fs::read_to_string(dir.path().join(file)).unwrap(), "mine");
    };
    for file in
        ["mine/gpu/thesis.txt", "mine/index.html", "mine/manifest.json", "mine/gpu/gpu.json"]
    {
        fs::create_dir_all(dir.path().join("mine/gpu")).unwrap();
        fs::write(dir.path().join(file), "mine").unwrap();
        refused(file);
        fs::remove_dir_all(dir.path().join("mine")).unwrap();
    }
    fs::create_dir(dir.path().join("mine")).unwrap();
    fs::write(dir.path().join("mine/notes.md"), "mine").unwrap();
    for _ in 0..2 {
        assert_eq!(report(), (Some(0), String::new()));
    }
    fs::write(dir.path().join("mine/gpu/thesis.txt"), "mine").unwrap();
    refused("mine/gpu/thesis.txt");
    assert_eq!(fs::read_to_string(dir.path().join("mine/notes.md")).unwrap(), "mine");
}

#[test]
fn verify_compares_with_the_recorded_verdicts_and_explain_shows_one() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let out = tweedie(dir.path(), args);
        assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
        (out.status.code(), String::from_utf8(out.stdout).unwrap())
    };
    let (code, text) =
        run(&["verify", "--claim", "ghent/example-loss", "--claim", "ghent/training-step*"]);
    let last = "2 claims: 0 true, 1 true under a condition, 1 false as printed; 6 pieces of evidence; 7 of 7 wrong variants rejected; seed 0\n";
    assert_eq!((code, &text[text.len() - last.len()..]), (Some(0), last), "{text}");
    assert!(text.starts_with("False as printed (1)\n\nghent/training-step-noisy-sample\n  says   For training, draw t"), "{text}");

    let (code, text) =
        run(&["verify", "--claim", "ghent/example-loss", "--seed", "7", "--json", "-"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let claim = &json["claims"][0];
    assert_eq!(
        (code, &json["seed"], json["claims"].as_array().unwrap().len()),
        (Some(0), &7.into(), 1)
    );
    assert_eq!(
        (claim["id"].as_str(), claim["deck"].as_str(), claim["verdict"].as_str()),
        (Some("ghent/example-loss"), Some("ghent"), Some("holds-if"))
    );
    assert!(claim["condition"].is_string() && claim["correction"].is_null());
    assert!(
        ["reading", "assumptions", "finding"]
            .iter()
            .all(|key| claim[key].as_str().is_some_and(|text| text.ends_with('.')))
    );
    let (_, text) = run(&["verify", "--claim", "ghent/example-x1", "--json", "-"]);
    let one: serde_json::Value = serde_json::from_str(&text).unwrap();
    let held = &one["claims"][0];
    assert_eq!((held["verdict"].as_str(), held["reading"].as_str()), (Some("holds"), Some("")));
    assert!(
        ["assumptions", "finding"]
            .iter()
            .all(|key| held[key].as_str().is_some_and(|text| text.ends_with('.')))
    );
    let evidence = &claim["evidence"][1];
    assert_eq!(
        (evidence["want"].as_f64(), evidence["tol"].as_f64(), evidence["ok"].as_bool()),
        (Some(0.1), Some(0.005), Some(false))
    );
    assert!((evidence["got"].as_f64().unwrap() - 0.025).abs() <= 1e-15);
    assert_eq!(
        claim["mutants"][0],
        serde_json::json!({"name": "square left out", "rejected": true})
    );

    // Another snapshot: a verdict that differs exits 1, and recording mends it.
    fs::write(dir.path().join("verdicts.toml"), "[ghent]\nexample-loss = \"holds\"\n").unwrap();
    let args = ["verify", "--claim", "ghent/example-loss", "--snapshot", "verdicts.toml"];
    let (code, text) = run(&args);
    assert!(
        code == Some(1)
            && text.contains(
                "not as recorded: ghent/example-loss is found holds-if, recorded holds\n"
            ),
        "{text}"
    );
    assert_eq!(run(&[&args[..], &["--record"]].concat()).0, Some(0));
    assert_eq!(run(&args).0, Some(0));
    assert!(
        fs::read_to_string(dir.path().join("verdicts.toml"))
            .unwrap()
            .ends_with("\n[ghent]\nexample-loss = \"holds-if\"\n")
    );

    let (code, page) = run(&["explain", "ghent/example-loss"]);
    assert_eq!(code, Some(0));
    for part in [
        "ghent/example-loss: true under a condition\n\n  With the prediction",
        "\nsource    Lecture 16: Generative Models - Diffusion, Ho-min Park, Ghent University; slide \"4D Vector",
        "\nassumes  ",
        "\nformula  ",
        "\nfinding  ",
        "  with the condition, agrees: sum of the squared errors\n      got 0.1, want 0.1, difference ",
        "  without the condition, is off: mean of the squared errors\n      got 0.025, want 0.1, difference 0.075, tolerance 0.005\n      tolerance: half a unit",
        "\nwrong variants\n  rejected      square left out\n",
    ] {
        assert!(page.contains(part), "{part:?} is not in\n{page}");
    }
    assert!(!page.contains("\nprinted ") && !page.contains("\ncorrected "), "{page}");
    // Where the slide slips, its own form stands beside the correction, each under its name.
    let (_, page) = run(&["explain", "ghent/example-norm-x0"]);
    assert!(
        page.contains("\nprinted   \\|(1, 2, -1, 0.5)\\| = 2.45\ncorrected \\|(1, 2, -1, 0.5)\\| = \\sqrt{6.25} = 2.5\n"),
        "{page}"
    );

    let refused = |args: &[&str]| {
        let out = tweedie(dir.path(), args);
        assert_eq!((out.status.code(), out.stdout.len()), (Some(2), 0));
        String::from_utf8(out.stderr).unwrap()
    };
    assert_eq!(
        refused(&["verify", "--claim", "ghnt/snr"]),
        "error: --claim: got 'ghnt/snr', allowed: a pattern that some claim's id matches; try ghent/snr, or 'ghent/*' for a deck\n"
    );
    assert_eq!(
        refused(&["explain", "ghent/snrr"]),
        "error: claim: got ghent/snrr, allowed: an id of the catalogue; did you mean ghent/snr? `tweedie verify` lists all\n"
    );
    assert!(
        refused(&["verify", "--snapshot", "none.toml"])
            .starts_with("error: none.toml: cannot be read: No such file")
    );
}
