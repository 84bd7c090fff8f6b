//! Work, precision and order of every sampler, and the comparisons that lectures open with, exact.

use ndarray::Array1;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tweedie::diffusion::level::Level;
use tweedie::diffusion::schedule::{Schedule, Table};
use tweedie::diffusion::{Path, PathPoint};
use tweedie::error::{Error, Result};
use tweedie::evidence::Evidence;
use tweedie::exact::distance::w2_squared;
use tweedie::exact::gains::psi;
use tweedie::exact::student::{ddim_chain_gain, ddim_law, distilled_denoiser_gain};
use tweedie::law::gaussian::wiener_gain;
use tweedie::law::{Gaussian, Law};
use tweedie::math::larger;
use tweedie::sample::Sampler;
use tweedie::sample::certify::{
    Bench, CERTIFIED_STEPS, Certificate, Measure, Study, study, study_grid,
};
use tweedie::sample::dpmpp::{Dpmpp3m, Dpmpp3mAfterDdim, Dpmpp3mPublished};
use tweedie::sample::grid::{Grid, Spacing};
use tweedie::sample::propagate::{ModeError, Response, Start, modes};
use tweedie::sample::registry::{BELOW_DECLARED, Named, Options, SAMPLERS, VarianceName};
use tweedie::sample::shortcut::Known;
use tweedie_report::experiment::{Context, Editable, Embedded};

/// What `experiments/samplers/settings.toml` holds.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Deterministic methods of the work-precision plots.
    pub deterministic: Vec<String>,
    /// Stochastic ones.
    pub stochastic: Vec<String>,
    /// Side of the patches of photographs.
    pub patch: usize,
    /// Steps of DDPM's table.
    pub steps: usize,
    /// Noise level to which teleportation jumps.
    pub teleport_sigma: f64,
    /// Steps of the students' teacher.
    pub teacher_steps: usize,
    /// Evaluations of the few-step comparison.
    pub few: Vec<usize>,
    /// Effort of the quick profile.
    pub quick: Effort,
    /// Effort of the full profile.
    pub full: Effort,
}

/// How much is computed.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Effort {
    /// Evaluations of the comparison of whole runs.
    pub evaluations: Vec<usize>,
}

impl Embedded for Settings {
    const SOURCE: Editable = source!("samplers/settings.toml");

    fn least(self) -> Self {
        Self { quick: Effort { evaluations: vec![5, 10, 50] }, ..self }
    }

    fn rules(&self) -> Vec<(bool, &'static str)> {
        let s = self;
        let known = |names: &[String]| names.iter().all(|n| SAMPLERS.iter().any(|e| e.name == n));
        let rising = |v: &[usize]| !v.is_empty() && v[0] >= 1 && v.windows(2).all(|p| p[0] < p[1]);
        vec![
            (
                known(&s.deterministic) && known(&s.stochastic),
                "deterministic, stochastic: names of samplers",
            ),
            ((2..=32).contains(&s.patch), "patch: 2 to 32"),
            (s.steps >= 50, "steps: at least 50"),
            (
                s.teleport_sigma > 0.1 && s.teleport_sigma < 80.0,
                "teleport_sigma: between 0.1 and 80",
            ),
            (s.teacher_steps.is_power_of_two(), "teacher_steps: a power of two"),
            (
                rising(&s.few) && s.few[s.few.len() - 1] <= s.teacher_steps,
                "few: rising, at most teacher_steps",
            ),
            (
                [&s.quick, &s.full].iter().all(|e| {
                    rising(&e.evaluations) && e.evaluations[e.evaluations.len() - 1] <= s.steps
                }),
                "evaluations: rising, at most steps",
            ),
        ]
    }
}

/// All numbers of the experiment.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Numbers {
    /// The settings used.
    pub settings: Settings,
    /// Of every sampler, in the registry's order.
    pub certificates: Vec<Certificate>,
    /// Checks of the certificates.
    pub certified: Vec<Evidence>,
    /// The third-order update, right, as printed, and right after a DDIM start; on the mixture.
    pub third: [(String, Study); 3],
    /// Checks of these.
    pub third_evidence: Vec<Evidence>,
    /// The headline comparisons: on the digits' spectrum, and on the photographs'.
    pub spectra: [Comparison; 2],
}

