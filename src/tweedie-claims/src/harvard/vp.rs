//! The probability-flow ODE after a change of space and time.

use crate::{Claim, Probe, Role, Trial};
use ndarray::{Array1, Axis};
use num_dual::Dual64;
use tweedie::diffusion::level::{Level, Moving, Rates};
use tweedie::diffusion::sde::{scaled_ode_velocity, vp_ode_velocity};
use tweedie::exact::flow::marginal_velocity;
use tweedie::exact::gains::psi;
use tweedie::law::mixture::Mixture;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "harvard/vp-ode",
        slide: "Link to Variance-Preserving (VP) ODE",
        statement: "Scaling space by alpha_t turns the probability-flow ODE into one with the drift (alpha'/alpha) x~ and the score term alpha^2 sigma' sigma.",
        reading: "sigma is the noise level before the scaling, and p(x~/alpha; sigma) the density of the unscaled state, differentiated in x~.",
        assumes: "alpha and sigma are any differentiable functions of time with alpha > 0; nothing else is asked of them.",
        printed: "",
        formula: r"\frac{d\tilde x}{dt} = \frac{\dot\alpha}{\alpha}\tilde x - \alpha^2 \dot\sigma \sigma\, \nabla_{\tilde x} \log p\left(\frac{\tilde x}{\alpha};\sigma\right)",
        finding: "It is the conditional expectation of alpha' x0 + (alpha sigma)' z, for any data. One alpha comes from x~' = alpha x' and the other from the gradient, \
                  which is taken in x~ and not in x.",
        mutants: &["alpha for alpha^2", "gradient in x", "sign of the score"],
        check: vp_ode,
    },
    Claim {
        id: "harvard/vp-ode-tilde",
        slide: "Link to Variance-Preserving (VP) ODE",
        statement: "In the scaled noise level s = alpha sigma the factor of the score is s' s - s^2 alpha'/alpha.",
        reading: "The slide writes s as sigma with a tilde.",
        assumes: "alpha and s are any differentiable functions of time with alpha > 0.",
        printed: "",
        formula: r"\frac{d\tilde x}{dt} = \frac{\dot\alpha}{\alpha}\tilde x - \left(\dot s s - s^2 \frac{\dot\alpha}{\alpha}\right) \nabla_{\tilde x} \log p\left(\frac{\tilde x}{\alpha};\frac{s}{\alpha}\right)",
        finding: "It is the first form with sigma = s/alpha put in, and half of the squared diffusion coefficient of the forward SDE. With alpha^2 + s^2 = 1 it becomes -alpha'/alpha, \
                  so that the whole drift is (alpha'/alpha)(x~ + score).",
        mutants: &["rate of alpha left out of the factor", "s for s^2", "sigma for s"],
        check: vp_ode_tilde,
    },
];

/// Data, a point of an arbitrary path, and a state.
struct Place {
    law: Mixture,
    at: Level,
    rates: Rates,
    x: Array1<f64>,
}

impl Place {
    fn random(t: &Trial) -> Self {
        let (alpha, d_alpha) = (t.uniform(0.2, 1.5), t.uniform(-2.0, 2.0));
        let (edm_sigma, d_edm_sigma) = (t.log_uniform(0.2, 3.0), t.uniform(-2.0, 2.0));
        let at = Level { alpha, sigma: alpha * edm_sigma };
        let rates = Rates::new(d_alpha, d_alpha * edm_sigma + alpha * d_edm_sigma);
        Self { law: t.mixture(2, 3), at, rates, x: t.normals(2) * 2.0 }
    }

    fn d_edm_sigma(&self) -> f64 {
        (self.rates.sigma - self.at.edm_sigma() * self.rates.alpha) / self.at.alpha
    }

    /// Gradient in the scaled state of `ln p(x~/alpha; edm_sigma)`, by dual numbers.
    fn score(&self) -> Array1<f64> {
        Array1::from_shape_fn(2, |i| {
            let x: Vec<Dual64> = (0..2)
                .map(|j| Dual64::new(self.x[j], f64::from(u8::from(i == j))) / self.at.alpha)
                .collect();
            self.law.log_density_of(&x, Dual64::from(1.0), Dual64::from(self.at.edm_sigma())).eps
        })
    }

    /// `E[alpha' x0 + sigma' z | x~]`.
    fn velocity(&self) -> Array1<f64> {
        let moving = Moving { level: self.at, rates: self.rates };
        marginal_velocity(&self.law, self.x.view().insert_axis(Axis(0)), &moving)
            .expect("sigma > 0")
            .remove_axis(Axis(0))
    }

