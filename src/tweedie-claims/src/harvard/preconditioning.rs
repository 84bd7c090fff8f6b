//! The denoiser's dependence on the noise level, and EDM's scalings.

use super::objectives::denoised;
use crate::{Claim, Probe, Role};
use ndarray::{Array1, Array2};
use num_dual::Dual64;
use tweedie::diffusion::PathPoint;
use tweedie::diffusion::preconditioning::{Preconditioning, input_var, target_var};
use tweedie::diffusion::prediction::{Frame, Prediction};
use tweedie::law::empirical::Empirical;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "harvard/denoiser-identity-at-zero-noise",
        slide: "Modelling score / denoiser function",
        statement: "The denoiser becomes the identity as sigma goes to 0.",
        reading: "",
        assumes: "alpha = 1, a fixed state x.",
        printed: "",
        formula: r"D(x;\sigma) - x = \sigma^2 \nabla \log p(x;\sigma) \to 0 \quad \text{where } p(x;0) > 0 \text{ is smooth}",
        finding: "True where the data have a smooth density: the difference is sigma^2 times the score. Data on points or on a surface pull a state off them the whole way, D becoming the projection \
                  (a state at distance 1 from the nearest datum moves by 1, at any small sigma). On the states that noise of that level makes, the mean squared difference is at most sigma^2 a dimension for any data.",
        mutants: &["sigma for sigma^2", "sign of the score", "noise level doubled"],
        check: identity,
    },
    Claim {
        id: "harvard/preconditioning",
        slide: "Note on modelling Time-dependency",
        statement: "EDM's c_skip, c_out, c_in and c_noise give the network input and target of variance 1, with the smallest c_out.",
        reading: "",
        assumes: "Data of mean 0 and of the one variance sigma_data^2 in every direction. Where the data's variance is another, so are those of the input and the target.",
        printed: "",
        formula: r"c_{skip} = \frac{\sigma_d^2}{\sigma^2+\sigma_d^2},\quad c_{out} = \frac{\sigma\sigma_d}{\sqrt{\sigma^2+\sigma_d^2}},\quad c_{in} = \frac{1}{\sqrt{\sigma^2+\sigma_d^2}},\quad c_{noise} = \tfrac14 \ln \sigma",
        finding: "Unit variances fix c_in, and c_out as a function of c_skip; the slide's c_skip is where c_out is least. c_out stays below both sigma and sigma_data, so that an error of the network is never magnified beyond either.",
        mutants: &[
            "root left out of c_out",
            "sigma and sigma_data swapped in c_skip",
            "c_in of the data alone",
            "log of sigma^2",
        ],
        check: scalings,
    },
];

fn identity(p: &mut Probe) {
    let (linear, sign, doubled) = (
        p.mutant("sigma for sigma^2"),
        p.mutant("sign of the score"),
        p.mutant("noise level doubled"),
    );
    p.property(
        Role::WithCondition,
        "smooth density: (D(x; sigma) - x)/sigma^2, against the gradient of log p(x) of the clean data by dual numbers",
        96,
        "sigma^2 times 1e5 for the next order (up to 1/var^2 of the narrowest component), and rounding over sigma^2",
        |t| {
            let (law, sigma) = (t.mixture(1, 2), t.log_uniform(1e-5, 1e-4));
            let component = &law.components()[t.int(0, 1)];
            let x = component.mean()[0] + component.variances()[0].sqrt() * t.normal();
            let level = if doubled { 2.0 * sigma } else { sigma };
            let moved = denoised(&law, &Array1::from_elem(1, x), &PathPoint::still(1.0, level))[0] - x;
            let score = law.log_density_of(&[Dual64::from(x).derivative()], Dual64::from(1.0), Dual64::from(0.0)).eps;
            let got = moved / if linear { sigma } else { sigma * sigma } * if sign { -1.0 } else { 1.0 };
            t.compare(got, score, 1e5 * sigma * sigma * (1.0 + score.abs()) + 1e-15 * (1.0 + x.abs()) / (sigma * sigma));
        },
    );
    p.property(
        Role::WithCondition,
        "states of that noise level, any data: E[(D(x) - x)^2]/sigma^2 of points on a line, at most 1: its excess",
        32,
        "1e-12: the average is exact to rounding",
        |t| {
            let (data, sigma) = (super::objectives::Points::random(t, 3), t.uniform(0.35, 1.0));
            let at = PathPoint::still(1.0, sigma);
            let f = |x: &Array1<f64>| {
                let out = denoised(&data.law, x, &at);
                (&out - x).mapv(|m| (m / sigma).powi(2))
            };
            t.compare((data.residual(&at, |_, _| 0.0, f, |_| 1.0) - 1.0).max(0.0), 0.0, 1e-12);
        },
    );
    let point = Empirical::new(Array2::zeros((1, 1))).expect("a point");
    let got = denoised(&point, &Array1::ones(1), &PathPoint::still(1.0, 1e-6))[0];
    p.number(
        Role::WithoutCondition,
        "all data at 0, sigma = 1e-6: D at the state 1, against 1",
        got,
        1.0,
        1e-6,
        "what a smooth density would leave",
    );
}

