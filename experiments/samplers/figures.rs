//! The chapter on samplers, made from the numbers of [`crate::samplers::numbers`].

use crate::samplers::numbers::{Comparison, Numbers, Produced, compute};
use std::collections::BTreeMap;
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::math::smaller;
use tweedie::number::{Number, json};
use tweedie::sample::certify::{Certificate, Measure, Study};
use tweedie_report::chapter::{
    along, command, f, figure, p, plot, scientific, section, significant,
};
use tweedie_report::drawing::{Axis, Drawing, Mark, Plot, Series, plain};
use tweedie_report::experiment::Context;
use tweedie_report::ledger::csv;
use tweedie_report::page::{Block, Chapter, File, Section, Table};
use tweedie_report::style::{
    BLUE, Colour, GREEN, INK, MUTED, ORANGE, PURPLE, SERIES, SKY, VERMILION,
};

/// Computes the experiment and describes it.
pub fn run(context: &Context) -> Result<Chapter> {
    Ok(chapter(&compute(context)?, command("samplers", context)))
}

fn chapter(n: &Numbers, command: String) -> Chapter {
    Chapter {
        name: "samplers".into(),
        title: "Samplers: what a step buys".into(),
        lead: "A sampler is judged by looking at its pictures, or by a score that needs fifty thousand of them and a network that itself is wrong. Here the network is \
               exact and the data are Gaussian, so the law that a sampler produces is Gaussian too, and its distance to the data is a number without error bars. This chapter \
               computes it for the comparisons that every lecture on diffusion makes, says which order each sampler really has, and what an evaluation buys."
            .into(),
        command,
        sections: vec![propagation(n), headline(n), few(n), precision(n), orders(n)],
    }
}

fn file(name: &str, about: &str, content: Vec<u8>) -> File {
    File { name: name.into(), about: about.into(), content }
}

fn headline_csv(n: &Numbers) -> Vec<u8> {
    let rows = n.spectra.iter().flat_map(|c| c.rows.iter().map(move |r| (c.name, r)));
    csv(
        &["data", "sampler", "nfe", "w2_over_std", "bias_over_std", "variance_kept"],
        rows.map(|(data, r)| {
            let numbers = [r.w2(), r.bias(), r.variance_kept()].map(|v| Number(v).to_string());
            [data.to_owned(), r.name.clone(), r.nfe.to_string()]
                .into_iter()
                .chain(numbers)
                .collect()
        }),
    )
}

fn laws_csv(n: &Numbers) -> Vec<u8> {
    let rows = n.spectra.iter().flat_map(|c| {
        c.rows
            .iter()
            .flat_map(move |r| r.modes.iter().enumerate().map(move |(k, m)| (c.name, r, k, m)))
    });
    csv(
        &["data", "sampler", "nfe", "k", "variance", "mean_err", "variance_produced"],
        rows.map(|(data, r, k, m)| {
            let numbers = [m.lambda, m.mean_err, m.var].map(|v| Number(v).to_string());
            [data.to_owned(), r.name.clone(), r.nfe.to_string(), (k + 1).to_string()]
                .into_iter()
                .chain(numbers)
                .collect()
        }),
    )
}

fn certificates_csv(n: &Numbers) -> Vec<u8> {
    let rows = n.certificates.iter().flat_map(|c| {
        c.studies().into_iter().flat_map(move |(law, s)| s.runs.iter().map(move |r| (c, law, r)))
    });
    csv(
        &["sampler", "declared", "law", "steps", "nfe", "error", "stderr"],
        rows.map(|(c, law, r)| {
            let declared = c.declared.map_or(String::new(), |p| p.to_string());
            let numbers = [r.error, r.stderr].map(|v| Number(v).to_string());
            [c.sampler.clone(), declared, law.to_owned(), r.steps.to_string(), r.nfe.to_string()]
                .into_iter()
                .chain(numbers)
                .collect()
        }),
    )
}

/// With a capital, for titles.
fn titled(c: &Comparison) -> String {
    c.name[..1].to_uppercase() + &c.name[1..]
}

