//! Any sampler as a straight line: what it reads and writes, without the sampler.
//!
//! A step is a table of weights on states, predictions and draws, the same for every coordinate. So
//! the very code of a sampler, run on *coefficients* instead of states, tells all of its tables:
//! the batch is one row over the basis (start, prediction 0, prediction 1, ..., draw 0, ...), and
//! each evaluation and each draw answers with its basis vector. What is recorded is a [`Tableau`]:
//! flat arrays that a device runs without knowing which sampler they came from.
//!
//! All arithmetic of the sampler, and the conversion of the network's output to the sampler's
//! prediction, happen once, here, in f64. Where a sampler forms `(x - alpha x0_hat) / sigma` of an
//! x0_hat that was itself read from eps, state and state cancel in the coefficients, before a state
//! is rounded to a device's f32.

use super::{NoiseSource, Sampler, sample};
use crate::diffusion::{Denoiser, PathPoint};
use crate::error::{Error, Result};
use ndarray::{Array2, ArrayView2, ArrayViewMut2};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// How `x0_hat` is read from a state and the network's outputs:
/// `x0_hat = state x + sum_b outputs_b y_b`.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Weight of the state.
    pub state: f64,
    /// Weight of the output of each branch: one number for a plain network, two for classifier-free
    /// guidance.
    pub outputs: Vec<f64>,
}

/// One call of the network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// The point at which it is asked.
    pub at: PathPoint,
    /// Which of the reading's outputs it is.
    pub branch: usize,
}

/// A sampler over one grid as moves: before each evaluation one that makes the state to evaluate,
/// after the last one that makes the result.
///
/// Values live in `slots` of a history; a slot is used again once nothing reads what it holds. Move
/// m, in order:
/// 1. draws `draw[draw_first[m]..draw_first[m + 1]]` are written to the slots of the same places in
///    `draw_slot`;
/// 2. the state, the sum of `weight[j]` times slot `slot[j]` for j in `first[m]..first[m + 1]`, is
///    written to slot `target[m]`, which may be one of those read;
/// 3. unless m is the last move, the network sees that state at `evaluations[m]`, and its output is
///    written to slot `output[m]`.
///
/// The start lies in slot 0; the result in the last `target`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tableau {
    /// Calls of the network, in order.
    pub evaluations: Vec<Evaluation>,
    /// Slots of the history.
    pub slots: usize,
    /// Draws in all.
    pub draws: usize,
    /// Where the draws of each move begin, (moves + 1).
    pub draw_first: Vec<i32>,
    /// Numbers of draws.
    pub draw: Vec<i32>,
    /// The slot of each.
    pub draw_slot: Vec<i32>,
    /// Where the terms of each move begin, (moves + 1).
    pub first: Vec<i32>,
    /// The slot of each term.
    pub slot: Vec<i32>,
    /// Its weight.
    pub weight: Vec<f64>,
    /// The slot that gets the state, (moves).
    pub target: Vec<i32>,
    /// The slot that gets the output, (evaluations).
    pub output: Vec<i32>,
}

/// What a slot can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Value {
    Start,
    Output(usize),
    Draw(usize),
    State(usize),
}

