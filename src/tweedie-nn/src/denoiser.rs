//! A network as a denoiser: of any prediction, on any path.

use super::element::Element;
use super::executor::{Executor, Told};
use super::layout::{images_from, images_to};
use super::pipeline::{Input, Setup};
use super::program::{Op, Program};
use ndarray::{Array2, ArrayView1, ArrayView2, ArrayViewMut2, s};
use std::sync::{Arc, Mutex, PoisonError};
use tweedie::diffusion::prediction::{Conversion, Frame, Prediction};
use tweedie::diffusion::{Denoiser, PathPoint};
use tweedie::error::{Error, Result};
use tweedie::math::noise::Noise;
use tweedie::sample::tableau::{Reading, Tableau};
use tweedie::sample::{Sampled, Sampler};
use tweedie_device::Place;

/// A network that estimates `E[x0 | x_t]`: of all classes together, or of one.
///
/// States are rows in the data sets' order (c, h, w), any number of them, at a point of any path:
/// one with the same `sigma / alpha` on the path of the network's training is the same state in
/// another unit of length.
///
/// # Formula
/// With `x' = scale x_t` at the point (alpha, sigma) of the network's own path,
/// `out = network(c x', time)` and x0_hat is read from `out` and `x'` as from any [`Prediction`]:
/// `x0_hat = a x' + b out`.
///
/// At `sigma = 0` the state is the data, and the network is not asked.
pub struct Network<T> {
    shared: Arc<Shared<T>>,
    label: Option<usize>,
}

struct Shared<T> {
    setup: Setup,
    /// Rows of the class table; 0 without one.
    classes: usize,
    batch: usize,
    place: Place,
    work: Mutex<Work<T>>,
}

struct Work<T> {
    /// Forward alone.
    forward: Executor<T>,
    images: Vec<T>,
    /// The weights, from which the first Jacobian makes an executor with a way back.
    params: Vec<T>,
    back: Option<Back<T>>,
}

/// What a backward pass needs.
struct Back<T> {
    executor: Executor<T>,
    images: Vec<T>,
    gradients: Vec<T>,
}

impl<T> Clone for Network<T> {
    /// The same network: it is shared, not copied.
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), label: self.label }
    }
}

/// What one point of a path is to the network.
struct Level {
    /// The time that it is told.
    time: f64,
    /// Its input over the state.
    input: f64,
    /// `x0_hat = state x + output out`.
    state: f64,
    output: f64,
}

impl<T: Element> Network<T> {
    /// The network of a program on the CPU, run on `batch` states at a time.
    ///
    /// # Errors
    /// A setup that does not fit the program: another shape, a null class that the table does not
    /// have, fewer or more channels out than in.
    pub fn new(program: Program, params: &[T], setup: Setup, batch: usize) -> Result<Self> {
        Self::placed(program, params, setup, batch, &Place::Cpu)
    }

    /// As [`Network::new`], on this device.
    ///
    /// # Errors
    /// As [`Network::new`]; a device without enough memory.
    pub fn placed(
        program: Program,
        params: &[T],
        setup: Setup,
        batch: usize,
        place: &Place,
    ) -> Result<Self> {
        let setup = setup.validated()?;
        let shape = |tensor: usize| {
            let t = &program.tensors[tensor];
            (t.channels, t.height, t.width)
        };
        for (what, got) in [
            ("the network's input", shape(program.input)),
            ("the network's output", shape(program.output)),
        ] {
            if got != setup.shape {
                let got = [got.0, got.1, got.2];
                let want = format!("{:?}, that of the model's states", setup.shape);
                return Err(Error::shape(
                    what,
                    &got,
                    want,
                    "a denoiser has as many channels out as in",
                ));
            }
        }
        if params.len() != program.param_count() {
            return Err(Error::shape(
                "parameters",
                &[params.len()],
                program.param_count(),
                "load the program's own parameters",
            ));
        }
        let classes = program.ops.iter().find_map(|op| match *op {
            Op::Lookup { weight, by_class: true, .. } => Some(program.params[weight].shape[0]),
            _ => None,
        });
        let classes = classes.unwrap_or(0);
        if let Some(null) = setup.null_class.filter(|null| *null >= classes) {
            let allowed = format!("a row of the class table's {classes}");
            return Err(Error::domain(
                "model setting `null_class`",
                null,
                allowed,
                "it is the row that dropped labels were given",
            ));
        }
        let size = program.tensors[program.input].size();
        let mut forward = Executor::forward_only(program, batch.max(1), place)?;
        forward.load(params)?;
        let images = vec![T::zero(); batch.max(1) * size];
        let work = Mutex::new(Work { forward, images, params: params.to_vec(), back: None });
        let label = setup.null_class;
        Ok(Self {
            shared: Arc::new(Shared {
                setup,
                classes,
                batch: batch.max(1),
                place: place.clone(),
                work,
            }),
            label,
        })
    }