    fn compare(&self, t: &Trial, got: impl Fn(f64, f64) -> f64) {
        let (score, want) = (self.score(), self.velocity());
        let (Level { alpha, sigma }, rates) = (self.at, self.rates);
        for i in 0..2 {
            let rate = (rates.alpha / alpha).abs() + (rates.sigma / sigma).abs();
            let size = rate * (self.x[i].abs() + sigma * sigma * score[i].abs());
            t.compare(got(self.x[i], score[i]), want[i], 1e-11 * (1.0 + size));
        }
    }
}

const WHY: &str = "1e-11 of the terms, whose exponents reach some hundreds";

fn vp_ode(p: &mut Probe) {
    let (once, inner, sign) =
        (p.mutant("alpha for alpha^2"), p.mutant("gradient in x"), p.mutant("sign of the score"));
    let changed = move |score: f64, alpha: f64| match (once, inner, sign) {
        (true, ..) => score / alpha,
        (_, true, _) => score * alpha,
        (.., true) => -score,
        _ => score,
    };
    p.property(
        Role::Printed,
        "the slide's velocity, against E[alpha' x0 + (alpha sigma)' z | x~] of random mixtures",
        128,
        WHY,
        |t| {
            let place = Place::random(t);
            let (at, edm_sigma, d_edm_sigma) =
                (place.at, place.at.edm_sigma(), place.d_edm_sigma());
            place.compare(t, |x, score| {
                scaled_ode_velocity(
                    x,
                    changed(score, at.alpha),
                    at.alpha,
                    place.rates.alpha,
                    edm_sigma,
                    d_edm_sigma,
                )
            });
        },
    );
    p.property(
        Role::Printed,
        "along the exact trajectory of a Gaussian, against the trajectory's derivative by dual numbers",
        128,
        "1e-13 of the terms",
        |t| {
            let Place { at, rates, .. } = Place::random(t);
            let (mean, lambda, z) = (t.normal(), t.log_uniform(0.01, 10.0), t.normal());
            let start = Level { alpha: Dual64::from(t.uniform(0.2, 1.0)), sigma: Dual64::from(t.uniform(0.5, 3.0)) };
            let gain = psi(Dual64::from(lambda), start, Moving { level: at, rates }.dual());
            let (x, want) = (at.alpha * mean + gain.re * z, rates.alpha * mean + gain.eps * z);
            let score = -(x - at.alpha * mean) / (at.alpha * at.alpha * lambda + at.sigma * at.sigma);
            let edm_sigma = at.edm_sigma();
            let d_edm_sigma = (rates.sigma - edm_sigma * rates.alpha) / at.alpha;
            let got = scaled_ode_velocity(x, changed(score, at.alpha), at.alpha, rates.alpha, edm_sigma, d_edm_sigma);
            let size =
                (rates.alpha / at.alpha * x).abs() + (at.alpha * at.alpha * d_edm_sigma * edm_sigma * score).abs() + want.abs();
            t.compare(got, want, 1e-13 * (1.0 + size));
        },
    );
}

fn vp_ode_tilde(p: &mut Probe) {
    let still = p.mutant("rate of alpha left out of the factor");
    let (linear, unscaled) = (p.mutant("s for s^2"), p.mutant("sigma for s"));
    p.property(
        Role::Printed,
        "the slide's velocity, against E[alpha' x0 + s' z | x~] of random mixtures",
        128,
        WHY,
        |t| {
            let place = Place::random(t);
            let Level { alpha, sigma } = place.at;
            let Rates { alpha: d_alpha, sigma: d_sigma } = place.rates;
            place.compare(t, |x, score| {
                let f = d_alpha / alpha;
                if still {
                    f * x - d_sigma * sigma * score
                } else if linear {
                    f * x - (d_sigma * sigma - sigma * f) * score
                } else if unscaled {
                    vp_ode_velocity(x, score, alpha, d_alpha, sigma / alpha, place.d_edm_sigma())
                } else {
                    vp_ode_velocity(x, score, alpha, d_alpha, sigma, d_sigma)
                }
            });
        },
    );
    p.property(
        Role::Printed,
        "on variance-preserving paths, alpha^2 + s^2 = 1, against (alpha'/alpha)(x~ + score)",
        64,
        "rounding of a handful of operations",
        |t| {
            let (angle, rate, x, score) =
                (t.uniform(0.05, 1.5), t.uniform(-2.0, 2.0), t.normal(), t.normal());
            let (s, alpha) = angle.sin_cos();
            let got = vp_ode_velocity(
                x,
                score,
                alpha,
                -s * rate,
                s,
                if still { 0.0 } else { alpha * rate },
            );
            let f = -s * rate / alpha;
            t.compare(
                got,
                f * (x + score),
                1e-14 * (1.0 + f.abs()) * (1.0 + x.abs() + score.abs()),
            );
        },
    );
}
