//! Every sampler by its name.

use super::Sampler;
use super::adams::{Deis, Lms, Plms};
use super::ancestral::{Ddim, Ddpm, Variance};
use super::dpm_solver::{DpmSolver2, DpmSolver3};
use super::dpmpp::{Dpmpp2m, Dpmpp2mSde, Dpmpp2s, Dpmpp3m, Dpmpp3mPublished, DpmppSde};
use super::flow::{FmEuler, FmHeun};
use super::propagate::Method;
use super::runge_kutta::{Dpm2Ancestral, Heun, Rk4};
use super::sde::{EulerMaruyama, Langevin, PredictorCorrector};
use super::shortcut::{Exact, Known, Teleport};
use super::unipc::{Scale, UniPc};
use crate::choice::Choice;
use crate::diffusion::PathPoint;
use crate::error::{Error, Result, nearest};
use crate::exact::teleport::gaussian_with_moments_of;
use crate::law::gaussian::posterior_variance;
use crate::law::{Gaussian, Law};
use crate::math::noise::Noise;
use ndarray::{Array2, Zip};

/// One method.
pub struct Entry {
    /// The name used on the command line.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    make: for<'a> fn(&Options<'a>) -> Result<Box<dyn Sampler + 'a>>,
}

/// DDPM's variance, by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VarianceName {
    /// The forward step's.
    Beta,
    /// The posterior's.
    #[default]
    Posterior,
    /// The best isotropic one; needs a law.
    Optimal,
}

impl Choice for VarianceName {
    const CHOICES: &'static [Self] = &[Self::Beta, Self::Posterior, Self::Optimal];

    fn name(self) -> &'static str {
        match self {
            Self::Beta => "beta",
            Self::Posterior => "posterior",
            Self::Optimal => "optimal",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::Beta => "The forward step's",
            Self::Posterior => "The posterior's",
            Self::Optimal => "The best isotropic one; needs a law",
        }
    }
}

/// What the methods can be told.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// The law, for those that know it: `exact`, `teleport+NAME`, `ddpm` with the optimal variance.
    pub law: Option<Known<'a>>,
    /// Variance of `ddpm`.
    pub variance: VarianceName,
    /// `eta` of `ddim`.
    pub eta: f64,
    /// Noise of `reverse-sde-family`, in units of the forward process's.
    pub g: f64,
    /// Total churn of `edm-heun`.
    pub churn: f64,
    /// Langevin steps at each level, of `langevin` and `pc`.
    pub corrections: usize,
    /// Steps that `teleport+NAME` skips.
    pub skipped: usize,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Options<'_> {
    /// No law, no churn, `eta` 0, `g` 1.
    pub const DEFAULT: Self = Self {
        law: None,
        variance: VarianceName::Posterior,
        eta: 0.0,
        g: 1.0,
        churn: 0.0,
        corrections: 1,
        skipped: 1,
    };

    /// The same options on another law.
    pub fn on<'b>(&self, law: Known<'b>) -> Options<'b> {
        let Self { law: _, variance, eta, g, churn, corrections, skipped } = *self;
        Options { law: Some(law), variance, eta, g, churn, corrections, skipped }
    }
}

/// A method by name with its options, for whatever law it meets.
#[derive(Clone, Copy)]
pub struct Named<'a> {
    /// As in [`SAMPLERS`], or `teleport+NAME`.
    pub name: &'a str,
    /// All options but the law.
    pub options: Options<'a>,
}

impl Method for Named<'_> {
    fn on<'l>(&'l self, law: &'l Gaussian) -> Result<Box<dyn Sampler + 'l>> {
        sampler(self.name, &self.options.on(Known::Gaussian(law)))
    }
}

macro_rules! entry {
    ($name:literal, $about:literal, $make:expr) => {
        Entry { name: $name, about: $about, make: |o| Ok(Box::new($make(o))) }
    };
}

