//! The extra derivations: the Markov lemma and the divergence of the whole chain.

use crate::chain::{Model, joint, kernels, levels, steps_of};
use crate::{Claim, Probe, Role};
use tweedie::diffusion::elbo::Part;
use tweedie::diffusion::kernel::Posterior;
use tweedie::math::{larger, smaller};

const EPS: f64 = f64::EPSILON;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "purdue/markov-lemma",
        slide: "Lemma: Markov property for q(x_{t-1}|x_{>=t}, x_0)",
        statement: "q(x_{t-1}|x_{>=t}, x0) = q(x_{t-1}|x_t, x0).",
        reading: "The left side of the first line is garbled; the lines below expand q(x_{t-1}|x_{>=t}, x0).",
        assumes: "A Markov forward chain: DDPM tables of four kinds and the deck's random walk, up to 6 steps.",
        printed: "",
        formula: r"q(x_{t-1} \mid x_t, x_{t+1}, \ldots, x_T, x_0) = q(x_{t-1} \mid x_t, x_0)",
        finding: "Conditioning the joint Gaussian of the whole chain on x0 and everything from t on gives the posterior of two neighbours; later states add nothing once x_t is known.",
        mutants: &["x_t left out", "x0 left out", "forward variance for the posterior's"],
        check: markov_lemma,
    },
    Claim {
        id: "purdue/joint-kl",
        slide: "Alternate simplification of KL term from ELBO",
        statement: "The joint KL of the chain is -E log p(x0|x1) + sum_t E KL(q(x_{t-1}|x_t,x0) || p(x_{t-1}|x_t)) + KL(q(x_T|x0) || p(x_T)).",
        reading: "The slide treats the KL term of the ELBO alone, KL(q(x_{1:T}|x0) || p(x_{1:T})): the sum from t = 2 to T and the prior term. With the reconstruction added it is the whole bound, E_q log q(x_{1:T}|x0)/p(x_{0:T}). Both are checked.",
        assumes: "x0 given; a Gaussian reverse chain with any linear prediction of x0 and any variances.",
        printed: "",
        formula: r"\mathbb{E}_q \log \frac{q(x_{1:T} \mid x_0)}{p(x_{0:T})} = -\mathbb{E}_q \log p(x_0 \mid x_1) + \sum_{t=2}^{T} \mathbb{E}_q\, KL\left(q(x_{t-1} \mid x_t, x_0) \,\|\, p(x_{t-1} \mid x_t)\right) + KL\left(q(x_T \mid x_0) \,\|\, p(x_T)\right)",
        finding: "The terms, each in closed form, add up to the cross-entropy of the two joint Gaussians less the entropy of the first. The divergence of the latents x_1 to x_T alone is the same without the reconstruction.",
        mutants: &["prior term left out", "first transition counted twice", "divergences reversed"],
        check: joint_kl,
    },
];

fn markov_lemma(p: &mut Probe) {
    let skip = p.mutant("x_t left out");
    let forget = p.mutant("x0 left out");
    let forward_var = p.mutant("forward variance for the posterior's");
    let why = "neighbours are close to proportional where steps are small: eps over the smallest share of fresh noise, squared by the solve";
    p.property(
        Role::Printed,
        "conditioning of the whole chain on x0 and x_t to x_T, against the posterior of two neighbours",
        256,
        why,
        |t| {
            let steps = t.int(3, 6);
            let levels = levels(t, steps);
            let kernels = kernels(&levels);
            let law = joint(t.normal(), 1.0, &steps_of(&kernels));
            let now = t.int(2, steps - 1);
            // States that belong together: a draw of the chain.
            let mut states = vec![t.normal()];
            for q in &kernels {
                states.push(q.mean(states[states.len() - 1]) + q.var.sqrt() * t.normal());
            }
            let later = if skip { now + 1 } else { now };
            let mut q = Posterior::between(levels[now - 2], levels[later - 1]).expect("noise grows");
            if forward_var {
                q.var = kernels[now - 1].var;
            }
            let known: Vec<usize> = std::iter::once(0).chain(now..=steps).collect();
            let values: Vec<f64> = known.iter().map(|k| states[*k]).collect();
            // What else is conditioned away is the past, x_1 to x_{t-2}: kept and marginalised.
            let conditional = law.condition(&known, &values).expect("all have variance");
            let (mean, var) = (conditional.mean()[now - 2], conditional.cov_matrix()[(now - 2, now - 2)]);
            let least = kernels.iter().map(|q| q.var).fold(1.0, smaller);
            let size = states.iter().map(|x| x.abs()).fold(1.0, larger);
            let x0 = if forget { 0.0 } else { states[0] };
            t.compare(q.mean(x0, states[later]), mean, 256.0 * EPS * size / least);
            t.compare(q.var, var, 256.0 * EPS * size * size / least * q.var.max(least));
        },
    );
}

fn joint_kl(p: &mut Probe) {
    let no_prior = p.mutant("prior term left out");
    let twice = p.mutant("first transition counted twice");
    let reversed = p.mutant("divergences reversed");
    let why = "dense inverses of chains whose steps share little fresh noise: eps over the smallest share, times the terms' size";
    p.property(
        Role::Printed,
        "sum of the closed-form terms against E_q log q(x_{1:T}|x0)/p(x_{0:T}) of two joint Gaussians",
        128,
        why,
        |t| {
            let steps = t.int(2, 6);
            let model = Model::draw(t, steps);
            let x0 = t.normal();
            let terms = model.bound(x0);
            let forward = joint(x0, 0.0, &steps_of(&kernels(&model.levels)));
            let backward: Vec<usize> = (0..=steps).rev().collect();
            let latents: Vec<usize> = (1..=steps).rev().collect();
            let (q, p) = (forward.marginal(&backward).unwrap(), model.joint());
            let q_latents = forward.marginal(&latents).unwrap();
            let p_latents = p.marginal(&(0..steps).collect::<Vec<_>>()).unwrap();
            let least = kernels(&model.levels).iter().map(|q| q.var).fold(1.0, smaller);
            let first = terms.terms()[1].nats;
            let total = terms.nats() - if no_prior { terms.part(Part::Prior) } else { 0.0 } + if twice { first } else { 0.0 };
            let tol = 256.0 * EPS * (steps as f64 + terms.nats().abs()) / least;
            t.compare(total, q.cross_entropy(&p).unwrap() - q_latents.entropy(), tol);
            let latent_terms = total - terms.part(Part::Reconstruction);
            let divergence = if reversed { p_latents.kl(&q_latents) } else { q_latents.kl(&p_latents) };
            t.compare(latent_terms, divergence.unwrap(), tol);
        },
    );
}
