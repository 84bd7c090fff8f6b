//! The accuracy table, `reports/accuracy.md`: every closed form against numbers of 50 and more
//! digits, worst error in ulp.
//!
//! `UPDATE=1 cargo test --release accuracy` rewrites the committed table; without it the test holds
//! the functions to their bounds and the committed table to the functions, domains and bounds
//! tested here (the measured figures may move with the C library).

use ndarray::Array2;
use num_dual::DualNum;
use std::fmt::Write as _;
use std::path::PathBuf;
use tweedie::diffusion::PathPoint;
use tweedie::diffusion::decoder::DiscretisedGaussian;
use tweedie::diffusion::elbo;
use tweedie::diffusion::level::{Level, Rates};
use tweedie::diffusion::path::{Path, PathRow};
use tweedie::diffusion::preconditioning::{Preconditioning, input_var, target_var};
use tweedie::diffusion::prediction::{Conversion, Frame, Prediction};
use tweedie::diffusion::schedule::{Row, Schedule, Table};
use tweedie::exact::pf_ode::pf_ode_measured;
use tweedie::exact::reverse_sde::{self, Churn};
use tweedie::exact::{emergence, gains, student};
use tweedie::law::empirical::Empirical;
use tweedie::law::gaussian::wiener_gain;
use tweedie::law::mixture::Mixture;
use tweedie::law::{Gaussian, Law};
use tweedie::math::dd::Dd;
use tweedie::math::gaussian::kl_normal;
use tweedie::math::noise::normal_quantile;
use tweedie::math::normal::log_cdf_difference;

/// `|got - want|` in units of the last place of `want`; 0 where both are the same infinity.
fn ulps(got: f64, want: Dd) -> f64 {
    let nearest = want.hi();
    if got == nearest && (got == 0.0 || got.is_infinite()) {
        return 0.0;
    }
    let ulp = nearest.abs().next_up() - nearest.abs();
    ((Dd::from(got) - want) / ulp).hi().abs()
}

struct Golden {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Golden {
    fn read(name: &str) -> Self {
        let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
            .join("tests/golden/mp")
            .join(name);
        let mut reader = csv::Reader::from_path(&path).unwrap();
        let header = reader.headers().unwrap().iter().map(str::to_owned).collect();
        let rows =
            reader.records().map(|r| r.unwrap().iter().map(str::to_owned).collect()).collect();
        Self { header, rows }
    }

    fn column(&self, name: &str) -> usize {
        self.header.iter().position(|h| h == name).unwrap_or_else(|| panic!("no column {name}"))
    }
}

struct Line {
    function: String,
    domain: String,
    points: usize,
    worst: f64,
    bound: f64,
    input: String,
}

#[derive(Default)]
struct Report {
    lines: Vec<Line>,
}

impl Report {
    /// Compares column `want` of every row with `got(row's numbers)` of `what`, (function, domain);
    /// `inputs` columns name the worst row.
    fn compare(
        &mut self,
        what: (&str, &str),
        golden: &Golden,
        want: &str,
        inputs: &[&str],
        bound: f64,
        got: impl Fn(&[f64]) -> f64,
    ) {
        let (function, domain) = what;
        let wanted = golden.column(want);
        let (mut worst, mut input) = (0.0, "all exact".to_owned());
        for row in &golden.rows {
            let numbers: Vec<f64> = row.iter().map(|s| s.parse().unwrap()).collect();
            let error = ulps(got(&numbers), row[wanted].parse().unwrap());
            // Written so that a NaN becomes the worst.
            if !(error <= worst) {
                worst = error;
                input = inputs
                    .iter()
                    .map(|i| format!("{i} = {}", row[golden.column(i)]))
                    .collect::<Vec<_>>()
                    .join(", ");
            }
        }
        assert!(!golden.rows.is_empty());
        self.lines.push(Line {
            function: function.into(),
            domain: domain.into(),
            points: golden.rows.len(),
            worst,
            bound,
            input,
        });
    }

