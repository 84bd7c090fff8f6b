//! Clean images for each step, and the draws that noise them: all a pure function of (seed, step).

use super::settings::Settings;
use super::times::{Importance, Times};
use crate::data::{self, Dataset};
use ndarray::{Array2, Axis};
use tweedie::error::{Error, Result};
use tweedie::law::Law;
use tweedie::law::random_field::RandomField;
use tweedie::math::noise::Noise;
use tweedie::room::product;

/// What is learnt from.
pub struct Data {
    /// Channels, height and width (c, h, w).
    pub shape: (usize, usize, usize),
    /// Number of classes, 0 without labels.
    pub classes: usize,
    /// Where clean images come from.
    pub source: Source,
}

/// Where clean images come from.
pub enum Source {
    /// Images, some of them held out.
    Images {
        /// Trained on, shape (n, d).
        train: Array2<f64>,
        /// Their classes, (n).
        labels: Vec<usize>,
        /// Never trained on, shape (m, d).
        held_out: Array2<f64>,
    },
    /// A law that is drawn from afresh.
    Law(Box<dyn Law + Send>),
}

impl Data {
    /// A data set, every k-th image of which is held out; none with `held_out_every` 0.
    ///
    /// # Errors
    /// A set that has nothing left to train on.
    pub fn images(set: Dataset, held_out_every: usize) -> Result<Self> {
        let kept = |i: &usize| held_out_every != 0 && (i + 1).is_multiple_of(held_out_every);
        let (out, inside): (Vec<usize>, Vec<usize>) = (0..set.len()).partition(kept);
        if inside.is_empty() {
            return Err(Error::domain("training images", 0, "at least 1", "hold fewer images out"));
        }
        let labels = set.labels.unwrap_or_default();
        let classes = labels.iter().max().map_or(0, |l| *l as usize + 1);
        let source = Source::Images {
            train: set.images.select(Axis(0), &inside),
            labels: inside.iter().filter_map(|i| labels.get(*i)).map(|l| *l as usize).collect(),
            held_out: set.images.select(Axis(0), &out),
        };
        Ok(Self { shape: set.shape, classes, source })
    }

    /// A law of images of this shape.
    ///
    /// # Errors
    /// A shape that is not the law's dimension.
    pub fn law(law: Box<dyn Law + Send>, shape: (usize, usize, usize)) -> Result<Self> {
        let (c, h, w) = shape;
        let numbers = product("data.shape", &[c, h, w])?;
        if numbers != law.dim() {
            return Err(Error::shape(
                "law",
                &[law.dim()],
                format!("{c} x {h} x {w} = {numbers}"),
                "give data.shape as (c, h, w)",
            ));
        }
        Ok(Self { shape, classes: 0, source: Source::Law(law) })
    }

    /// What the settings name, but for a law file, which is the caller's to read.
    ///
    /// # Errors
    /// No source; a data set that can't be loaded; a field without a spectrum.
    pub fn load(settings: &Settings) -> Result<Self> {
        let data = &settings.data;
        match (&data.set, &data.random_field) {
            (Some(set), None) => Self::images(data::load(set)?, data.held_out_every),
            (None, Some(f)) => {
                let law = RandomField::power_law(
                    f.size.0,
                    f.size.1,
                    f.mean,
                    f.slope,
                    f.var,
                    f.zero_mode,
                )?;
                Self::law(Box::new(law), (1, f.size.0, f.size.1))
            }
            _ => Err(Error::domain(
                "[data]",
                "none of them",
                "one of set, law, random_field",
                "write for example set = \"digits\"",
            )),
        }
    }

    /// The images trained on and those held out; none of a law.
    pub fn split(&self) -> Option<(ndarray::ArrayView2<'_, f64>, ndarray::ArrayView2<'_, f64>)> {
        match &self.source {
            Source::Images { train, held_out, .. } => Some((train.view(), held_out.view())),
            Source::Law(_) => None,
        }
    }

