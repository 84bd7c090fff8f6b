//! Which model was the first to have what the deck counts.

use crate::{Claim, Probe, Role};
use nalgebra::{DMatrix, DVector};
use ndarray::Array2;
use tweedie::math::gaussian::{Covariance, Normal, log_density_normal};

pub(super) const CLAIMS: &[Claim] = &[Claim {
    id: "sjtu/first-to-get-all-three",
    slide: "Did We Get All Three?",
    statement: "Diffusion is the first model with sample quality, stable training and a likelihood (or a lower bound of it) together.",
    reading: "The slide's own table, read row by row in its order: a tick, or the ELBO of the column of likelihoods, counts as having it.",
    assumes: "The table of the same slide, which is not questioned here: autoregressive models, VAEs, GANs, diffusion.",
    printed: r"\text{first with all three} = \text{diffusion}",
    formula: r"\text{autoregressive: } \log p(x) = \sum_i \log p(x_i \mid x_{<i}) \text{ exactly, with all three; diffusion is the first whose sampling is not slow as well}",
    finding: "The table gives autoregressive models a tick in each of the three columns, and a likelihood that is exact where diffusion has a bound. What diffusion is the first with is all three and sampling that is \
              not slow, if few-step samplers count, as the slide's last column says.",
    mutants: &["the bound is no likelihood", "likelihood from the marginals", "newest row first"],
    check: first,
}];

/// A row of the slide's table: sample quality, likelihood, stable training, fast sampling. `None`
/// is the ELBO's "~", and of sampling "with samplers".
struct Row {
    model: &'static str,
    quality: bool,
    likelihood: Option<bool>,
    stable: bool,
    fast: Option<bool>,
}

const TABLE: [Row; 4] = [
    Row {
        model: "autoregressive",
        quality: true,
        likelihood: Some(true),
        stable: true,
        fast: Some(false),
    },
    Row { model: "VAE", quality: false, likelihood: None, stable: true, fast: Some(true) },
    Row { model: "GAN", quality: true, likelihood: Some(false), stable: false, fast: Some(true) },
    Row { model: "diffusion", quality: true, likelihood: None, stable: true, fast: None },
];

fn first(p: &mut Probe) {
    let (strict, marginals, newest) = (
        p.mutant("the bound is no likelihood"),
        p.mutant("likelihood from the marginals"),
        p.mutant("newest row first"),
    );
    let three = move |row: &Row| row.quality && row.stable && row.likelihood.unwrap_or(!strict);
    let order = || -> Vec<&Row> {
        if newest { TABLE.iter().rev().collect() } else { TABLE.iter().collect() }
    };
    let first_of = |fast: bool| {
        order()
            .into_iter()
            .find(|row| three(row) && (!fast || row.fast != Some(false)))
            .map_or("none", |row| row.model)
    };
    p.fact(
        Role::Printed,
        "the first row of the slide's table with all three is that of diffusion",
        first_of(false) == "diffusion",
    );
    p.fact(
        Role::Corrected,
        "the first row with all three is that of autoregressive models",
        first_of(false) == "autoregressive",
    );
    p.fact(
        Role::Corrected,
        "the first row with all three and sampling that is not slow is that of diffusion",
        first_of(true) == "diffusion",
    );
    p.property(
        Role::Corrected,
        "sum of the conditional log densities of a Gaussian's coordinates, each given those before it, against its log density",
        32,
        "inverses of covariances",
        move |t| {
            let d = t.int(2, 6);
            let (mean, root) = (t.normals(d).to_vec(), t.normal_rows(d, d));
            let cov = root.dot(&root.t()) + Array2::<f64>::eye(d) * 0.1;
            let cov = Covariance::Full(DMatrix::from_fn(d, d, |i, j| cov[[i, j]]));
            let law = Normal::new(DVector::from_vec(mean), cov).expect("a covariance");
            let x: Vec<f64> = (0..d).map(|_| 2.0 * t.normal()).collect();
            let conditional = |i: usize| {
                let seen: Vec<usize> = (0..if marginals { 0 } else { i }).collect();
                let kept: Vec<usize> = seen.iter().copied().chain([i]).collect();
                let law = law.marginal(&kept).expect("coordinates");
                let law = if seen.is_empty() { law } else { law.condition(&seen, &x[..seen.len()]).expect("coordinates") };
                log_density_normal(x[i], law.mean()[0], law.cov_matrix()[(0, 0)])
            };
            let sum: f64 = (0..d).map(conditional).sum();
            let want = law.log_density(&DVector::from_column_slice(&x)).expect("a density");
            t.compare(sum, want, 1e-11 * (1.0 + want.abs()));
        },
    );
}
