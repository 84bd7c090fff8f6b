//! Recordings of foreign samplers as files, from their arrays to their verdicts: what every front
//! end says of them is decided here.
//!
//! A recording is an `.npz`: a trajectory holds `x` (K + 1, n, d) in sampling order and `alpha`,
//! `sigma` (K + 1), the coordinates `x_t = alpha x0 + sigma eps` of each state; samples hold `x`
//! (n, d). `nfe` (a count) and `name` (a text) are told on.

use crate::choice::Choice;
use crate::diffusion::PathPoint;
use crate::error::{Error, Result};
use crate::law_file::LawFile;
use crate::npy::{Archive, Layout};
use crate::sample::check::{
    Recording, Report, States, Verdict, Watch, check_ode, check_samples_watched, check_sde_watched,
    order_of,
};
use crate::sample::order::Order;
use crate::sample::shortcut::Known;
use ndarray::{Array1, Array2, Ix1};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Trajectory of a deterministic sampler.
    Ode,
    /// Trajectory of a stochastic sampler.
    Sde,
    /// Samples of x0.
    Samples,
}

impl Choice for Kind {
    const CHOICES: &'static [Self] = &[Self::Ode, Self::Sde, Self::Samples];

    fn name(self) -> &'static str {
        match self {
            Self::Ode => "ode",
            Self::Sde => "sde",
            Self::Samples => "samples",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::Ode => "Trajectory of a deterministic sampler",
            Self::Sde => "Trajectory of a stochastic sampler",
            Self::Samples => "Samples of x0",
        }
    }
}

/// One recording and what was found in it.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The file.
    pub file: PathBuf,
    /// Its `name`, else the file's.
    pub name: String,
    /// What it was held to be.
    pub kind: Kind,
    /// Its `nfe`.
    pub nfe: Option<u64>,
    /// What was found.
    pub report: Report,
}

/// All recordings, and the order that those of a flow show together.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// In the order of the files.
    pub recordings: Vec<Checked>,
    /// The measured order, where recordings of several numbers of steps show one.
    pub order: Option<Order>,
    /// How many recordings it is of.
    pub flows: usize,
}

impl Outcome {
    /// Whether nothing is off.
    pub fn holds(&self) -> bool {
        self.recordings.iter().all(|r| r.report.verdict != Verdict::Off)
    }
}

/// An order below this, by two standard errors, is no convergence.
const LEAST_ORDER: f64 = 0.5;

/// Holds recordings of one sampler to a law; of `kind` none is the flow's, or samples where x is
/// (n, d). An error that does not fall with the number of steps makes every recording that seemed
/// to converge off.
///
/// # Errors
/// A file that is missing, damaged, of another format or of another dimension than the law's; what
/// cannot be checked.
pub fn check<P: AsRef<Path>>(files: &[P], law: &LawFile, kind: Option<Kind>) -> Result<Outcome> {
    check_watched(files, law, kind, &|_, _, _| {})
}

/// [`check`]; `watch` is told how far each file is, with its name.
///
/// # Errors
/// As [`check`].
pub fn check_watched<P: AsRef<Path>>(
    files: &[P],
    law: &LawFile,
    kind: Option<Kind>,
    watch: &Watch,
) -> Result<Outcome> {
    let checked = |path: &P| {
        let path = path.as_ref();
        let mut stored = Stored::read(path, law.dim(), kind)?;
        let kind = stored.kind;
        let watch = |done: usize, of: usize, what: &str| {
            watch(done, of, &format!("{}: {what}", path.display()));
        };
        let report = stored.held_to(law.known(), &watch).map_err(|e| match e {
            Error::File { .. } => e,
            other => Error::file(
                path,
                format!("cannot be checked: {other}"),
                "see 'tweedie check --help' for the format",
            ),
        })?;
        let name = stored
            .name
            .unwrap_or_else(|| path.file_stem().unwrap_or_default().to_string_lossy().into_owned());
        Ok(Checked { file: path.to_owned(), name, kind, nfe: stored.nfe, report })
    };
    let mut recordings = files.iter().map(checked).collect::<Result<Vec<_>>>()?;
    let flows: Vec<Report> =
        recordings.iter().filter(|r| r.kind == Kind::Ode).map(|r| r.report.clone()).collect();
    let order = order_of(&flows);
    if let Some(o) = order.filter(|o| o.slope + 2.0 * o.stderr < LEAST_ORDER) {
        for r in recordings
            .iter_mut()
            .filter(|r| r.kind == Kind::Ode && r.report.verdict == Verdict::Converging)
        {
            r.report.verdict = Verdict::Off;
            r.report.findings.push(format!(
                "the error does not fall with the number of steps: order {:.2}",
                o.slope
            ));
        }
    }
    Ok(Outcome { recordings, order, flows: flows.len() })
}