    /// Dimension d of an image.
    pub fn dim(&self) -> usize {
        let (c, h, w) = self.shape;
        c * h * w
    }
}

/// Uses of the noise in a step; a step's stream for each.
#[derive(Clone, Copy)]
enum Use {
    Time,
    Flip,
    Drop,
    Eps,
}

/// What one step draws.
#[derive(Clone, Debug)]
pub struct Draws {
    /// Clean images, (n, d).
    pub x0: Array2<f64>,
    /// Noise, (n, d).
    pub eps: Array2<f64>,
    /// Times on the path, (n).
    pub times: Vec<f64>,
    /// The uniform numbers behind them, (n).
    pub uniforms: Vec<f64>,
    /// Density of each uniform number, 1 unless drawn by importance, (n).
    pub densities: Vec<f64>,
    /// Classes with some dropped; empty for a network without classes.
    pub labels: Vec<usize>,
    /// Which images of a set they are, (n); arbitrary for a law.
    pub images: Vec<u32>,
    /// Which of them are mirrored, (n).
    pub mirrored: Vec<bool>,
    /// The stream of the noise's normals: `eps` is `source.fill_normal(stream)`.
    pub eps_stream: u64,
}

/// Makes the draws of any step.
///
/// Everything is a function of the seed, the step and the place in the batch: the order of the
/// images too, a new one for each pass through them. So the loader has no state that a checkpoint
/// would have to keep.
pub struct Loader {
    data: Data,
    times: Times,
    noise: Noise,
    batch: usize,
    stratified: bool,
    flips: bool,
    /// Share of dropped labels and the class that stands for them, for a network with classes.
    drop: Option<(f64, usize)>,
    /// The order of one pass, kept while it lasts.
    order: (u64, Vec<u32>),
}

impl Loader {
    /// The loader of the settings. `null_class` is given where the network has classes.
    ///
    /// # Errors
    /// A law of times that the path does not have.
    pub fn new(settings: &Settings, data: Data, null_class: Option<usize>) -> Result<Self> {
        Ok(Self {
            times: Times::new(&settings.path, &settings.times)?,
            noise: Noise::new(settings.seed),
            batch: settings.batch,
            stratified: settings.times.stratified,
            flips: settings.data.flips,
            drop: null_class.map(|null| (settings.labels.drop, null)),
            order: (u64::MAX, vec![]),
            data,
        })
    }

    /// The data.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// The law of the times.
    pub fn times(&self) -> &Times {
        &self.times
    }

    /// Memory for the draws of a step.
    pub fn draws(&self) -> Draws {
        let (n, d) = (self.batch, self.data.dim());
        let images = Array2::zeros((n, d));
        Draws {
            x0: images.clone(),
            eps: images,
            times: vec![0.0; n],
            uniforms: vec![0.0; n],
            densities: vec![1.0; n],
            labels: vec![],
            images: vec![0; n],
            mirrored: vec![false; n],
            eps_stream: 0,
        }
    }

    /// Images of a step.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The source of all draws of the steps.
    pub fn source(&self) -> Noise {
        self.noise.child(DRAWS)
    }

    /// The draws of step `step` (from 0).
    ///
    /// # Errors
    /// None that [`Loader::new`] has not met.
    pub fn draw(
        &mut self,
        step: u64,
        importance: Option<&Importance>,
        draws: &mut Draws,
    ) -> Result<()> {
        self.plan(step, importance, draws)?;
        self.fill_x0(step, draws);
        self.source().fill_normal(
            draws.eps_stream,
            draws.eps.as_slice_mut().expect("a new array is contiguous"),
        );
        Ok(())
    }

