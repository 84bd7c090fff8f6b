//! The parameterisation of the reverse mean.

use crate::{Claim, Probe, Role};

pub(super) const CLAIMS: &[Claim] = &[Claim {
    id: "ghent/mean-prediction-as-printed",
    slide: "Neural Network Parameterization",
    statement: "mu_theta(x_t, t) = 1/sqrt(alpha_t) (x_t - (1 - alpha_t)/sqrt(1 - abar_t)) eps_theta(x_t, t), brackets as printed.",
    reading: "The text has the closing bracket before eps_theta, with a product sign between the two. Whether the slide has it there cannot be told from the text; the text is judged.",
    assumes: "DDPM tables of four kinds; the exact noise in place of eps_theta.",
    printed: r"\mu_\theta(x_t, t) = \frac{1}{\sqrt{\alpha_t}}\left(x_t - \frac{1-\alpha_t}{\sqrt{1-\bar\alpha_t}}\right) \varepsilon_\theta(x_t, t)",
    formula: r"\mu_\theta(x_t, t) = \frac{1}{\sqrt{\alpha_t}}\left(x_t - \frac{1-\alpha_t}{\sqrt{1-\bar\alpha_t}}\,\varepsilon_\theta(x_t, t)\right)",
    finding: "The bracket has to close after eps_theta. As it stands, a number is subtracted from every coordinate of x_t and the result multiplied by the noise, so that mu is 0 wherever the noise is. Corrected, it is the posterior's mean with x0 put in from x_t and eps.",
    mutants: &["bar left out", "alpha_t for its root", "plus sign", "bracket as printed"],
    check: mean_prediction,
}];

fn mean_prediction(p: &mut Probe) {
    let (no_bar, no_root) = (p.mutant("bar left out"), p.mutant("alpha_t for its root"));
    let (plus, slip) = (p.mutant("plus sign"), p.mutant("bracket as printed"));
    let why = "sums of two terms; coefficients are rounded once from 106 bits, 1 - abar_t is known to eps";
    let mut compare = |role: Role, what: &str, printed: bool| {
        p.property(role, what, 256, why, |t| {
            let table = t.table(t.int(2, 200));
            let row = table.rows()[t.int(1, table.steps()) - 1];
            for (x0, eps) in t.normals(3).into_iter().zip(t.normals(3)) {
                let xt = row.alpha * x0 + row.sigma * eps;
                let factor = (1.0 - row.alpha_step)
                    / (1.0 - if no_bar { row.alpha_step } else { row.alpha_bar }).sqrt();
                let factor = if plus { -factor } else { factor };
                let bracket = if printed || slip { (xt - factor) * eps } else { xt - factor * eps };
                let mean = bracket / if no_root { row.alpha_step } else { row.alpha_step.sqrt() };
                let want = row.posterior_coef_x0 * x0 + row.posterior_coef_xt * xt;
                let scale = (xt.abs() + x0.abs() + eps.abs()) / row.alpha_step.sqrt();
                t.compare(mean, want, 16.0 * f64::EPSILON * scale / row.sigma);
            }
        });
    };
    compare(Role::Printed, "as printed, against the posterior's mean at the same x0 and x_t", true);
    compare(
        Role::Corrected,
        "bracket after eps, against the posterior's mean at the same x0 and x_t",
        false,
    );
}