impl Numbers {
    /// The certificate of this name.
    pub fn certificate(&self, name: &str) -> Option<&Certificate> {
        self.certificates.iter().find(|c| c.sampler == name)
    }
}

/// Runs the experiment.
///
/// # Errors
/// Settings that do not parse; a law or a grid that refuses them.
pub fn compute(context: &Context) -> Result<Numbers> {
    let settings: Settings = context.settings()?;
    let effort = context.profile.of(&settings.quick, &settings.full);
    let bench = Bench::new()?;
    let step = |k: usize, what: &str| (context.progress)(k, 4, what);
    step(0, "certificates of all samplers");
    let certificates =
        SAMPLERS.par_iter().map(|e| bench.certify(e.name)).collect::<Result<Vec<_>>>()?;
    let certified = certified(&certificates);
    step(1, "third order");
    let third = third(&bench)?;
    let right = [
        "of the right update",
        "of the update as printed",
        "of the right update after a DDIM start",
    ];
    let third_evidence = [3.0, 2.0, 2.0]
        .iter()
        .zip(right)
        .zip(&third)
        .map(|((want, which), (_, s))| {
            Evidence::new(format!("order {which}"), slope(s), *want, 0.1)
                .because("what an order may be off")
        })
        .collect();
    let compare = |k: usize, name: &'static str, law: &Gaussian| {
        step(k, name);
        Comparison::new(name, law, &settings, effort)
    };
    let digits = compare(2, "digits", &bench.digits)?;
    let patches = format!("photographs:{0}x{0}:grid:grey", settings.patch);
    let photographs = compare(
        3,
        "photographs",
        &modes(&Gaussian::from_data(tweedie_nn::data::load(&patches)?.images.view())?)?,
    )?;
    step(4, "done");
    Ok(Numbers {
        certificates,
        certified,
        third,
        third_evidence,
        spectra: [digits, photographs],
        settings,
    })
}

fn slope(study: &Study) -> f64 {
    study.order.map_or(f64::NAN, |o| o.slope)
}

/// For each declared order, and for what is on record as of a lower one, the measured order that is
/// farthest off, over all laws on which the error is exact; and whether the others' certificates
/// are the ones on record.
fn certified(certificates: &[Certificate]) -> Vec<Evidence> {
    let below = |c: &Certificate| BELOW_DECLARED.contains(&c.sampler.as_str());
    let farthest = |what: String, want: f64, of: &dyn Fn(&Certificate) -> bool| {
        let studies = certificates.iter().filter(|c| of(c)).flat_map(Certificate::studies);
        let slopes = studies.filter(|(_, s)| s.measure != Measure::Sampled).map(|(_, s)| slope(s));
        // NaN, an order that could not be measured, counts as farthest.
        let far = |x: f64| if x.is_nan() { f64::INFINITY } else { (x - want).abs() };
        let got = slopes.max_by(|a, b| far(*a).total_cmp(&far(*b))).unwrap_or(f64::NAN);
        Evidence::new(what, got, want, 0.1).because("what a declared order may be off")
    };
    let mut evidence: Vec<Evidence> = (1..=4)
        .map(|p| {
            let of = |c: &Certificate| c.declared == Some(p) && !below(c);
            let count = certificates.iter().filter(|c| of(c)).count();
            farthest(
                format!("order farthest off, of {count} that declare order {p}"),
                f64::from(p),
                &of,
            )
        })
        .collect();
    evidence.push(farthest(
        format!("order farthest off, of {} on record as of order 2", BELOW_DECLARED.len()),
        2.0,
        &below,
    ));
    let on_record = certificates.iter().filter(|c| c.is_as_recorded()).count();
    evidence.push(
        Evidence::new(
            "verdicts that are the ones on record",
            on_record as f64,
            certificates.len() as f64,
            0.0,
        )
        .because("each is or is not"),
    );
    evidence
}

fn third(bench: &Bench) -> Result<[(String, Study); 3]> {
    let on = |method: &dyn Sampler| {
        study(method, Known::Any(&bench.mixture), &CERTIFIED_STEPS, study_grid)
    };
    Ok([
        ("dpmpp-3m".into(), on(&Dpmpp3m)?),
        ("dpmpp-3m-published".into(), on(&Dpmpp3mPublished { lower_final: false })?),
        ("dpmpp-3m after a DDIM start".into(), on(&Dpmpp3mAfterDdim)?),
    ])
}