    /// The draws of a step but for the arrays of images and noise, which a device makes itself.
    ///
    /// # Errors
    /// As [`Loader::draw`].
    pub fn plan(
        &mut self,
        step: u64,
        importance: Option<&Importance>,
        draws: &mut Draws,
    ) -> Result<()> {
        let noise = self.source();
        let stream = |what: Use| step * 4 + what as u64;
        self.choose_images(step, draws);
        draws.eps_stream = stream(Use::Eps);
        let probabilities = importance.map(Importance::probabilities);
        for i in 0..self.batch {
            let u = noise.uniform(stream(Use::Time), i as u64);
            let u = if self.stratified { (i as f64 + u) / self.batch as f64 } else { u };
            (draws.uniforms[i], draws.densities[i]) = match (importance, &probabilities) {
                (Some(importance), Some(p)) => importance.warp(p, u),
                _ => (u, 1.0),
            };
            draws.times[i] = self.times.quantile(draws.uniforms[i])?;
            draws.mirrored[i] = self.flips && noise.uniform(stream(Use::Flip), i as u64) < 0.5;
            if let (Some((share, null)), Some(label)) = (self.drop, draws.labels.get_mut(i))
                && noise.uniform(stream(Use::Drop), i as u64) < share
            {
                *label = null;
            }
        }
        Ok(())
    }

    /// Which images of a set a step takes, and their labels.
    fn choose_images(&mut self, step: u64, draws: &mut Draws) {
        draws.labels.clear();
        let Source::Images { train, labels, .. } = &self.data.source else { return };
        let n = train.nrows() as u64;
        for i in 0..self.batch {
            let drawn = step * self.batch as u64 + i as u64;
            let (pass, place) = (drawn / n, (drawn % n) as usize);
            if self.order.0 != pass {
                self.order = (pass, order(&self.noise.child(ORDER), pass, n));
            }
            draws.images[i] = self.order.1[place];
            if self.drop.is_some() {
                draws.labels.push(labels[self.order.1[place] as usize]);
            }
        }
    }

    /// The clean images themselves.
    pub(super) fn fill_x0(&self, step: u64, draws: &mut Draws) {
        match &self.data.source {
            Source::Law(law) => {
                draws.x0.assign(&law.sample(self.batch, &self.noise.child(LAW).child(step)))
            }
            Source::Images { train, .. } => {
                for (i, image) in draws.images.iter().enumerate() {
                    draws.x0.row_mut(i).assign(&train.row(*image as usize));
                }
            }
        }
        let (_, _, w) = self.data.shape;
        for i in (0..self.batch).filter(|i| draws.mirrored[*i]) {
            let image = draws.x0.row_mut(i).into_slice().expect("rows are contiguous");
            image.chunks_exact_mut(w).for_each(<[f64]>::reverse);
        }
    }
}

/// Parts of a run's noise, each a source of its own.
pub(super) const WEIGHTS: u64 = 0;
const DRAWS: u64 = 1;
const ORDER: u64 = 2;
const LAW: u64 = 3;
/// Of the measurements on images that are not trained on.
pub const VALIDATION: u64 = 4;
/// Of the grids of samples, for whoever draws them.
pub const SAMPLES: u64 = 5;