/// A share as percent, to three digits, four from 100 on.
fn percent(share: f64) -> String {
    match 100.0 * share {
        v if v >= 10.0 => format!("{v:.1}"),
        v if v >= 1.0 => format!("{v:.2}"),
        v => plain((v * 1e3).round() / 1e3),
    }
}

fn row<'a>(c: &'a Comparison, name: &str) -> Option<&'a Produced> {
    c.rows.iter().find(|r| r.name.starts_with(name))
}

/// W2 of a row, in percent.
fn w2(c: &Comparison, name: &str) -> String {
    row(c, name).map_or("?".into(), |r| percent(r.w2()))
}

fn propagation(n: &Numbers) -> Section {
    let spectra = n.spectra.iter().zip([BLUE, VERMILION]).map(|(c, colour)| {
        let total: f64 = c.variances.iter().sum();
        let index = (1..=c.variances.len()).map(|k| k as f64);
        Series::new(c.name, index, c.variances.iter().map(move |v| v / total), Mark::Line, colour)
    });
    let side = n.settings.patch;
    section(
        "propagation",
        "A sampler seen through its response",
        vec![
            p(
                "Every sampler of this chapter forms its next state from the states, the denoiser's outputs and the noise that it has, by a table of weights. On Gaussian data the exact denoiser is linear, \
                 so the whole run is affine, and falls apart into the principal components of the data: component $k$, of variance $\\lambda_k$ and mean $\\mu_k$, ends at",
            ),
            f(
                "x_k = a_k\\, x_k^{\\text{start}} + b_k\\, \\mu_k + \\sum_j c_{kj}\\, z_j, \\qquad v_k = a_k^2\\, v^{\\text{start}} + \\sum_j c_{kj}^2",
            ),
            p(
                "The numbers $a$, $b$, $c$ are read off the sampler itself: it is run on a batch whose rows are one unit start, one unit mean, and one unit draw of noise each. Nothing is sampled, nothing \
                 is written a second time. What is produced is then known, and so is its distance to the data:",
            ),
            f(
                "W_2^2 = \\sum_k \\Big[ (m_k - \\mu_k)^2 + \\big(\\sqrt{v_k} - \\sqrt{\\lambda_k}\\big)^2 \\Big]",
            ),
            p(format!(
                "Two spectra are used: that of the 1,797 digits of 8 × 8 pixels, and that of the grey {side} × {side} patches that tile five photographs, whose variance is concentrated in the coarse \
                 components as natural images' is. Distances are given in percent of the data's total deviation $\\sqrt{{\\sum_k \\lambda_k}}$: 100 % is what a sampler is off that always returns the mean."
            )),
            figure(
                "spectra",
                "The two spectra: share of the variance in each principal component.",
                "Two falling curves on logarithmic axes: the digits' 61 components fall slowly and then off a cliff; of the photographs' 256 the first holds most of the variance, the others fall as a power law to about 1e-5.",
                vec![plot(
                    "",
                    Axis::log("k", "component k"),
                    Axis::log("share", "share of the variance"),
                    spectra.collect(),
                )],
            ),
        ],
    )
}