impl Tableau {
    /// Records a sampler over a grid, with a network that `read` knows how to read at each point.
    ///
    /// # Errors
    /// A sampler that is no combination with the same weights for every coordinate (it knows the
    /// law); what the sampler and `read` refuse; a reading of another number of branches.
    ///
    /// # Example
    /// ```
    /// use tweedie::diffusion::Path;
    /// use tweedie::sample::grid::{Grid, Spacing};
    /// use tweedie::sample::registry::{Options, sampler};
    /// use tweedie::sample::tableau::{Reading, Tableau};
    /// let grid = Grid::new(Spacing::Uniform, 1000).points(&Path::Cosine).unwrap();
    /// let ddpm = sampler("ddpm", &Options::default()).unwrap();
    /// let tableau = Tableau::record(&ddpm, &grid, 1, |_| Ok(Reading { state: 0.0, outputs: vec![1.0] })).unwrap();
    /// // State, output and draw: however long the run, no more is kept.
    /// assert_eq!((tableau.evaluations.len(), tableau.slots), (1000, 3));
    /// ```
    pub fn record(
        sampler: &dyn Sampler,
        grid: &[PathPoint],
        branches: usize,
        read: impl Fn(&PathPoint) -> Result<Reading>,
    ) -> Result<Self> {
        if !sampler.is_combination() {
            let allowed = "one whose weights are the same for every coordinate";
            return Err(Error::domain(
                "a sampler to record",
                "one that knows the law",
                allowed,
                "run it on the CPU",
            ));
        }
        // How much there is to record: a run of one number.
        let count = sample(
            sampler,
            &Recorder::new(1, Basis::X0),
            grid,
            Array2::zeros((1, 1)),
            &mut Units { first: 0 },
        )?;
        let recorded = |basis| record(sampler, grid, basis, count.nfe, count.draws);
        let (points, in_x0) = recorded(Basis::X0)?;
        // Without signal x0 is not determined by eps.
        let in_eps = if points.iter().all(|at| at.alpha > 0.0) {
            Some(recorded(Basis::Eps)?.1)
        } else {
            None
        };
        let readings = points.iter().map(|at| {
            let reading = read(at)?;
            if reading.outputs.len() == branches {
                return Ok(reading);
            }
            let (got, allowed) =
                (reading.outputs.len(), format!("{branches}, one for each branch"));
            Err(Error::domain("outputs of a reading", got, allowed, "give each branch its weight"))
        });
        let readings = readings.collect::<Result<Vec<_>>>()?;
        let mut terms = vec![];
        for k in 0..in_x0.len() {
            let bases = [(Basis::X0, Some(&in_x0)), (Basis::Eps, in_eps.as_ref())];
            let mut ways = vec![];
            for (basis, rows) in bases.into_iter().filter_map(|(basis, rows)| Some((basis, rows?)))
            {
                let before = k.saturating_sub(REMEMBERED)..k;
                ways.extend(
                    before
                        .map(Some)
                        .chain([None])
                        .filter_map(|from| Some((basis, sparse(rows, k, from)?))),
                );
            }
            // A prediction becomes a state and its outputs, which at best are there already: what
            // cannot win is not worked out.
            let fewest = ways.iter().map(|(_, parts)| parts.len()).min().unwrap_or(0);
            ways.retain(|(_, parts)| parts.len() <= (1 + branches) * fewest + 2);
            let ways = ways.iter().map(|(basis, parts)| {
                let way = expanded(parts, *basis, &points, &readings);
                (cancellation(&way, &points, branches), way)
            });
            // The fewest terms; among those the least that cancels.
            let best = ways.min_by(|a, b| a.1.len().cmp(&b.1.len()).then(a.0.total_cmp(&b.0)));
            terms.push(best.map_or_else(Vec::new, |(_, way)| way));
            // Each further branch is asked at the same state.
            if k < points.len() {
                terms.extend(
                    (1..branches)
                        .map(|branch| vec![(Value::State(k * branches + branch - 1), 1.0)]),
                );
            }
        }
        let evaluations = points
            .iter()
            .flat_map(|at| (0..branches).map(|branch| Evaluation { at: *at, branch }))
            .collect();
        Ok(Self::laid_out(evaluations, count.draws, &terms))
    }

    /// Gives every value a slot, from the move that makes it to the last that reads it.
    fn laid_out(evaluations: Vec<Evaluation>, draws: usize, terms: &[Vec<(Value, f64)>]) -> Self {
        let mut slots = Slots::default();
        for (m, terms) in terms.iter().enumerate() {
            slots.last.extend(terms.iter().map(|(value, _)| (*value, m)));
        }
        let mut tableau =
            Self { evaluations, draws, draw_first: vec![0], first: vec![0], ..Self::default() };
        slots.place(Value::Start);
        for (m, terms) in terms.iter().enumerate() {
            for (value, weight) in terms {
                let slot = match (*value, slots.places.get(value)) {
                    (_, Some(slot)) => *slot,
                    (Value::Draw(draw), None) => {
                        tableau.draw.push(draw as i32);
                        tableau.draw_slot.push(slots.place(*value));
                        tableau.draw_slot[tableau.draw_slot.len() - 1]
                    }
                    (value, None) => unreachable!("{value:?} is read before it is made"),
                };
                tableau.slot.push(slot);
                tableau.weight.push(*weight);
            }
            terms.iter().for_each(|(value, _)| slots.end(*value, m));
            tableau.draw_first.push(tableau.draw.len() as i32);
            tableau.first.push(tableau.slot.len() as i32);
            tableau.target.push(slots.place(Value::State(m)));
            slots.end(Value::State(m), m);
            if m < tableau.evaluations.len() {
                tableau.output.push(slots.place(Value::Output(m)));
                slots.end(Value::Output(m), m);
            }
        }
        tableau.slots = slots.made as usize;
        tableau
    }

