//! Handwritten digits, a Gaussian a class, and a conditional model that does not always listen to
//! its label.

use super::{DigitsSettings, Effort, energy, farthest, in_errors, least, level, squares};
use ndarray::{Array1, Array2, Axis, s};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tweedie::diffusion::Path;
use tweedie::error::{Error, Result};
use tweedie::evidence::Evidence;
use tweedie::law::conditional::Guided;
use tweedie::law::mixture::Mixture;
use tweedie::law::{Gaussian, Law};
use tweedie::math::noise::Noise;
use tweedie::sample::grid::{Grid, Spacing};
use tweedie::sample::noise_source::{Silence, standard_start};
use tweedie::sample::registry::{Options, sampler};
use tweedie::sample::sample;

const CLASSES: usize = 10;

/// Steps of EDM's own grid for small images.
pub const EDM_STEPS: usize = 18;

/// What one scale makes of all draws of noise.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Outcome {
    /// Scale.
    pub scale: f64,
    /// First sample of each digit, shape (10, 64).
    pub pictures: Array2<f64>,
    /// Share of samples that are most probably of the class that was asked for.
    pub right: f64,
    /// Root mean square distance to what the class's own law makes of the same noise, over that of
    /// the class's law from its mean.
    pub distance: f64,
    /// Share of pixel values that are beyond black or white.
    pub beyond: f64,
    /// Root mean square distance of a class's samples from their mean, over that of the class's
    /// law.
    pub spread: f64,
}

/// Guidance left out on one side of a noise level.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Cut {
    /// The level.
    pub sigma: f64,
    /// Change of the samples by leaving guidance out below it, over the change by leaving it out
    /// everywhere.
    pub below: f64,
    /// Change by leaving it out above.
    pub above: f64,
    /// Share of right samples with guidance above the level only, and below only.
    pub right: [f64; 2],
}

/// The numbers of the digits.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Digits {
    /// First of the class's own samples from the same noise, shape (10, 64).
    pub exact: Array2<f64>,
    /// The scales.
    pub outcomes: Vec<Outcome>,
    /// The cuts.
    pub cuts: Vec<Cut>,
    /// Largest level below which leaving guidance out changes next to nothing.
    pub idle_below: f64,
    /// How many steps of EDM's grid of [`EDM_STEPS`] lie below it.
    pub idle_steps: usize,
    /// Samples of each scale.
    pub draws: usize,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

struct Scene<'a> {
    settings: &'a DigitsSettings,
    law: Mixture,
    /// The model given each label: the class, and with the probability of a miss anything.
    models: Vec<Mixture>,
    start: Array2<f64>,
    draws: usize,
}