/// All methods; `teleport+NAME` puts a Gaussian jump before any of them.
pub const SAMPLERS: &[Entry] = &[
    Entry { name: "ddpm", about: "ancestral sampling, any variance", make: ddpm },
    entry!("ddim", "DDIM, deterministic at eta 0", |o: &Options| Ddim { eta: o.eta }),
    entry!("euler", "Euler in sigma/alpha: DDIM at eta 0", |_: &Options| Ddim { eta: 0.0 }),
    entry!("euler-ancestral", "Euler ancestral: DDIM at eta 1", |_: &Options| Ddim { eta: 1.0 }),
    entry!("heun", "Heun in sigma/alpha", |_: &Options| Heun::DETERMINISTIC),
    entry!("dpm-2", "midpoint in ln(sigma/alpha): dpm-solver-2", |_: &Options| DpmSolver2),
    entry!("dpm-2-ancestral", "dpm-2 down, noise up", |_: &Options| Dpm2Ancestral),
    entry!("dpm-solver-1", "DPM-Solver of order one: DDIM", |_: &Options| Ddim { eta: 0.0 }),
    entry!("dpm-solver-2", "DPM-Solver of order two, singlestep", |_: &Options| DpmSolver2),
    entry!("dpm-solver-3", "DPM-Solver of order three, singlestep", |_: &Options| DpmSolver3),
    entry!("dpmpp-2s", "DPM-Solver++ of order two, singlestep", |_: &Options| Dpmpp2s),
    entry!("dpmpp-2m", "DPM-Solver++ of order two, multistep", |_: &Options| Dpmpp2m {
        lower_final: false
    }),
    entry!(
        "dpmpp-3m",
        "DPM-Solver++ of order three, multistep, started at its order",
        |_: &Options| Dpmpp3m
    ),
    entry!("dpmpp-3m-published", "the same as public codes print it, order two", |_: &Options| {
        Dpmpp3mPublished { lower_final: false }
    }),
    entry!("dpmpp-sde", "DPM-Solver++ for the SDE, singlestep", |_: &Options| DpmppSde),
    entry!("dpmpp-2m-sde", "DPM-Solver++ for the SDE, multistep", |_: &Options| Dpmpp2mSde),
    entry!("unipc", "UniPC-2 with B(h) = 1 - exp(-h)", |_: &Options| UniPc {
        points: 2,
        scale: Scale::Bh2,
        lower_final: false
    }),
    entry!("deis", "DEIS, three points in ln(sigma/alpha)", |_: &Options| Deis {
        points: 3,
        lower_final: false
    }),
    entry!("lms", "Adams-Bashforth in sigma/alpha, four points", |_: &Options| Lms { points: 4 }),
    entry!("plms", "PNDM's pseudo linear multistep", |_: &Options| Plms),
    entry!("rk4", "classical Runge-Kutta in ln(sigma/alpha)", |_: &Options| Rk4),
    entry!("edm-heun", "EDM's Heun with churn", |o: &Options| Heun {
        churn: o.churn,
        ..Heun::DETERMINISTIC
    }),
    entry!("em", "Euler-Maruyama on the reverse SDE", |_: &Options| EulerMaruyama { g: 1.0 }),
    entry!("reverse-sde-family", "Euler-Maruyama with noise g", |o: &Options| EulerMaruyama {
        g: o.g
    }),
    entry!("langevin", "annealed Langevin dynamics", |o: &Options| Langevin {
        step: 0.1,
        corrections: o.corrections
    }),
    entry!("pc", "predictor-corrector: DDPM and Langevin", |o: &Options| PredictorCorrector {
        r: 0.16,
        corrections: o.corrections
    }),
    entry!("fm-euler", "Euler in the path's time", |_: &Options| FmEuler),
    entry!("fm-heun", "Heun in the path's time", |_: &Options| FmHeun),
    Entry {
        name: "exact",
        about: "the exact flow of the law",
        make: |o| Ok(Box::new(Exact(known(o, "exact")?))),
    },
];

