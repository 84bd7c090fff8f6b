//! A training step on a CUDA device: images, noise, network, loss, AdamW and averages stay there.
//!
//! A step queues one recorded sequence: noising (the same normals as on the CPU, by the same
//! counters), forward, loss, backward, length of the gradient, AdamW with the averages. What goes
//! up is what the seed and the step decide for each image, a few numbers; what comes back is the
//! loss, the gradient's length and each image's error.

use super::loader::{Draws, Loader, Source};
use super::objective::Objective;
use super::parallel::World;
use crate::adamw::{AdamW, State};
use crate::cuda::Cuda;
use crate::element::Element;
use crate::layout::images_from;
use crate::program::Program;
use ndarray::s;
use std::ops::Range;
use std::sync::Arc;
use tweedie::error::{Error, Result};
use tweedie_device::Precision;
use tweedie_device::gpu::{Arg, Buffer, Gpu, Region, Repeated};

/// Averages of the weights that `struct Step` of the kernels has room for.
pub const MOST_AVERAGES: usize = 8;

/// Blocks of the first stage of the gradient's length.
const NORM_BLOCKS: usize = 512;

/// What the step's kernels work on.
pub(super) struct OnDevice<T> {
    cuda: Cuda<T>,
    seed: u64,
    shape: (usize, usize, usize),
    /// Images of a step in all processes, and those of this one.
    batch: usize,
    own: Range<usize>,
    /// Clean images, channels last: the whole set, or one batch of a law.
    x0: Buffer,
    /// Whether `x0` is the set.
    set: bool,
    index: Buffer,
    mirrored: Buffer,
    coefficients: Buffer,
    stream: Buffer,
    target: Buffer,
    /// Of all processes' images, as `coefficients`.
    errors: Buffer,
    partial: Buffer,
    result: Buffer,
    step: Buffer,
    first: Buffer,
    second: Buffer,
    averages: Buffer,
    average_count: usize,
    /// Entries that keep their value, in the device's order.
    frozen: Range<usize>,
    whole: Repeated,
    host: Vec<T>,
}

/// What a step makes of its gradient.
pub(super) struct Update<'a> {
    /// With this step's learning rate.
    pub optimiser: &'a AdamW,
    /// Length to which a longer gradient is cut; 0 for none.
    pub clip: f64,
    /// Number of the step, from 1.
    pub steps: u32,
    /// What each average of the weights keeps.
    pub keep: &'a [f64],
}

/// What one step came to.
pub(super) struct Outcome {
    pub loss: f64,
    pub grad_norm: f64,
    /// Mean squared error of each image without its weight.
    pub errors: Vec<f64>,
    /// Weight of each image's loss.
    pub weights: Vec<f64>,
}

impl<T: Element> OnDevice<T> {
    /// Memory for a run.
    ///
    /// # Errors
    /// Not enough of it; more averages than there is room for.
    pub fn new(
        program: Program,
        loader: &Loader,
        average_count: usize,
        frozen: &[Range<usize>],
        gpu: &Arc<Gpu>,
        precision: Precision,
    ) -> Result<Self> {
        let (data, batch) = (loader.data(), loader.batch());
        if average_count > MOST_AVERAGES {
            let allowed = format!("at most {MOST_AVERAGES} on a GPU");
            return Err(Error::domain(
                "averages of the weights",
                average_count,
                allowed,
                "name fewer in [ema]",
            ));
        }
        let frozen_params: Vec<usize> =
            (0..program.params.len()).filter(|p| frozen.contains(&program.params[*p].at)).collect();
        let world = gpu.communicator().map_or_else(World::alone, |c| World {
            rank: c.rank,
            size: c.size,
            ..World::alone()
        });
        let own = world.rows(batch)?;
        let cuda = Cuda::new(program, own.len(), gpu, precision)?;
        let layout = cuda.layout();
        let frozen = frozen_params.first().map_or(0..0, |p| {
            let start = layout.place(*p);
            start..start + cuda.program().params[*p].at.len()
        });
        let (n, wide) = (layout.len, size_of::<T>());
        let d = data.dim();
        let (set, x0) = match &data.source {
            Source::Images { train, .. } => {
                let mut images = vec![T::zero(); train.len()];
                images_from(data.shape, train.view(), 1.0, &mut images);
                (true, gpu.upload(&images)?)
            }
            Source::Law(_) => (false, gpu.allocate(own.len() * d * wide)?),
        };
        // Images of a law lie in their order.
        let index: Vec<i32> = (0..own.len() as i32).collect();
        Ok(Self {
            seed: loader.source().seed(),
            shape: data.shape,
            batch,
            own: own.clone(),
            x0,
            set,
            index: gpu.upload(&index)?,
            mirrored: gpu.upload(&vec![0i32; own.len()])?,
            coefficients: gpu.allocate(batch * 5 * 8)?,
            stream: gpu.allocate(8)?,
            target: gpu.allocate(own.len() * d * wide)?,
            errors: gpu.allocate(batch * 8)?,
            partial: gpu.allocate(NORM_BLOCKS * 8)?,
            result: gpu.allocate(3 * 8)?,
            step: gpu.allocate(size_of::<[u64; 17]>())?,
            first: gpu.allocate(n * wide)?,
            second: gpu.allocate(n * wide)?,
            averages: gpu.allocate(average_count * n * wide)?,
            average_count,
            frozen,
            whole: Repeated::default(),
            host: vec![T::zero(); n],
            cuda,
        })
    }

