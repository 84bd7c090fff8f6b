//! What the equivalence of the objectives means for sampling.

use crate::{Claim, Probe, Role};
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Zip};
use tweedie::diffusion::level::{Level, Rates};
use tweedie::diffusion::path::Path;
use tweedie::diffusion::prediction::{Conversion, Frame, Prediction};
use tweedie::diffusion::sde::tweedie_score;
use tweedie::diffusion::{Denoiser, PathPoint};
use tweedie::error::Result;
use tweedie::law::empirical::Empirical;
use tweedie::law::mixture::Mixture;
use tweedie::math::larger;
use tweedie::sample::ancestral::Ddim;
use tweedie::sample::dpmpp::Dpmpp2m;
use tweedie::sample::grid::{Grid, Spacing};
use tweedie::sample::runge_kutta::Heun;
use tweedie::sample::{Sampler, sample};

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "harvard/all-optima-affine",
        slide: "Take home message",
        statement: "The optimal networks of all losses are affine functions of the score and of the denoiser.",
        reading: "",
        assumes: "sigma > 0; for the score also alpha > 0, since at alpha = 0 it holds nothing of the data. Affine in the score (or denoiser) and x_t together, with coefficients of the path.",
        printed: "",
        formula: r"\mathbb{E}[a x_0 + b z|x_t] = \frac{b}{\sigma} x_t + \left(a - \frac{b\,\alpha}{\sigma}\right) \mathbb{E}[x_0|x_t]",
        finding: "Every target is a x0 + b z, and x_t fixes z once x0 is known. x0, eps, v, velocity, score and EDM's F are all of this form.",
        mutants: &["x_t left out", "alpha left out", "x0 taken for eps"],
        check: all_optima_affine,
    },
    Claim {
        id: "harvard/training-sampling-disentangled",
        slide: "Take home message",
        statement: "Training and sampling are separate choices: a network of any parametrisation drives any sampler along the same trajectory.",
        reading: "",
        assumes: "Exact optima. Trained networks err differently under different losses, and a conversion magnifies an error of eps by sigma/alpha.",
        printed: "",
        formula: r"\hat x_0 = c_x x_t + c_f f_\theta(x_t) \qquad c_x, c_f: \text{ path and parametrisation}",
        finding: "True wherever alpha > 0: six parametrisations give one trajectory, to rounding, for DDIM, DDPM, Heun and DPM-Solver++. At pure noise, alpha = 0, where flow matching and \
                  zero-terminal-SNR schedules start, eps and the score say nothing of x0: there x0-, v-, velocity- or F-prediction is needed.",
        mutants: &["x0 used as eps", "v of another level", "sigma^2 for sigma in the score"],
        check: disentangled,
    },
];

fn all_optima_affine(p: &mut Probe) {
    let (without, bare, wrong) =
        (p.mutant("x_t left out"), p.mutant("alpha left out"), p.mutant("x0 taken for eps"));
    p.property(
        Role::Printed,
        "each optimum from the denoiser and from the score, against the posterior average of its target over random points",
        128,
        "1e-11 of the largest target: the conversions divide by alpha and sigma, at least 0.2",
        |t| {
            let (points, at) = (
                t.normal_rows(5, 2) * 1.5,
                PathPoint {
                    alpha: t.uniform(0.2, 1.0),
                    sigma: t.uniform(0.2, 2.0),
                    rates: Some(Rates::new(t.uniform(-2.0, 0.0), t.uniform(0.1, 2.0))),
                    t: Some(0.5),
                },
            );
            let law = Empirical::new(points.clone()).expect("points");
            let (frame, rates) = (Frame::from(&at), at.rates.expect("rates"));
            let x = t.normal_rows(1, 2) * 2.0;
            let mut x0_hat = Array2::zeros((1, 2));
            law.denoise(x.view(), &at, x0_hat.view_mut()).expect("an exact law");
            let log: Vec<f64> = points
                .rows()
                .into_iter()
                .map(|p| -0.5 * (0..2).map(|j| ((x[[0, j]] - at.alpha * p[j]) / at.sigma).powi(2)).sum::<f64>())
                .collect();
            let most = log.iter().copied().fold(f64::NEG_INFINITY, larger);
            let weights: Vec<f64> = log.iter().map(|l| (l - most).exp()).collect();
            let total: f64 = weights.iter().sum();
            for kind in Prediction::ALL {
                let from_x0 = Conversion::new(Prediction::X0, kind, frame).expect("sigma > 0");
                let from_score = Conversion::new(Prediction::Score, kind, frame).expect("alpha > 0");
                for j in 0..2 {
                    let x = x[[0, j]];
                    let average =
                        |f: &dyn Fn(f64) -> f64| weights.iter().zip(points.rows()).map(|(w, p)| w * f(p[j])).sum::<f64>() / total;
                    let want = average(&|x0| kind.target(x0, (x - at.alpha * x0) / at.sigma, &frame));
                    let score = tweedie_score(x, x0_hat[[0, j]], Level::from(&at));
                    let got = from_x0.apply(x0_hat[[0, j]], if without { 0.0 } else { x });
                    let got = if wrong {
                        Conversion::new(Prediction::Eps, kind, frame).expect("alpha > 0").apply(x0_hat[[0, j]], x)
                    } else {
                        got
                    };
                    let size = (1.0 + x.abs() + 5.0) * (1.0 + rates.sigma + rates.alpha.abs()) / at.sigma.powi(2) / at.alpha;
                    t.compare(got, want, 1e-11 * size);
                    let score = if bare { score / at.alpha } else { score };
                    t.compare(from_score.apply(score, x), want, 1e-11 * size);
                }
            }
        },
    );
    p.property(
        Role::Printed,
        "coefficients of x_t and E[x0|x_t] in each optimum, against b/sigma and a - b alpha/sigma",
        128,
        "1e-13 of the coefficients",
        |t| {
            let frame = Frame::from(&t.point());
            for kind in Prediction::ALL {
                let conversion = Conversion::new(Prediction::X0, kind, frame).expect("sigma > 0");
                let (a, b) = kind.coefficients(&frame);
                let size = a.abs() + b.abs() * (1.0 + frame.alpha) / frame.sigma;
                t.compare(
                    conversion.apply(0.0, 1.0),
                    if without { 0.0 } else { b / frame.sigma },
                    1e-13 * size,
                );
                let alpha = if bare { 1.0 } else { frame.alpha };
                t.compare(conversion.apply(1.0, 0.0), a - b * alpha / frame.sigma, 1e-13 * size);
            }
        },
    );
}

