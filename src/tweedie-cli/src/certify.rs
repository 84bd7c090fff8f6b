//! `tweedie certify`: measured order, evaluations and exact error of the samplers.

use super::Outcome;
use super::output::{self, Document, Target};
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;
use serde::Serialize;
use std::fmt::Write;
use tweedie::error::Result;
use tweedie::sample::certify::{Bench, Certificate, Measure, Study, Verdict};
use tweedie::sample::registry::SAMPLERS;

/// Measure every sampler's order, evaluations and exact error where the answer is known
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  tweedie certify                                                  all samplers\n  \
                  tweedie certify --sampler dpmpp-3m --sampler dpmpp-3m-published  the right and the printed update\n  \
                  tweedie certify --sampler teleport+heun --json -                 every number, as JSON\n\n\
                  Orders: 4 to 512 steps, even in log-SNR from sigma/alpha 10 to 0.05, on a Gaussian, on a mixture of three and on the digits' \
                  Gaussian. A deterministic method's error is that of its states against the exact flow, root mean square; a stochastic one's is \
                  the exact W2 of the law it produces, or on the mixture the moments' of 32768 chains, with standard errors. edm-heun runs with \
                  churn 5, reverse-sde-family with g 0.5.\n\n\
                  Exit code 1 when a verdict is not the one on record: as declared within 0.1, except dpmpp-3m-published, which is known to be below."
)]
pub struct Args {
    /// Methods to certify [default: all]
    #[arg(long = "sampler", value_name = "NAME")]
    samplers: Vec<String>,
    /// Write the certificates as JSON to FILE, or '-' for standard output
    #[arg(long, value_name = "FILE")]
    json: Option<Target>,
}

#[derive(Serialize)]
struct Output<'a> {
    certificates: &'a [Certificate],
}

pub fn run(args: &Args) -> Result<Outcome> {
    output::possible(&[("--json", args.json.as_ref())])?;
    let names: Vec<&str> = match &args.samplers[..] {
        [] => SAMPLERS.iter().map(|e| e.name).collect(),
        some => some.iter().map(String::as_str).collect(),
    };
    let bench = Bench::new()?;
    let bar = ProgressBar::new(names.len() as u64);
    bar.set_style(
        ProgressStyle::with_template("{spinner} samplers [{bar:24}] {pos}/{len} {elapsed}")
            .unwrap_or(ProgressStyle::default_bar()),
    );
    let certify = |name: &&str| {
        let certificate = bench.certify(name);
        bar.inc(1);
        certificate
    };
    let certificates = names.par_iter().map(certify).collect::<Result<Vec<_>>>()?;
    bar.finish_and_clear();
    if args.json != Some(Target::Stdout) {
        output::print(orders(&certificates) + "\n" + &errors(&certificates))?;
    }
    if let Some(target) = &args.json {
        target.write(&Document::verdicts(&Output { certificates: &certificates }))?;
    }
    Ok(if certificates.iter().all(Certificate::is_as_recorded) {
        Outcome::Success
    } else {
        Outcome::CheckFailed
    })
}

fn orders(certificates: &[Certificate]) -> String {
    let [name, declared, verdict] = ["sampler", "declared", "verdict"];
    let mut text = format!(
        "{name:20} {declared:>8}  {:>15} {:>15} {:>15}  {verdict}\n",
        "gaussian", "mixture", "digits"
    );
    for c in certificates {
        let declared = c.declared.map_or("-".to_owned(), |p| p.to_string());
        let [gaussian, mixture, digits] = c.studies().map(|(_, study)| order(c, study));
        let on_record = match c.is_as_recorded() {
            true if c.verdict == Verdict::BelowDeclared => ", as on record",
            true => "",
            false => ", NOT as on record",
        };
        let _ = writeln!(
            text,
            "{:20} {declared:>8}  {gaussian:>15} {mixture:>15} {digits:>15}  {}{on_record}",
            c.sampler, c.verdict
        );
    }
    text + "Measured orders with standard errors, s: of sampled moments. Declared ones count the start-up steps.\n"
}

/// A measured order, where one is declared and the errors lie on a line that can be told from
/// noise.
fn order(certificate: &Certificate, study: &Study) -> String {
    let mark = if study.measure == Measure::Sampled { " s" } else { "  " };
    match study.order {
        Some(o) if certificate.declared.is_some() && o.stderr <= 0.25 => {
            format!("{:.3} ± {:.3}{mark}", o.slope, o.stderr)
        }
        _ => format!("-{mark}"),
    }
}

fn errors(certificates: &[Certificate]) -> String {
    let mut text = format!(
        "{:20} {:^26}  {:^35}\n",
        "", "evaluations to an error of", "a whole run of 20 steps"
    );
    let _ = writeln!(
        text,
        "{:20} {:>8} {:>8} {:>8}  {:>5} {:>9} {:>9} {:>9}",
        "sampler", "1e-2", "1e-4", "1e-6", "NFE", "W2", "bias", "KL"
    );
    for c in certificates {
        let reach = |tol: f64| match c.digits.reach(tol) {
            Some(r) if r.nfe >= 99_999.5 => format!("~{:.1e}", r.nfe),
            Some(r) => format!("{}{:.0}", if r.extrapolated { "~" } else { "" }, r.nfe),
            None => "-".to_owned(),
        };
        let [a, b, d] = [1e-2, 1e-4, 1e-6].map(reach);
        let _ = write!(text, "{:20} {a:>8} {b:>8} {d:>8}", c.sampler);
        if let Some(r) = c.whole.iter().find(|r| r.steps == 20) {
            let _ = write!(text, "  {:>5} {:>9.2e} {:>9.2e} {:>9.2e}", r.nfe, r.w2, r.bias, r.kl);
        }
        text.push('\n');
    }
    text + "Both on the digits' Gaussian. Left: errors as for the order, ~ beyond the runs by the measured order. Right: the law produced from\n\
            N(0, 80^2) on EDM's grid against the data's, exact; what `exact` is left with is the price of that start.\n"
}