    pub fn program(&self) -> &Program {
        self.cuda.program()
    }

    /// Takes the whole state of a run.
    pub fn upload<'a>(
        &mut self,
        params: &[T],
        state: &State<T>,
        averages: impl Iterator<Item = &'a [T]>,
    ) -> Result<()> {
        self.cuda.load(params)?;
        let n = self.cuda.layout().len;
        let average = |i: usize| self.averages.part(i * n * size_of::<T>(), n * size_of::<T>());
        let to =
            [(self.first.region(), &state.first[..]), (self.second.region(), &state.second[..])];
        let to = to.into_iter().chain(averages.enumerate().map(|(i, x)| (average(i), x)));
        for (to, x) in to {
            self.cuda.layout().scatter(self.cuda.program(), x, &mut self.host);
            self.cuda.gpu().write(to, &self.host)?;
        }
        Ok(())
    }

    /// Gives the whole state of a run.
    pub fn download<'a>(
        &mut self,
        params: &mut [T],
        state: &mut State<T>,
        averages: impl Iterator<Item = &'a mut [T]>,
    ) -> Result<()> {
        self.cuda.download(params)?;
        let n = self.cuda.layout().len;
        let average = |i: usize| self.averages.part(i * n * size_of::<T>(), n * size_of::<T>());
        let from = [
            (self.first.region(), &mut state.first[..]),
            (self.second.region(), &mut state.second[..]),
        ];
        let from = from.into_iter().chain(averages.enumerate().map(|(i, x)| (average(i), x)));
        for (from, x) in from {
            self.cuda.gpu().read(from, &mut self.host)?;
            self.cuda.layout().gather(self.cuda.program(), &self.host, x);
        }
        Ok(())
    }

    /// Takes one step; nothing has changed where its loss or gradient is not finite.
    pub fn step(
        &mut self,
        loader: &Loader,
        step: u64,
        draws: &mut Draws,
        objective: &Objective,
        update: &Update,
    ) -> Result<Outcome> {
        let gpu = self.cuda.gpu().clone();
        let (mut times, mut weights, mut coefficients) = (vec![], vec![], vec![]);
        for (time, density) in draws.times.iter().zip(&draws.densities) {
            let c = objective.coefficients(*time, *density)?;
            times.push(c.time);
            weights.push(c.weight);
            coefficients.extend([
                c.scale * c.alpha,
                c.scale * c.sigma,
                c.target.0,
                c.target.1,
                c.weight,
            ]);
        }
        let own = self.own.clone();
        self.cuda.tell(&times[own.clone()], draws.labels.get(own.clone()).unwrap_or_default())?;
        gpu.write(self.coefficients.region(), &coefficients)?;
        gpu.write(self.stream.region(), &[draws.eps_stream])?;
        if self.set {
            let index: Vec<i32> = draws.images[own.clone()].iter().map(|i| *i as i32).collect();
            let mirrored: Vec<i32> = draws.mirrored[own].iter().map(|m| i32::from(*m)).collect();
            gpu.write(self.index.region(), &index)?;
            gpu.write(self.mirrored.region(), &mirrored)?;
        } else {
            // Drawn on the host, and mirrored there.
            loader.fill_x0(step, draws);
            let rows = draws.x0.slice(s![own, ..]);
            let mut images = vec![T::zero(); rows.len()];
            images_from(self.shape, rows, 1.0, &mut images);
            gpu.write(self.x0.region(), &images)?;
        }
        gpu.write(self.step.region(), &update.words())?;

        let mut whole = std::mem::take(&mut self.whole);
        let run = whole.run(&gpu, || self.queue());
        self.whole = whole;
        run?;
        let mut result = [0.0; 3];
        let mut errors = vec![0.0; self.batch];
        gpu.read(self.errors.region(), &mut errors)?;
        gpu.read(self.result.region(), &mut result)?;
        Ok(Outcome { loss: result[1], grad_norm: result[0], errors, weights })
    }

    /// Queues everything that a step does.
    fn queue(&self) -> Result<()> {
        let (on, (c, h, w)) = (self.cuda.device(), self.shape);
        let (n, size) = (self.own.len(), c * h * w);
        let coefficients = self.coefficients.part(self.own.start * 5 * 8, n * 5 * 8);
        let errors = self.errors.part(self.own.start * 8, n * 8);
        let together = on.gpu.communicator();
        let long = |x: usize| Arg::Long(x as i64);
        let args = [
            self.x0.region().into(),
            self.index.region().into(),
            self.mirrored.region().into(),
            coefficients.into(),
            Arg::Word(self.seed),
            self.stream.region().into(),
            long(self.own.start),
            self.cuda.input().into(),
            self.target.region().into(),
            n.into(),
            h.into(),
            w.into(),
            c.into(),
        ];
        on.over(n * size, "prepare", &args)?;
        self.cuda.queue_forward(&mut |_| Ok(()))?;
        let args = [
            self.cuda.output().into(),
            self.target.region().into(),
            coefficients.into(),
            self.cuda.output_gradient().into(),
            errors.into(),
            // The mean over all images, whoever's they are.
            on.real(n as f64 / self.batch as f64),
            n.into(),
            long(size),
        ];
        on.launch("loss", (n, 1, 1), (256, 1), &args)?;
        self.cuda.queue_backward(&mut |_| Ok(()))?;

        let (dense_gradients, gradients) = self.cuda.gradients();
        if let Some(together) = together {
            let wide = if on.precision == Precision::F64 { Precision::F64 } else { Precision::F32 };
            together.sum(&on.gpu, dense_gradients, on.precision)?;
            together.sum(&on.gpu, gradients, wide)?;
            together.gather(&on.gpu, self.errors.region())?;
        }
        let (dense, all) = (self.cuda.layout().dense, self.cuda.layout().len);
        let of_all = [dense_gradients.into(), long(dense), gradients.into(), long(all)];
        on.launch(
            "gradient_norm",
            (NORM_BLOCKS, 1, 1),
            (256, 1),
            &[&of_all[..], &[self.partial.region().into()]].concat(),
        )?;
        let args = [
            self.partial.region().into(),
            self.errors.region().into(),
            self.coefficients.region().into(),
            self.batch.into(),
            self.result.region().into(),
        ];
        on.launch("gradient_norm_finish", (1, 1, 1), (256, 1), &args)?;
        let averages = if self.average_count == 0 { Region::NONE } else { self.averages.region() };
        let args = [
            self.cuda.params().into(),
            self.first.region().into(),
            self.second.region().into(),
            self.cuda.narrow().into(),
            dense_gradients.into(),
            long(dense),
            gradients.into(),
            long(all),
            self.step.region().into(),
            self.result.region().into(),
            averages.into(),
            long(self.frozen.start),
            long(self.frozen.end),
        ];
        on.over(all, "adamw", &args)
    }
}

impl Update<'_> {
    /// `struct Step` of the kernels, as the 17 words that it is.
    fn words(&self) -> [u64; 17] {
        let (o, n) = (self.optimiser, self.steps as i32);
        let corrections = (1.0 - o.beta1.powi(n), 1.0 - o.beta2.powi(n));
        let numbers = [
            o.learning_rate,
            o.beta1,
            o.beta2,
            o.eps,
            o.decay,
            corrections.0,
            corrections.1,
            self.clip,
        ];
        let mut words = [0; 17];
        for (word, x) in words.iter_mut().zip(numbers.iter().chain(self.keep)) {
            *word = x.to_bits();
        }
        // An `int` in the low half, where a little-endian machine reads it.
        words[16] = self.keep.len() as u64;
        words
    }
}