    /// Runs the tableau on the host, with a model that gives the network's own output.
    ///
    /// # Shapes
    /// `x` (n, d), the starts; so the result and what the model gets and gives.
    pub fn replay(
        &self,
        x: Array2<f64>,
        mut model: impl FnMut(ArrayView2<f64>, &Evaluation) -> Array2<f64>,
        noise: &mut dyn NoiseSource,
    ) -> Array2<f64> {
        let mut history = vec![Array2::zeros(x.raw_dim()); self.slots];
        history[0] = x;
        let part = |first: &[i32], m: usize| first[m] as usize..first[m + 1] as usize;
        for m in 0..self.target.len() {
            for i in part(&self.draw_first, m) {
                noise.fill(self.draw[i] as usize, &mut history[self.draw_slot[i] as usize]);
            }
            let mut state = Array2::zeros(history[0].raw_dim());
            part(&self.first, m)
                .for_each(|j| state.scaled_add(self.weight[j], &history[self.slot[j] as usize]));
            history[self.target[m] as usize] = state;
            if let Some(evaluation) = self.evaluations.get(m) {
                let y = model(history[self.target[m] as usize].view(), evaluation);
                history[self.output[m] as usize] = y;
            }
        }
        history.swap_remove(self.target[self.evaluations.len()] as usize)
    }
}

/// Which value lies where while a tableau is laid out.
#[derive(Default)]
struct Slots {
    /// The last move that reads a value; none for one that nobody reads.
    last: HashMap<Value, usize>,
    places: HashMap<Value, i32>,
    free: Vec<i32>,
    made: i32,
}

impl Slots {
    fn place(&mut self, value: Value) -> i32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.made += 1;
            self.made - 1
        });
        self.places.insert(value, slot);
        slot
    }

    /// Frees the slot of a value that move `m`, or an earlier one, was the last to read.
    fn end(&mut self, value: Value, m: usize) {
        if self.last.get(&value).is_none_or(|last| *last <= m) {
            self.free.extend(self.places.remove(&value));
        }
    }
}

/// Earlier states among which a state's nearest kin is looked for: stages of one step.
const REMEMBERED: usize = 4;

/// The prediction that basis vectors stand for: methods that integrate x0_hat remember it, those
/// that integrate eps_hat remember that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Basis {
    X0,
    Eps,
}

/// A term before the network's output is put in for the prediction.
#[derive(Clone, Copy, Debug)]
enum Part {
    Start,
    State(usize),
    Prediction(usize),
    Draw(usize),
}

/// The points of all evaluations, and the coefficients of the state at each and of the result.
fn record(
    sampler: &dyn Sampler,
    grid: &[PathPoint],
    basis: Basis,
    nfe: usize,
    draws: usize,
) -> Result<(Vec<PathPoint>, Vec<Vec<f64>>)> {
    let dim = 1 + nfe + draws;
    let recorder = Recorder::new(dim, basis);
    let mut start = Array2::zeros((1, dim));
    start[[0, 0]] = 1.0;
    let end = sample(sampler, &recorder, grid, start, &mut Units { first: 1 + nfe })?;
    let (points, mut rows): (_, Vec<_>) =
        recorder.seen.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().unzip();
    rows.push(end.x.into_raw_vec_and_offset().0);
    Ok((points, rows))
}

