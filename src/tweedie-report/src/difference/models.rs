//! Two networks: their weights tensor by tensor, what they say of the same noised data, and what is
//! sampled with them from the same starts.

use super::{Agreement, Gap, or_word, or_word_if_any, or_words, or_words_if_any};
use crate::experiment::{level, mean_and_stderr};
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, Zip};
use serde::Serialize;
use tweedie::diffusion::{Denoiser, Path, PathPoint};
use tweedie::error::Result;
use tweedie::law::{Gaussian, Law};
use tweedie::math::larger;
use tweedie::math::noise::Noise;
use tweedie::sample::grid::{Grid, Spacing};
use tweedie::sample::noise_source::{Silence, standard_start};
use tweedie::sample::registry::{Options, sampler};
use tweedie::sample::sample_watched;
use tweedie_nn::program::Program;
use tweedie_nn::train::loader::{Data, Source};

/// A tensor of the weights, in both networks or in one.
#[derive(Clone, Debug, Serialize)]
pub struct Tensor {
    /// Its name in a checkpoint.
    pub name: String,
    /// Its shape in A and in B.
    pub shapes: [Option<Vec<usize>>; 2],
    /// Numbers whose bits differ, of all.
    pub differing: usize,
    /// Numbers.
    pub count: usize,
    /// Root of the mean square difference over that of A's numbers; infinite where the tensors
    /// cannot be compared.
    #[serde(serialize_with = "or_word")]
    pub distance: f64,
    /// Largest difference over the largest number of either.
    #[serde(serialize_with = "or_word")]
    pub largest: f64,
}

impl Tensor {
    /// What its distance is under a tolerance.
    pub fn agreement(&self, tolerance: f64) -> Agreement {
        match self.distance {
            d if self.differing == 0 && d == 0.0 => Agreement::Equal,
            d if d <= tolerance => Agreement::Within,
            _ => Agreement::Beyond,
        }
    }
}

/// The weights of two networks by the names of their tensors, in the order of A's.
///
/// # Shapes
/// `a` and `b` in the orders of their programs.
pub fn tensors(program_a: &Program, a: &[f64], program_b: &Program, b: &[f64]) -> Vec<Tensor> {
    let other = |name: &str| program_b.params.iter().find(|p| p.name == name);
    let alone = |name: &String, shapes: [Option<Vec<usize>>; 2], count: usize| Tensor {
        name: name.clone(),
        shapes,
        differing: count,
        count,
        distance: f64::INFINITY,
        largest: f64::INFINITY,
    };
    let in_a = program_a.params.iter().map(|p| {
        let Some(q) = other(&p.name) else {
            return alone(&p.name, [Some(p.shape.clone()), None], p.at.len());
        };
        let shapes = [Some(p.shape.clone()), Some(q.shape.clone())];
        if p.shape != q.shape {
            return alone(&p.name, shapes, p.at.len());
        }
        let (x, y) = (&a[p.at.clone()], &b[q.at.clone()]);
        let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt();
        let apart = x.iter().zip(y).map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt();
        // A tensor of zeros, as biases begin, is measured by the other one.
        let norm = if norm > 0.0 { norm } else { y.iter().map(|y| y * y).sum::<f64>().sqrt() };
        let distance = if apart == 0.0 { 0.0 } else { apart / norm };
        let largest = x.iter().chain(y).map(|x| x.abs()).fold(f64::MIN_POSITIVE, larger);
        let gap = Gap::of(x, y);
        Tensor {
            name: p.name.clone(),
            shapes,
            differing: gap.differing,
            count: gap.count,
            distance,
            largest: gap.off * gap.scale / largest,
        }
    });
    let only_b =
        program_b.params.iter().filter(|q| program_a.params.iter().all(|p| p.name != q.name));
    in_a.chain(only_b.map(|q| alone(&q.name, [None, Some(q.shape.clone())], q.at.len()))).collect()
}

/// Weights as they would be after one rounding to a format of this unit roundoff: each moved by up
/// to it, evenly drawn.
pub fn rounded(params: &[f64], unit: f64, noise: &Noise) -> Vec<f64> {
    params
        .iter()
        .enumerate()
        .map(|(i, w)| w * (1.0 + unit * (2.0 * noise.uniform(0, i as u64) - 1.0)))
        .collect()
}