    fn markdown(&self) -> String {
        let mut out = String::from(
            "# Accuracy\n\nEvery closed form against 60-digit arithmetic (mpmath), over all points of the golden tables in `tests/golden/mp`.\n\
             The error is `|got - want| / ulp(want)`, the exact value not rounded first, so 0.5 is the best that an `f64` can do.\n\
             Written by `UPDATE=1 cargo test --release accuracy`; the same test holds every row to its bound.\n\n\
             | function | domain | points | max error (ulp) | bound | worst input |\n|---|---|---:|---:|---:|---|\n",
        );
        for l in &self.lines {
            writeln!(
                out,
                "| `{}` | {} | {} | {:.2} | {} | {} |",
                l.function, l.domain, l.points, l.worst, l.bound, l.input
            )
            .unwrap();
        }
        out
    }
}

/// The columns of a markdown table that do not depend on the machine.
fn contract(markdown: &str) -> Vec<String> {
    markdown
        .lines()
        .filter(|l| l.starts_with("| `"))
        .map(|l| {
            let c: Vec<&str> = l.split('|').map(str::trim).collect();
            format!("{} {} {} {}", c[1], c[2], c[3], c[5])
        })
        .collect()
}

fn table_columns(row: &Row) -> [(&'static str, f64); 12] {
    [
        ("beta", row.beta),
        ("alpha_step", row.alpha_step),
        ("alpha_bar", row.alpha_bar),
        ("alpha", row.alpha),
        ("sigma", row.sigma),
        ("snr", row.snr),
        ("log_snr", row.log_snr),
        ("posterior_coef_x0", row.posterior_coef_x0),
        ("posterior_coef_xt", row.posterior_coef_xt),
        ("posterior_var", row.posterior_var),
        ("vlb_weight_beta", row.vlb_weight_beta),
        ("vlb_weight_posterior", row.vlb_weight_posterior),
    ]
}

/// The closed forms over the range of an f64, where squares and products of what they are given are
/// not in it.
fn extremes(report: &mut Report) {
    let golden = Golden::read("extreme_gains.csv");
    let domain = "one mode between two levels, sizes 1e-300 to 1e300";
    let at = ["lambda", "alpha_from", "sigma_from", "alpha_to", "sigma_to"];
    let from = |n: &[f64]| Level::new(n[1], n[2]);
    let to = |n: &[f64]| Level::new(n[3], n[4]);
    type Function = fn(f64, Level, Level) -> f64;
    let functions: [(&str, &str, Function); 8] = [
        ("gains::psi", "psi", gains::psi),
        ("gains::xi", "xi", gains::xi),
        ("gains::log_psi", "log_psi", gains::log_psi),
        ("wiener_gain", "wiener", |l, _, to| wiener_gain(l, to.alpha, to.sigma)),
        ("elbo::mmse", "mmse", |l, _, to| elbo::mmse(l, (to.alpha, to.sigma))),
        ("Level::noise_share", "noise_share", |l, _, to| to.noise_share(l)),
        ("student::ddim_gain", "ddim", student::ddim_gain),
        ("emergence::emerged_fraction", "emerged", |l, _, to| {
            emergence::emerged_fraction(l, to.sigma)
        }),
    ];
    for (name, column, function) in functions {
        report
            .compare((name, domain), &golden, column, &at, 4.0, |n| function(n[0], from(n), to(n)));
    }
    report.compare(
        ("elbo::continuous_transitions", domain),
        &golden,
        "transitions",
        &at,
        8.0,
        |n| {
            let (a, b) = (from(n), to(n));
            let (clean, noisy) = if a.log_snr() > b.log_snr() { (a, b) } else { (b, a) };
            elbo::continuous_transitions(
                n[0],
                (clean.alpha, clean.sigma),
                (noisy.alpha, noisy.sigma),
            )
        },
    );

    let golden = Golden::read("extreme_steps.csv");
    let at = ["drop", "error", "log_ratio"];
    report.compare(
        ("elbo::transition", "drops 1e-20 to 1e300, errors 1e-20 to 1e20"),
        &golden,
        "transition",
        &at,
        4.0,
        |n| elbo::transition(n[2], n[0], n[1]),
    );
    report.compare(
        ("elbo::log_ratio_beta", "sigma 1e-300 to 1e300"),
        &golden,
        "log_ratio_beta",
        &["sigma_s", "sigma_t"],
        4.0,
        |n| elbo::log_ratio_beta((1.0, n[4]), (1.0, n[5])),
    );

    let golden = Golden::read("extreme_preconditioning.csv");
    let at = ["sigma", "sigma_data", "data_var"];
    let functions: [(&str, Function3); 5] = [
        ("c_skip", |s, d, _| Preconditioning::edm(s, d).unwrap().c_skip),
        ("c_out", |s, d, _| Preconditioning::edm(s, d).unwrap().c_out),
        ("c_in", |s, d, _| Preconditioning::edm(s, d).unwrap().c_in),
        ("input_var", input_var),
        ("target_var", target_var),
    ];
    for (column, function) in functions {
        let what = format!("preconditioning::{column}");
        report.compare((&what, "sizes 1e-300 to 1e300"), &golden, column, &at, 6.0, |n| {
            function(n[0], n[1], n[2])
        });
    }

    let golden = Golden::read("extreme_conversions.csv");
    let at = ["alpha", "sigma", "d_alpha", "d_sigma", "p", "xt"];
    use Prediction::{Eps, F, V, Velocity, X0};
    // The sign of the prediction is the one with which nothing cancels.
    for (column, a, b, sign) in [
        ("x0_from_v", V, X0, -1.0),
        ("eps_from_v", V, Eps, 1.0),
        ("x0_from_velocity", Velocity, X0, -1.0),
        ("eps_from_velocity", Velocity, Eps, 1.0),
        ("x0_from_f", F, X0, 1.0),
        ("eps_from_f", F, Eps, -1.0),
    ] {
        report.compare(
            (&format!("Conversion::apply, {column}"), "sizes 1e-300 to 1e300"),
            &golden,
            column,
            &at,
            6.0,
            |n| {
                let frame = Frame {
                    alpha: n[0],
                    sigma: n[1],
                    rates: Some(Rates::new(n[2], n[3])),
                    sigma_data: 0.5,
                };
                Conversion::new(a, b, frame).unwrap().apply(sign * n[4], n[5])
            },
        );
    }

    let golden = Golden::read("extreme_quantile.csv");
    report.compare(("normal_quantile", "5e-324 to 1e-30"), &golden, "quantile", &["p"], 4.0, |n| {
        normal_quantile(n[0])
    });

    let golden = Golden::read("extreme_vp.csv");
    let vp = |n: &[f64]| Path::Vp { beta_min: 0.1, beta_max: n[0] };
    let domain = "vp, beta_max 20 to 1e8, t 1e-300 to 1";
    report.compare(("Path::log_snr", domain), &golden, "log_snr", &["beta_max", "t"], 1.0, |n| {
        vp(n).log_snr(n[1]).unwrap()
    });
    report.compare(
        ("Path::t_from_log_snr", domain),
        &golden,
        "time",
        &["beta_max", "at"],
        1.0,
        |n| vp(n).t_from_log_snr(n[3]).unwrap(),
    );
    let golden = Golden::read("extreme_ve.csv");
    let at = ["sigma_min", "sigma_max", "t"];
    let row = |n: &[f64]| Path::Ve { sigma_min: n[0], sigma_max: n[1] }.row(n[2]).unwrap();
    type Column = (&'static str, fn(&PathRow) -> f64);
    let columns: [Column; 3] =
        [("sigma", |r| r.sigma), ("d_sigma", |r| r.d_sigma), ("log_snr", |r| r.log_snr)];
    for (column, get) in columns {
        let what = format!("Path::row.{column}");
        report.compare((&what, "ve, sigma 1e-300 to 1e300"), &golden, column, &at, 1.0, |n| {
            get(&row(n))
        });
    }

    let tables: [(&str, &str, Table); 3] = [
        (
            "extreme_table_zero_snr_1e-200.csv",
            "zero-terminal-snr of betas 1e-200 to 2e-199",
            tiny_zero_snr(1e-200),
        ),
        (
            "extreme_table_zero_snr_1e-16.csv",
            "zero-terminal-snr of betas 1e-16 to 2e-15",
            tiny_zero_snr(1e-16),
        ),
        ("extreme_table_steep.csv", "betas near 0.999, log SNR to -2000", {
            Table::from_betas(
                &(0..300).map(|k| 0.999 - 1e-4 * f64::from(k % 7)).collect::<Vec<_>>(),
            )
            .unwrap()
        }),
    ];
    for (file, domain, table) in tables {
        let golden = Golden::read(file);
        for (k, (column, _)) in table_columns(&table.rows()[0])
            .iter()
            .enumerate()
            .filter(|(_, c)| golden.header.iter().any(|h| h == c.0))
        {
            report.compare(
                (&format!("Table::row.{column}"), domain),
                &golden,
                column,
                &["t"],
                1.0,
                |n| table_columns(table.row(n[0] as usize).unwrap())[k].1,
            );
        }
    }

    let golden = Golden::read("decoder.csv");
    let at = ["bins", "k", "mean", "std"];
    report.compare(
        ("DiscretisedGaussian::log_mass", "2 to 65536 bins, std 1e-7 to 3"),
        &golden,
        "log_mass",
        &at,
        8.0,
        |n| DiscretisedGaussian::new(n[0] as usize).unwrap().log_mass(n[1] as usize, n[2], n[3]),
    );
    double_double(report);
}

type Function3 = fn(f64, f64, f64) -> f64;

fn tiny_zero_snr(size: f64) -> Table {
    Table::new(Schedule::Linear { beta_start: size, beta_end: 20.0 * size }, 20, true).unwrap()
}

/// The functions of double-double numbers, in units of 2^-104 of the value.
fn double_double(report: &mut Report) {
    let golden = Golden::read("double_double.csv");
    type Function = fn(Dd) -> Dd;
    let functions: [(&str, Function); 18] = [
        ("exp", |x| x.exp()),
        ("exp2", |x| x.exp2()),
        ("exp_m1", |x| x.exp_m1()),
        ("ln", |x| x.ln()),
        ("ln_1p", |x| x.ln_1p()),
        ("sqrt", |x| x.sqrt()),
        ("cbrt", |x| x.cbrt()),
        ("sinh", |x| x.sinh()),
        ("cosh", |x| x.cosh()),
        ("tanh", |x| x.tanh()),
        ("asinh", |x| x.asinh()),
        ("acosh", |x| x.acosh()),
        ("atanh", |x| x.atanh()),
        ("atan", |x| x.atan()),
        ("asin", |x| x.asin()),
        ("acos", |x| x.acos()),
        ("sin", |x| x.sin()),
        ("cos", |x| x.cos()),
    ];
    for (name, function) in functions {
        let (mut worst, mut input, mut points) = (0.0, "all exact".to_owned(), 0);
        for row in golden.rows.iter().filter(|row| row[0] == name) {
            let [x, hi, lo] = [1, 2, 3].map(|k| row[k].parse::<f64>().unwrap());
            let (got, want) = (function(Dd::from(x)), Dd::sum_of(hi, lo));
            let error =
                if got == want { 0.0 } else { (((got - want) / want).hi() * 2f64.powi(104)).abs() };
            if !(error <= worst) {
                (worst, input) = (error, format!("x = {}", row[1]));
            }
            points += 1;
        }
        assert!(points > 0, "{name}");
        let (function, domain) = (
            format!("Dd::{name}"),
            "its domain, ends included (sine, cosine to 1e15); in units of 2^-104".to_owned(),
        );
        report.lines.push(Line { function, domain, points, worst, bound: 4.0, input });
    }
}

#[test]
fn accuracy() {
    let mut report = Report::default();
    for (name, schedule, zero_terminal_snr) in [
        ("linear", Schedule::LINEAR, false),
        ("cosine", Schedule::COSINE, false),
        ("scaled-linear", Schedule::SCALED_LINEAR, false),
        ("sigmoid", Schedule::SIGMOID, false),
        ("linear-zero-snr", Schedule::LINEAR, true),
        ("scaled-linear-zero-snr", Schedule::SCALED_LINEAR, true),
    ] {
        let golden = Golden::read(&format!("{name}_1000.csv"));
        let table = Table::new(schedule, 1000, zero_terminal_snr).unwrap();
        let which = if golden.rows.len() == 1000 { "every t" } else { "every 7th t" };
        let columns = table_columns(&table.rows()[0]);
        assert_eq!(golden.header.len(), 1 + columns.len(), "a column without a comparison");
        for (k, (column, _)) in columns.iter().enumerate() {
            let domain = format!("{name}, T = 1000, {which}");
            report.compare(
                (&format!("Table::row.{column}"), &domain),
                &golden,
                column,
                &["t"],
                4.0,
                |n| table_columns(table.row(n[0] as usize).unwrap())[k].1,
            );
        }
    }

    for path in [Path::VP, Path::VE, Path::EDM, Path::Cosine, Path::FlowMatching] {
        let golden = Golden::read(&format!("{}_continuous.csv", path.name()));
        type Column = (&'static str, fn(&PathRow) -> f64);
        let columns: [Column; 6] = [
            ("alpha", |r| r.alpha),
            ("sigma", |r| r.sigma),
            ("d_alpha", |r| r.d_alpha),
            ("d_sigma", |r| r.d_sigma),
            ("snr", |r| r.snr),
            ("log_snr", |r| r.log_snr),
        ];
        for (column, get) in columns {
            let domain = format!("{}, t in [{}, 1]", path.name(), golden.rows[0][0]);
            report.compare(
                (&format!("Path::row.{column}"), &domain),
                &golden,
                column,
                &["t"],
                4.0,
                |n| get(&path.row(n[0]).unwrap()),
            );
        }
    }

    let golden = Golden::read("gains.csv");
    let domain = "lambda, sigma in [1e-12, 1e12]";
    let at = ["lambda", "sigma_t", "sigma_T"];
    let level = |sigma| Level { alpha: 1.0, sigma };
    report.compare(("wiener_gain", domain), &golden, "wiener", &at, 4.0, |n| {
        wiener_gain(n[0], 1.0, n[1])
    });
    report.compare(("gains::psi", domain), &golden, "pf_ode_gain", &at, 4.0, |n| {
        gains::psi(n[0], level(n[2]), level(n[1]))
    });
    report.compare(("gains::xi", domain), &golden, "xi", &at, 4.0, |n| {
        gains::xi(n[0], level(n[2]), level(n[1]))
    });
    report.compare(("gains::log_psi", domain), &golden, "log_pf_ode_gain", &at, 4.0, |n| {
        gains::log_psi(n[0], level(n[2]), level(n[1]))
    });

    let golden = Golden::read("kl_1d.csv");
    let at = ["m1", "v1", "m2", "v2"];
    report.compare(
        ("kl_normal", "variances 1e-8 to 1e8, ratios from 1 + 1e-12"),
        &golden,
        "kl",
        &at,
        4.0,
        |n| kl_normal(n[0], n[1], n[2], n[3]),
    );

    for (file, domain) in [
        ("log_cdf_difference.csv", "bins of 1e-6 to 5 sigma, to 65 sigma"),
        ("log_cdf_difference_wide.csv", "bins across 0, half-infinite, nearly all of the mass"),
    ] {
        let golden = Golden::read(file);
        report.compare(
            ("log_cdf_difference", domain),
            &golden,
            "log_difference",
            &["a", "b"],
            8.0,
            |n| log_cdf_difference(n[0], n[1]),
        );
    }

    extremes(&mut report);
    far_and_tied(&mut report);
    flows(&mut report);

    let markdown = report.markdown();
    let path =
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join("reports/accuracy.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &markdown).unwrap();
    }
    let failures: Vec<String> = report
        .lines
        .iter()
        .filter(|l| !(l.worst <= l.bound))
        .map(|l| {
            format!(
                "{} ({}): {:.3} ulp > {} at {}",
                l.function, l.domain, l.worst, l.bound, l.input
            )
        })
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        contract(&committed),
        contract(&markdown),
        "reports/accuracy.md is stale: UPDATE=1 cargo test --release accuracy"
    );
}

/// Two points in the plane, far off them and tied: every output of the empirical law, and of the
/// mixture of two point masses.
fn far_and_tied(report: &mut Report) {
    let golden = Golden::read("two_points.csv");
    let at = ["ax", "ay", "bx", "by", "alpha", "sigma", "x", "y"];
    let domain = "two points, to 1e9 sigma off and tied down to sigma = 8e-9";
    let points = |n: &[f64]| ndarray::array![[n[0], n[1]], [n[2], n[3]]];
    let state = |n: &[f64]| (ndarray::array![[n[6], n[7]]], PathPoint::still(n[4], n[5]));
    let empirical = |n: &[f64]| -> Box<dyn Law> { Box::new(Empirical::new(points(n)).unwrap()) };
    let mixture = |n: &[f64]| -> Box<dyn Law> {
        let parts = points(n)
            .rows()
            .into_iter()
            .map(|y| Gaussian::isotropic(y.to_owned(), 0.0).unwrap())
            .collect();
        Box::new(Mixture::new(ndarray::array![1.0, 1.0], parts).unwrap())
    };
    type Build<'a> = &'a dyn Fn(&[f64]) -> Box<dyn Law>;
    for (name, law) in [("Empirical", &empirical as Build), ("Mixture", &mixture as Build)] {
        type Output = dyn Fn(&dyn Law, &Array2<f64>, &PathPoint) -> f64;
        let mut compare = |what: &str, want: &str, bound: f64, got: &Output| {
            report.compare((&format!("{name}::{what}"), domain), &golden, want, &at, bound, |n| {
                let (x, at) = state(n);
                got(law(n).as_ref(), &x, &at)
            });
        };
        // 1e-12 of an exponent is 4,500 ulp of a weight; an x0_hat between opposite points cancels
        // four of them.
        compare("denoise", "x0_hat", 20_000.0, &|law, x, at| {
            law.denoised(x.view(), at).unwrap()[[0, 0]]
        });
        compare("posterior_cov", "variance", 20_000.0, &|law, x, at| {
            law.posterior_cov(x.row(0), at).unwrap()[[0, 0]]
        });
        compare("jacobian", "jacobian", 20_000.0, &|law, x, at| {
            law.jacobian(x.row(0), at).unwrap()[[0, 0]]
        });
        compare("log_density", "log_density", 8.0, &|law, x, at| law.log_density(x.view(), at)[0]);
    }
    // Between the points the score passes 0; an error is measured there against its two terms, not
    // against what they leave.
    let (ax, x, sigma, score) =
        (golden.column("ax"), golden.column("x"), golden.column("sigma"), golden.column("score"));
    let leaves = |r: &&Vec<String>| {
        let [ax, x, sigma, score] = [ax, x, sigma, score].map(|k| r[k].parse::<f64>().unwrap());
        score.abs() * sigma * sigma >= 0.01 * (ax - x).abs()
    };
    let scores = Golden {
        header: golden.header.clone(),
        rows: golden.rows.iter().filter(leaves).cloned().collect(),
    };
    let domain_of_score = "the same, where its two terms leave 1 % of each and more";
    for (name, law) in
        [("Empirical::score", &empirical as Build), ("Mixture::score", &mixture as Build)]
    {
        report.compare((name, domain_of_score), &scores, "score", &at, 20_000.0, |n| {
            let ((x, at), mut score) = (state(n), Array2::zeros((1, 2)));
            law(n).score(x.view(), &at, score.view_mut()).unwrap();
            score[[0, 0]]
        });
    }
    report.compare(("Empirical::responsibilities", domain), &golden, "weight", &at, 5_000.0, |n| {
        let (x, at) = state(n);
        Empirical::new(points(n)).unwrap().responsibilities(x.view(), &at)[[0, 0]]
    });
    report.compare(("Empirical::posterior_var", domain), &golden, "variance", &at, 20_000.0, |n| {
        let (x, at) = state(n);
        Empirical::new(points(n)).unwrap().posterior_var(x.view(), &at)[[0, 0]]
    });
}

/// Reverse SDEs with Langevin churn, and the PF-ODE of laws in one dimension, which keeps
/// quantiles.
fn flows(report: &mut Report) {
    let golden = Golden::read("langevin_variance.csv");
    let level = |sigma| Level { alpha: 1.0, sigma };
    let domain = "lambda 0 to 1e4, sigma 80 to 0, also close levels";
    report.compare(
        ("reverse_sde::variance", domain),
        &golden,
        "variance",
        &["lambda", "s_from", "s_to", "start", "rate"],
        64.0,
        |n| reverse_sde::variance(n[0], n[3], level(n[1]), level(n[2]), Churn::Langevin(n[4])),
    );

    let golden = Golden::read("flow_1d.csv");
    let solution = |n: &[f64]| {
        let means = &n[1..=n[0] as usize];
        let law: Box<dyn Law> = if n[5] == 0.0 {
            Box::new(
                Empirical::new(Array2::from_shape_fn((means.len(), 1), |(i, _)| means[i])).unwrap(),
            )
        } else {
            let parts = means
                .iter()
                .map(|m| Gaussian::isotropic(ndarray::array![*m], n[5]).unwrap())
                .collect();
            Box::new(Mixture::new(ndarray::Array1::ones(means.len()), parts).unwrap())
        };
        let points = [PathPoint::still(n[6], n[7]), PathPoint::still(n[9], n[10])];
        let solution =
            pf_ode_measured(law.as_ref(), ndarray::array![[n[8]]].view(), &points).unwrap();
        let unit = (n[9] * law.cov()[[0, 0]].sqrt()).hypot(n[10]);
        (solution.states[1][[0, 0]], solution.errors[1] * unit)
    };
    // What the solver says of its error is above the error itself, in every case: that is the bound
    // of 1 here.
    let wanted = golden.column("x_to");
    for row in &golden.rows {
        let numbers: Vec<f64> = row.iter().map(|s| s.parse().unwrap()).collect();
        let (got, said) = solution(&numbers);
        let error = (Dd::from(got) - row[wanted].parse::<Dd>().unwrap()).hi().abs();
        println!("{row:?}: {got} error {error:e} said {said:e}");
        assert!(error <= said, "{row:?}: {got}, off by {error:e}, said {said:e}");
    }
    let which = |pairs: bool| Golden {
        header: golden.header.clone(),
        rows: golden.rows.iter().filter(|r| (r[0] == "4.0") == pairs).cloned().collect(),
    };
    let at = ["m1", "m2", "sigma", "x", "sigma_to"];
    report.compare(
        ("pf_ode_solve", "two modes about a mean of 0 to 1e9, noise to data"),
        &which(false),
        "x_to",
        &at,
        5_000.0,
        |n| solution(n).0,
    );
    report.compare(
        ("pf_ode_solve", "two pairs of near points, data to noise"),
        &which(true),
        "x_to",
        &at,
        5e6,
        |n| solution(n).0,
    );
}

#[test]
fn errors_are_counted_in_units_of_the_last_place() {
    assert!((ulps(1.0 + f64::EPSILON, Dd::from(1.0)) - 1.0).abs() <= 1e-12);
    assert!((ulps(1.0, Dd::sum_of(1.0, f64::EPSILON / 4.0)) - 0.25).abs() <= 1e-12);
    assert!(ulps(f64::NAN, Dd::from(1.0)).is_nan());
}