fn headline(n: &Numbers) -> Section {
    let [digits, photographs] = &n.spectra;
    let table = digits.rows.iter().zip(&photographs.rows).map(|(d, p)| {
        vec![
            d.name.clone(),
            d.nfe.to_string(),
            percent(d.w2()),
            percent(d.variance_kept()),
            percent(p.w2()),
            percent(p.variance_kept()),
        ]
    });
    let evaluations = || Axis::log("nfe", "evaluations of the network");
    let ladder = |c: &Comparison| {
        let colours = [VERMILION, BLUE, GREEN, PURPLE, INK];
        let mut series: Vec<Series> = c
            .runs
            .iter()
            .zip(colours)
            .map(|((name, nfe, w2), colour)| {
                Series::new(name, along(nfe), w2.iter().map(|v| 100.0 * v), Mark::Linked, colour)
            })
            .collect();
        let ends = [5.0, 1000.0];
        series.push(Series::new("exact flow", ends, [100.0 * c.floor; 2], Mark::Dashed, MUTED));
        plot(&titled(c), evaluations(), Axis::log("w2_percent", "W₂, % of the deviation"), series)
    };
    let shown: [(&str, &str, Colour); 6] = [
        ("DDPM-", "DDPM-1000", VERMILION),
        ("DDIM-50", "DDIM-50", BLUE),
        ("DPM-Solver-3, at most 20", "DPM-Solver-3, 19", PURPLE),
        ("DPM-Solver++(2M)-20", "2M-20", GREEN),
        ("Heun-18", "Heun-18", INK),
        ("teleport to σ/α = 3, then 2M-8", "teleport, 2M-8", ORANGE),
    ];
    let per_mode = |c: &Comparison| {
        let series = shown.iter().filter_map(|(name, label, colour)| {
            let (variances, gaps) = row(c, name)?.deviations();
            Some(Series::new(label, variances, gaps, Mark::Line, *colour))
        });
        let (most, least) =
            (c.variances[0], c.variances.iter().copied().fold(f64::INFINITY, smaller));
        plot(
            &titled(c),
            Axis::log("variance", "variance λ of the component (coarse to fine)")
                .over(most * 1.2, (least / 1.2).max(1e-6 * most)),
            Axis::log("deviation_error", "relative error of the deviation").over(1e-5, 1.0),
            series.collect(),
        )
    };
    let better = |c: &Comparison, name: &str| {
        let bar = row(c, "DDPM-").map_or(f64::NAN, Produced::w2);
        c.runs
            .iter()
            .find(|r| r.0 == name)
            .and_then(|(_, nfe, w2)| nfe.iter().zip(w2).find(|(_, w)| **w <= bar))
            .map(|(n, _)| *n)
    };
    let at = |nfe: Option<f64>| {
        nfe.map_or("no number of evaluations shown".into(), |n| format!("{n} evaluations"))
    };
    section(
        "headline",
        "A thousand steps against fifty, twenty, ten",
        vec![
            p(format!(
                "DDPM takes {} steps of its linear schedule; DDIM strides over it in 50; DPM-Solver takes steps even in log-SNR; EDM integrates with Heun's method on its own grid, 18 steps and 35 evaluations. \
                 All start from $N(0, I)$ ($N(0, 80^2 I)$ for EDM) and have the same exact denoiser.",
                n.settings.steps
            )),
            Block::Table(Table {
                caption: "The law that each of them produces: W₂ to the data in percent of the data's deviation, and the variance that is left, in percent of the data's.".into(),
                head: ["sampler", "evaluations", "W₂, digits", "variance, digits", "W₂, photographs", "variance, photographs"].map(String::from).to_vec(),
                rows: table.collect(),
            }),
            p(format!(
                "The ancestral sampler's thousand steps are no gold standard. They are {} % off on the digits, for this is a first-order method too, and what it loses is the variance of the fine components; adding \
                 $\\beta_t$ in place of the posterior variance loses less of it ({} %). DDIM in 50 steps is {} % off: fast, and several times worse. What replaces a thousand steps is order: of the runs drawn below, \
                 DPM-Solver-3 is better than DDPM-1000 from {} on, DPM-Solver++(2M) from {}, Heun on EDM's grid from {}, DDIM from {}.",
                w2(digits, "DDPM-"),
                row(digits, "DDPM-1000, variance").map_or("?".into(), |r| percent(r.w2())),
                w2(digits, "DDIM-50"),
                at(better(digits, "DPM-Solver-3")),
                at(better(digits, "DPM-Solver++(2M)")),
                at(better(digits, "Heun, EDM's grid")),
                at(better(digits, "DDIM"))
            )),
            p(format!(
                "On the photographs the ancestral sampler ends closer to the data than any deterministic one can, for a reason that has nothing to do with steps. The schedule's last SNR is not zero: a start in $N(0, I)$ \
                 lacks a trace of the data's mean. The exact flow carries that to the end, and is {} % off, nearly all of it in the mean ({} %): wrong brightness. An ancestral sampler's fresh noise makes it forget \
                 where it started. EDM's start, at $\\sigma = 80$, has about twice the trace that the table's last step leaves, and twice the price.",
                percent(photographs.floor),
                row(photographs, "consistency").map_or("?".into(), |r| percent(r.bias()))
            )),
            figure(
                "ladder",
                "Exact W₂ of whole runs, start in noise included. The dashed line is the exact flow from the same start in $N(0, I)$: what remains because the schedule's last step is not quite noise.",
                "Two plots on logarithmic axes. DDPM and DDIM fall in parallel as one over the number of evaluations; DPM-Solver++(2M) and Heun fall twice as steeply, DPM-Solver-3 three times, down to the dashed line of the exact flow.",
                vec![ladder(digits), ladder(photographs)],
            ),
            p(
                "Where the error sits is told by the components. A first-order sampler with steps even in $t$ spends most of them at noise levels where nothing happens and hurries through the last ones, in which the fine \
                 components appear: their variance is lost. Steps even in log-SNR give every component the same number of steps while it is decided, and the solvers' error is nearly the same for all, down to the components \
                 whose deviation is below the last noise level of the table, $\\sigma_1 = 0.01$: the final step denoises them away, whichever the sampler. EDM's grid goes on to 0.002.",
            ),
            figure(
                "modes",
                "Relative error of the standard deviation that each component has in the end, $|\\sqrt{v_k/\\lambda_k} - 1|$. Dips are changes of sign.",
                "Two plots against falling variance: the errors of DDPM-1000 and DDIM-50 rise steadily towards the fine components; the solvers' stay near 0.01 and rise only for the finest, below a variance of 1e-3; Heun-18 lies between 0.03 and 0.2 throughout.",
                vec![per_mode(digits), per_mode(photographs)],
            ),
            Block::Files(vec![
                file("headline.csv", "the table: W₂, bias and variance kept of every row", headline_csv(n)),
                file("laws.csv", "every component of every law in the table: mean and variance produced and true", laws_csv(n)),
            ]),
            Block::Evidence(n.spectra.iter().flat_map(|c| named(c.name, &c.evidence)).collect()),
        ],
    )
}

