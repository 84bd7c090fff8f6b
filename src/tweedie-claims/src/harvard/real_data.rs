//! The Gaussian solution on real data: where it stands in for a trained network, and where it
//! foretells it better than the training set's own score.

use super::tools::{ddim, level};
use crate::Claim;
use crate::Role::{WithCondition, WithoutCondition};
use crate::{Probe, Trial};
use ndarray::{Array2, Axis};
use tweedie::diffusion::Denoiser;
use tweedie::law::Gaussian;
use tweedie::law::empirical::Empirical;
use tweedie::math::larger;
use tweedie_nn::bundled;
use tweedie_nn::data::digits;
use tweedie_nn::denoiser::Network;
use tweedie_nn::train::Data;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "harvard/gaussian-approximates-high-noise",
        slide: "Gaussian linear score quantitatively approximates the high noise phase of pre-trained diffusion model and the final sample",
        statement: "The linear score of the data's mean and covariance approximates the score of a trained network in the high-noise phase, and its final samples.",
        reading: "",
        assumes: "The network is the one in experiments/models/digits, 177,553 weights trained on 1,617 handwritten digits and asked for no class; mean and covariance are those of \
                  the same digits.",
        printed: "",
        formula: r"\frac{\mathbb{E} \|s_{\text{gauss}} - s_\theta\|^2}{\mathbb{E} \|s_\theta\|^2} \ll 1 \quad \text{for } \sigma \gg \sqrt{\lambda_1}",
        finding: "True at high noise: from sigma = 4, more than twice the digits' largest deviation of 1.7, to 20 the scores agree within 3 %; at 10 what is left is mostly the network's \
                  own error, as the exact denoiser of its training set is nearer to the Gaussian than to it. At sigma = 1 they are about a fifth apart, at 0.5 about two fifths. Of the final samples the \
                  Gaussian predicts more than half of the variance, not all; one variance for all pixels does not.",
        mutants: &["mean picture alone", "isotropic covariance", "sigma for sigma^2"],
        check: |p| {
            let digits = Digits::load();
            let gaussian = digits.gaussian();
            let (mean, rooted) = (gaussian.mean().to_owned(), p.mutant("sigma for sigma^2"));
            let model = mutated(p, gaussian);
            for (role, sigmas) in [
                (WithCondition, &[4.0, 6.0, 10.0, 20.0][..]),
                (WithoutCondition, &[1.0, 0.5, 0.2][..]),
            ] {
                for &sigma in sigmas {
                    let what = format!(
                        "sigma = {sigma}: distance of the Gaussian's score from the network's, relative to it, on 64 noised digits"
                    );
                    p.property(role, what, 2, "3 % is taken as agreement", |t| {
                        let x = digits.noised(t, sigma);
                        let d =
                            digits.network.denoised(x.view(), &level(sigma)).expect("a network");
                        let own = model
                            .denoised(x.view(), &level(if rooted { sigma.sqrt() } else { sigma }))
                            .expect("an exact law");
                        t.compare((energy(&(own - &d)) / energy(&(d - &x))).sqrt(), 0.0, 0.03);
                    });
                }
            }
            let exact = Empirical::new(digits.train.clone()).expect("digits");
            p.property(
                WithCondition,
                "sigma = 10: distance of the Gaussian from the exact denoiser of the training set, over the network's from it",
                1,
                "below 1/2 the network's own error is the larger part",
                |t| {
                    let x = digits.noised(t, 10.0);
                    let [g, n, e] = [&model as &dyn Denoiser, &digits.network, &exact].map(|d| d.denoised(x.view(), &level(10.0)).expect("a network"));
                    t.compare((energy(&(g - &e)) / energy(&(n - &e))).sqrt(), 0.0, 0.5);
                },
            );
            // The same DDIM steps under all: what differs is the denoiser.
            let picture = Gaussian::isotropic(mean, 0.0).expect("a variance");
            let ends = |t: &Trial, end| digits.ends(t, end, [&digits.network, &model, &picture]);
            for (end, what) in [
                (2.0, "States at sigma = 2 of trajectories from sigma = 20"),
                (0.0, "Final samples of these"),
            ] {
                let what = format!(
                    "{what}: share not explained of what the mean picture alone does not explain"
                );
                p.property(WithCondition, what, 1, "a half is taken as predicting them", |t| {
                    let [network, model, picture] = ends(t, end);
                    t.compare(
                        energy(&(model - &network)) / energy(&(picture - &network)),
                        0.0,
                        0.5,
                    );
                });
            }
            let data = digits.gaussian();
            let largest = data.variances().iter().copied().fold(0.0, larger).sqrt();
            p.number(
                WithCondition,
                "Largest deviation of the digits, at most half of sigma = 4",
                largest,
                0.0,
                2.0,
                "half of 4",
            );
            let even = Gaussian::isotropic(data.mean().to_owned(), data.variances().sum() / 64.0)
                .expect("a variance");
            for (role, predictor, name) in [
                (WithCondition, &model, "the Gaussian"),
                (WithoutCondition, &even, "one variance for all pixels"),
            ] {
                let what =
                    format!("Final samples: share of their variance that {name} does not explain");
                p.property(role, what, 1, "a half is taken as predicting them", |t| {
                    let [network, predicted, _] =
                        digits.ends(t, 0.0, [&digits.network, predictor, &picture]);
                    let spread = &network - &network.mean_axis(Axis(0)).expect("starts");
                    t.compare(energy(&(predicted - &network)) / energy(&spread), 0.0, 0.5);
                });
            }
        },
    },
    Claim {
        id: "harvard/better-than-delta-score",
        slide: "Summary of linear case",
        statement: "The Gaussian solution predicts early trajectories of a trained network, and held-out samples, better than the score of the training set's points (the delta mixture).",
        reading: "",
        assumes: "Mean, covariance and points are those of the 1,617 handwritten digits that the network of experiments/models/digits was trained on; 179 others are held out. A tenth \
                  less is taken as better.",
        printed: "",
        formula: r"\mathbb{E} \|D_{\text{gauss}} - D_\theta\|^2 < \mathbb{E} \|D_\delta - D_\theta\|^2, \quad \mathbb{E} \|D_{\text{gauss}} - x_0\|^2 < \mathbb{E} \|D_\delta - x_0\|^2 \text{ on held-out } x_0",
        finding: "True at low noise, up to sigma = 0.3, where the delta mixture falls onto a wrong training digit: its loss on unseen digits is the larger one, and of the network's \
                  final samples the Gaussian misses about half of what the delta mixture misses. The network's own denoiser is nearer to the Gaussian's too, still by half at \
                  sigma = 0.5 in mean square. Early trajectories do not tell the two apart: down to sigma = 4 they have the same score, but for less than the network's \
                  own error. From sigma = 1 on the Gaussian's loss is the larger one, by a third at 1, as points know more than two moments.",
        mutants: &["scored on the training digits", "isotropic covariance", "mean picture alone"],
        check: |p| {
            let digits = Digits::load();
            let clean = p.pick(
                digits.held_out.clone(),
                "scored on the training digits",
                digits.train.clone(),
            );
            // As many of either, spread over the set.
            let clean = clean
                .select(Axis(0), &(0..176).map(|i| i * clean.nrows() / 176).collect::<Vec<_>>());
            let delta = Empirical::new(digits.train.clone()).expect("digits");
            let model = mutated(p, digits.gaussian());
            let why = "below 1 the Gaussian is better; a tenth less is asked";
            for (role, sigmas) in [
                (WithCondition, &[0.05, 0.1, 0.2, 0.3][..]),
                (WithoutCondition, &[1.0, 2.0, 4.0][..]),
            ] {
                for &sigma in sigmas {
                    let what = format!(
                        "sigma = {sigma}: the Gaussian's loss on unseen digits over the training set's"
                    );
                    p.property(role, what, 2, why, |t| {
                        let x = &clean + &(t.normal_rows(clean.nrows(), 64) * sigma);
                        let loss = |law: &dyn Denoiser| {
                            energy(
                                &(law.denoised(x.view(), &level(sigma)).expect("an exact law")
                                    - &clean),
                            )
                        };
                        t.compare(loss(&model) / loss(&delta), 0.0, 0.9);
                    });
                }
            }
            for (role, sigma) in
                [(WithCondition, 0.2), (WithCondition, 0.5), (WithoutCondition, 4.0)]
            {
                let what = format!(
                    "sigma = {sigma}: mean square distance of the Gaussian from the network on unseen digits over the training set's"
                );
                p.property(role, what, 1, why, |t| {
                    let x = &clean + &(t.normal_rows(clean.nrows(), 64) * sigma);
                    let network =
                        digits.network.denoised(x.view(), &level(sigma)).expect("a network");
                    let off = |law: &dyn Denoiser| {
                        energy(
                            &(law.denoised(x.view(), &level(sigma)).expect("an exact law")
                                - &network),
                        )
                    };
                    t.compare(off(&model) / off(&delta), 0.0, 0.9);
                });
            }
            for (role, end, what) in [
                (WithCondition, 0.0, "Final samples of trajectories from sigma = 20"),
                (WithoutCondition, 4.0, "States at sigma = 4 of trajectories from sigma = 20"),
            ] {
                let what = format!(
                    "{what}: mean square distance of the Gaussian's from the network's over the training set's"
                );
                p.property(role, what, 1, why, |t| {
                    let [network, model, delta] =
                        digits.ends(t, end, [&digits.network, &model, &delta]);
                    t.compare(energy(&(model - &network)) / energy(&(delta - &network)), 0.0, 0.9);
                });
            }
        },
    },
];