/// An exact network of some parametrisation, read as a denoiser by a sampler.
struct Network<'a> {
    law: &'a Mixture,
    kind: Prediction,
    slip: Option<Slip>,
}

#[derive(Clone, Copy)]
enum Slip {
    X0AsEps,
    OtherLevel,
    ScoreBySquare,
}

impl Denoiser for Network<'_> {
    fn dim(&self) -> usize {
        self.law.dim()
    }

    fn denoise(
        &self,
        x: ArrayView2<f64>,
        at: &PathPoint,
        mut out: ArrayViewMut2<f64>,
    ) -> Result<()> {
        let frame = Frame::from(at);
        self.law.denoise(x, at, out.view_mut())?;
        let network = Conversion::new(Prediction::X0, self.kind, frame)?;
        let (reads, frame) = match self.slip {
            Some(Slip::X0AsEps) if self.kind == Prediction::X0 => (Prediction::Eps, frame),
            Some(Slip::OtherLevel) if self.kind == Prediction::V => {
                (self.kind, Frame::from(&PathPoint::still(at.alpha, 1.01 * at.sigma)))
            }
            _ => (self.kind, frame),
        };
        let back = Conversion::new(reads, Prediction::X0, frame)?;
        let slip = matches!(self.slip, Some(Slip::ScoreBySquare)) && self.kind == Prediction::Score;
        let factor = if slip { at.sigma } else { 1.0 };
        Zip::from(&mut out)
            .and(&x)
            .for_each(|o, x| *o = back.apply(network.apply(*o, *x) * factor, *x));
        Ok(())
    }
}

fn disentangled(p: &mut Probe) {
    let slip = [
        ("x0 used as eps", Slip::X0AsEps),
        ("v of another level", Slip::OtherLevel),
        ("sigma^2 for sigma in the score", Slip::ScoreBySquare),
    ]
    .into_iter()
    .find(|(name, _)| p.mutant(name))
    .map(|(_, slip)| slip);
    p.property(
        Role::WithCondition,
        "alpha > 0: end states of DDIM, DDPM, Heun and DPM-Solver++ with six parametrisations, against the bare denoiser",
        12,
        "1e-8: a rounding error of 1e-16 is magnified by sigma/alpha, up to 1e3, and by the flow",
        |t| {
            let path = if t.int(0, 1) == 0 { Path::VP } else { Path::Cosine };
            let grid =
                Grid { s_min: 0.05, s_max: 20.0, clean: false, ..Grid::new(Spacing::LogSnr, 8) }.points(&path).expect("a grid");
            let (law, start, noise) = (t.mixture(2, 2), t.normal_rows(3, 2), t.noise());
            let samplers: [&dyn Sampler; 4] =
                [&Ddim { eta: 0.0 }, &Ddim { eta: 1.0 }, &Heun::DETERMINISTIC, &Dpmpp2m { lower_final: false }];
            for sampler in samplers {
                let run = |model: &dyn Denoiser| {
                    let mut noise = noise;
                    sample(sampler, model, &grid, start.clone(), &mut noise).expect("the grid has signal everywhere").x
                };
                let want = run(&law);
                for kind in Prediction::ALL {
                    t.compare_all(&run(&Network { law: &law, kind, slip }), &want, 1e-8);
                }
            }
        },
    );
    let pure = Frame::from(&PathPoint {
        alpha: 0.0,
        sigma: 1.0,
        t: Some(1.0),
        rates: Some(Rates::STRAIGHT),
    });
    let reads = |kind| Conversion::new(kind, Prediction::X0, pure).is_ok();
    p.fact(
        Role::WithCondition,
        "alpha = 0: x0 can still be read from x0, v, velocity and F",
        [Prediction::X0, Prediction::V, Prediction::Velocity, Prediction::F].into_iter().all(reads),
    );
    p.fact(
        Role::WithoutCondition,
        "alpha = 0: x0 can be read from eps and from the score",
        reads(Prediction::Eps) && reads(Prediction::Score),
    );
}
