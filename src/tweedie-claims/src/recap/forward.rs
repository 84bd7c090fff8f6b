//! The forward mix and the norm that it keeps.

use crate::Claim;
use crate::Role::{WithCondition, WithoutCondition};
use tweedie::diffusion::kernel::Transition;
use tweedie::math::quadrature::NormalRule;

pub(super) const CLAIMS: &[Claim] = &[Claim {
    id: "recap/norm-preserving-mix",
    slide: "Diffusion model",
    statement: "Mixing x into sqrt(alpha) x + sqrt(1 - alpha) eps preserves the l2 norm.",
    reading: "The scan shows the scaling factors with a root over alpha and over 1 - alpha, and in brackets that they preserve the \
    l2 norm.",
    assumes: "eps is standard normal and independent of x.",
    printed: "",
    formula: r"\mathbb{E}\|\sqrt{\alpha}\, x + \sqrt{1 - \alpha}\, \varepsilon\|^2 = \alpha\, \mathbb{E}\|x\|^2 + (1 - \alpha)\, d
    = \mathbb{E}\|x\|^2 \quad \text{if} \quad \mathbb{E}\|x\|^2 = d",
    finding: "It holds for the expected square of the norm, if x has mean square 1 in each coordinate. Other norms move toward \
    sqrt(d), by the factor alpha in the distance of the squares: a black image, x = 0, gets the square (1 - alpha) d. And single \
    draws keep their norm only up to fluctuations, which in relative terms fade like 1/sqrt(d).",
    mutants: &["mixed without the roots", "root over alpha alone", "1 - alpha^2 for the noise"],
    check: |p| {
        let (plain, half) =
            (p.mutant("mixed without the roots"), p.mutant("root over alpha alone"));
        let squared = p.mutant("1 - alpha^2 for the noise");
        let mix = move |alpha: f64| {
            let scale = if plain { alpha } else { alpha.sqrt() };
            let noise = if plain || half {
                (1.0 - alpha).powi(2)
            } else if squared {
                1.0 - alpha.powi(4)
            } else {
                1.0 - alpha
            };
            Transition { scale, var: noise }
        };
        let rule = NormalRule::new(8).expect("8 nodes");
        let square_after = move |q: Transition<f64>, x: &[f64]| {
            x.iter().map(|&x| rule.expectation(q.mean(x), q.var, |y| y * y)).sum::<f64>()
        };
        p.property(
            WithCondition,
            "Expected squared norm after the mix, for x of norm sqrt(d)",
            128,
            "8 nodes are exact for squares; rounding",
            |t| {
                let d = t.int(1, 20);
                let x = t.normals(d);
                let x = &x * (d as f64 / x.dot(&x)).sqrt();
                let got = square_after(mix(t.uniform(0.01, 0.99)), x.as_slice().expect("one row"));
                t.compare(got, d as f64, 1e-13 * d as f64);
            },
        );
        p.property(
            WithCondition,
            "Distance of any squared norm from d after the mix, against alpha times that before",
            128,
            "rounding",
            |t| {
                let d = t.int(1, 20);
                let x = t.normals(d) * t.uniform(0.0, 3.0);
                let alpha = t.uniform(0.01, 0.99);
                let before = x.dot(&x);
                let got = square_after(mix(alpha), x.as_slice().expect("one row")) - d as f64;
                t.compare(got, alpha * (before - d as f64), 1e-13 * (d as f64 + before));
            },
        );
        let black = square_after(mix(0.9), &[0.0; 4]);
        p.number(
            WithoutCondition,
            "Expected squared norm of x = 0 in 4 dimensions after the mix, alpha = 0.9",
            black,
            0.0,
            1e-12,
            "the norm before",
        );
        let long = square_after(mix(0.9), &[2.0; 4]);
        p.number(WithoutCondition, "Of x = (2, 2, 2, 2)", long, 16.0, 1e-12, "the norm before");
        p.property(
            WithoutCondition,
            "Norm of a single draw in 3 dimensions, x of norm sqrt(3), alpha = 0.5",
            32,
            "equal norms",
            |t| {
                let x = t.normals(3);
                let x = &x * (3.0 / x.dot(&x)).sqrt();
                let y = x * 0.5f64.sqrt() + t.normals(3) * 0.5f64.sqrt();
                t.compare(y.dot(&y).sqrt(), 3f64.sqrt(), 1e-9);
            },
        );
    },
}];