/// What two denoisers are compared on.
pub struct Probe {
    /// Clean images, shape (n, d).
    x0: Array2<f64>,
    /// The exact denoiser, where the data are draws of a law.
    exact: Option<Box<dyn Denoiser>>,
    /// The best linear denoiser of images that were not drawn from a law.
    linear: Option<Gaussian>,
    /// Root mean square of a pixel.
    pub scale: f64,
}

/// Largest dimension for which the best linear denoiser is computed: its eigenproblem grows with
/// the cube.
const LARGEST_COVARIANCE: usize = 1024;

impl Probe {
    /// At most `images` of the held-out ones, of the training images where none are held out, or
    /// fresh draws of a law.
    ///
    /// # Errors
    /// Moments that are no covariance.
    pub fn new(data: Data, images: usize, noise: &Noise) -> Result<Self> {
        let shape = data.shape;
        match data.source {
            Source::Images { train, held_out, .. } => {
                let from = if held_out.nrows() > 1 { &held_out } else { &train };
                let n = from.nrows().min(images);
                // Evenly spread over the set, whose order may mean something.
                let x0 =
                    from.select(Axis(0), &(0..n).map(|i| i * from.nrows() / n).collect::<Vec<_>>());
                let small = shape.0 * shape.1 * shape.2 <= LARGEST_COVARIANCE && train.nrows() > 1;
                let linear = small.then(|| Gaussian::from_data(train.view())).transpose()?;
                Ok(Self::of(x0, None, linear))
            }
            Source::Law(law) => {
                Ok(Self::of(law.sample(images, noise), Some(Box::new(Exact(law))), None))
            }
        }
    }

    /// Draws of a law of one channel, independent in each of `channels`, with their exact denoiser.
    pub fn by_channel(
        law: impl Law + Send + 'static,
        channels: usize,
        images: usize,
        noise: &Noise,
    ) -> Self {
        let d = law.dim();
        let x0 = law
            .sample(images * channels, noise)
            .into_shape_with_order((images, channels * d))
            .expect("as many numbers");
        Self::of(x0, Some(Box::new(Channels { law, channels })), None)
    }

    fn of(x0: Array2<f64>, exact: Option<Box<dyn Denoiser>>, linear: Option<Gaussian>) -> Self {
        let scale = mean_square(&x0).sqrt();
        Self { x0, exact, linear, scale }
    }

    /// Images.
    pub fn images(&self) -> usize {
        self.x0.nrows()
    }

    /// Whether the exact answer is known.
    pub fn is_exact(&self) -> bool {
        self.exact.is_some()
    }

    /// Whether a linear denoiser is there to compare with.
    pub fn has_linear(&self) -> bool {
        self.linear.is_some()
    }
}

/// A law as its denoiser.
struct Exact(Box<dyn Law + Send>);

impl Denoiser for Exact {
    fn dim(&self) -> usize {
        self.0.dim()
    }
    fn denoise(&self, x: ArrayView2<f64>, at: &PathPoint, out: ArrayViewMut2<f64>) -> Result<()> {
        self.0.denoise(x, at, out)
    }
}

/// A law in each of several channels, independently: the rows of a batch are the rows of its
/// channels, one after the other.
struct Channels<L> {
    law: L,
    channels: usize,
}

impl<L: Law> Denoiser for Channels<L> {
    fn dim(&self) -> usize {
        self.channels * self.law.dim()
    }
    fn denoise(
        &self,
        x: ArrayView2<f64>,
        at: &PathPoint,
        mut out: ArrayViewMut2<f64>,
    ) -> Result<()> {
        let rows = (x.nrows() * self.channels, self.law.dim());
        let split = x.to_shape(rows).expect("as many numbers");
        let whole = self
            .law
            .denoised(split.view(), at)?
            .into_shape_with_order(x.raw_dim())
            .expect("as many numbers");
        out.assign(&whole);
        Ok(())
    }
}

