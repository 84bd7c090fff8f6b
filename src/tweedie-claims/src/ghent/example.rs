//! The worked example in four dimensions, number by number.
//!
//! Each printed number is held to the printed chain at half a unit of its last decimal, computed
//! without rounding in between and once more from the numbers printed before it.

use super::forward::level;
use crate::{Claim, Probe, Role};
use tweedie::diffusion::kernel::Transition;
use tweedie::diffusion::schedule::Table;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "ghent/example-norm-x0",
        slide: SLIDE,
        statement: "||x0|| = 2.45 for x0 = (1, 2, -1, 0.5).",
        reading: "",
        assumes: "The Euclidean norm.",
        printed: r"\|(1, 2, -1, 0.5)\| = 2.45",
        formula: r"\|(1, 2, -1, 0.5)\| = \sqrt{6.25} = 2.5",
        finding: "It is 2.50 exactly. 2.45 = sqrt(6) is the norm of the first three coordinates.",
        mutants: &["last coordinate left out", "sum of absolute values"],
        check: |p| {
            let x: &[f64] = if p.mutant("last coordinate left out") { &X0[..3] } else { &X0 };
            let length = if p.mutant("sum of absolute values") {
                x.iter().map(|x| x.abs()).sum()
            } else {
                norm(x)
            };
            p.number(Role::Printed, "||x0||", length, 2.45, HALF, DECIMALS);
            p.number(Role::Corrected, "||x0||", length, 2.5, 0.0, "1 + 4 + 1 + 1/4 is a square");
            p.number(Role::Corrected, "||x0||^2", length * length, 6.25, 0.0, "1 + 4 + 1 + 1/4");
            p.number(
                Role::Corrected,
                "the norm of the first three coordinates",
                norm(&X0[..3]),
                2.45,
                HALF,
                DECIMALS,
            );
        },
    },
    Claim {
        id: "ghent/example-x1",
        slide: SLIDE,
        statement: "With beta_1 = 0.10 and eps_1 = (0.5, -0.3, 0.8, -0.2), x1 = (1.11, 1.80, -0.70, 0.41).",
        reading: "",
        assumes: "x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) eps_t.",
        printed: "",
        formula: r"x_1 = \sqrt{0.9}\,x_0 + \sqrt{0.1}\,\varepsilon_1 = 0.949\,x_0 + 0.316\,\varepsilon_1",
        finding: "All four numbers are right, with the roots as printed to three decimals or unrounded.",
        mutants: &["beta for its root", "alpha for its root", "noise subtracted"],
        check: |p| {
            let got =
                Chain::of(p, ["beta for its root", "alpha for its root", "noise subtracted"]).to(1);
            vector(p, Role::Printed, "x1", got, X1, HALF);
            let rounded = step(X0, 0.949, 0.316, EPS[0]);
            vector(p, Role::Printed, "x1 with the printed roots", rounded, X1, HALF);
            roots(p, Role::Printed, 1, 0.949, 0.316);
        },
    },
    Claim {
        id: "ghent/example-norm-x1",
        slide: SLIDE,
        statement: "||x1|| = 2.41.",
        reading: "",
        assumes: "The Euclidean norm of x1 = sqrt(0.9) x0 + sqrt(0.1) eps_1.",
        printed: r"\|x_1\| = 2.41",
        formula: r"\|x_1\| = 2.26",
        finding: "It is 2.26, from unrounded numbers (2.2643) and from x1 as printed (2.2650).",
        mutants: &["beta for its root", "alpha for its root", "noise left out"],
        check: |p| {
            let got = norm(
                &Chain::of(p, ["beta for its root", "alpha for its root", "noise left out"]).to(1),
            );
            p.number(Role::Printed, "||x1||", got, 2.41, HALF, DECIMALS);
            p.number(Role::Printed, "||x1|| of x1 as printed", norm(&X1), 2.41, HALF, DECIMALS);
            p.number(Role::Corrected, "||x1||", got, 2.2643, HALF / 100.0, DECIMALS);
            p.number(
                Role::Corrected,
                "||x1|| of x1 as printed",
                norm(&X1),
                2.2650,
                HALF / 100.0,
                DECIMALS,
            );
        },
    },
    Claim {
        id: "ghent/example-x2",
        slide: SLIDE,
        statement: "With beta_2 = 0.20 and eps_2 = (-0.4, -0.2, -0.4, 1.0), x2 = (0.79, 1.43, -0.81, 0.82).",
        reading: "",
        assumes: "x2 = sqrt(0.8) x1 + sqrt(0.2) eps_2 with the x1 of the example.",
        printed: r"x_2 = (0.79,\; 1.43,\; -0.81,\; 0.82)",
        formula: r"x_2 = 0.894\,x_1 + 0.447\,\varepsilon_2 = (0.81,\; 1.52,\; -0.80,\; 0.81)",
        finding: "It is (0.81, 1.52, -0.80, 0.81), with or without rounding on the way. Three of the printed numbers are a few hundredths off, as if the noise had been rounded for the slide after the calculation; the second, 1.43, belongs to a noise of -0.4 where -0.2 is printed.",
        mutants: &["abar_2 for alpha_2", "beta for its root", "alpha for its root"],
        check: |p| {
            let got =
                Chain::of(p, ["beta for its root", "alpha for its root", "abar_2 for alpha_2"])
                    .to(2);
            vector(p, Role::Printed, "x2", got, X2, HALF);
            let rounded = step(X1, 0.894, 0.447, EPS[1]);
            vector(p, Role::Printed, "x2 from x1 and the roots as printed", rounded, X2, HALF);
            vector(p, Role::Corrected, "x2", got, [0.81, 1.52, -0.80, 0.81], HALF);
            vector(
                p,
                Role::Corrected,
                "x2 from x1 and the roots as printed",
                rounded,
                [0.81, 1.52, -0.80, 0.81],
                HALF,
            );
            vector(p, Role::Corrected, "x2 without intermediate states", unrolled(2), got, 1e-14);
            roots(p, Role::Corrected, 2, 0.894, 0.447);
            let off = noise_behind(X2, got, 2);
            let explained =
                [0, 2, 3].iter().all(|&i| off[i].abs() <= 0.05) && (off[1] + 0.2).abs() <= 0.05;
            p.fact(
                Role::Corrected,
                "noise within 0.05 of the printed one gives the printed x2, but for -0.4 in the second place",
                explained,
            );
        },
    },
    Claim {
        id: "ghent/example-norm-x2",
        slide: SLIDE,
        statement: "||x2|| = 2.19.",
        reading: "",
        assumes: "The Euclidean norm of the chain's x2.",
        printed: r"\|x_2\| = 2.19",
        formula: r"\|x_2\| = 2.07",
        finding: "It is 2.07. The x2 that is printed has norm 2.00; 2.19 is neither.",
        mutants: &["abar_2 for alpha_2", "beta for its root", "noise left out"],
        check: |p| {
            let got = norm(
                &Chain::of(p, ["beta for its root", "noise left out", "abar_2 for alpha_2"]).to(2),
            );
            p.number(Role::Printed, "||x2||", got, 2.19, HALF, DECIMALS);
            p.number(Role::Printed, "||x2|| of x2 as printed", norm(&X2), 2.19, HALF, DECIMALS);
            p.number(Role::Corrected, "||x2||", got, 2.0694, HALF / 100.0, DECIMALS);
            p.number(
                Role::Corrected,
                "||x2|| of x2 as printed",
                norm(&X2),
                1.9994,
                HALF / 100.0,
                DECIMALS,
            );
        },
    },
    Claim {
        id: "ghent/example-x3",
        slide: SLIDE,
        statement: "With beta_3 = 0.30 and eps_3 = (-0.5, 0.3, 0.5, -0.2), x3 = (0.41, 1.45, -0.42, 0.55).",
        reading: "",
        assumes: "x3 = sqrt(0.7) x2 + sqrt(0.3) eps_3 with the chain's x2.",
        printed: r"x_3 = (0.41,\; 1.45,\; -0.42,\; 0.55)",
        formula: r"x_3 = 0.837\,x_2 + 0.548\,\varepsilon_3 = (0.40,\; 1.44,\; -0.40,\; 0.57)",
        finding: "It is (0.40, 1.44, -0.40, 0.57). All four printed numbers are one or two hundredths off, which noise within 0.05 of the printed one would explain. From x2 as printed it would be (0.39, 1.36, -0.40, 0.58).",
        mutants: &["abar_3 for alpha_3", "beta for its root", "alpha for its root"],
        check: |p| {
            let got =
                Chain::of(p, ["beta for its root", "alpha for its root", "abar_3 for alpha_3"])
                    .to(3);
            vector(p, Role::Printed, "x3", got, X3, HALF);
            let rounded = step(X2, 0.837, 0.548, EPS[2]);
            vector(p, Role::Printed, "x3 from x2 and the roots as printed", rounded, X3, HALF);
            vector(p, Role::Corrected, "x3", got, [0.40, 1.44, -0.40, 0.57], HALF);
            vector(
                p,
                Role::Corrected,
                "x3 from x2 and the roots as printed",
                rounded,
                [0.39, 1.36, -0.40, 0.58],
                HALF,
            );
            vector(p, Role::Corrected, "x3 without intermediate states", unrolled(3), got, 1e-14);
            roots(p, Role::Corrected, 3, 0.837, 0.548);
            let explained = noise_behind(X3, got, 3).iter().all(|off| off.abs() <= 0.05);
            p.fact(
                Role::Corrected,
                "noise within 0.05 of the printed one gives the printed x3",
                explained,
            );
        },
    },
    Claim {
        id: "ghent/example-norm-x3",
        slide: SLIDE,
        statement: "||x3|| = 1.87.",
        reading: "",
        assumes: "The Euclidean norm of the chain's x3.",
        printed: r"\|x_3\| = 1.87",
        formula: r"\|x_3\| = 1.65",
        finding: "It is 1.65. The x3 that is printed has norm 1.66. None of the example's four norms is right: the first is too small, the others are too large.",
        mutants: &["abar_3 for alpha_3", "beta for its root", "noise left out"],
        check: |p| {
            let got = norm(
                &Chain::of(p, ["beta for its root", "noise left out", "abar_3 for alpha_3"]).to(3),
            );
            p.number(Role::Printed, "||x3||", got, 1.87, HALF, DECIMALS);
            p.number(Role::Printed, "||x3|| of x3 as printed", norm(&X3), 1.87, HALF, DECIMALS);
            p.number(Role::Corrected, "||x3||", got, 1.6484, HALF / 100.0, DECIMALS);
            p.number(
                Role::Corrected,
                "||x3|| of x3 as printed",
                norm(&X3),
                1.6582,
                HALF / 100.0,
                DECIMALS,
            );
        },
    },
];

