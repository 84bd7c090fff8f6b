//! The sign of the divergences in DDPM's bound.

use crate::{Claim, Probe, Role, Trial};
use tweedie::diffusion::PathPoint;
use tweedie::diffusion::elbo::{
    Bound, GaussianData, Part, Reconstruction, Reverse, ReverseVar, gaussian_bound, linear_error,
};
use tweedie::diffusion::kernel::Posterior;
use tweedie::diffusion::level::Level;
use tweedie::diffusion::schedule::Table;
use tweedie::exact::chain::{Step, ancestral, joint};
use tweedie::law::gaussian::wiener_gain;
use tweedie::math::gaussian::entropy_normal;
use tweedie::math::larger;

pub(super) const CLAIMS: &[Claim] = &[Claim {
    id: "harvard/elbo-is-minus-kl",
    slide: "Equivalence to score-based perspective",
    statement: "log p(x_0) is bounded below by the sum of the divergences of the reverse steps (and terms that are left out).",
    reading: "The terms behind the dots are read as those of the reconstruction and of the prior, with their own right signs.",
    assumes: "Gaussian data on a line, a random schedule of two to five steps, a random linear denoiser and random reverse variances, in the mean over the data: every expectation is exact.",
    printed: r"ELBO = \sum_{t=2}^{T} \mathbb{E}_q\, D_{KL}\left(q(x_{t-1}|x_t,x_0) \,\|\, p_\theta(x_{t-1}|x_t)\right) + \dots",
    formula: r"ELBO = -\sum_{t=2}^{T} \mathbb{E}_q\, D_{KL}\left(q(x_{t-1}|x_t,x_0) \,\|\, p_\theta(x_{t-1}|x_t)\right) + \mathbb{E}_q \log p_\theta(x_0|x_1) - D_{KL}\left(q(x_T|x_0) \,\|\, p(x_T)\right)",
    finding: "The divergences enter with a minus: the worse the reverse steps, the lower the bound. With the sign as printed the value exceeds the bound by twice their sum, and a training that \
              raised it would drive the model away from the posterior.",
    mutants: &["KL the other way round", "prior term added", "reconstruction left out"],
    check: sign,
}];

/// A random chain with a linear reverse model, and what its bound is by the joint laws of all
/// states.
struct Case {
    bound: Bound,
    /// `E_q [log p(x_0..x_T) - log q(x_1..x_T|x_0)]`.
    elbo: f64,
    entropy: f64,
}

fn case(t: &Trial, other_way: bool) -> Case {
    let betas: Vec<f64> = (0..t.int(2, 5)).map(|_| t.uniform(0.05, 0.6)).collect();
    let table = Table::from_betas(&betas).expect("betas in range");
    let points: Vec<_> = table.rows().iter().map(|r| PathPoint::still(r.alpha, r.sigma)).collect();
    let lambda = t.log_uniform(0.1, 3.0);
    let share = t.uniform(0.3, 1.3);
    let gain = |at: &PathPoint| share * wiener_gain(lambda, at.alpha, at.sigma);
    let posterior = |k: usize| {
        let level = |p: &PathPoint| Level::of(p).expect("a level");
        Posterior::between(level(&points[k]), level(&points[k + 1])).expect("ordered").var
    };
    let vars: Vec<f64> =
        (0..points.len() - 1).map(|k| posterior(k) * t.uniform(0.5, 3.0)).collect();
    let last = t.uniform(0.1, 1.0);
    let reverse = Reverse {
        var: ReverseVar::Given(vars.clone()),
        reconstruction: Reconstruction::Gaussian(last),
        prior_var: 1.0,
    };
    let data = GaussianData { variances: &[lambda], mean_square: 0.0 };
    let bound = gaussian_bound(
        &points,
        data,
        |at, l| linear_error(l, gain(at), (at.alpha, at.sigma)),
        &reverse,
    )
    .expect("a bound");

    let out: Vec<_> = table.rows().iter().map(|r| Step::new(r.alpha_step.sqrt(), r.beta)).collect();
    let q = joint(0.0, lambda, &out).expect("variances");
    let gains: Vec<_> = points.iter().map(gain).collect();
    let vars: Vec<_> = [last].into_iter().chain(vars).collect();
    let back =
        joint(0.0, 1.0, &ancestral(&points, &gains, &vars).expect("ordered")).expect("variances");
    // The model's states run from x_T to x_0.
    let p = back.marginal(&(0..=points.len()).rev().collect::<Vec<_>>()).expect("all states");
    let apart = if other_way { p.kl(&q) } else { q.kl(&p) }.expect("one dimension");
    let entropy = entropy_normal(lambda);
    Case { bound, elbo: -apart - entropy, entropy }
}

fn sign(p: &mut Probe) {
    let (other_way, added, left_out) = (
        p.mutant("KL the other way round"),
        p.mutant("prior term added"),
        p.mutant("reconstruction left out"),
    );
    let value = move |c: &Case, sign: f64| {
        let prior = if added { 1.0 } else { -1.0 } * c.bound.part(Part::Prior);
        let reconstruction = if left_out { 0.0 } else { -c.bound.part(Part::Reconstruction) };
        sign * c.bound.part(Part::Transition) + reconstruction + prior
    };
    let why = "1e-11 of the terms, by inverses of covariances";
    for (role, sign, what) in [
        (
            Role::Printed,
            1.0,
            "the sum of the divergences added: the bound, against E_q log p - log q of the joint laws",
        ),
        (Role::Corrected, -1.0, "the sum of the divergences taken off: the same"),
    ] {
        p.property(role, what, 64, why, move |t| {
            let c = case(t, other_way);
            let size: f64 = c.bound.terms().iter().map(|term| term.nats.abs()).sum();
            t.compare(value(&c, sign), c.elbo, 1e-11 * (1.0 + size));
        });
    }
    p.property(
        Role::Corrected,
        "the bound beyond minus the entropy of the data, which no model exceeds",
        64,
        "roundings",
        move |t| {
            let c = case(t, other_way);
            t.compare(larger(value(&c, -1.0) + c.entropy, 0.0), 0.0, 1e-11);
        },
    );
}