/// What a file holds.
struct Stored {
    path: PathBuf,
    kind: Kind,
    layout: Layout,
    states: Held,
    levels: Option<(Array1<f64>, Array1<f64>)>,
    nfe: Option<u64>,
    name: Option<String>,
}

/// What of the states a kind needs at once.
enum Held {
    /// A flow is read step by step, several states to a step.
    All(Vec<Array2<f64>>),
    /// Samples are the last ones.
    Last(Array2<f64>),
    /// States of a law are looked at one after the other.
    None,
}

/// The states of a file, read whenever they are looked at.
struct InFile<'a>(&'a Path);

impl States for InFile<'_> {
    fn each(&self, f: &mut dyn FnMut(usize, &Array2<f64>) -> Result<bool>) -> Result<()> {
        Archive::open(self.0)?.each_state("x", |k, x| f(k, &x)).map(|_| ())
    }
}

const FORMAT: &str =
    "save x (K+1, n, d), alpha and sigma (K+1) as float32 or float64 with numpy.savez";

impl Stored {
    /// States of dimension `d`; of what kind the file tells where none is given.
    fn read(path: &Path, d: usize, kind: Option<Kind>) -> Result<Self> {
        let refused = |problem: String| Error::file(path, problem, FORMAT);
        let mut archive = Archive::open(path)?;
        let fits = |shape: &[usize]| match shape {
            [.., dim] if matches!(shape.len(), 2 | 3) && *dim != d => Err(refused(format!(
                "cannot be checked: x has shape {shape:?}, wanted {d} for its last axis, the law's dimension"
            ))),
            [0, _] | [_, 0, _] | [0, _, _] => {
                Err(refused(format!("x has shape {shape:?}, wanted at least one state")))
            }
            [_, _] | [_, _, _] => Ok(()),
            _ => Err(refused(format!(
                "x has shape {shape:?}, wanted (K+1, n, d), or (n, d) for samples"
            ))),
        };
        let Some(layout) = archive.layout("x", fits)? else {
            return Err(refused(format!(
                "holds no array 'x', only: {}",
                archive.names().join(", ")
            )));
        };
        let kind = kind.unwrap_or(if layout.several { Kind::Ode } else { Kind::Samples });
        let states = match kind {
            Kind::Ode => Held::All(archive.states("x")?),
            Kind::Samples => {
                let mut last = None;
                archive.each_state("x", |_, x| {
                    last = Some(x);
                    Ok(true)
                })?;
                last.map_or(Held::None, Held::Last)
            }
            Kind::Sde => Held::None,
        };
        let mut column = |name: &str| -> Result<Option<Array1<f64>>> {
            let Some((array, _)) = archive.array(name)? else { return Ok(None) };
            let shape = array.shape().to_vec();
            let wrong = |_| {
                refused(format!("{name} has shape {shape:?}, wanted (K+1,), one entry a state"))
            };
            array.into_dimensionality::<Ix1>().map(Some).map_err(wrong)
        };
        let levels = match (column("alpha")?, column("sigma")?) {
            (Some(alpha), Some(sigma)) => Some((alpha, sigma)),
            (None, None) => None,
            (alpha, _) => {
                let (has, lacks) =
                    if alpha.is_some() { ("alpha", "sigma") } else { ("sigma", "alpha") };
                return Err(refused(format!("holds {has} and no {lacks}")));
            }
        };
        let nfe = match archive.array("nfe")? {
            None => None,
            Some((a, _)) => {
                let count = a
                    .first()
                    .copied()
                    .filter(|n| a.len() == 1 && *n >= 0.0 && *n < 9e15 && n.fract() == 0.0);
                let got = || {
                    format!(
                        "nfe of shape {:?} holds {}, wanted one whole number >= 0",
                        a.shape(),
                        shown(a.iter())
                    )
                };
                Some(count.ok_or_else(|| {
                    Error::file(path, got(), "save the number of evaluations, or leave nfe out")
                })? as u64)
            }
        };
        let (path, name) = (path.to_owned(), archive.text("name")?);
        Ok(Self { path, kind, layout, states, levels, nfe, name })
    }