/// Evidence that says on which data it was made.
fn named<'a>(data: &'a str, rows: &'a [Evidence]) -> impl Iterator<Item = Evidence> + 'a {
    rows.iter().map(move |e| Evidence { what: format!("{data}, {}", e.what), ..e.clone() })
}

fn few(n: &Numbers) -> Section {
    let curves = |c: &Comparison| {
        let colours = [BLUE, GREEN, SKY, ORANGE, VERMILION, MUTED];
        let series = c.few.iter().zip(colours).map(|((name, nfe, w2), colour)| {
            let mark = if name.starts_with("consistency") { Mark::Dashed } else { Mark::Linked };
            Series::new(name, along(nfe), w2.iter().map(|v| 100.0 * v), mark, colour)
        });
        plot(
            &titled(c),
            Axis::log("nfe", "evaluations of the network"),
            Axis::log("w2_percent", "W₂, % of the deviation"),
            series.collect(),
        )
    };
    let [digits, photographs] = &n.spectra;
    section(
        "few",
        "One step, a few steps",
        vec![
            p(format!(
                "One step of DDIM from pure noise returns the mean, {} % off; so would any solver. A <em>consistency model</em> learns the end of the exact flow instead of the mean of all ends: if it has learned perfectly, \
                 one evaluation is exact but for the start. A <em>student</em> by progressive distillation learns what its teacher makes in two steps, again and again: a perfect student of DDIM in {} steps has the \
                 teacher's law in any number of steps, down to one, and the teacher's error ({} % on the digits) with it.",
                w2(digits, "DDIM, 1 step"),
                n.settings.teacher_steps,
                w2(digits, "student")
            )),
            f(
                "x_{t'} = \\alpha_{t'}\\, \\hat x_0 + \\sigma_{t'}\\, \\hat\\varepsilon, \\qquad \\hat x_0^{\\text{student}} = \\frac{\\sigma_t\\, x_{t'}^{\\text{teacher}} - \\sigma_{t'}\\, x_t}{\\alpha_{t'} \\sigma_t - \\sigma_{t'} \\alpha_t}",
            ),
            p(format!(
                "<em>Teleportation</em> takes no training: while the noise is high, any data are as good as Gaussian, so the first part of the way has a closed form, and the steps are spent on the rest, here below \
                 $\\sigma/\\alpha = {}$. For the Gaussian data of this chapter the jump is exact and could go all the way; what it leaves out on the real digits is measured in the chapter on the digits, \
                 where the two trajectories part below $\\sigma \\approx 2$.",
                plain(n.settings.teleport_sigma)
            )),
            figure(
                "few-steps",
                "Few evaluations, steps even in log-SNR. Students and consistency models are taken to have learned perfectly: what a trained one adds to this is its own error, not the method's.",
                "Two plots on logarithmic axes: DDIM falls slowly from 100 percent, DPM-Solver++(2M) faster, both start lower after a teleport; the student and the consistency model are flat lines below.",
                vec![curves(digits), curves(photographs)],
            ),
        ],
    )
}