fn scalings(p: &mut Probe) {
    let (square, swapped) =
        (p.mutant("root left out of c_out"), p.mutant("sigma and sigma_data swapped in c_skip"));
    let (alone, log_square) = (p.mutant("c_in of the data alone"), p.mutant("log of sigma^2"));
    let scalings = move |sigma: f64, sd: f64| {
        let mut c = Preconditioning::edm(sigma, sd).expect("in range");
        if square {
            c.c_out *= c.c_in;
        }
        if swapped {
            c.c_skip = 1.0 - c.c_skip;
        }
        if alone {
            c.c_in = 1.0 / sd;
        }
        if log_square {
            c.c_noise *= 2.0;
        }
        c
    };
    p.property(
        Role::Printed,
        "variances of c_in (x0 + sigma z) and of (x0 - c_skip (x0 + sigma z))/c_out, against 1",
        192,
        "rounding of a handful of operations",
        |t| {
            let (sigma, sd) = (t.log_uniform(1e-3, 1e2), t.log_uniform(0.1, 2.0));
            let c = scalings(sigma, sd);
            t.compare(c.c_in.powi(2) * (sd * sd + sigma * sigma), 1.0, 1e-14);
            // 1 - c_skip cancels at small sigma.
            let tol = 1e-14 + 8.0 * f64::EPSILON * sd / sigma;
            t.compare(
                (((1.0 - c.c_skip) * sd).powi(2) + (c.c_skip * sigma).powi(2)) / c.c_out.powi(2),
                1.0,
                tol,
            );
            t.compare(input_var(sigma, sd, sd * sd), 1.0, 1e-14);
            t.compare(target_var(sigma, sd, sd * sd), 1.0, 1e-14);
        },
    );
    p.property(
        Role::Printed,
        "rate of c_out^2 with c_skip at the slide's c_skip, by dual numbers, and its value there",
        128,
        "1e-13 of the terms",
        |t| {
            let (sigma, sd) = (t.log_uniform(1e-2, 1e2), t.log_uniform(0.1, 2.0));
            let c = scalings(sigma, sd);
            let skip = Dual64::from(c.c_skip).derivative();
            let out2 = (Dual64::from(1.0) - skip) * (Dual64::from(1.0) - skip) * (sd * sd)
                + skip * skip * (sigma * sigma);
            t.compare(out2.eps, 0.0, 1e-13 * (sd * sd).max(c.c_skip * sigma * sigma));
            t.compare(c.c_out.powi(2), out2.re, 1e-13 * (sd * sd).max(out2.re));
            t.compare(c.c_noise, sigma.ln() / 4.0, 1e-15 * (1.0 + sigma.ln().abs()));
        },
    );
    p.property(
        Role::Printed,
        "x0 from the library's network target, c_skip y + c_out F, against x0",
        128,
        "1e-13 of the terms",
        |t| {
            let (sigma, sd, x0, z) =
                (t.log_uniform(1e-2, 1e2), t.log_uniform(0.1, 2.0), t.normal(), t.normal());
            let c = scalings(sigma, sd);
            let f = Prediction::F.target(
                x0,
                z,
                &Frame::from(&PathPoint::still(1.0, sigma)).with_sigma_data(sd),
            );
            let y = x0 + sigma * z;
            t.compare(
                c.x0_hat(f, y),
                x0,
                1e-13 * (x0.abs() + (c.c_skip * y).abs() + (c.c_out * f).abs()),
            );
        },
    );
}