/// Row k of the coefficients as terms on an earlier state, if one is given, and on what that
/// leaves.
///
/// States of one run share their old coefficients but for a factor, which the start's tells,
/// because the start enters through states alone. What remains of an old coefficient is then of
/// this step, or rounding. A sampler makes a coefficient out of a few products, each as large as
/// the old one times a weight of order 1 or of the factor: what is below 2^-40 of that is rounding,
/// and no sampler's weight.
fn sparse(rows: &[Vec<f64>], k: usize, from: Option<usize>) -> Option<Vec<(Part, f64)>> {
    const ROUNDING: f64 = 1.0 / (1u64 << 40) as f64;
    let row = &rows[k];
    let part = |j: usize| match j {
        0 => Part::Start,
        j if j < rows.len() => Part::Prediction(j - 1),
        j => Part::Draw(j - rows.len()),
    };
    let Some(from) = from else {
        return Some(
            (0..row.len()).filter(|j| row[*j] != 0.0).map(|j| (part(j), row[j])).collect(),
        );
    };
    let before = &rows[from];
    let factor = row[0] / before[0];
    if factor == 0.0 || !factor.is_finite() {
        return None;
    }
    let rest = (1..row.len()).map(|j| (j, row[j] - factor * before[j]));
    let kept =
        rest.filter(|(j, rest)| rest.abs() > ROUNDING * factor.abs().max(1.0) * before[*j].abs());
    Some(
        [(Part::State(from), factor)]
            .into_iter()
            .chain(kept.map(|(j, rest)| (part(j), rest)))
            .collect(),
    )
}

/// The same terms with the network's outputs in the place of predictions.
fn expanded(
    parts: &[(Part, f64)],
    basis: Basis,
    points: &[PathPoint],
    readings: &[Reading],
) -> Vec<(Value, f64)> {
    let mut terms: Vec<(Value, f64)> = vec![];
    let mut add = |value, weight: f64, scale: f64| match terms.iter_mut().find(|(v, _)| *v == value)
    {
        Some((_, sum)) => *sum += weight,
        // Where the prediction is the network's own, its weight on the state is 0 but for rounding.
        None if weight.abs() > 8.0 * f64::EPSILON * scale => terms.push((value, weight)),
        None => {}
    };
    for (part, weight) in parts {
        match *part {
            Part::Start => add(Value::Start, *weight, 0.0),
            Part::Draw(draw) => add(Value::Draw(draw), *weight, 0.0),
            // The last branch's copy of the state is the one that stays.
            Part::State(k) => {
                add(Value::State((k + 1) * readings[k].outputs.len() - 1), *weight, 0.0)
            }
            Part::Prediction(k) => {
                let Reading { state, ref outputs } = readings[k];
                let (PathPoint { alpha, sigma, .. }, branches) = (points[k], outputs.len());
                let (of_state, of_x0, scale) = match basis {
                    Basis::X0 => (state, 1.0, 0.0),
                    Basis::Eps => ((1.0 - alpha * state) / sigma, -alpha / sigma, 1.0 / sigma),
                };
                add(Value::State((k + 1) * branches - 1), weight * of_state, weight.abs() * scale);
                for (branch, output) in outputs.iter().enumerate() {
                    add(Value::Output(k * branches + branch), weight * of_x0 * output, 0.0);
                }
            }
        }
    }
    terms
}

/// How large the terms are together, for states as large as their noise and signal, and all else of
/// order 1.
fn cancellation(terms: &[(Value, f64)], points: &[PathPoint], branches: usize) -> f64 {
    let size = |value: &Value| match *value {
        Value::State(m) => points[m / branches].alpha.hypot(points[m / branches].sigma),
        Value::Start => points.first().map_or(1.0, |at| at.alpha.hypot(at.sigma)),
        Value::Output(_) | Value::Draw(_) => 1.0,
    };
    terms.iter().map(|(value, weight)| weight.abs() * size(value)).sum()
}

/// The denoiser that answers with basis vectors.
struct Recorder {
    dim: usize,
    basis: Basis,
    /// The point and the state of each evaluation.
    seen: Mutex<Vec<(PathPoint, Vec<f64>)>>,
}

impl Recorder {
    fn new(dim: usize, basis: Basis) -> Self {
        Self { dim, basis, seen: Mutex::default() }
    }
}

impl Denoiser for Recorder {
    fn dim(&self) -> usize {
        self.dim
    }