/// A way to make samples, and the law that it makes of Gaussian data.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Produced {
    /// What it is.
    pub name: String,
    /// Calls of the network.
    pub nfe: usize,
    /// Each mode produced beside the true one.
    pub modes: Vec<ModeError>,
}

impl Produced {
    /// W2 to the data over the data's total deviation.
    pub fn w2(&self) -> f64 {
        (self.modes.iter().map(ModeError::w2_squared).sum::<f64>() / self.total()).sqrt()
    }

    /// Distance of the means over the data's total deviation.
    pub fn bias(&self) -> f64 {
        (self.modes.iter().map(|m| m.mean_err * m.mean_err).sum::<f64>() / self.total()).sqrt()
    }

    /// Variance produced over the data's.
    pub fn variance_kept(&self) -> f64 {
        self.modes.iter().map(|m| m.var).sum::<f64>() / self.total()
    }

    /// Data variance and `|std produced / std - 1|` of every mode that varies.
    pub fn deviations(&self) -> (Vec<f64>, Vec<f64>) {
        let varying = self.modes.iter().filter(|m| m.lambda > 0.0);
        varying.map(|m| (m.lambda, ((m.var / m.want_var).sqrt() - 1.0).abs())).unzip()
    }

    fn total(&self) -> f64 {
        self.modes.iter().map(|m| m.lambda).sum()
    }
}

/// The headline comparisons on one spectrum.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Comparison {
    /// Name of the data.
    pub name: String,
    /// Variances, descending.
    pub variances: Vec<f64>,
    /// The rows of the table.
    pub rows: Vec<Produced>,
    /// Method, evaluations and W2 over the total deviation of whole runs.
    pub runs: Vec<(String, Vec<f64>, Vec<f64>)>,
    /// The same for few evaluations.
    pub few: Vec<(String, Vec<f64>, Vec<f64>)>,
    /// W2 of the exact flow from the same start, over the total deviation: what no deterministic
    /// sampler's law is rid of.
    pub floor: f64,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

/// The law, the path and the start that all rows share.
struct Setting<'a> {
    law: &'a Gaussian,
    path: Path,
    table: Table,
}

impl Setting<'_> {
    /// A method over a grid, from `N(0, sigma^2)` at its first point.
    fn produced(&self, name: &str, method: &Named, grid: &[PathPoint]) -> Result<Produced> {
        let response = Response::of_method(method, grid, Law::cov(self.law).diag().to_owned())?;
        let modes = response.errors(&self.law.mean().to_owned(), Start::Normal(grid[0].sigma));
        Ok(Produced { name: name.into(), nfe: response.nfe, modes })
    }

    fn run(&self, label: &str, sampler: &str, grid: &[PathPoint]) -> Result<Produced> {
        self.produced(label, &Named { name: sampler, options: Options::DEFAULT }, grid)
    }

    /// Every (T/N)-th step of the table, as DDPM and DDIM are run.
    fn strided(&self, steps: usize) -> Result<Vec<PathPoint>> {
        Grid::new(Spacing::Trailing, steps).points(&self.path)
    }

    /// Even in log-SNR over a part of the table, as DPM-Solver is run.
    fn even(&self, steps: usize, s_max: f64) -> Result<Vec<PathPoint>> {
        let s_min = self.point(1)?.edm_sigma();
        Grid { s_min, s_max, ..Grid::new(Spacing::LogSnr, steps) }.points(&self.path)
    }

    fn point(&self, row: usize) -> Result<PathPoint> {
        let r = self.table.row(row)?;
        Ok(PathPoint::still(r.alpha, r.sigma))
    }

    /// The whole table's range.
    fn even_all(&self, steps: usize) -> Result<Vec<PathPoint>> {
        self.even(steps, self.point(self.table.steps())?.edm_sigma())
    }

    /// A jump from the start to a noise level, and `steps` steps from there.
    fn jump(&self, steps: usize, to: f64) -> Result<Vec<PathPoint>> {
        let mut grid = vec![self.point(self.table.steps())?];
        grid.extend(self.even(steps, to)?);
        Ok(grid)
    }

    /// What a perfect student of the DDIM teacher makes in `k` steps: by the gains of its own DDIM
    /// steps, with the denoiser that it has learned.
    fn student(&self, k: usize, teacher_steps: usize) -> Result<Produced> {
        let teacher = self.teacher(teacher_steps)?;
        // Every (teacher / k)-th point, as halving keeps them.
        let kept: Vec<usize> = (0..=k).map(|i| i * teacher_steps / k).collect();
        let gain = |lambda: f64| {
            kept.windows(2).fold(1.0, |gain, ends| {
                let (from, to) = (teacher[ends[0]], teacher[ends[1]]);
                let taught = ddim_chain_gain(lambda, &teacher[ends[0]..=ends[1]]);
                let learned = distilled_denoiser_gain(taught, from, to);
                gain * (to.alpha * learned + to.sigma * (1.0 - from.alpha * learned) / from.sigma)
            })
        };
        Ok(self.mapped(
            format!("student of DDIM-{teacher_steps}, {k} step{}", if k == 1 { "" } else { "s" }),
            k,
            gain,
        ))
    }

    /// Levels of the teacher's grid.
    fn teacher(&self, steps: usize) -> Result<Vec<Level<f64>>> {
        self.even_all(steps)?.iter().map(Level::of).collect()
    }

    /// The law of `x0 = mean + gain (x_T - alpha_T mean)` for a start in `N(0, sigma_T^2)`.
    fn mapped(&self, name: String, nfe: usize, gain: impl Fn(f64) -> f64) -> Produced {
        let start = Level::from(&self.point(self.table.steps()).expect("the table's last step"));
        let (mean, cov) = (Law::mean(self.law), Law::cov(self.law));
        let mode = |(&lambda, &m): (&f64, &f64)| {
            let gain = gain(lambda);
            let var = (gain * start.sigma).powi(2);
            ModeError { lambda, mean_err: -gain * start.alpha * m, var, want_var: lambda }
        };
        Produced { name, nfe, modes: cov.diag().iter().zip(&mean).map(mode).collect() }
    }

    fn consistency(&self) -> Result<Produced> {
        let (from, to) =
            (Level::of(self.point(self.table.steps())?)?, Level { alpha: 1.0, sigma: 0.0 });
        Ok(self.mapped("consistency model, 1 step".into(), 1, |lambda| psi(lambda, from, to)))
    }
}

