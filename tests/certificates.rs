//! What certificates say, and that they say it of the right methods.

use ndarray::array;
use rayon::prelude::*;
use std::process::{Command, Output};
use tweedie::law::Gaussian;
use tweedie::sample::certify::{Bench, Measure, SAMPLED_STEPS, Verdict, study, study_grid};
use tweedie::sample::propagate::{Response, Start};
use tweedie::sample::registry::{BELOW_DECLARED, Options, SAMPLERS, sampler};
use tweedie::sample::shortcut::Known;

#[test]
fn every_certificate_says_what_it_should() {
    let bench = Bench::new().unwrap();
    SAMPLERS.par_iter().for_each(|entry| {
        let c = bench.certify(entry.name).unwrap();
        let want = match (entry.name, c.declared) {
            ("exact", _) => Verdict::Exact,
            (name, _) if BELOW_DECLARED.contains(&name) => Verdict::BelowDeclared,
            (_, None) => Verdict::NoneDeclared,
            _ => Verdict::AsDeclared,
        };
        let orders = c.studies().map(|(law, study)| (law, study.order));
        assert_eq!(c.verdict, want, "{}: {orders:?}", c.sampler);
        assert!(c.is_as_recorded());
        for (law, study) in c.studies() {
            let measure = match (c.stochastic, law) {
                (false, _) => Measure::States,
                (true, "mixture") => Measure::Sampled,
                (true, _) => Measure::Law,
            };
            assert_eq!(
                (
                    study.measure,
                    study.runs.iter().all(|r| (r.stderr > 0.0) == (measure == Measure::Sampled))
                ),
                (measure, true)
            );
        }
        assert!(
            c.whole.iter().all(|r| r.bias <= r.w2 && r.kl >= 0.0),
            "{}: {:?}",
            c.sampler,
            c.whole
        );
        assert!(
            c.declared.is_none() || c.whole[3].w2 < c.whole[0].w2,
            "{}: {:?}",
            c.sampler,
            c.whole
        );
    });
}

/// On a Gaussian both ways of measuring a stochastic method are open: sampled moments against those
/// of the propagated law.
#[test]
fn sampled_errors_agree_with_exact_ones() {
    let (mean, var) = (array![0.4, -0.2], array![0.7, 0.7]);
    let law = Gaussian::diagonal(mean.clone(), var.clone()).unwrap();
    let method = sampler("euler-ancestral", &Options::default()).unwrap();
    for run in study(&method, Known::Any(&law), &SAMPLED_STEPS, study_grid).unwrap().runs {
        let grid = study_grid(run.steps).unwrap();
        let modes =
            Response::of(&method, &grid, var.clone()).unwrap().errors(&mean, Start::Marginal);
        let unit = modes[0].want_var;
        let shift: f64 = modes.iter().map(|m| m.mean_err.powi(2) / unit).sum();
        let spread: f64 =
            modes.iter().map(|m| ((m.var + m.mean_err.powi(2)) / unit - 1.0).powi(2)).sum();
        let cross = 2.0 * (modes[0].mean_err * modes[1].mean_err / unit).powi(2);
        let want = (shift + spread + cross).sqrt();
        assert!((run.error - want).abs() <= 4.0 * run.stderr, "{run:?}, exact {want}");
    }
}

#[test]
fn certificates_do_not_depend_on_the_number_of_threads() {
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            serde_json::to_string(&Bench::new().unwrap().certify("dpmpp-2m-sde").unwrap()).unwrap()
        })
    };
    assert_eq!(on(1), on(3));
}

fn certify(args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_tweedie")).arg("certify").args(args).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn the_command_says_what_it_found() {
    let (code, text, _) = certify(&[
        "--sampler",
        "ddim",
        "--sampler",
        "dpmpp-3m-published",
        "--sampler",
        "teleport+heun",
    ]);
    assert_eq!(code, Some(0), "{text}");
    let line = |name: &str| text.lines().find(|l| l.split(' ').next() == Some(name)).unwrap();
    assert!(
        line("ddim").ends_with("as declared") && line("ddim").contains("1.000 ± 0.000"),
        "{text}"
    );
    assert!(line("dpmpp-3m-published").ends_with("order below declared, as on record"), "{text}");
    assert!(line("teleport+heun").ends_with("no order declared"), "{text}");

    let (code, text, _) = certify(&["--sampler", "unipc", "--json", "-"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let unipc = &json["certificates"][0];
    assert_eq!(
        (code, &unipc["verdict"], &unipc["declared"]),
        (Some(0), &"as declared".into(), &3.into())
    );
    for law in ["gaussian", "mixture", "digits"] {
        let study = &unipc[law];
        assert_eq!(
            (study["runs"].as_array().unwrap().len(), study["measure"].as_str()),
            (8, Some("states"))
        );
        assert!(
            (study["order"]["slope"].as_f64().unwrap() - 3.0).abs() <= 0.1
                && study["order"]["stderr"].as_f64().unwrap() < 0.1
        );
        assert_eq!(
            study["reach"]
                .as_array()
                .unwrap()
                .iter()
                .map(|r| r["tol"].as_f64().unwrap())
                .collect::<Vec<_>>(),
            [1e-2, 1e-4, 1e-6]
        );
    }
    assert!(
        unipc["whole"].as_array().unwrap().iter().all(|r| ["w2", "bias", "kl"].iter().all(|k| r
            [k]
            .as_f64()
            .unwrap()
            > 0.0))
    );

    let (code, text, error) = certify(&["--sampler", "dpmpp-4m"]);
    assert_eq!((code, text.as_str(), error.lines().count()), (Some(2), "", 1));
    assert!(error.contains("did you mean 'dpmpp-"), "{error}");
    assert!(certify(&["--help"]).1.contains("tweedie certify --sampler dpmpp-3m"));
}