    fn held_to(&mut self, law: Known, watch: &Watch) -> Result<Report> {
        let refused = |problem: &str| Err(Error::file(&self.path, problem, FORMAT));
        if let Held::Last(x) = &self.states {
            return check_samples_watched(x, law, watch);
        }
        if !self.layout.several {
            return refused("x has shape (n, d), which is no trajectory: pass --kind samples");
        }
        let Some((alpha, sigma)) = &self.levels else {
            return refused(
                "holds no alpha and sigma, without which a state has no level; pass --kind samples for its last states alone",
            );
        };
        if alpha.len() != self.layout.count || sigma.len() != alpha.len() {
            let got = format!(
                "x has {} states, alpha {} and sigma {} entries",
                self.layout.count,
                alpha.len(),
                sigma.len()
            );
            return refused(&got);
        }
        levels_fit(&self.path, alpha, sigma)?;
        let points: Vec<PathPoint> =
            alpha.iter().zip(sigma).map(|(&a, &s)| PathPoint::still(a, s)).collect();
        match &mut self.states {
            Held::All(x) => {
                // Given away: there may be no room for two of them.
                let (x, single) = (std::mem::take(x), self.layout.single);
                check_ode(&Recording { x, points, single }, law)
            }
            _ => check_sde_watched(&InFile(&self.path), &points, law, watch),
        }
    }
}

/// That every state has a level, and that they are in sampling order.
fn levels_fit(path: &Path, alpha: &Array1<f64>, sigma: &Array1<f64>) -> Result<()> {
    let level = |(a, s): (&f64, &f64)| *a >= 0.0 && *s >= 0.0 && (a + s).is_finite() && a + s > 0.0;
    if let Some(k) = alpha.iter().zip(sigma).position(|p| !level(p)) {
        let problem = format!(
            "state {k} has alpha = {} and sigma = {}, allowed: finite, >= 0, not both 0",
            alpha[k], sigma[k]
        );
        return Err(Error::file(
            path,
            problem,
            "record the coordinates of x_t = alpha x0 + sigma eps",
        ));
    }
    let last = alpha.len() - 1;
    if last == 0 {
        return Err(Error::file(
            path,
            "holds one state, wanted the start and every step's end",
            FORMAT,
        ));
    }
    if alpha[0] * sigma[last] > alpha[last] * sigma[0] {
        return Err(Error::file(
            path,
            "runs from data to noise",
            "save the states in sampling order, from noise to data",
        ));
    }
    Ok(())
}

/// The first numbers of some.
fn shown<'a>(mut numbers: impl Iterator<Item = &'a f64>) -> String {
    let first: Vec<String> = numbers.by_ref().take(3).map(|x| format!("{x:e}")).collect();
    if numbers.next().is_some() { format!("{}, ...", first.join(", ")) } else { first.join(", ") }
}