impl Comparison {
    fn new(
        name: &'static str,
        law: &Gaussian,
        settings: &Settings,
        effort: &Effort,
    ) -> Result<Self> {
        let table = Table::new(Schedule::LINEAR, settings.steps, false)?;
        let s = Setting { law, path: Path::Discrete(table.clone()), table };
        let edm = |steps| Grid::new(Spacing::Karras, steps).points(&Path::EDM);
        let teleport = |sampler: &'static str| Named {
            name: sampler,
            options: Options { skipped: 1, ..Options::DEFAULT },
        };
        let third = |nfe: usize| s.even_all(nfe.div_ceil(3));
        let larger = Named {
            name: "ddpm",
            options: Options { variance: VarianceName::Beta, ..Options::DEFAULT },
        };
        let (many, sigma) = (settings.steps, settings.teleport_sigma);
        let mut rows = vec![
            s.run(&format!("DDPM-{many}, posterior variance"), "ddpm", &s.strided(many)?)?,
            s.produced(&format!("DDPM-{many}, variance β"), &larger, &s.strided(many)?)?,
            s.run("DDPM-50, posterior variance", "ddpm", &s.strided(50)?)?,
            s.run("DDIM-50", "ddim", &s.strided(50)?)?,
        ];
        for nfe in [10, 20, 50] {
            rows.push(s.run(
                &format!("DPM-Solver-3, at most {nfe}"),
                "dpm-solver-3",
                &third(nfe)?,
            )?);
        }
        for nfe in [10, 20, 50] {
            rows.push(s.run(&format!("DPM-Solver++(2M)-{nfe}"), "dpmpp-2m", &s.even_all(nfe)?)?);
        }
        rows.push(s.run("Heun-18 on EDM's grid", "heun", &edm(18)?)?);
        for steps in [4, 8, 16] {
            let label = format!("teleport to σ/α = {sigma}, then 2M-{steps}");
            rows.push(s.produced(
                &label,
                &teleport("teleport+dpmpp-2m"),
                &s.jump(steps, sigma)?,
            )?);
        }
        rows.push(s.run("DDIM, 1 step", "ddim", &s.even_all(1)?)?);
        rows.push(s.consistency()?);
        for k in [1, 4] {
            rows.push(s.student(k, settings.teacher_steps)?);
        }