    /// What its output means.
    pub fn setup(&self) -> &Setup {
        &self.shared.setup
    }

    /// Classes that it can be asked for: the rows of its table but the null class.
    pub fn classes(&self) -> usize {
        self.shared.classes - usize::from(self.shared.setup.null_class.is_some())
    }

    /// The same network, asked for one class: `E[x0 | x_t, class]`.
    ///
    /// With the network itself as the unconditional one,
    /// [`Guided`](tweedie::law::conditional::Guided) is classifier-free guidance.
    ///
    /// # Errors
    /// A class that it does not have.
    pub fn with_label(&self, class: usize) -> Result<Self> {
        if class >= self.shared.classes {
            let allowed = match self.shared.classes {
                0 => "none: the network has no classes".to_owned(),
                n => format!("0 to {}", n - 1),
            };
            return Err(Error::domain("class", class, allowed, "choose a class of the network"));
        }
        Ok(Self { shared: self.shared.clone(), label: Some(class) })
    }

    /// That x0_hat can be had at every evaluated point of a grid.
    ///
    /// # Errors
    /// A noise level that the network's path does not reach; a point where its output does not
    /// determine x0, or where its time is infinite; a network of classes without a null class that
    /// was not asked for one.
    pub fn defined(&self, grid: &[PathPoint]) -> Result<()> {
        self.labels()?;
        grid.iter().filter(|p| p.sigma > 0.0).try_for_each(|p| self.level(p).map(drop))
    }

    /// Rows of the Jacobian `d x0_hat / d x` at one state, by backward passes: of which pixels each
    /// of `pixels` is made.
    ///
    /// # Shapes
    /// `x` (d); the result (pixels, d).
    ///
    /// # Errors
    /// As [`defined`](Self::defined); a pixel beyond d.
    pub fn jacobian_rows(
        &self,
        x: ArrayView1<f64>,
        at: &PathPoint,
        pixels: &[usize],
    ) -> Result<Array2<f64>> {
        let d = self.dim();
        if let Some(pixel) = pixels.iter().find(|p| **p >= d) {
            return Err(Error::domain(
                "pixel",
                pixel,
                format!("0 to {}", d - 1),
                "pixels are counted along (c, h, w)",
            ));
        }
        if x.len() != d {
            return Err(Error::shape("state", x.shape(), format!("({d},)"), "pass one state"));
        }
        let mut rows = Array2::zeros((pixels.len(), d));
        if pixels.is_empty() {
            return Ok(rows);
        }
        if at.sigma == 0.0 {
            pixels.iter().enumerate().for_each(|(row, pixel)| rows[[row, *pixel]] = 1.0 / at.alpha);
            return Ok(rows);
        }
        let (level, shape) = (self.level(at)?, self.shared.setup.shape);
        // One copy of the state for each row that is asked for at a time.
        let batch = pixels.len().min(self.shared.batch);
        let mut labels = self.labels()?;
        labels.truncate(batch);
        let Work { forward, params, back, .. } = &mut *self.work();
        if back.as_ref().is_none_or(|back| back.images.len() != batch * d) {
            let mut executor = Executor::new(forward.program().clone(), batch, &self.shared.place)?;
            executor.load(params)?;
            *back = Some(Back {
                executor,
                images: vec![T::zero(); batch * d],
                gradients: vec![T::zero(); params.len()],
            });
        }
        let Back { executor, images, gradients } = back.as_mut().expect("made above");
        images_from(
            shape,
            x.broadcast((batch, d)).expect("one row, repeated"),
            level.input,
            images,
        );
        executor.forward(images, &vec![level.time; batch], &labels)?;
        for (pixels, mut rows) in
            pixels.chunks(batch).zip(rows.axis_chunks_iter_mut(ndarray::Axis(0), batch))
        {
            let mut ones = Array2::zeros((batch, d));
            pixels.iter().enumerate().for_each(|(row, pixel)| ones[[row, *pixel]] = 1.0);
            images_from(shape, ones.view(), 1.0, images);
            executor.backward(images, gradients)?;
            images_to(shape, executor.input_gradient(), rows.view_mut());
            rows *= level.output * level.input;
            pixels.iter().enumerate().for_each(|(row, pixel)| rows[[row, *pixel]] += level.state);
        }
        Ok(rows)
    }