    fn denoise(
        &self,
        x: ArrayView2<f64>,
        at: &PathPoint,
        mut out: ArrayViewMut2<f64>,
    ) -> Result<()> {
        let seen = &mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push((*at, x.iter().copied().collect()));
        let (state, prediction) = match self.basis {
            Basis::X0 => (0.0, 1.0),
            Basis::Eps => (1.0 / at.alpha, -at.sigma / at.alpha),
        };
        out.assign(&x);
        out *= state;
        // The run that only counts has no room for a basis.
        if let Some(coefficient) = out.get_mut([0, seen.len()]) {
            *coefficient += prediction;
        }
        Ok(())
    }
}

/// Draw number j as the basis vector `first + j`.
struct Units {
    first: usize,
}

impl NoiseSource for Units {
    fn fill(&mut self, draw: usize, out: &mut Array2<f64>) {
        out.fill(0.0);
        if let Some(coefficient) = out.get_mut([0, self.first + draw]) {
            *coefficient = 1.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::Path;
    use crate::diffusion::level::Rates;
    use crate::diffusion::prediction::{Conversion, Frame, Prediction};
    use crate::diffusion::schedule::{Schedule, Table};
    use crate::law::Gaussian;
    use crate::math::larger;
    use crate::math::noise::Noise;
    use crate::sample::grid::{Grid, Spacing};
    use crate::sample::noise_source::standard_start;
    use crate::sample::registry::{Options, SAMPLERS, sampler};
    use crate::sample::shortcut::Known;
    use ndarray::array;

    /// A network that is not linear, of values of order 1, and sees all coordinates of a state.
    fn network(x: ArrayView2<f64>, at: &PathPoint, branch: usize) -> Array2<f64> {
        let unit = at.alpha.hypot(at.sigma);
        let mut y = x.mapv(|x| 0.3 * (1.3 * x / unit + branch as f64).sin());
        for (mut y, x) in y.rows_mut().into_iter().zip(x.rows()) {
            y += 0.1 * (x.sum() / unit).cos();
        }
        y
    }

    /// x0_hat of that network, as a sampler sees it.
    struct Read {
        dim: usize,
        prediction: Prediction,
        guidance: Vec<f64>,
    }

    impl Read {
        fn reading(&self, at: &PathPoint) -> Result<Reading> {
            let mut frame = Frame::from(at);
            frame.rates.get_or_insert(Rates::STRAIGHT);
            let conversion = Conversion::new(self.prediction, Prediction::X0, frame)?;
            let output = conversion.apply(1.0, 0.0);
            Ok(Reading {
                state: conversion.apply(0.0, 1.0),
                outputs: self.guidance.iter().map(|g| g * output).collect(),
            })
        }
    }

    impl Denoiser for Read {
        fn dim(&self) -> usize {
            self.dim
        }

        fn denoise(
            &self,
            x: ArrayView2<f64>,
            at: &PathPoint,
            mut out: ArrayViewMut2<f64>,
        ) -> Result<()> {
            let Reading { state, outputs } = self.reading(at).unwrap();
            out.assign(&x);
            out *= state;
            for (branch, weight) in outputs.iter().enumerate() {
                out.scaled_add(*weight, &network(x, at, branch));
            }
            Ok(())
        }
    }

    /// The same in a shorter arithmetic: each prediction is off by `rounding` of itself and of the
    /// state that it was read from.
    struct Rounded<'a> {
        inner: &'a Read,
        rounding: f64,
    }

    impl Denoiser for Rounded<'_> {
        fn dim(&self) -> usize {
            self.inner.dim
        }

        fn denoise(
            &self,
            x: ArrayView2<f64>,
            at: &PathPoint,
            mut out: ArrayViewMut2<f64>,
        ) -> Result<()> {
            self.inner.denoise(x, at, out.view_mut()).unwrap();
            let guidance: f64 = self.inner.guidance.iter().map(|g| g.abs()).sum();
            let off = Noise::new((1e6 * at.sigma) as u64);
            for (i, (out, x)) in out.iter_mut().zip(&x).enumerate() {
                *out += self.rounding
                    * off.normal(0, i as u64)
                    * (out.abs() + guidance * x.abs() / at.alpha);
            }
            Ok(())
        }
    }

