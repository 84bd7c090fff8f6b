//! The Gaussian solution on real data: where it stands in for the exact score, and where it beats the training set's own.

use super::tools::{ddim, level};
use crate::claims::Claim;
use crate::claims::Role::{WithCondition, WithoutCondition};
use crate::claims::Trial;
use crate::data::digits;
use crate::diffusion::Denoiser;
use crate::law::Gaussian;
use crate::law::empirical::Empirical;
use ndarray::{Array2, Axis, s};

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "harvard/gaussian-approximates-high-noise",
        slide: "Gaussian linear score quantitatively approximates the high noise phase of pre-trained diffusion model and the final sample",
        statement: "The linear score of the data's mean and covariance approximates the real data's score in the high-noise phase, and predicts the final sample.",
        reading: "",
        assumes: "No trained network yet: the exact denoiser of 599 handwritten digits (every third of 1,797) stands in for it. Their largest component has deviation 1.7.",
        printed: "",
        formula: r"\frac{\mathbb{E} \|s_{\text{gauss}} - s\|^2}{\mathbb{E} \|s\|^2} \ll 1 \quad \text{for } \sigma \gg \sqrt{\lambda_1}",
        finding: "True at high noise: from sigma = 4, twice the largest deviation, the scores agree within 2 %, and the states on a trajectory with them. At sigma = 0.5 \
                  they are half apart. Of the final sample the Gaussian predicts what is settled early: it tells most starts' ends from one another, but explains only \
                  about a quarter of their variance, as the exact denoiser of a finite set ends in its points.",
        mutants: &["mean picture alone", "isotropic covariance", "sigma for sigma^2"],
        check: |p| {
            let images = digits::load().images.slice(s![..;3, ..]).to_owned();
            let exact = Empirical::new(images.clone()).expect("digits");
            let gaussian = Gaussian::from_data(images.view()).expect("digits");
            let mean = gaussian.mean().to_owned();
            let model = if p.mutant("mean picture alone") {
                Gaussian::isotropic(mean.clone(), 0.0)
            } else if p.mutant("isotropic covariance") {
                Gaussian::isotropic(mean.clone(), gaussian.variances().sum() / 64.0)
            } else {
                Ok(gaussian)
            }
            .expect("a variance");
            let rooted = p.mutant("sigma for sigma^2");
            let modelled =
                |x: &Array2<f64>, sigma: f64| model.denoised(x.view(), &level(if rooted { sigma.sqrt() } else { sigma }));
            for (role, sigmas) in [(WithCondition, &[4.0, 6.0, 10.0, 20.0][..]), (WithoutCondition, &[1.0, 0.5, 0.2][..])] {
                for &sigma in sigmas {
                    let what = format!(
                        "sigma = {sigma}: distance of the Gaussian's score from the exact one, relative, on 59 noised digits"
                    );
                    p.property(role, what, 2, "2 % is taken as agreement", |t| {
                        let x =
                            images.slice(s![t.int(0, 9)..;10, ..]).slice(s![..59, ..]).to_owned() + t.normal_rows(59, 64) * sigma;
                        let d = exact.denoised(x.view(), &level(sigma));
                        t.compare((energy(&(modelled(&x, sigma) - &d)) / energy(&(d - &x))).sqrt(), 0.0, 0.02);
                    });
                }
            }
            // The same 40 DDIM steps under both laws: what differs is the denoiser.
            const STARTS: usize = 16;
            let grid = |end: f64| -> Vec<f64> { (0..40).map(|k| 20.0 * (end / 20.0f64).powf(k as f64 / 39.0)).collect() };
            let ends = |t: &Trial, sigmas: &[f64], end: f64| {
                let x = t.normal_rows(STARTS, 64) * 20.0;
                (ddim(&model, x.clone(), sigmas, end), ddim(&exact, x, sigmas, end))
            };
            let unexplained = |a: &Array2<f64>, b: &Array2<f64>| energy(&(a - b)) / energy(&(b - &mean));
            p.property(
                WithCondition,
                "States at sigma = 4 of trajectories from sigma = 20: share of the variance not explained",
                1,
                "2 % is taken as agreement",
                |t| {
                    let (model, exact) = ends(t, &grid(5.0), 4.0);
                    t.compare(unexplained(&model, &exact), 0.0, 0.02);
                },
            );
            p.property(
                WithoutCondition,
                "Final samples of the same trajectories: share of the variance not explained",
                1,
                "2 % is taken as agreement",
                |t| {
                    let (model, exact) = ends(t, &grid(0.05), 0.0);
                    t.compare(unexplained(&model, &exact), 0.0, 0.02);
                },
            );
            p.property(
                WithCondition,
                "Final samples: starts of 16 whose Gaussian end is nearest to their own exact end, 1 by chance",
                1,
                "at least 8 of 16",
                |t| {
                    let (model, exact) = ends(t, &grid(0.05), 0.0);
                    let distance = |i: usize, j: usize| (&model.row(i) - &exact.row(j)).mapv(|v| v * v).sum();
                    let own = (0..STARTS).filter(|i| (0..STARTS).all(|j| j == *i || distance(*i, j) > distance(*i, *i))).count();
                    t.compare(own as f64, 16.0, 8.0);
                },
            );
        },
    },
    Claim {
        id: "harvard/better-than-delta-score",
        slide: "Summary of linear case",
        statement: "The Gaussian solution predicts early trajectories and held-out samples better than the score of the training set's points (the delta mixture).",
        reading: "",
        assumes: "No trained network yet: both denoisers are fitted to 599 handwritten digits and tried on 150 others. The loss on unseen digits ranks them by their distance \
                  from the population's score, whatever that is.",
        printed: "",
        formula: r"\mathbb{E} \|D_{\text{gauss}} - x_0\|^2 < \mathbb{E} \|D_\delta - x_0\|^2 \text{ on held-out } x_0",
        finding: "True at low noise, sigma up to 0.5 here: the delta mixture falls onto a wrong training digit, with a loss of 6 where the Gaussian's goes to 0. Above it the \
                  order turns: at sigma = 1 the Gaussian's loss is a quarter larger, at sigma = 4 still half a percent, as the points know more than two moments. Early in a trajectory \
                  the two are alike, not the Gaussian better. How far a trained network is from either is another question.",
        mutants: &["scored on the training digits", "isotropic covariance", "mean picture alone"],
        check: |p| {
            let images = digits::load().images;
            let (train, held) = (images.slice(s![..;3, ..]).to_owned(), images.slice(s![1..;12, ..]).to_owned());
            let clean = p.pick(
                held.clone(),
                "scored on the training digits",
                train.select(Axis(0), &(0..held.nrows()).map(|i| 3 * i).collect::<Vec<_>>()),
            );
            let delta = Empirical::new(train.clone()).expect("digits");
            let gaussian = Gaussian::from_data(train.view()).expect("digits");
            let (mean, average) = (gaussian.mean().to_owned(), gaussian.variances().sum() / 64.0);
            let model = if p.mutant("isotropic covariance") {
                Gaussian::isotropic(mean, average)
            } else if p.mutant("mean picture alone") {
                Gaussian::isotropic(mean, 0.0)
            } else {
                Ok(gaussian)
            }
            .expect("a variance");
            for (role, sigmas) in [(WithCondition, &[0.05, 0.1, 0.2, 0.5][..]), (WithoutCondition, &[1.0, 2.0, 4.0][..])] {
                for &sigma in sigmas {
                    let what = format!("sigma = {sigma}: the Gaussian's loss on unseen digits over the training set's");
                    p.property(role, what, 2, "below 1 the Gaussian is better", |t| {
                        let x = &clean + &(t.normal_rows(clean.nrows(), 64) * sigma);
                        let loss = |law: &dyn Denoiser| energy(&(law.denoised(x.view(), &level(sigma)) - &clean));
                        t.compare(loss(&model) / loss(&delta), 0.0, 1.0);
                    });
                }
            }
        },
    },
];

/// Sum of squares.
fn energy(x: &Array2<f64>) -> f64 {
    x.iter().map(|v| v * v).sum()
}