/// Trajectories followed at once.
const STARTS: usize = 16;

/// The bundled network, for all classes together, and the digits that it was and was not trained
/// on.
pub(super) struct Digits {
    pub network: Network<f32>,
    pub train: Array2<f64>,
    pub held_out: Array2<f64>,
}

impl Digits {
    pub fn load() -> Self {
        let data = Data::images(digits::load(), 10).expect("digits");
        let (train, held_out) = data.split().expect("images");
        Self {
            network: bundled::digits(STARTS).expect("it travels with the library"),
            train: train.to_owned(),
            held_out: held_out.to_owned(),
        }
    }

    pub fn gaussian(&self) -> Gaussian {
        Gaussian::from_data(self.train.view()).expect("digits")
    }

    /// 64 training digits, noised.
    fn noised(&self, t: &Trial, sigma: f64) -> Array2<f64> {
        let first = t.int(0, self.train.nrows() / 64 - 1);
        let rows: Vec<usize> = (0..64).map(|i| first + i * (self.train.nrows() / 64)).collect();
        self.train.select(Axis(0), &rows) + t.normal_rows(64, 64) * sigma
    }

    /// Where these denoisers take the same starts at sigma = 20.
    fn ends(&self, t: &Trial, end: f64, denoisers: [&dyn Denoiser; 3]) -> [Array2<f64>; 3] {
        let x = t.normal_rows(STARTS, 64) * 20.0;
        // To data the last step is one from sigma = 0.05.
        let lowest = end.max(0.05);
        let steps = (4.0 * (20.0 / lowest).ln()).ceil();
        let grid: Vec<f64> =
            (0..steps as usize).map(|k| 20.0 * (lowest / 20.0).powf(k as f64 / steps)).collect();
        let last = if end > 0.0 { &[][..] } else { &[lowest] };
        denoisers.map(|denoiser| ddim(denoiser, x.clone(), &[&grid, last].concat(), end))
    }
}

/// The Gaussian, or what a mutant takes for it.
fn mutated(p: &Probe, gaussian: Gaussian) -> Gaussian {
    let (mean, average) = (gaussian.mean().to_owned(), gaussian.variances().sum() / 64.0);
    if p.mutant("mean picture alone") {
        Gaussian::isotropic(mean, 0.0).expect("a variance")
    } else if p.mutant("isotropic covariance") {
        Gaussian::isotropic(mean, average).expect("a variance")
    } else {
        gaussian
    }
}

/// Sum of squares.
fn energy(x: &Array2<f64>) -> f64 {
    x.iter().map(|v| v * v).sum()
}