/// What two denoisers say at one noise level.
#[derive(Clone, Debug, Serialize)]
pub struct Level {
    /// `sigma / alpha`.
    pub sigma: f64,
    /// Root mean square of `D_A - D_B`, over that of the data.
    #[serde(serialize_with = "or_word")]
    pub apart: f64,
    /// The same of A and of each of the denoisers that measure rounding.
    #[serde(serialize_with = "or_words")]
    pub yardsticks: Vec<f64>,
    /// Mean squared distance a pixel of A and of B: from the exact denoiser where there is one,
    /// from the clean images where not.
    #[serde(serialize_with = "or_words")]
    pub risk: [f64; 2],
    /// A's less B's, image by image, and its standard error.
    #[serde(serialize_with = "or_words")]
    pub excess: [f64; 2],
    /// Risk of the best linear denoiser, on images alone.
    #[serde(serialize_with = "or_word_if_any")]
    pub linear: Option<f64>,
    /// Root mean square of `D_A - D_B` at each pixel, over that of the data.
    #[serde(skip)]
    pub by_pixel: Vec<f64>,
    /// The image on which the two are farthest apart: clean, noised, as A sees it, as B does.
    #[serde(skip)]
    pub farthest: [Vec<f64>; 4],
}

/// Standard errors by which one denoiser has to be nearer than the other to be called so.
pub const SURE: f64 = 3.0;

impl Level {
    /// Which of the two is nearer to the exact answer or to the clean images, 0 for A and 1 for B;
    /// none where chance could be it, or where the two are no farther apart than the tolerance.
    pub fn nearer(&self, tolerance: f64) -> Option<usize> {
        let [excess, stderr] = self.excess;
        (self.apart > tolerance && excess.abs() > SURE * stderr).then(|| usize::from(excess > 0.0))
    }
}

/// Two denoisers, and A's likes that measure rounding, on the same noised data at one noise level.
///
/// The noise is the k-th: the same for every comparison of a seed.
///
/// # Errors
/// What a denoiser refuses.
pub fn at_level(
    a: &dyn Denoiser,
    b: &dyn Denoiser,
    likes: &[&dyn Denoiser],
    probe: &Probe,
    sigma: f64,
    k: u64,
    noise: &Noise,
) -> Result<Level> {
    let at = level(sigma);
    let mut xt = noise.normals(k, probe.x0.raw_dim());
    Zip::from(&mut xt).and(&probe.x0).for_each(|x, x0| *x = x0 + sigma * *x);
    let of = |denoiser: &dyn Denoiser| denoiser.denoised(xt.view(), &at);
    let (by_a, by_b) = (of(a)?, of(b)?);
    let between = &by_a - &by_b;
    let target = probe.exact.as_ref().map(|exact| of(exact.as_ref())).transpose()?;
    let risk = |by: &Array2<f64>| squares(&(by - target.as_ref().unwrap_or(&probe.x0)));
    let (of_a, of_b) = (risk(&by_a), risk(&by_b));
    let paired: Vec<f64> = of_a.iter().zip(&of_b).map(|(a, b)| a - b).collect();
    let farthest =
        squares(&between).iter().enumerate().max_by(|p, q| p.1.total_cmp(q.1)).map_or(0, |p| p.0);
    let relative = |apart: f64| if apart == 0.0 { 0.0 } else { apart / probe.scale };
    Ok(Level {
        sigma,
        apart: relative(mean_square(&between).sqrt()),
        yardsticks: likes
            .iter()
            .map(|like| Ok(relative(mean_square(&(of(*like)? - &by_a)).sqrt())))
            .collect::<Result<_>>()?,
        risk: [mean(&of_a), mean(&of_b)],
        excess: mean_and_stderr(&paired),
        linear: probe.linear.as_ref().map(|linear| Ok(mean(&risk(&of(linear)?)))).transpose()?,
        by_pixel: between
            .columns()
            .into_iter()
            .map(|c| relative((c.dot(&c) / c.len() as f64).sqrt()))
            .collect(),
        farthest: [&probe.x0, &xt, &by_a, &by_b].map(|x| x.row(farthest).to_vec()),
    })
}