        let ladder = |name: &'static str,
                      steps: &(dyn Fn(usize) -> Result<Vec<PathPoint>> + Sync),
                      sampler: &'static str| {
            let runs = effort
                .evaluations
                .par_iter()
                .map(|&nfe| s.run(name, sampler, &steps(nfe)?))
                .collect::<Result<Vec<_>>>()?;
            Ok::<_, Error>((
                name.to_string(),
                runs.iter().map(|r| r.nfe as f64).collect(),
                runs.iter().map(Produced::w2).collect(),
            ))
        };
        let runs = vec![
            ladder("DDPM", &|nfe| s.strided(nfe), "ddpm")?,
            ladder("DDIM", &|nfe| s.strided(nfe), "ddim")?,
            ladder("DPM-Solver++(2M)", &|nfe| s.even_all(nfe), "dpmpp-2m")?,
            ladder("DPM-Solver-3", &third, "dpm-solver-3")?,
            ladder("Heun, EDM's grid", &|nfe| edm(nfe.div_ceil(2)), "heun")?,
        ];

        let curve = |name: String, of: &dyn Fn(usize) -> Result<Produced>| {
            let runs = settings.few.iter().map(|&k| of(k)).collect::<Result<Vec<_>>>()?;
            Ok::<_, Error>((
                name,
                runs.iter().map(|r| r.nfe as f64).collect(),
                runs.iter().map(Produced::w2).collect(),
            ))
        };
        let few = vec![
            curve("DDIM".into(), &|k| s.run("", "ddim", &s.even_all(k)?))?,
            curve("DPM-Solver++(2M)".into(), &|k| s.run("", "dpmpp-2m", &s.even_all(k)?))?,
            curve("teleport, then DDIM".into(), &|k| {
                s.produced("", &teleport("teleport+ddim"), &s.jump(k, sigma)?)
            })?,
            curve("teleport, then 2M".into(), &|k| {
                s.produced("", &teleport("teleport+dpmpp-2m"), &s.jump(k, sigma)?)
            })?,
            curve(format!("student of DDIM-{}", settings.teacher_steps), &|k| {
                s.student(k, settings.teacher_steps)
            })?,
            curve("consistency model".into(), &|k| Ok(Produced { nfe: k, ..s.consistency()? }))?,
        ];
        let evidence = evidence(&s, &rows, settings)?;
        let floor = s.consistency()?.w2();
        let variances = law.variances().iter().copied().filter(|v| *v > 0.0).collect();
        Ok(Self { name: name.into(), variances, rows, runs, few, floor, evidence })
    }
}