/// The order of the n images in one pass: sorted by random bits.
fn order(noise: &Noise, pass: u64, n: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n as u32).collect();
    order.sort_unstable_by_key(|i| (noise.bits(pass, u64::from(*i)), *i));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(more: &str) -> Settings {
        let text = format!(
            "{more}\nsteps = 9\nbatch = 7\n[data]\nset = \"digits\"\nheld_out_every = 3\nflips = true\n[network]\nin_channels = 1\nout_channels = 1\n\
             [path]\nkind = \"cosine\"\n[objective]\nprediction = \"v\"\n[labels]\ndrop = 0.5\n[times]\nlaw = \"uniform\""
        );
        Settings::parse(&text).unwrap()
    }

    #[test]
    fn draws_depend_on_seed_and_step_alone() {
        let draws_of = |steps: &[u64], seed: u64| {
            let settings = settings(&format!("seed = {seed}"));
            let mut loader =
                Loader::new(&settings, Data::load(&settings).unwrap(), Some(10)).unwrap();
            let mut draws = loader.draws();
            steps.iter().for_each(|step| loader.draw(*step, None, &mut draws).unwrap());
            draws
        };
        // In whatever order the steps before were made; 500 is in another pass through the images.
        let (fresh, late) = (draws_of(&[500], 1), draws_of(&[0, 1, 2, 900, 500], 1));
        assert_eq!(
            (&fresh.x0, &fresh.eps, &fresh.times, &fresh.labels),
            (&late.x0, &late.eps, &late.times, &late.labels)
        );
        let other = draws_of(&[500], 2);
        assert!(fresh.x0 != other.x0 && fresh.eps != other.eps && fresh.times != other.times);
        // Stratified: one time in each seventh of the range.
        let sevenths: Vec<usize> = fresh.uniforms.iter().map(|u| (u * 7.0) as usize).collect();
        assert_eq!(sevenths, [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(fresh.densities, [1.0; 7]);
    }

    #[test]
    fn a_pass_shows_every_image_once_half_of_them_mirrored_and_half_without_label() {
        let settings = settings("");
        let data = Data::load(&settings).unwrap();
        let Source::Images { train, labels, held_out } = &data.source else { panic!() };
        assert_eq!(
            (train.nrows(), held_out.nrows(), labels.len(), data.classes),
            (1198, 599, 1198, 10)
        );
        let (train, labels) = (train.clone(), labels.clone());
        let mirrored = |x: ndarray::ArrayView1<f64>| {
            let mut x = x.to_vec();
            x.chunks_exact_mut(8).for_each(<[f64]>::reverse);
            x
        };
        let mut loader = Loader::new(&settings, data, Some(10)).unwrap();
        let mut draws = loader.draws();
        let (mut seen, mut flipped, mut dropped) = (vec![0; train.nrows()], 0, 0);
        // 1,198 images are 171 batches of 7 and one more image.
        for step in 0..171 {
            loader.draw(step, None, &mut draws).unwrap();
            for (i, x) in draws.x0.rows().into_iter().enumerate() {
                let at = (0..train.nrows())
                    .find(|j| train.row(*j) == x || mirrored(train.row(*j)) == x.to_vec())
                    .unwrap();
                seen[at] += 1;
                flipped += usize::from(train.row(at) != x);
                dropped += usize::from(draws.labels[i] == 10);
                assert!(draws.labels[i] == 10 || draws.labels[i] == labels[at]);
            }
        }
        assert_eq!(seen.iter().sum::<i32>(), 1197);
        assert_eq!(seen.iter().filter(|n| **n > 1).count(), 0, "an image twice in one pass");
        // Five deviations of a fair coin thrown 1,197 times: 5 sqrt(1197) / 2 = 87.
        assert!(
            (flipped as f64 - 598.5).abs() <= 87.0 && (dropped as f64 - 598.5).abs() <= 87.0,
            "{flipped} {dropped}"
        );
    }

    #[test]
    fn laws_are_drawn_afresh() {
        let field = "[data]\nrandom_field = { size = [4, 4], slope = 2.0, var = 0.25 }";
        let settings = settings("");
        let data = settings.data.clone();
        let settings = Settings {
            data: crate::train::settings::DataSettings {
                set: None,
                random_field: toml::from_str::<toml::Table>(field).unwrap()["data"]["random_field"]
                    .clone()
                    .try_into()
                    .unwrap(),
                ..data
            },
            ..settings
        };
        let mut loader = Loader::new(&settings, Data::load(&settings).unwrap(), None).unwrap();
        let (mut a, mut b) = (loader.draws(), loader.draws());
        loader.draw(0, None, &mut a).unwrap();
        loader.draw(1, None, &mut b).unwrap();
        assert!(a.x0 != b.x0 && a.labels.is_empty());
        assert!(
            Data::law(
                Box::new(RandomField::power_law(4, 4, 0.0, 2.0, 1.0, 0.0).unwrap()),
                (1, 4, 5)
            )
            .is_err()
        );
    }
}