/// Samples of two denoisers from the same starts.
#[derive(Clone, Debug, Serialize)]
pub struct Samples {
    /// The method, deterministic.
    pub sampler: &'static str,
    /// Its steps.
    pub steps: usize,
    /// Noise levels `sigma / alpha` on the way, the start and the end included.
    pub sigmas: Vec<f64>,
    /// Root mean square distance of the two states at each, over the square root of the data's mean
    /// square plus `sigma^2`.
    #[serde(serialize_with = "or_words")]
    pub apart: Vec<f64>,
    /// The same of the ends of A and of each of the denoisers that measure rounding.
    #[serde(serialize_with = "or_words")]
    pub yardsticks: Vec<f64>,
    /// Root mean square distance of the two samples of each start, over the data's.
    #[serde(serialize_with = "or_words")]
    pub of_each: Vec<f64>,
    /// Root mean square distance of A's and of B's samples from those of the exact denoiser, over
    /// the data's.
    #[serde(serialize_with = "or_words_if_any")]
    pub from_exact: Option<[f64; 2]>,
    /// A's less B's squared distance from them, start by start, and its standard error.
    #[serde(serialize_with = "or_words_if_any")]
    pub excess: Option<[f64; 2]>,
    /// The samples of A, of B, and of the exact denoiser.
    #[serde(skip)]
    pub x: Vec<Array2<f64>>,
}

/// Method of the samples.
const SAMPLER: &str = "heun";

/// The noise levels of [`samples`], Karras's between two ends, each moved to one that both networks
/// were trained on; then the data.
///
/// # Errors
/// Noise levels that are no range.
pub fn grid(
    range: [f64; 2],
    steps: usize,
    seen: impl Fn(f64) -> Result<f64>,
) -> Result<Vec<PathPoint>> {
    let path = Path::Edm { sigma_max: range[1] };
    let points = Grid { s_min: range[0], s_max: range[1], ..Grid::new(Spacing::Karras, steps) }
        .points(&path)?;
    let mut sigmas = points
        .iter()
        .map(|p| if p.sigma > 0.0 { seen(p.sigma) } else { Ok(0.0) })
        .collect::<Result<Vec<f64>>>()?;
    sigmas.dedup();
    // On the EDM path of a range that holds them all, where a level is a time.
    let path = Path::Edm { sigma_max: sigmas[0] };
    sigmas.iter().map(|sigma| path.at(sigma / sigmas[0])).collect()
}

/// Samples of two denoisers, of A's likes and of the exact denoiser from `n` starts.
///
/// # Errors
/// Points that are no grid.
pub fn samples(
    a: &dyn Denoiser,
    b: &dyn Denoiser,
    likes: &[&dyn Denoiser],
    probe: &Probe,
    n: usize,
    points: &[PathPoint],
    noise: &Noise,
) -> Result<Samples> {
    let method = sampler(SAMPLER, &Options::DEFAULT)?;
    // With the data's own mean square, which at the top of most paths is little beside the noise.
    let start = standard_start(noise, n, a.dim()) * points[0].sigma.hypot(probe.scale);
    let run = |denoiser: &dyn Denoiser| -> Result<Vec<Array2<f64>>> {
        let mut states = Vec::with_capacity(points.len());
        sample_watched(&method, denoiser, points, start.clone(), &mut Silence, |_, x| {
            states.push(x.clone())
        })?;
        Ok(states)
    };
    let end = |denoiser: &dyn Denoiser| {
        run(denoiser).map(|mut states| states.pop().expect("a grid has points"))
    };
    let (by_a, by_b) = (run(a)?, run(b)?);
    let (end_a, end_b) =
        (by_a.last().expect("a grid has points"), by_b.last().expect("a grid has points"));
    let far = |x: &Array2<f64>, y: &Array2<f64>| mean_square(&(x - y)).sqrt() / probe.scale;
    let exact = probe.exact.as_ref().map(|exact| end(exact.as_ref())).transpose()?;
    let errors = exact.as_ref().map(|exact| [end_a, end_b].map(|x| squares(&(x - exact))));
    let apart = |((x, y), at): ((&Array2<f64>, &Array2<f64>), &PathPoint)| {
        mean_square(&(x - y)).sqrt() / at.sigma.hypot(probe.scale)
    };
    Ok(Samples {
        sampler: SAMPLER,
        steps: points.len() - 1,
        sigmas: points.iter().map(|p| p.sigma).collect(),
        apart: by_a.iter().zip(&by_b).zip(points).map(apart).collect(),
        yardsticks: likes.iter().map(|like| Ok(far(&end(*like)?, end_a))).collect::<Result<_>>()?,
        of_each: squares(&(end_a - end_b)).iter().map(|s| s.sqrt() / probe.scale).collect(),
        from_exact: exact.as_ref().map(|exact| [far(end_a, exact), far(end_b, exact)]),
        excess: errors.map(|[a, b]| {
            mean_and_stderr(&a.iter().zip(&b).map(|(a, b)| a - b).collect::<Vec<_>>())
        }),
        x: [Some(end_a.clone()), Some(end_b.clone()), exact].into_iter().flatten().collect(),
    })
}