/// Second routes: the laws of DDPM and DDIM by their closed forms, what students and the exact flow
/// owe.
fn evidence(s: &Setting, rows: &[Produced], settings: &Settings) -> Result<Vec<Evidence>> {
    let named =
        |name: &str| rows.iter().find(|r| r.name.starts_with(name)).map_or(&[][..], |r| &r.modes);
    let stds = |of: &[ModeError]| of.iter().map(|m| m.var.sqrt()).collect::<Array1<f64>>();
    let lambdas = Law::cov(s.law).diag().to_owned();
    let largest = |gaps: Array1<f64>| gaps.iter().map(|g| g.abs()).fold(0.0, larger);
    let gap = |got: &[ModeError], want: Array1<f64>| match got.len() == want.len() {
        true => largest(stds(got) - want) / lambdas.iter().copied().fold(0.0, larger).sqrt(),
        false => f64::NAN,
    };
    // DDPM by the table's own posterior, one row at a time; the last step adds no noise.
    let ancestral = |lambda: f64| {
        let law = s.table.rows().iter().rev().fold(
            1.0 - s.table.rows()[settings.steps - 1].alpha_bar,
            |var, r| {
                let gain = r.posterior_coef_xt
                    + r.posterior_coef_x0 * wiener_gain(lambda, r.alpha, r.sigma);
                gain * gain * var + r.posterior_var
            },
        );
        law.sqrt()
    };
    let levels = s.strided(50)?.iter().map(Level::of).collect::<Result<Vec<_>>>()?;
    let teacher = s.teacher(settings.teacher_steps)?;
    let start = Level::of(s.point(settings.steps)?)?;
    let over = "over the largest deviation";
    let exact = s.run("", "exact", &[s.point(settings.steps)?, PathPoint::CLEAN])?;
    // The whole law of DDIM as a Gaussian, and the distance of two Gaussians.
    let prior = Gaussian::isotropic(Array1::zeros(lambdas.len()), start.sigma * start.sigma)?;
    let law = ddim_law(s.law, &prior, &s.strided(50)?)?;
    let apart = (w2_squared(&law, s.law)? / lambdas.sum()).sqrt();
    Ok(vec![
        Evidence::new(
            format!("DDPM-{} by impulses against the table's recursion, {over}", settings.steps),
            gap(named("DDPM"), lambdas.mapv(ancestral)),
            0.0,
            1e-12,
        )
        .because("rounding of a thousand steps"),
        Evidence::new(
            format!("DDIM-50 by impulses against the product of its gains, {over}"),
            gap(
                named("DDIM-50"),
                lambdas.mapv(|l| ddim_chain_gain(l, &levels).abs() * levels[0].sigma),
            ),
            0.0,
            1e-13,
        )
        .because("rounding of fifty steps"),
        Evidence::new(
            format!(
                "student in one step against its teacher in {}, {over}",
                settings.teacher_steps
            ),
            gap(named("student"), lambdas.mapv(|l| ddim_chain_gain(l, &teacher) * start.sigma)),
            0.0,
            1e-12,
        )
        .because("rounding of the teacher's steps, and one division by sigma / alpha of the start"),
        Evidence::new(
            format!("consistency model against the exact flow by impulses, {over}"),
            gap(named("consistency"), stds(&exact.modes)),
            0.0,
            1e-14,
        )
        .because("rounding of one step"),
        Evidence::new(
            "DDIM-50: W2 by modes over the distance of the two Gaussians",
            rows.iter().find(|r| r.name == "DDIM-50").map_or(f64::NAN, Produced::w2) / apart,
            1.0,
            1e-12,
        )
        .because("rounding of fifty steps, over a distance of percents"),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use tweedie_report::experiment::testing::assert_strict;

    #[test]
    fn settings_are_strict() {
        assert_strict::<Settings>(&[
            ("patch = 16", "patch = 16\ncolour = 3", "unknown field `colour`"),
            ("steps = 1000\n", "", "missing field `steps`"),
            ("\"heun\"", "\"huen\"", "names of samplers"),
            ("teacher_steps = 1024", "teacher_steps = 1000", "a power of two"),
            ("few = [1, 2", "few = [2, 1", "few: rising"),
        ]);
    }

    /// All comparisons on a spectrum of four modes, one of them without variance: every check
    /// holds, and the headlines' order is as told.
    #[test]
    fn comparisons_hold_on_a_small_spectrum() {
        let law = Gaussian::diagonal(
            ndarray::array![0.3, -1.0, 0.0, 0.5],
            ndarray::array![4.0, 0.5, 1e-2, 0.0],
        )
        .unwrap();
        let settings = Settings::current().unwrap();
        let effort = Effort { evaluations: vec![5, 10, 20, 50] };
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| Comparison::new("small", &law, &settings, &effort)).unwrap()
        };
        let c = on(3);
        assert_eq!(
            format!("{c:?}"),
            format!("{:?}", on(1)),
            "numbers depend on the number of threads"
        );
        for e in &c.evidence {
            assert!(e.holds(), "{e:?}");
        }
        let w2 = |name: &str| c.rows.iter().find(|r| r.name.starts_with(name)).unwrap().w2();
        assert!(w2("DDPM-1000, post") < w2("DDIM-50") && w2("DDIM-50") < w2("DDPM-50"));
        assert!(w2("DPM-Solver-3, at most 50") < w2("DDPM-1000, post"));
        assert!(w2("DDIM, 1 step") > 0.9 && w2("consistency") == c.floor && c.floor < 0.02);
        let row = |name: &str| c.rows.iter().find(|r| r.name.starts_with(name)).unwrap();
        assert_eq!(
            [row("DPM-Solver-3, at most 50").nfe, row("Heun-18").nfe, row("teleport").nfe],
            [49, 35, 4]
        );
        assert!(
            c.rows
                .iter()
                .all(|r| r.bias() <= r.w2() && r.modes.len() == 4 && r.deviations().0.len() == 3)
        );
    }
}