const SLIDE: &str = "Concrete Example: 4D Vector Forward Process";

const BETAS: [f64; 3] = [0.10, 0.20, 0.30];
const EPS: [[f64; 4]; 3] =
    [[0.5, -0.3, 0.8, -0.2], [-0.4, -0.2, -0.4, 1.0], [-0.5, 0.3, 0.5, -0.2]];
const X0: [f64; 4] = [1.0, 2.0, -1.0, 0.5];
// As printed.
const X1: [f64; 4] = [1.11, 1.80, -0.70, 0.41];
const X2: [f64; 4] = [0.79, 1.43, -0.81, 0.82];
const X3: [f64; 4] = [0.41, 1.45, -0.42, 0.55];

/// Half a unit of the second decimal, and what rounding of a decimal literal adds.
const HALF: f64 = 0.005 + 1e-12;
const DECIMALS: &str = "half a unit of the last decimal";

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn step(x: [f64; 4], scale: f64, std: f64, eps: [f64; 4]) -> [f64; 4] {
    std::array::from_fn(|i| scale * x[i] + std * eps[i])
}

/// The kernel of step t in the example's table.
fn kernel(t: usize) -> Transition<f64> {
    let table = Table::from_betas(&BETAS).expect("betas in (0, 1)");
    Transition::between(level(&table, t - 1), level(&table, t)).expect("noise grows")
}