/// Methods on record as of lower order than they declare, because their sources declare it: what
/// their certificates must say.
pub const BELOW_DECLARED: &[&str] = &["dpmpp-3m-published"];

/// The sampler of this name.
///
/// # Errors
/// A name that is none; a method that needs the law where there is none; an option out of its
/// range.
///
/// # Example
/// ```
/// use tweedie::sample::registry::{Options, sampler};
/// assert_eq!(sampler("dpmpp-3m", &Options::default()).unwrap().order(), Some(3));
/// assert!(sampler("dpmpp-4m", &Options::default()).is_err());
/// ```
pub fn sampler<'a>(name: &str, options: &Options<'a>) -> Result<Box<dyn Sampler + 'a>> {
    for (what, value) in [("eta", options.eta), ("g", options.g), ("churn", options.churn)] {
        if !(value >= 0.0 && value.is_finite()) {
            return Err(Error::domain(what, value, "finite, >= 0", "0 is deterministic"));
        }
    }
    if let Some(then) = name.strip_prefix("teleport+") {
        let gaussian = match known(options, name)? {
            Known::Gaussian(law) => law.clone(),
            Known::Any(law) => gaussian_with_moments_of(law)?,
        };
        return Ok(Box::new(Teleport {
            gaussian,
            skipped: options.skipped,
            then: sampler(then, options)?,
        }));
    }
    match SAMPLERS.iter().find(|e| e.name == name) {
        Some(entry) => (entry.make)(options),
        None => {
            let names: Vec<_> = SAMPLERS.iter().map(|e| e.name).collect();
            let mend = nearest(name, names.iter().copied())
                .map_or("choose one of them".into(), |near| format!("did you mean '{near}'?"));
            Err(Error::domain(
                "sampler",
                format!("'{name}'"),
                format!("{}, teleport+NAME", names.join(", ")),
                mend,
            ))
        }
    }
}

fn known<'a>(options: &Options<'a>, name: &str) -> Result<Known<'a>> {
    options.law.ok_or_else(|| {
        Error::domain(
            format!("sampler '{name}'"),
            "no law",
            "a law whose flow is known",
            "choose another sampler",
        )
    })
}

fn ddpm<'a>(options: &Options<'a>) -> Result<Box<dyn Sampler + 'a>> {
    let variance = match options.variance {
        VarianceName::Beta => Variance::Beta,
        VarianceName::Posterior => Variance::Posterior,
        VarianceName::Optimal => {
            Variance::Optimal(match known(options, "ddpm with the optimal variance")? {
                Known::Gaussian(law) => Box::new(move |at| Ok(gaussian_spread(law, at))),
                Known::Any(law) => Box::new(move |at| sampled_spread(law, at)),
            })
        }
    };
    Ok(Box::new(Ddpm { variance }))
}

/// Average eigenvalue of `Cov[x0 | x_t]`, which for Gaussian data is the same at every x_t.
pub fn gaussian_spread(law: &Gaussian, at: &PathPoint) -> f64 {
    law.variances().iter().map(|&l| posterior_variance(l, at)).sum::<f64>() / law.dim() as f64
}

/// The same for any law, averaged over 256 draws of x_t from a fixed seed.
fn sampled_spread(law: &dyn Law, at: &PathPoint) -> Result<f64> {
    const DRAWS: usize = 256;
    let noise = Noise::new(0);
    let mut x = law.sample(DRAWS, &noise);
    let mut eps = Array2::zeros(x.raw_dim());
    noise.child(1).fill_normal(0, eps.as_slice_mut().expect("standard layout"));
    Zip::from(&mut x).and(&eps).for_each(|x, e| *x = at.alpha * *x + at.sigma * e);
    let trace = |x| Ok(law.posterior_cov(x, at)?.diag().mean().unwrap_or(0.0));
    Ok(x.rows().into_iter().map(trace).sum::<Result<f64>>()? / DRAWS as f64)
}