impl Digits {
    pub(super) fn new(settings: &DigitsSettings, effort: Effort, noise: &Noise) -> Result<Self> {
        let scene = Scene::new(settings, effort.digit_draws, noise)?;
        // The class's own law, from the same noise.
        let exact = scene.sampled(|c| scene.run(c, &scene.law.components()[c]))?;
        let guided = |w: f64, levels: (f64, f64)| {
            scene.sampled(|c| {
                scene.run(
                    c,
                    &Guided::new(&scene.models[c], &scene.law, w)?.within(levels.0, levels.1)?,
                )
            })
        };
        let always = (0.0, f64::INFINITY);
        let all = settings.scales.iter().map(|w| guided(*w, always)).collect::<Result<Vec<_>>>()?;
        let outcomes: Vec<Outcome> =
            settings.scales.iter().zip(&all).map(|(w, x)| scene.outcome(*w, x, &exact)).collect();
        let of = |w: f64| settings.scales.iter().position(|v| *v == w).map_or(0, |k| k);
        let (without, with) = (&all[of(1.0)], &all[of(settings.cut_scale)]);
        let change = |x: &Array2<f64>| (energy(&(x - with)) / energy(&(without - with))).sqrt();
        let mut changes = Vec::new();
        let cuts = settings
            .cuts
            .iter()
            .map(|sigma| {
                let (above, below) = (
                    guided(settings.cut_scale, (*sigma, f64::INFINITY))?,
                    guided(settings.cut_scale, (0.0, *sigma))?,
                );
                changes.push(squares(&(&above - with)));
                Ok(Cut {
                    sigma: *sigma,
                    below: change(&above),
                    above: change(&below),
                    right: [scene.right(&above), scene.right(&below)],
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let idle_below = cuts
            .iter()
            .take_while(|c| c.below <= settings.negligible)
            .map(|c| c.sigma)
            .last()
            .unwrap_or(0.0);
        let edm = Grid::new(Spacing::Karras, EDM_STEPS).points(&Path::EDM)?;
        let idle_steps = edm[..EDM_STEPS].iter().filter(|p| p.sigma < idle_below).count();
        let evidence = scene.evidence(&outcomes, &changes, &exact, &all, &noise.child(0))?;
        let exact = scene.first(&exact);
        Ok(Self {
            exact,
            outcomes,
            cuts,
            idle_below,
            idle_steps,
            draws: CLASSES * scene.draws,
            evidence,
        })
    }
}

impl<'a> Scene<'a> {
    fn new(settings: &'a DigitsSettings, draws: usize, noise: &Noise) -> Result<Self> {
        let data = tweedie_nn::data::load("digits")?;
        let labels = data.labels.ok_or_else(|| {
            Error::domain("digits", "no labels", "a label an image", "report this")
        })?;
        let rows =
            |c: usize| (0..labels.len()).filter(|i| labels[*i] as usize == c).collect::<Vec<_>>();
        let classes =
            (0..CLASSES).map(|c| Gaussian::from_data(data.images.select(Axis(0), &rows(c)).view()));
        let classes = classes.collect::<Result<Vec<_>>>()?;
        let prior = Array1::from_shape_fn(CLASSES, |c| rows(c).len() as f64 / labels.len() as f64);
        let models = (0..CLASSES).map(|c| {
            let mut weights = &prior * settings.missed;
            weights[c] += 1.0 - settings.missed;
            Mixture::new(weights, classes.clone())
        });
        let models = models.collect::<Result<Vec<_>>>()?;
        let start = standard_start(noise, CLASSES * draws, 64) * settings.range[1];
        Ok(Self { settings, law: Mixture::new(prior, classes)?, models, start, draws })
    }

    /// Samples of all classes, row `c draws + k` the k-th of class c.
    fn sampled(
        &self,
        run: impl Fn(usize) -> Result<Array2<f64>> + Send + Sync,
    ) -> Result<Array2<f64>> {
        let parts = (0..CLASSES).into_par_iter().map(run).collect::<Result<Vec<_>>>()?;
        let views: Vec<_> = parts.iter().map(|x| x.view()).collect();
        ndarray::concatenate(Axis(0), &views)
            .map_err(|e| Error::domain("samples", e, "one shape", "report this"))
    }

    fn run(&self, class: usize, model: &dyn tweedie::diffusion::Denoiser) -> Result<Array2<f64>> {
        let [s_min, s_max] = self.settings.range;
        let grid = Grid { s_min, s_max, ..Grid::new(Spacing::LogSnr, self.settings.steps) }
            .points(&Path::Edm { sigma_max: s_max })?;
        let start =
            self.start.slice(s![class * self.draws..(class + 1) * self.draws, ..]).to_owned();
        Ok(sample(
            &*sampler(&self.settings.sampler, &Options::DEFAULT)?,
            model,
            &grid,
            start,
            &mut Silence,
        )?
        .x)
    }

    fn first(&self, x: &Array2<f64>) -> Array2<f64> {
        x.select(Axis(0), &(0..CLASSES).map(|c| c * self.draws).collect::<Vec<_>>())
    }

    /// Of each sample, 1 if it is most probably of the class that was asked for; as many samples of
    /// each class.
    fn judged(&self, x: &Array2<f64>) -> Vec<f64> {
        let r = self.law.responsibilities(x.view(), &level(self.settings.judged_at));
        let is_right = |i: usize| {
            let asked = i * CLASSES / x.nrows();
            f64::from((0..CLASSES).all(|c| c == asked || r[[i, c]] < r[[i, asked]]))
        };
        (0..x.nrows()).map(is_right).collect()
    }

    fn right(&self, x: &Array2<f64>) -> f64 {
        self.judged(x).iter().sum::<f64>() / x.nrows() as f64
    }

    /// Squared distance of each sample from the mean of its class's samples.
    fn spread(&self, x: &Array2<f64>) -> Vec<f64> {
        let around = |c: usize| {
            let rows = x.slice(s![c * self.draws..(c + 1) * self.draws, ..]);
            squares(&(&rows - &rows.mean_axis(Axis(0)).unwrap_or_default()))
        };
        (0..CLASSES).flat_map(around).collect()
    }

    fn outcome(&self, scale: f64, x: &Array2<f64>, exact: &Array2<f64>) -> Outcome {
        let variance = |c: usize| self.law.components()[c].variances().sum();
        let total: f64 = (0..CLASSES).map(variance).sum::<f64>() * self.draws as f64;
        // Of n draws about their own mean one is lost.
        let kept = (self.draws as f64 - 1.0).max(1.0) / self.draws as f64;
        Outcome {
            scale,
            pictures: self.first(x),
            right: self.right(x),
            distance: (energy(&(x - exact)) / total).sqrt(),
            beyond: x.iter().filter(|v| v.abs() > 1.0).count() as f64 / x.len() as f64,
            spread: (self.spread(x).iter().sum::<f64>() / (kept * total)).sqrt(),
        }
    }

    fn evidence(
        &self,
        outcomes: &[Outcome],
        changes: &[Vec<f64>],
        exact: &Array2<f64>,
        all: &[Array2<f64>],
        noise: &Noise,
    ) -> Result<Vec<Evidence>> {
        let place = |w: f64| outcomes.iter().position(|o| o.scale == w);
        let (Some(one), Some(cut)) = (place(1.0), place(self.settings.cut_scale)) else {
            return Ok(Vec::new());
        };
        let last = outcomes.len() - 1;
        let without = self.sampled(|c| self.run(c, &self.law))?;
        let gap = farthest((&all[0] - &without).iter().copied());
        let n = CLASSES * self.draws;
        let pairs = format!("two standard errors, of {n} pairs from the same noise");

        // Fresh draws of the classes, judged likewise.
        let fresh = 200;
        let drawn = self.sampled(|c| {
            Ok(Law::sample(&self.law.components()[c], fresh, &noise.child(c as u64)))
        })?;
        let known = self.right(&drawn);
        // One more of either kind, so that a share of 1 is not taken to be sure.
        let doubt = (known * (1.0 - known)).max(1.0 / fresh as f64);
        let own = 4.0 * (doubt * (1.0 / n as f64 + 1.0 / (CLASSES * fresh) as f64)).sqrt();
        let miss = self.settings.missed;
        let expected = 1.0 - miss * (1.0 - 1.0 / CLASSES as f64);
        let tol = 4.0 * (expected * (1.0 - expected) / n as f64).sqrt();

        let (flags, flags_cut) = (self.judged(&all[one]), self.judged(&all[cut]));
        let more = flags_cut.iter().zip(&flags).map(|(a, b)| a - b);
        // How much more both ends have than the scale between that has least, in standard errors of
        // pairs.
        let dip = |of: &dyn Fn(&Array2<f64>) -> Vec<f64>| {
            let each: Vec<Vec<f64>> = all[one..].iter().map(of).collect();
            let total = |k: &usize| each[*k].iter().sum::<f64>();
            let best = (1..each.len() - 1).min_by(|a, b| total(a).total_cmp(&total(b)))?;
            let over =
                |end: usize| in_errors(each[end].iter().zip(&each[best]).map(|(e, b)| e - b));
            Some(least([over(0), over(each.len() - 1)]))
        };
        let dip = |of: &dyn Fn(&Array2<f64>) -> Vec<f64>| dip(of).unwrap_or(f64::NAN);
        let beyond: Vec<Vec<f64>> = all[one..]
            .iter()
            .map(|x| {
                x.rows()
                    .into_iter()
                    .map(|r| r.iter().filter(|v| v.abs() > 1.0).count() as f64)
                    .collect()
            })
            .collect();
        let rise = beyond.windows(2).map(|p| in_errors(p[1].iter().zip(&p[0]).map(|(a, b)| a - b)));
        // Two cuts between the same steps leave the same samples.
        let fall = |low: &[f64], high: &[f64]| match low == high {
            true => 0.0,
            false => in_errors(low.iter().zip(high).map(|(low, high)| low - high)),
        };
        let falls = changes.windows(2).map(|p| fall(&p[0], &p[1]));
        let ends = format!("w = 1 and w = {}", outcomes[last].scale);
        Ok(vec![
            Evidence::new("w = 0: samples against those of the unconditional law, largest gap", gap, 0.0, 1e-9)
                .because("rounding along the steps"),
            Evidence::new(
                format!("share of the class's own samples that are of the class, against {} fresh draws", CLASSES * fresh),
                self.right(exact),
                known,
                own,
            )
            .because("4 standard errors of both"),
            Evidence::new(
                "share of right samples at w = 1, against 1 less the misses that go to another class",
                outcomes[one].right,
                expected,
                tol,
            )
            .because("4 standard errors"),
            Evidence::at_least(
                format!("share of right samples at w = {} less that at w = 1, in standard errors", outcomes[cut].scale),
                in_errors(more),
                2.0,
                0.0,
            )
            .because(&pairs),
            Evidence::at_least(
                format!("squared distance to the exact samples: {ends}, the lesser, above the least between, in standard errors"),
                dip(&|x| squares(&(x - exact))),
                2.0,
                0.0,
            )
            .because(&pairs),
            Evidence::at_least(
                "pixels beyond black and white: rise from scale to scale from w = 1 on, the least, in standard errors",
                least(rise),
                2.0,
                0.0,
            )
            .because(&pairs),
            Evidence::at_least(
                format!("squared spread of a class: {ends}, the lesser, above the least between, in standard errors"),
                dip(&|x| self.spread(x)),
                2.0,
                0.0,
            )
            .because(&pairs),
            Evidence::at_most(
                "guidance left out below a level: fall of the squared change from level to higher level, the largest, in standard errors",
                -least(falls.map(|z| -z)),
                0.0,
                4.0,
            )
            .because("none, but for samples on the border of two classes: four standard errors"),
        ])
    }
}