fn precision(n: &Numbers) -> Section {
    let curve = |name: &String, k: usize, of: &dyn Fn(&Certificate) -> Study| {
        let study = of(n.certificate(name)?);
        let (nfe, errors): (Vec<f64>, Vec<f64>) =
            study.runs.iter().map(|r| (r.nfe as f64, r.error)).unzip();
        Some(Series::new(name, nfe, errors, Mark::Linked, SERIES[k % SERIES.len()]))
    };
    let all = |names: &[String], of: &dyn Fn(&Certificate) -> Study| -> Vec<Series> {
        names.iter().enumerate().filter_map(|(k, name)| curve(name, k, of)).collect()
    };
    let nfe = || Axis::log("nfe", "evaluations of the denoiser");
    let states = || Axis::log("rms_error", "error of the states");
    let law = || Axis::log("error", "error of the law");
    section(
        "precision",
        "Work against precision",
        vec![
            p(
                "How accurate is a method for the work it does? On the same stretch of the way, $\\sigma/\\alpha$ from 10 to 0.05 in steps even in log-SNR, a deterministic sampler is compared with the exact flow \
                 from 32 fixed starts. The digits' Gaussian has the flow in closed form; for a mixture of three Gaussians in the plane, which is no Gaussian at all, it is integrated to thirteen digits.",
            ),
            figure(
                "work",
                "Root mean square error of the end states against evaluations, for 4 to 512 steps. A method of order $p$ falls with slope $-p$; lower left is better.",
                "Two plots on logarithmic axes with straight lines of slopes one to four: ddim is the highest, then heun and dpmpp-2m with slope two, dpm-solver-3, dpmpp-3m and unipc with slope three, rk4 with slope four down to 1e-10.",
                vec![
                    plot(
                        "Digits' Gaussian",
                        nfe(),
                        states(),
                        all(&n.settings.deterministic, &|c| c.digits.clone()),
                    ),
                    plot(
                        "Mixture of three",
                        nfe(),
                        states(),
                        all(&n.settings.deterministic, &|c| c.mixture.clone()),
                    ),
                ],
            ),
            p(
                "A stochastic sampler has no state to be right or wrong about, but a law. On the digits' Gaussian that law is propagated exactly, from the true law at the start of the stretch; on the mixture no closed form carries it, so \
                 the moments of 32,768 chains stand for it, and the curve ends where it sinks into their noise.",
            ),
            figure(
                "work-stochastic",
                "Left: exact W₂ of the produced law. Right: error of mean and second moments in units of the law's deviation, sampled; errors below three standard errors are left out.",
                "Left: straight lines of slope one for ddpm and em and of slope two for the others. Right: the same ordering with fewer, noisier points.",
                vec![
                    plot(
                        "Digits' Gaussian, exact",
                        nfe(),
                        law(),
                        all(&n.settings.stochastic, &|c| c.digits.clone()),
                    ),
                    plot(
                        "Mixture of three, sampled",
                        nfe(),
                        law(),
                        all(&n.settings.stochastic, &|c| seen(&c.mixture)),
                    ),
                ],
            ),
        ],
    )
}

/// The runs whose error is told from the chains' noise.
fn seen(study: &Study) -> Study {
    Study {
        runs: study.runs.iter().copied().filter(|r| r.error > 3.0 * r.stderr).collect(),
        ..study.clone()
    }
}