/// The chain of the example, right or with one of the slips that a claim lists.
#[derive(Clone, Copy)]
struct Chain {
    slip: &'static str,
}

impl Chain {
    /// With the slip that is under test, if any.
    fn of(p: &Probe, slips: [&'static str; 3]) -> Self {
        Self { slip: slips.into_iter().find(|s| p.mutant(s)).unwrap_or("") }
    }

    /// x_t.
    fn to(self, t: usize) -> [f64; 4] {
        (1..=t).fold(X0, |x, k| {
            let (q, beta) = (kernel(k), BETAS[k - 1]);
            let (scale, std) = (q.scale, q.var.sqrt());
            let (scale, std) = match self.slip {
                "beta for its root" => (scale, beta),
                "alpha for its root" => (1.0 - beta, std),
                "noise subtracted" => (scale, -std),
                "noise left out" => (scale, 0.0),
                "abar_2 for alpha_2" | "abar_3 for alpha_3" => {
                    let direct: f64 = BETAS[..k].iter().map(|b| 1.0 - b).product();
                    (direct.sqrt(), (1.0 - direct).sqrt())
                }
                _ => (scale, std),
            };
            step(x, scale, std, EPS[k - 1])
        })
    }
}

/// x_t without the states between: every noise with the factor that is left of it.
fn unrolled(t: usize) -> [f64; 4] {
    let left = |from: usize| BETAS[from..t].iter().map(|b| 1.0 - b).product::<f64>().sqrt();
    let fresh = |i: usize| (0..t).map(|k| left(k + 1) * BETAS[k].sqrt() * EPS[k][i]).sum::<f64>();
    std::array::from_fn(|i| left(0) * X0[i] + fresh(i))
}

/// The roots that the slide prints for step t.
fn roots(p: &mut Probe, role: Role, t: usize, scale: f64, std: f64) {
    p.number(role, format!("sqrt(alpha_{t})"), kernel(t).scale, scale, HALF / 10.0, DECIMALS);
    p.number(
        role,
        format!("sqrt(1 - alpha_{t})"),
        kernel(t).var.sqrt(),
        std,
        HALF / 10.0,
        DECIMALS,
    );
}

/// By how much the noise of step t would have to differ from the printed one, for `printed` in
/// place of `exact`.
fn noise_behind(printed: [f64; 4], exact: [f64; 4], t: usize) -> [f64; 4] {
    std::array::from_fn(|i| (printed[i] - exact[i]) / BETAS[t - 1].sqrt())
}

/// One piece of evidence for the four coordinates: the one that is most off.
fn vector(p: &mut Probe, role: Role, name: &str, got: [f64; 4], want: [f64; 4], tol: f64) {
    let why = if tol == HALF { DECIMALS } else { "a few roundings" };
    for (i, (got, want)) in got.into_iter().zip(want).enumerate() {
        p.number(role, format!("{name}, coordinate {}", i + 1), got, want, tol, why);
    }
}