/// Mean square over the pixels, image by image.
fn squares(x: &Array2<f64>) -> Vec<f64> {
    x.rows().into_iter().map(|r| r.dot(&r) / r.len() as f64).collect()
}

fn mean_square(x: &Array2<f64>) -> f64 {
    mean(&squares(x))
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use tweedie::law::random_field::RandomField;
    use tweedie_nn::config::UNetConfig;
    use tweedie_nn::unet::unet;

    fn field() -> RandomField {
        RandomField::power_law(4, 4, 0.3, 2.0, 0.5, 0.3).unwrap()
    }

    /// A denoiser that is off by the same everywhere.
    struct Off<D>(D, f64);

    impl<D: Denoiser> Denoiser for Off<D> {
        fn dim(&self) -> usize {
            self.0.dim()
        }
        fn denoise(
            &self,
            x: ArrayView2<f64>,
            at: &PathPoint,
            mut out: ArrayViewMut2<f64>,
        ) -> Result<()> {
            self.0.denoise(x, at, out.view_mut()).unwrap();
            out += self.1;
            Ok(())
        }
    }

    #[test]
    fn a_known_error_is_measured() {
        let noise = Noise::new(5);
        let data = Data::law(Box::new(field()), (1, 4, 4)).unwrap();
        let probe = Probe::new(data, 50, &noise).unwrap();
        assert!(probe.is_exact() && !probe.has_linear());
        let (a, b) = (Off(field(), -0.05), Off(field(), 0.1));
        let found = at_level(&a, &b, &[&a, &field()], &probe, 0.7, 3, &noise).unwrap();
        let near = |x: f64, want: f64| assert!((x - want).abs() <= 1e-13, "{x} {want}");
        near(found.apart * probe.scale, 0.15);
        near(found.risk[0], 0.0025);
        near(found.risk[1], 0.01);
        near(found.excess[0], -0.0075);
        near(found.yardsticks[1] * probe.scale, 0.05);
        found.by_pixel.iter().for_each(|v| near(v * probe.scale, 0.15));
        assert_eq!(
            (found.yardsticks[0], found.nearer(1e-5), found.nearer(1.0)),
            (0.0, Some(0), None)
        );
        assert_eq!(at_level(&a, &a, &[], &probe, 0.7, 3, &noise).unwrap().nearer(0.0), None);

        // What is no number is a word in JSON, not null.
        let lost = Off(field(), f64::NAN);
        let lost = at_level(&lost, &a, &[&lost], &probe, 0.7, 3, &noise).unwrap();
        let written = serde_json::to_value(&lost).unwrap();
        assert_eq!(
            [&written["apart"], &written["yardsticks"][0], &written["risk"][0]],
            ["nan", "nan", "nan"]
        );
        assert_eq!(written["excess"], serde_json::json!(["nan", "nan"]));

        let points = grid([0.02, 20.0], 5, Ok).unwrap();
        let drawn = samples(&a, &b, &[&a], &probe, 6, &points, &noise).unwrap();
        assert_eq!(
            (drawn.apart.len(), drawn.apart[0], drawn.yardsticks[0], drawn.x.len()),
            (6, 0.0, 0.0, 3)
        );
        // A constant error passes through the affine flow of a Gaussian unchanged in kind: B's
        // samples are 2 times as far off as A's.
        let [of_a, of_b] = drawn.from_exact.unwrap();
        assert!(
            (of_b / of_a - 2.0).abs() <= 1e-9 && drawn.excess.unwrap()[0] < 0.0,
            "{of_a} {of_b}"
        );
    }

    #[test]
    fn a_grid_keeps_to_levels_that_were_seen() {
        let sigmas = |seen: fn(f64) -> f64| {
            grid([0.25, 32.0], 9, |s| Ok(seen(s)))
                .unwrap()
                .iter()
                .map(|p| p.sigma)
                .collect::<Vec<_>>()
        };
        let powers = sigmas(|s| s.log2().round().exp2());
        assert_eq!(powers, [32.0, 16.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.0]);
        assert_eq!((sigmas(|s| s).len(), sigmas(|s| s)[0]), (10, 32.0));
    }

    #[test]
    fn channels_are_independent_fields() {
        let noise = Noise::new(1);
        let probe = Probe::by_channel(field(), 2, 3, &noise);
        let (x, at) = (probe.x0.clone() + 0.1, level(0.4));
        let both = probe.exact.as_ref().unwrap().denoised(x.view(), &at).unwrap();
        for channel in 0..2 {
            let columns = ndarray::s![.., channel * 16..(channel + 1) * 16];
            let one = field().denoised(x.slice(columns), &at).unwrap();
            assert!((&one - &both.slice(columns)).iter().all(|v| v.abs() <= 1e-14));
        }
        assert_ne!(probe.x0.row(0).to_vec()[..16], probe.x0.row(0).to_vec()[16..]);
    }

    #[test]
    fn tensors_are_paired_by_name() {
        let config = |channels: usize, attention: bool| UNetConfig {
            in_channels: 1,
            out_channels: 1,
            block_out_channels: vec![channels],
            down_block_types: vec!["DownBlock2D".into()],
            up_block_types: vec!["UpBlock2D".into()],
            layers_per_block: 1,
            norm_num_groups: 2,
            add_attention: attention,
            attention_head_dim: Some(2),
            ..UNetConfig::default()
        };
        let (one, other) =
            (unet(&config(4, false), 4, 4).unwrap(), unet(&config(4, true), 4, 4).unwrap());
        let a = vec![0.5; one.param_count()];
        let mut b = vec![0.5; other.param_count()];
        let name = "conv_out.weight";
        let place =
            |program: &Program| program.params.iter().find(|p| p.name == name).unwrap().at.clone();
        b[place(&other).start] = 0.625;
        let found = tensors(&one, &a, &other, &b);
        let moved: Vec<&Tensor> =
            found.iter().filter(|t| t.agreement(1e-5) != Agreement::Equal).collect();
        let (alone, moved): (Vec<&Tensor>, Vec<&Tensor>) =
            moved.into_iter().partition(|t| t.shapes[0].is_none());
        assert!(
            !alone.is_empty()
                && alone
                    .iter()
                    .all(|t| t.name.contains("attentions") && t.distance == f64::INFINITY)
        );
        assert_eq!((moved.len(), moved[0].name.as_str(), moved[0].differing), (1, name, 1));
        let n = place(&one).len() as f64;
        assert!(
            (moved[0].distance - 0.125 / (0.5 * n.sqrt())).abs() <= 1e-15
                && (moved[0].largest - 0.2).abs() <= 1e-15
        );
        // Another width is another shape everywhere.
        let wide = unet(&config(6, false), 4, 4).unwrap();
        let found = tensors(&one, &a, &wide, &vec![0.5; wide.param_count()]);
        assert!(found.iter().filter(|t| t.shapes[0] != t.shapes[1]).count() > found.len() / 2);
        let moved = rounded(&a, 0.25, &Noise::new(1));
        assert!(
            moved.iter().all(|w| (w - 0.5).abs() <= 0.125)
                && moved.iter().any(|w| (w - 0.5).abs() > 0.1)
        );
    }
}