    /// Runs a sampler on the device that the network is on, its states never leaving it; `None` on
    /// the CPU, or for a sampler that cannot be [recorded](Tableau), which runs itself with the
    /// network as its model.
    ///
    /// `guidance` is another label of the same network and a weight: classifier-free guidance away
    /// from it, as [`Guided`](tweedie::law::conditional::Guided). The draws are those of `noise` on
    /// the CPU.
    ///
    /// # Shapes
    /// `start` (n, d), at the first point of `grid`.
    ///
    /// # Errors
    /// As [`defined`](Self::defined), at any point that the sampler visits; a lost device.
    pub fn sampled(
        &self,
        sampler: &dyn Sampler,
        grid: &[PathPoint],
        start: ArrayView2<f64>,
        noise: Noise,
        guidance: Option<(&Self, f64)>,
    ) -> Result<Option<Sampled>> {
        if matches!(self.shared.place, Place::Cpu) || !sampler.is_combination() {
            return Ok(None);
        }
        let read = |at: &PathPoint| {
            let level = self.level(at)?;
            let outputs = match guidance {
                None => vec![level.output],
                Some((_, weight)) => vec![weight * level.output, (1.0 - weight) * level.output],
            };
            Ok(Reading { state: level.state, outputs })
        };
        let branches = 1 + usize::from(guidance.is_some());
        let tableau = Tableau::record(sampler, grid, branches, read)?;
        let label =
            |network: &Self| network.labels().map(|labels| labels.first().copied().unwrap_or(0));
        let labels = [label(self)?, guidance.map_or(Ok(0), |(other, _)| label(other))?];
        let told = tableau
            .evaluations
            .iter()
            .map(|e| {
                self.level(&e.at).map(|l| Told {
                    time: l.time,
                    input: l.input,
                    label: labels[e.branch],
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let shape = self.shared.setup.shape;
        let mut images = vec![T::zero(); start.len()];
        images_from(shape, start, 1.0, &mut images);
        let Some(end) = self.work().forward.sample(&tableau, &told, &images, noise.seed()) else {
            return Ok(None);
        };
        let mut x = Array2::zeros(start.raw_dim());
        images_to(shape, &end?, x.view_mut());
        // An evaluation of a guided model is one, as on the CPU.
        Ok(Some(Sampled { x, nfe: tableau.evaluations.len() / branches, draws: tableau.draws }))
    }

    fn work(&self) -> std::sync::MutexGuard<'_, Work<T>> {
        // A panic elsewhere leaves nothing here that the next pass does not write first.
        self.shared.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One label for each row of a batch; none for a network without classes.
    fn labels(&self) -> Result<Vec<usize>> {
        match self.label {
            _ if self.shared.classes == 0 => Ok(vec![]),
            Some(label) => Ok(vec![label; self.shared.batch]),
            None => {
                let allowed = format!("0 to {}", self.shared.classes - 1);
                Err(Error::domain(
                    "class",
                    "none",
                    allowed,
                    "the network knows no null class: choose a class",
                ))
            }
        }
    }

    fn level(&self, at: &PathPoint) -> Result<Level> {
        let setup = &self.shared.setup;
        let (time, own) = own_point(setup, at)?;
        // Signal and noise grow by the same factor: their norm is 0 at neither end.
        let scale = own.alpha.hypot(own.sigma) / at.alpha.hypot(at.sigma);
        let frame = Frame::from(&own).with_sigma_data(setup.sigma_data);
        let conversion = Conversion::new(setup.prediction, Prediction::X0, frame)?;
        let input = match setup.input {
            Input::State => scale,
            Input::UnitVariance => scale / frame.input_std(),
        };
        let (state, output) = (conversion.apply(0.0, 1.0) * scale, conversion.apply(1.0, 0.0));
        Ok(Level { time: setup.time_at(time, own.level())?, input, state, output })
    }

    fn evaluate(
        &self,
        x: ArrayView2<f64>,
        at: &PathPoint,
        mut out: ArrayViewMut2<f64>,
    ) -> Result<()> {
        let (level, labels, batch) = (self.level(at)?, self.labels()?, self.shared.batch);
        let times = vec![level.time; batch];
        let work = &mut *self.work();
        for first in (0..x.nrows()).step_by(batch) {
            let rows = first..x.nrows().min(first + batch);
            let (x, mut out) = (x.slice(s![rows.clone(), ..]), out.slice_mut(s![rows, ..]));
            images_from(self.shared.setup.shape, x, level.input, &mut work.images);
            let y = work.forward.forward(&work.images, &times, &labels)?;
            images_to(self.shared.setup.shape, y, out.view_mut());
            out.zip_mut_with(&x, |out, x| *out = level.state * x + level.output * *out);
        }
        Ok(())
    }
}

/// The time and the point of the network's own path with the noise level of a point of any path,
/// whether or not that one has a time.
fn own_point(setup: &Setup, at: &PathPoint) -> Result<(f64, PathPoint)> {
    let path = &setup.path;
    let near = |a: f64, b: f64| (a - b).abs() <= 8.0 * f64::EPSILON * b.abs();
    // On its own path a point keeps its time to the bit.
    let same = |t: &f64| {
        let own = path.still_at(*t);
        own.is_ok_and(|own| near(own.alpha, at.alpha) && near(own.sigma, at.sigma))
    };
    let t = if let Some(t) = at.t.filter(same) {
        t
    } else if at.alpha > 0.0 {
        let (s, (lowest, highest)) =
            (at.edm_sigma(), (path.still_at(0.0)?.edm_sigma(), path.still_at(1.0)?.edm_sigma()));
        // An end of this path, found on another, is the end but for rounding.
        let end = [lowest, highest].into_iter().find(|end| (s - end).abs() <= 1e-12 * s);
        path.t_from_edm_sigma(end.unwrap_or(s))?
    } else if path.still_at(1.0)?.alpha == 0.0 {
        1.0
    } else {
        let place = format!("alpha = {}, sigma = {}", at.alpha, at.sigma);
        let why = format!("the network's path {} does not reach pure noise", path.name());
        return Err(Error::singular(
            "the network",
            place,
            why,
            "start at a noise level that it was trained on",
        ));
    };
    // Only the velocity needs rates, which need not be finite.
    let own = if setup.prediction == Prediction::Velocity { path.at(t) } else { path.still_at(t) };
    Ok((t, own?))
}

impl<T: Element> Denoiser for Network<T> {
    fn dim(&self) -> usize {
        let (c, h, w) = self.shared.setup.shape;
        c * h * w
    }

    /// # Errors
    /// As [`Network::defined`], at a point where a sampler may go though no grid has it; a lost
    /// device.
    fn denoise(
        &self,
        x: ArrayView2<f64>,
        at: &PathPoint,
        mut out: ArrayViewMut2<f64>,
    ) -> Result<()> {
        if at.sigma > 0.0 {
            return self.evaluate(x, at, out);
        }
        out.assign(&x);
        out /= at.alpha;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::UNetConfig;
    use crate::cpu::Cpu;
    use crate::layout::{channels_first, channels_last};
    use crate::pipeline::Time;
    use crate::program::TableKind;
    use crate::unet::unet;
    use ndarray::{Array1, Axis};
    use proptest::prelude::*;
    use tweedie::diffusion::Path;
    use tweedie::diffusion::schedule::{Schedule, Table};
    use tweedie::law::Gaussian;
    use tweedie::law::conditional::Guided;
    use tweedie::math::larger;

    const EPS: f64 = f64::EPSILON;

    fn paths() -> Vec<Path> {
        let table = |schedule, zero| Path::Discrete(Table::new(schedule, 1000, zero).unwrap());
        vec![
            Path::VP,
            Path::VE,
            Path::EDM,
            Path::Cosine,
            Path::FlowMatching,
            table(Schedule::LINEAR, false),
            table(Schedule::COSINE, true),
        ]
    }

    fn setup(path: Path, prediction: Prediction, shape: (usize, usize, usize)) -> Setup {
        Setup {
            path,
            prediction,
            sigma_data: 0.5,
            input: Input::State,
            time: Time::Scaled(1000.0),
            shape,
            null_class: None,
        }
    }

    fn small(classes: Option<usize>) -> (Program, (usize, usize, usize)) {
        let config = UNetConfig {
            in_channels: 2,
            out_channels: 2,
            block_out_channels: vec![4, 8],
            down_block_types: vec!["DownBlock2D".into(), "AttnDownBlock2D".into()],
            up_block_types: vec!["AttnUpBlock2D".into(), "UpBlock2D".into()],
            layers_per_block: 1,
            attention_head_dim: Some(4),
            norm_num_groups: 2,
            num_class_embeds: classes,
            ..UNetConfig::default()
        };
        (unet(&config, 4, 6).unwrap(), (2, 4, 6))
    }

    /// Parameters at which the network is no near-linear map: far from zero everywhere.
    fn params<T: Element>(program: &Program) -> Vec<T> {
        let noise = Noise::new(7);
        let mut params = vec![T::zero(); program.param_count()];
        for (p, param) in program.params.iter().enumerate() {
            let fan_in =
                if param.shape.len() > 1 { param.shape[1..].iter().product::<usize>() } else { 4 };
            let size = if param.shape.len() > 1 { 1.0 } else { 0.5 } / (fan_in as f64).sqrt();
            let mean = if param.name.contains("norm") && param.name.ends_with("weight") {
                1.0
            } else {
                0.0
            };
            for (i, x) in params[param.at.clone()].iter_mut().enumerate() {
                *x = T::of(mean + size * noise.normal(p as u64, i as u64));
            }
        }
        params
    }

    fn network<T: Element>(setup: Setup, batch: usize) -> Network<T> {
        let (program, _) = small(None);
        let params = params(&program);
        Network::new(program, &params, setup, batch).unwrap()
    }

    fn normals(n: usize, d: usize, seed: u64) -> Array2<f64> {
        Array2::from_shape_fn((n, d), |(i, j)| Noise::new(seed).normal(i as u64, j as u64))
    }

    fn largest(x: &Array2<f64>) -> f64 {
        // A NaN is the largest.
        x.iter().map(|x| x.abs()).fold(0.0, larger)
    }

    /// A linear layer over one pixel of d channels.
    fn linear(d: usize) -> Program {
        let mut p = Program::default();
        p.input = p.tensor("x", 1, 1, d);
        p.output = p.tensor("y", 1, 1, d);
        let (table, weight, bias) = (
            p.table(TableKind::Identity { rows: 1 }),
            p.dense_param("weight", &[d, d]),
            Some(p.param("bias", &[d])),
        );
        p.ops.push(Op::Dense {
            table,
            x: p.input,
            weight,
            bias,
            image_bias: None,
            skip: None,
            scale: 1.0,
            out: p.output,
        });
        p
    }

    proptest! {
        /// The best prediction of a Gaussian is affine in the state at each level: as weights of a
        /// linear layer it stands for the network, of every prediction and on every path, and the
        /// denoiser has to be the Wiener filter, wherever it is asked.
        #[test]
        fn an_exact_network_of_any_prediction_on_any_path_is_the_law_s_denoiser(
            kind in 0usize..6, own in 0usize..7, asked in 0usize..7, edm_sigma in 0.02..20.0f64, sigma_data in 0.2..2.0f64,
            unit_variance: bool, seed in 0u64..1000
        ) {
            const D: usize = 3;
            let noise = Noise::new(seed);
            let factor = Array2::from_shape_fn((D, D), |(i, j)| noise.normal(0, (D * i + j) as u64));
            let law = Gaussian::new(Array1::from_shape_fn(D, |i| noise.normal(1, i as u64)), factor.dot(&factor.t()).view()).unwrap();
            let (prediction, path, elsewhere) = (Prediction::ALL[kind], &paths()[own], &paths()[asked]);
            let time = path.t_from_edm_sigma(edm_sigma).unwrap();
            let here = path.at(time).unwrap();
            let frame = Frame::from(&here).with_sigma_data(sigma_data);
            // The law's own prediction at the unit states and at 0, in the network's coordinates.
            let c_in = if unit_variance { 1.0 / frame.input_std() } else { 1.0 };
            let said = |x: &Array2<f64>| {
                let x0 = law.denoised((x / c_in).view(), &here).unwrap();
                let eps = (x / c_in - &x0 * here.alpha) / here.sigma;
                ndarray::Zip::from(&x0).and(&eps).map_collect(|x0, eps| prediction.target(*x0, *eps, &frame))
            };
            let bias = said(&Array2::zeros((1, D)));
            // Rows are inputs, columns outputs: as the kernels hold a dense weight.
            let weight = said(&Array2::eye(D)) - &bias;
            let weights: Vec<f64> = weight.iter().chain(&bias).copied().collect();
            let input = if unit_variance { Input::UnitVariance } else { Input::State };
            let setup = Setup { sigma_data, input, ..setup(path.clone(), prediction, (D, 1, 1)) };
            let network = Network::new(linear(D), &weights, setup, 2).unwrap();

            let there = elsewhere.at(elsewhere.t_from_edm_sigma(edm_sigma).unwrap()).unwrap();
            let x = normals(3, D, seed + 1) * there.alpha.hypot(there.sigma) * 2.0;
            let error = largest(&(network.denoised(x.view(), &there).unwrap() - law.denoised(x.view(), &there).unwrap()));
            // Each number above is good to a few eps of the terms that it is the sum of.
            let level = network.level(&there).unwrap();
            let (size, w) = (largest(&x), largest(&weight).max(largest(&bias)));
            let eps = largest(&said(&x.mapv(|x| x * level.input))) ;
            let terms = level.state.abs() * size + level.output.abs() * (D as f64 * w * (level.input * size + 1.0) + eps);
            let condition = (1.0 + 1.0 / edm_sigma) * (1.0 + edm_sigma);
            prop_assert!(error <= 64.0 * EPS * condition * terms, "{prediction} {} {}: {error:e} of {terms:e}", path.name(), elsewhere.name());
            // And its Jacobian is the filter's matrix, in its own order of rows.
            let rows = network.jacobian_rows(x.row(0), &there, &[2, 0, 1]).unwrap();
            for (row, pixel) in [2, 0, 1].into_iter().enumerate() {
                for j in 0..D {
                    let (mut plus, mut zero) = (Array2::zeros((1, D)), Array2::zeros((1, D)));
                    plus[[0, j]] = 1.0;
                    law.denoise(plus.clone().view(), &there, plus.view_mut()).unwrap();
                    law.denoise(zero.clone().view(), &there, zero.view_mut()).unwrap();
                    let want = plus[[0, pixel]] - zero[[0, pixel]];
                    let tol = 64.0 * EPS * condition * (level.state.abs() + level.output.abs() * level.input * w + largest(&zero));
                    prop_assert!((rows[[row, j]] - want).abs() <= tol, "{prediction}: {} {want}", rows[[row, j]]);
                }
            }
        }
    }

    #[test]
    fn a_network_is_its_program_and_its_conversion() {
        let (program, shape) = small(None);
        let params: Vec<f64> = params(&program);
        let setup = setup(Path::VP, Prediction::V, shape);
        let (at, x) = (Path::VP.at(0.6).unwrap(), normals(3, 48, 1));
        let got = Network::new(program.clone(), &params, setup, 3)
            .unwrap()
            .denoised(x.view(), &at)
            .unwrap();
        // By hand: the program on images, then the formula of v.
        let mut cpu = Cpu::new(program, 3);
        cpu.load(&params);
        let images =
            channels_last(&x.clone().into_shape_with_order((3, 2, 4, 6)).unwrap().into_dyn());
        let v = channels_first(cpu.forward(&images, &[600.0; 3], &[]).unwrap(), 3, 4, 6, 2)
            .into_shape_with_order((3, 48))
            .unwrap();
        let want = &x * at.alpha - v * at.sigma;
        assert!(
            largest(&(&got - &want)) <= 8.0 * EPS * (1.0 + largest(&want)),
            "{:e}",
            largest(&(got - want))
        );
    }

    #[test]
    fn a_network_is_the_same_through_every_path() {
        let (_, shape) = small(None);
        for own in paths() {
            let network = network::<f64>(setup(own.clone(), Prediction::Eps, shape), 4);
            let here = own.at(own.t_from_edm_sigma(0.7).unwrap()).unwrap();
            let x = normals(4, 48, 2) * here.alpha.hypot(here.sigma);
            let want = network.denoised(x.view(), &here).unwrap();
            for other in paths() {
                let there = other.at(other.t_from_edm_sigma(0.7).unwrap()).unwrap();
                let scale = there.alpha.hypot(there.sigma) / here.alpha.hypot(here.sigma);
                let got = network.denoised((&x * scale).view(), &there).unwrap();
                // The time, found again, is good to a few eps; this network's output moves by at
                // most 1e3 per unit of it.
                let error = largest(&(got - &want));
                assert!(
                    error <= 1e-10 * largest(&want),
                    "{} through {}: {error:e}",
                    own.name(),
                    other.name()
                );
            }
        }
    }

    #[test]
    fn the_ends_of_a_path_are_found_from_every_other() {
        let (_, shape) = small(None);
        for own in paths() {
            let time =
                if matches!(own, Path::Discrete(_)) { Time::Step } else { Time::Scaled(1.0) };
            let setup = Setup { time, ..setup(own, Prediction::V, shape) };
            let (lowest, highest) = setup.range().unwrap();
            let network = network::<f64>(setup, 1);
            for other in paths() {
                for s in [lowest, highest] {
                    let Ok(there) = other.t_from_edm_sigma(s).and_then(|t| other.still_at(t))
                    else {
                        continue;
                    };
                    for there in
                        [there, PathPoint::still(there.alpha, there.sigma * (1.0 - 2.0 * EPS))]
                    {
                        let told = network.defined(&[there]);
                        assert!(
                            told.is_ok(),
                            "{} at {s} on {}: {told:?}",
                            network.setup().path.name(),
                            other.name()
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn jacobian_rows_are_derivatives_and_no_columns() {
        let (_, shape) = small(None);
        let network = network::<f64>(setup(Path::FlowMatching, Prediction::Velocity, shape), 5);
        // Asked on another path, so that both scales count.
        let at = Path::EDM.at(0.02).unwrap();
        let x = normals(1, 48, 3) * 2.0;
        let pixels = [0, 7, 24, 30, 31, 47, 24];
        let rows = network.jacobian_rows(x.row(0), &at, &pixels).unwrap();
        let h = 1e-4;
        let moved = |j: usize, h: f64| {
            let mut x = x.clone();
            x[[0, j]] += h;
            network.denoised(x.view(), &at).unwrap()
        };
        let (mut worst, mut asymmetry): (f64, f64) = (0.0, 0.0);
        for j in 0..48 {
            // Five points: the error is h^4 / 30 of the fifth derivative and eps / h of rounding,
            // below 1e-11 both.
            let slope = (moved(j, -2.0 * h) - moved(j, -h) * 8.0 + moved(j, h) * 8.0
                - moved(j, 2.0 * h))
                / (12.0 * h);
            for (row, pixel) in pixels.into_iter().enumerate() {
                worst = if (rows[[row, j]] - slope[[0, pixel]]).abs() <= worst {
                    worst
                } else {
                    (rows[[row, j]] - slope[[0, pixel]]).abs()
                };
            }
        }
        for (a, i) in pixels.into_iter().enumerate() {
            for (b, j) in pixels.into_iter().enumerate() {
                asymmetry = larger(asymmetry, (rows[[a, j]] - rows[[b, i]]).abs());
            }
        }
        let size = largest(&rows);
        assert!(worst <= 1e-9 * size, "{worst:e} of {size}");
        // Rows taken for columns would be seen: an exact denoiser's Jacobian is symmetric, a
        // network's is not.
        assert!(asymmetry >= 1e-2 * size, "{asymmetry} of {size}");
        assert_eq!(rows.row(2), rows.row(6));
        let data = PathPoint { t: Some(0.0), sigma: 0.0, ..at };
        assert_eq!(network.jacobian_rows(x.row(0), &data, &[3]).unwrap().row(0)[3], 1.0);
        assert!(
            network.jacobian_rows(x.row(0), &at, &[48]).unwrap_err().to_string().contains("pixel")
        );
    }

    #[test]
    fn any_number_of_rows_gives_the_same_bits() {
        let (_, shape) = small(None);
        let at = Path::Cosine.at(0.4).unwrap();
        let x = normals(7, 48, 4);
        let of = |batch| network::<f32>(setup(Path::Cosine, Prediction::F, shape), batch);
        let want = of(7).denoised(x.view(), &at).unwrap();
        for batch in [1, 2, 3, 16] {
            let network = of(batch);
            assert_eq!(network.denoised(x.view(), &at).unwrap(), want, "batches of {batch}");
            let one = x.row(5).insert_axis(Axis(0)).to_owned();
            assert_eq!(network.denoised(one.view(), &at).unwrap().row(0), want.row(5));
        }
        assert_eq!(of(2).denoised(Array2::zeros((0, 48)).view(), &at).unwrap().nrows(), 0);
    }

    #[test]
    fn single_precision_is_double_precision_to_1e_4() {
        let (_, shape) = small(None);
        for prediction in [Prediction::Eps, Prediction::V, Prediction::F] {
            let setup = Setup {
                input: Input::UnitVariance,
                time: Time::CNoise(250.0),
                ..setup(Path::EDM, prediction, shape)
            };
            let (single, double) = (network::<f32>(setup.clone(), 4), network::<f64>(setup, 4));
            for t in [0.0001, 0.01, 0.5] {
                let at = Path::EDM.at(t).unwrap();
                let x = normals(4, 48, 5) * at.sigma.hypot(0.5);
                let (got, want) = (
                    single.denoised(x.view(), &at).unwrap(),
                    double.denoised(x.view(), &at).unwrap(),
                );
                let error = largest(&(got - &want));
                assert!(
                    error <= 1e-4 * largest(&want).max(1e-300),
                    "{prediction} at {t}: {error:e} of {}",
                    largest(&want)
                );
            }
        }
    }

    #[test]
    fn ends_are_finite_or_named() {
        let (_, shape) = small(None);
        let x = normals(2, 48, 6);
        for path in paths() {
            for prediction in Prediction::ALL {
                for time in
                    [Time::Scaled(1000.0), Time::CNoise(1.0), Time::LogSnr(0.25), Time::Step]
                {
                    let Ok(setup) =
                        (Setup { time, ..setup(path.clone(), prediction, shape) }).validated()
                    else {
                        continue;
                    };
                    let network = network::<f64>(setup, 2);
                    // Without noise the state is the data.
                    let clean = PathPoint { sigma: 0.0, ..path.still_at(0.0).unwrap() };
                    assert_eq!(network.denoised(x.view(), &clean).unwrap(), &x / clean.alpha);
                    let noise = path.still_at(1.0).unwrap();
                    let defined = network.defined(&[noise, clean]);
                    let what = format!("{} {prediction} {time:?}", path.name());
                    match network.denoised(x.view(), &noise) {
                        Ok(x0_hat) => assert!(
                            defined.is_ok() && largest(&x0_hat).is_finite(),
                            "{what}: {defined:?}"
                        ),
                        Err(e) => assert_eq!(
                            e.to_string(),
                            defined.as_ref().unwrap_err().to_string(),
                            "{what}"
                        ),
                    }
                    if let Err(e) = defined {
                        assert!(e.to_string().contains("singular"), "{e}");
                        assert_eq!(noise.alpha, 0.0, "{e}");
                    }
                }
            }
        }
        // Beyond the network's path, and before a table's first row.
        let network = network::<f64>(
            Setup { time: Time::Step, ..setup(paths()[5].clone(), Prediction::Eps, shape) },
            2,
        );
        for (sigma, word) in [(1e6, "discrete"), (1e-3, "first row")] {
            let at = PathPoint::still(1.0, sigma);
            let (before, after) = (
                network.defined(&[at]).unwrap_err().to_string(),
                network.denoised(x.view(), &at).unwrap_err().to_string(),
            );
            assert!(before == after && before.contains(word), "{before}");
        }
        let message = network.defined(&[PathPoint::NOISE]).unwrap_err().to_string();
        assert!(message.contains("does not reach pure noise"), "{message}");
    }

    /// What it is told is the time of its own path at that level, which is found where the point has
    /// none; a level that its path does not reach is an error.
    #[test]
    fn a_point_without_a_time_is_found_or_refused() {
        let (_, shape) = small(None);
        let x = normals(2, 48, 9);
        for path in paths() {
            let network = network::<f64>(setup(path.clone(), Prediction::Eps, shape), 2);
            let at = path.still_at(0.6).unwrap();
            let want = network.denoised(x.view(), &at).unwrap();
            let found = network.denoised(x.view(), &at.level().into()).unwrap();
            let error = largest(&(found - &want));
            assert!(error <= 1e-10 * largest(&want), "{}: {error:e}", path.name());
            let (_, highest) = network.setup().range().unwrap();
            if highest.is_finite() {
                let beyond = PathPoint::still(1.0, 2.0 * highest);
                let refused = network.denoised(x.view(), &beyond).unwrap_err().to_string();
                assert!(refused.contains(path.name()), "{refused}");
                let noise = network.denoised(x.view(), &PathPoint::NOISE);
                assert!(noise.unwrap_err().to_string().contains("pure noise"), "{}", path.name());
            }
        }
    }

    /// Where nothing of x0 is left, eps and score do not tell it; the others do.
    #[test]
    fn eps_and_score_are_refused_where_a_table_ends_without_signal() {
        let (path, (_, shape)) = (&paths()[6], small(None));
        let ends = [path.still_at(1.0).unwrap(), path.still_at(0.999).unwrap()];
        assert_eq!(ends.map(|p| p.alpha == 0.0), [true, false]);
        for prediction in &Prediction::ALL {
            let setup = Setup { time: Time::Step, ..setup(path.clone(), *prediction, shape) };
            let network = network::<f64>(setup, 2);
            assert!(network.defined(&ends[1..]).is_ok(), "{prediction}");
            match (network.defined(&ends), prediction) {
                (Err(e), Prediction::Eps | Prediction::Score) => {
                    let want = format!("x0 from {prediction} is singular at alpha = 0");
                    assert!(e.to_string().contains(&want), "{e}");
                }
                (defined, _) => assert!(
                    defined.is_ok() && !matches!(prediction, Prediction::Eps | Prediction::Score),
                    "{prediction}"
                ),
            }
        }
    }

    #[test]
    fn steps_of_a_table_are_whole_from_every_path() {
        let (path, (_, shape)) = (&paths()[5], small(None));
        let setup = Setup { time: Time::Step, ..setup(path.clone(), Prediction::Eps, shape) };
        let Path::Discrete(table) = path else { unreachable!() };
        for k in [1, 2, 17, 500, 999, 1000] {
            let row = table.row(k).unwrap();
            let own = own_point(
                &setup,
                &PathPoint { t: Some(k as f64 / 1000.0), ..PathPoint::still(row.alpha, row.sigma) },
            )
            .unwrap();
            let teleported =
                own_point(&setup, &PathPoint::still(1.0, row.sigma / row.alpha)).unwrap();
            assert_eq!(
                [own, teleported].map(|(t, p)| setup.time_at(t, p.level()).unwrap()),
                [(k - 1) as f64; 2]
            );
        }
    }

    #[test]
    fn classes_are_asked_for_by_label() {
        let (program, shape) = small(Some(4));
        let params: Vec<f64> = params(&program);
        let of = |null_class| {
            Network::new(
                program.clone(),
                &params,
                Setup { null_class, ..setup(Path::Cosine, Prediction::X0, shape) },
                2,
            )
        };
        let (at, x) = (Path::Cosine.at(0.5).unwrap(), normals(2, 48, 8));
        let network = of(Some(3)).unwrap();
        assert_eq!(network.classes(), 3);
        let ask = |label| network.with_label(label).unwrap().denoised(x.view(), &at).unwrap();
        assert_eq!(network.denoised(x.view(), &at).unwrap(), ask(3));
        assert!(largest(&(ask(0) - ask(1))) > 1e-3);
        let (one, weight) = (network.with_label(1).unwrap(), 2.5);
        let guided = Guided::new(&one, &network, weight).unwrap().denoised(x.view(), &at).unwrap();
        let want = ask(3) + (ask(1) - ask(3)) * weight;
        assert!(largest(&(guided - &want)) <= 16.0 * EPS * largest(&want));
        // Without a null class one has to be chosen.
        let network = of(None).unwrap();
        assert_eq!(network.classes(), 4);
        let refused = network.denoised(x.view(), &at).unwrap_err().to_string();
        assert!(refused.contains("choose a class"), "{refused}");
        assert!(network.with_label(2).unwrap().defined(&[at]).is_ok());
        assert!(network.with_label(4).is_err_and(|e| e.to_string().contains("0 to 3")));
        assert!(of(Some(4)).is_err_and(|e| e.to_string().contains("null_class")));
        let (program, _) = small(None);
        let plain = self::network::<f64>(setup(Path::Cosine, Prediction::X0, shape), 2);
        assert!(plain.with_label(0).is_err_and(|e| e.to_string().contains("no classes")));
        let wrong = Setup { shape: (1, 4, 6), ..setup(Path::Cosine, Prediction::X0, shape) };
        assert!(
            Network::new(program, &self::params::<f64>(&small(None).0), wrong, 1)
                .is_err_and(|e| e.to_string().contains("input"))
        );
    }
}