/// A triangle whose long side has slope `-order` between two numbers of steps, its corner above the
/// line or below it.
fn triangle(order: i32, from: (f64, f64), to: f64, above: bool) -> Series {
    let (x, y) = from;
    let low = y * (to / x).powi(-order);
    let corner = if above { (to, y) } else { (x, low) };
    Series::new(
        format!("_slope {order}"),
        [x, to, corner.0, x],
        [y, low, corner.1, y],
        Mark::Line,
        MUTED,
    )
}

fn orders(n: &Numbers) -> Section {
    let measured = |declared: bool, s: &Study| match s.order {
        Some(o) if declared && o.stderr <= 0.25 => {
            format!(
                "{:.3} ± {:.3}{}",
                o.slope,
                o.stderr,
                if s.measure == Measure::Sampled { " s" } else { "" }
            )
        }
        _ => "–".into(),
    };
    let rows = n.certificates.iter().map(|c| {
        let mut row = vec![c.sampler.clone(), c.declared.map_or("–".into(), |p| p.to_string())];
        row.extend(c.studies().map(|(_, s)| measured(c.declared.is_some(), s)));
        row.push(c.verdict.to_string());
        row
    });
    let work = n.certificates.iter().map(|c| {
        let reach = |tol: f64| match c.digits.reach(tol) {
            Some(r) if r.nfe >= 99_999.5 => format!("~{}", scientific(r.nfe, 2)),
            Some(r) => format!("{}{:.0}", if r.extrapolated { "~" } else { "" }, r.nfe),
            None => "–".into(),
        };
        let mut row = vec![c.sampler.clone()];
        row.extend([1e-2, 1e-4, 1e-6].map(reach));
        row.extend(
            c.whole
                .iter()
                .find(|r| r.steps == 20)
                .into_iter()
                .flat_map(|r| [r.nfe.to_string(), short(r.w2), short(r.bias), short(r.kl)]),
        );
        row
    });
    let colours = [BLUE, VERMILION, GREEN];
    let mut third: Vec<Series> = n
        .third
        .iter()
        .zip(colours)
        .map(|((name, s), colour)| {
            Series::new(
                name,
                s.runs.iter().map(|r| r.steps as f64),
                s.runs.iter().map(|r| r.error),
                Mark::Linked,
                colour,
            )
        })
        .collect();
    // Below the right curve, and above the others.
    let at = |k: usize, steps: usize| {
        n.third[k].1.runs.iter().find(|r| r.steps == steps).map_or(f64::NAN, |r| r.error)
    };
    let (low, high) = ((64.0, at(0, 64) / 3.0), (128.0, at(1, 128).max(at(2, 128)) * 2.5));
    third.push(triangle(3, low, 256.0, false));
    third.push(triangle(2, high, 400.0, true));
    let third = Plot::new(
        "",
        Axis::log("steps", "steps"),
        Axis::log("rms_error", "error of the states"),
        third,
    )
    .noted(low.0 * 0.8, low.1 / 8.0, "3")
    .noted(400.0, high.1 / 3.0, "2");
    section(
        "orders",
        "Orders, declared and measured",
        vec![
            p(
                "A sampler of order $p$ has an error that falls as $1/N^p$. Orders are printed in papers and copied into code, and a wrong coefficient leaves a sampler that still makes fine pictures. \
                 Measured, it shows. The order is fitted to the tail of 4 to 512 steps together with the next term, $\\ln e_N = c - p \\ln N + b/N$, with its standard error; a sampler's declared order \
                 counts its start-up steps.",
            ),
            p(
                "One is known to differ. The multistep update of order three in DPM-Solver++ needs the second derivative of $\\hat x_0$ in $\\lambda = \\ln(\\alpha/\\sigma)$; several public codes put the second \
                 <em>divided difference</em> in its place, which is half of it:",
            ),
            f("D_2 = \\frac{D_1^{(0)} - D_1^{(1)}}{r_0 + r_1} \\approx \\tfrac12\\, h^2\\, \\hat x_0'', \\qquad \\text{so the term is } 2 D_2 \\text{, not } D_2"),
            p(
                "What is left is a second-order method. So is what is left of the right update when its first step is DDIM's, as is usual: one step with a local error of order two is enough. \
                 <code>dpmpp-3m</code> starts with a second-order single step, at one evaluation more, and has order three. On a few steps the misprint may well be the better sampler: an order says what happens in the end.",
            ),
            figure(
                "third-order",
                "The third-order multistep update on the mixture: right, as printed in public code, and right after a DDIM start. The triangles have slopes 2 and 3.",
                "Error against steps on logarithmic axes. The right update falls with slope three; the printed one and the one after a DDIM start bend to slope two and end more than ten times higher at 512 steps.",
                vec![Drawing::Plot(third)],
            ),
            Block::Evidence(n.third_evidence.clone()),
            Block::Table(Table {
                caption: "Certificates: measured orders with standard errors. s: sampled moments, which decide only beyond three standard errors; –: no order, or none that the noise lets through.".into(),
                head: ["sampler", "declared", "Gaussian", "mixture", "digits", "verdict"].map(String::from).to_vec(),
                rows: rows.collect(),
            }),
            Block::Table(Table {
                caption: "What they cost, on the digits' Gaussian. Left: evaluations to an error of the states, or of the law for stochastic ones; ~ beyond 512 steps by the measured order. Right: the exact law of 20 steps \
                          from $N(0, 80^2 I)$ on EDM's grid: W₂, distance of the means, and Kullback–Leibler divergence in nats."
                    .into(),
                head: ["sampler", "to 10⁻²", "to 10⁻⁴", "to 10⁻⁶", "evaluations", "W₂", "bias", "KL"].map(String::from).to_vec(),
                rows: work.collect(),
            }),
            Block::Files(vec![
                file("certificates.json", "all of it, as <code>tweedie certify --json</code> writes it", json(&BTreeMap::from([("certificates", &n.certificates)]))),
                file("certificates.csv", "one row a run", certificates_csv(n)),
            ]),
            Block::Evidence(n.certified.clone()),
        ],
    )
}