    fn grids() -> Vec<(&'static str, Vec<PathPoint>)> {
        let table = Path::Discrete(Table::new(Schedule::LINEAR, 1000, false).unwrap());
        let grid = |spacing, steps, path: &Path| Grid::new(spacing, steps).points(path).unwrap();
        vec![
            ("edm karras 18", grid(Spacing::Karras, 18, &Path::EDM)),
            ("vp uniform 40", grid(Spacing::Uniform, 40, &Path::VP)),
            ("fm uniform 12", grid(Spacing::Uniform, 12, &Path::FlowMatching)),
            ("ddpm linear leading 50", grid(Spacing::Leading, 50, &table)),
            ("cosine log-snr 10", grid(Spacing::LogSnr, 10, &Path::Cosine)),
        ]
    }

    fn largest(x: &Array2<f64>) -> f64 {
        x.iter().map(|x| x.abs()).fold(0.0, larger)
    }

    fn pairs<A: Clone, B: Clone>(a: &[A], b: &[B]) -> Vec<(A, B)> {
        a.iter().flat_map(|a| b.iter().map(|b| (a.clone(), b.clone()))).collect()
    }

    /// Options with which every stochastic method draws.
    fn options(law: &Gaussian) -> Options<'_> {
        Options { eta: 0.7, g: 0.6, churn: 5.0, corrections: 2, ..Options::DEFAULT }
            .on(Known::Gaussian(law))
    }

    #[test]
    fn the_replay_of_every_sampler_is_its_run() {
        let law = Gaussian::isotropic(array![0.0, 1.0, -1.0], 0.5).unwrap();
        let (options, grids) = (options(&law), grids());
        let mut replayed = vec![];
        for entry in SAMPLERS {
            let method = sampler(entry.name, &options).unwrap();
            if !method.is_combination() {
                continue;
            }
            replayed.push(entry.name);
            let predictions = [Prediction::X0, Prediction::Eps, Prediction::V];
            let guidances = [vec![1.0], vec![3.0, -2.0]];
            for ((prediction, guidance), (what, grid)) in
                pairs(&pairs(&predictions, &guidances), &grids)
            {
                let model = Read { dim: 3, prediction, guidance };
                let branches = model.guidance.len();
                let tableau =
                    Tableau::record(&method, &grid, branches, |at| model.reading(at)).unwrap();
                let noise = Noise::new(3);
                let start = standard_start(&noise, 4, 3) * grid[0].sigma;
                let run = |model: &dyn Denoiser| {
                    sample(&method, model, &grid, start.clone(), &mut noise.child(1)).unwrap()
                };
                let want = run(&model);
                let got = tableau.replay(
                    start.clone(),
                    |x, e| network(x, &e.at, e.branch),
                    &mut noise.child(1),
                );
                assert_eq!(
                    (tableau.evaluations.len(), tableau.draws),
                    (branches * want.nfe, want.draws)
                );
                // What rounding does to the run itself, seen through a rounding of 10 digits; a
                // step rounds a handful of times.
                const TEN_DIGITS: f64 = 1e-10;
                let response =
                    largest(&(&run(&Rounded { inner: &model, rounding: TEN_DIGITS }).x - &want.x))
                        / TEN_DIGITS;
                let (off, allowed) = (
                    largest(&(got - &want.x)),
                    32.0 * f64::EPSILON * (response + largest(&want.x)),
                );
                let name =
                    format!("{} on {what}, {}, {branches} branches", entry.name, model.prediction);
                assert!(off <= allowed, "{name}: {off:e} of {allowed:e}");
                // Four steps' states and outputs and a step's draws are all that the longest memory
                // here needs.
                let most = tableau.first.windows(2).map(|w| w[1] - w[0]).max().unwrap();
                assert!(
                    most <= 12 && tableau.slots <= 13,
                    "{name}: {most} terms, {} slots",
                    tableau.slots
                );
            }
        }
        assert!(replayed.len() == SAMPLERS.len() - 1 && !replayed.contains(&"exact"));
    }

    #[test]
    fn a_thousand_steps_need_a_handful_of_slots() {
        let table = Path::Discrete(Table::new(Schedule::LINEAR, 1000, false).unwrap());
        let grid = Grid::new(Spacing::Leading, 1000).points(&table).unwrap();
        let eps = Read { dim: 2, prediction: Prediction::Eps, guidance: vec![1.0] };
        for (name, slots, terms) in [
            ("ddpm", 3, 3),
            ("ddim", 2, 2),
            ("heun", 3, 3),
            ("dpmpp-2m", 4, 4),
            ("unipc", 7, 7),
            ("lms", 6, 5),
        ] {
            let method = sampler(name, &Options::DEFAULT).unwrap();
            let tableau = Tableau::record(&method, &grid, 1, |at| eps.reading(at)).unwrap();
            assert_eq!(tableau.evaluations.len(), method.nfe(&grid));
            let most = tableau.first.windows(2).map(|w| (w[1] - w[0]) as usize).max().unwrap();
            assert!(
                tableau.slots <= slots && most <= terms,
                "{name}: {} slots, {most} terms",
                tableau.slots
            );
        }
    }

    /// The second route: the weights of DDPM on a network of eps are those of its paper's algorithm 2.
    #[test]
    fn ddpm_is_recorded_as_its_paper_prints_it() {
        let table = Table::new(Schedule::LINEAR, 1000, false).unwrap();
        let grid =
            Grid::new(Spacing::Leading, 1000).points(&Path::Discrete(table.clone())).unwrap();
        let eps = Read { dim: 2, prediction: Prediction::Eps, guidance: vec![1.0] };
        let tableau =
            Tableau::record(&sampler("ddpm", &Options::DEFAULT).unwrap(), &grid, 1, |at| {
                eps.reading(at)
            })
            .unwrap();
        for m in 1..=1000 {
            let row = &table.rows()[1000 - m];
            let state = 1.0 / row.alpha_step.sqrt();
            let want = [state, -state * row.beta / row.sigma, row.posterior_var.sqrt()];
            let got = &tableau.weight[tableau.first[m] as usize..tableau.first[m + 1] as usize];
            assert_eq!(got.len(), if m == 1000 { 2 } else { 3 });
            // eps's weight is a difference of two that are up to alpha / beta = 1e4 as large, each
            // right to a few roundings of levels that are themselves rounded.
            let tolerances = [1e-11, 1e-9, 1e-11];
            for ((got, want), tolerance) in got.iter().zip(want).zip(tolerances) {
                assert!((got - want).abs() <= tolerance * want.abs(), "move {m}: {got} {want}");
            }
        }
    }

    #[test]
    fn what_knows_the_law_or_has_no_reading_is_refused() {
        let law = Gaussian::isotropic(array![0.0, 1.0, -1.0], 0.5).unwrap();
        let options = options(&law);
        let grid = Grid::new(Spacing::Karras, 5).points(&Path::EDM).unwrap();
        let one = |_: &PathPoint| Ok(Reading { state: 0.0, outputs: vec![1.0] });
        for name in ["exact", "teleport+ddim"] {
            let refused = Tableau::record(&sampler(name, &options).unwrap(), &grid, 1, one)
                .unwrap_err()
                .to_string();
            assert!(refused.contains("knows the law"), "{refused}");
        }
        let ddim = sampler("ddim", &options).unwrap();
        assert!(
            Tableau::record(&ddim, &grid, 2, one)
                .unwrap_err()
                .to_string()
                .starts_with("outputs of a reading: got 1")
        );
        let none = |at: &PathPoint| Err(Error::domain("level", at.sigma, "less", "start later"));
        assert!(
            Tableau::record(&ddim, &grid, 1, none).unwrap_err().to_string().starts_with("level")
        );
        // From pure noise, where eps says nothing of x0, and with its rates missing.
        let grid = [PathPoint::NOISE, PathPoint::still(0.6, 0.8), PathPoint::CLEAN];
        let tableau = Tableau::record(&ddim, &grid, 1, one).unwrap();
        assert!(tableau.weight.iter().all(|w| w.is_finite()) && tableau.evaluations.len() == 2);
        assert!(Tableau::record(&sampler("fm-euler", &options).unwrap(), &grid, 1, one).is_err());
    }
}