/// Three significant digits, in powers of ten where they are far from one.
fn short(v: f64) -> String {
    if v == 0.0 || (1e-3..1e4).contains(&v) { significant(v, 3) } else { scientific(v, 2) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tweedie_report::experiment::Profile;

    #[test]
    fn the_chapter_is_whole() {
        let chapter = run(&Context {
            settings: None,
            profile: Profile::Least,
            seed: 0,
            progress: &|_, _, _| {},
            trainings: None,
        })
        .unwrap();
        let lines = |name: &str| {
            chapter
                .files()
                .find(|f| f.name == name)
                .unwrap()
                .content
                .iter()
                .filter(|b| **b == b'\n')
                .count()
        };
        assert_eq!([lines("headline.csv"), lines("laws.csv")], [1 + 2 * 18, 1 + 18 * (64 + 256)]);
        assert!(lines("certificates.csv") > 29 * 16 && lines("certificates.json") == 1);
        // No curve is lost on the way from a name to a certificate.
        for f in chapter.figures() {
            for d in &f.drawings {
                let Drawing::Plot(p) = d else { continue };
                assert!(
                    p.series.len() >= 2 && p.series.iter().all(|s| !s.points.is_empty()),
                    "{}",
                    f.id
                );
            }
        }
    }

    #[test]
    fn triangles_have_their_slope() {
        let t = triangle(3, (10.0, 1.0), 100.0, true);
        assert_eq!(t.points[0], t.points[3]);
        assert_eq!(t.points[2], (100.0, 1.0));
        let [(x0, y0), (x1, y1)] = [t.points[0], t.points[1]];
        assert!(((y1 / y0).ln() / (x1 / x0).ln() + 3.0).abs() < 1e-14);
    }

    #[test]
    fn shares_are_short() {
        assert_eq!(
            [0.0, 0.00042, 0.0071234, 0.0256, 0.1234, 1.0012].map(percent),
            ["0", "0.042", "0.712", "2.56", "12.3", "100.1"]
        );
    }
}
