//! The objective, the training step and its worked example.

use crate::{Claim, Probe, Role};
use nalgebra::{DMatrix, DVector};
use ndarray::{Array2, array};
use num_dual::Dual64;
use tweedie::diffusion::PathPoint;
use tweedie::diffusion::elbo::{
    self, GaussianData, Part, Reconstruction, Reverse, ReverseVar, gaussian_bound, linear_error,
};
use tweedie::diffusion::kernel::{Posterior, Transition};
use tweedie::diffusion::level::Level;
use tweedie::diffusion::loss::squared_errors;
use tweedie::diffusion::prediction::{Frame, Prediction};
use tweedie::diffusion::schedule::{Schedule, Table};
use tweedie::law::gaussian::wiener_gain;
use tweedie::math::gaussian::{Covariance, Normal, kl_normal};
use tweedie::math::scalar::Scalar;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "ghent/lsimple",
        slide: "Denoising Objective Function",
        statement: "The simplified loss, the plain squared error of the predicted noise, is the variational bound with its terms reweighted.",
        reading: "",
        assumes: "Fixed reverse variances, here beta_t, so that what the variances cost is a constant; any noise prediction, right or wrong.",
        printed: "",
        formula: r"-\mathrm{ELBO} = C + \sum_t w_t\, \mathbb{E}\left[\lVert \varepsilon - \varepsilon_\theta(x_t, t)\rVert^2\right], \quad w_t = \frac{\beta_t}{2\alpha_t(1-\bar\alpha_t)}, \qquad L_{\text{simple}}:\ w_t = 1",
        finding: "Every term of the bound, the reconstruction with its t = 1 included, is a positive weight times the squared error of the noise, plus a constant. \
                  On the linear schedule the weights fall from 0.50 at t = 1 to 0.0050 at t = 349 and rise to 0.010 at t = T = 1000; setting them to 1 keeps the best prediction at every t, \
                  but the value is then no bound any more.",
        mutants: &[
            "alpha_bar for alpha_step in the weight",
            "weight of the next step",
            "deviation for the variance",
        ],
        check: lsimple,
    },
    Claim {
        id: "ghent/lvlb-sum",
        slide: "Denoising Objective Function",
        statement: "The variational bound is the sum over t of the KL from the forward posterior to the reverse step.",
        reading: "",
        assumes: "Gaussian data and any linear reverse model, so that the bound is also a difference of entropies of two joint Gaussians.",
        printed: r"L_{\text{vlb}} = \sum_t D_{KL}\left(q(x_{t-1}|x_t,x_0) \,\Vert\, p_\theta(x_{t-1}|x_t)\right)",
        formula: r"L_{\text{vlb}} = -\mathbb{E}_q \log p_\theta(x_0|x_1) + \sum_{t=2}^{T} \mathbb{E}_q\, D_{KL}\left(q(x_{t-1}|x_t,x_0) \,\Vert\, p_\theta(x_{t-1}|x_t)\right) + D_{KL}\left(q(x_T|x_0) \,\Vert\, p(x_T)\right)",
        finding: "The sum is the middle of the bound. It runs from t = 2: at t = 1 the posterior q(x0|x1,x0) is a point, whose KL to a density is infinite, and its place is taken by \
                  the reconstruction term. The prior term KL(q(x_T|x0) || p(x_T)) is missing too; it has nothing to learn, but it belongs to the bound's value.",
        mutants: &[
            "without the prior term",
            "without the reconstruction term",
            "deviation for the variance in the prior term",
            "reverse variance given as a deviation",
        ],
        check: lvlb_sum,
    },
    Claim {
        id: "ghent/training-step-noisy-sample",
        slide: "Denoising Objective Function (practical training process, step 3)",
        statement: "For training, draw t and noise x0 to level t by x_t = sqrt(alpha_t) x0 + sqrt(1 - alpha_t) eps.",
        reading: "The scan shows alpha_t without a bar, where the deck's own definition is alpha_t = 1 - beta_t; the worked example on the next page has the bar. It is judged as the text has it.",
        assumes: "The deck's definitions: alpha_t = 1 - beta_t, alpha_bar_t its product up to t.",
        printed: r"x_t = \sqrt{\alpha_t}\, x_0 + \sqrt{1-\alpha_t}\, \varepsilon",
        formula: r"x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1-\bar\alpha_t}\, \varepsilon",
        finding: "Both bars are missing: as printed the sample has the noise of one step, the same few per cent at every t. At the last step of the linear schedule the signal would be multiplied by \
                  0.990 where the chain multiplies it by 0.0064, and no network would ever see pure noise.",
        mutants: &[
            "bars left out",
            "product up to t - 1",
            "root left out",
            "signal and noise swapped",
        ],
        check: training_step,
    },
    Claim {
        id: "ghent/example-noisy-sample",
        slide: "4D Vector Calculation Example",
        statement: "x0 = (0.8, -0.5, 0.3, 1.2) at alpha_bar = 0.64 with eps = (0.2, -0.7, 1.1, -0.4) gives x_t = (0.76, -0.82, 0.90, 0.72).",
        reading: "",
        assumes: "Nothing but the numbers of the slide, with sqrt(1 - 0.64) = 0.6.",
        printed: "",
        formula: r"x_t = 0.8\,(0.8, -0.5, 0.3, 1.2) + 0.6\,(0.2, -0.7, 1.1, -0.4)",
        finding: "All four coordinates are right to the digits printed, and the noise is got back from them.",
        mutants: &["root left out", "signal and noise swapped", "noise subtracted"],
        check: example_noisy_sample,
    },
    Claim {
        id: "ghent/example-loss",
        slide: "4D Vector Calculation Example",
        statement: "With the prediction (0.3, -0.5, 0.9, -0.3) the mean squared error is 0.10.",
        reading: "The slide calls the number MSE and computes the squared norm.",
        assumes: "Nothing but the numbers of the slide, whose squared errors are 0.01 and 0.04.",
        printed: "",
        formula: r"\lVert \varepsilon - \varepsilon_\theta \rVert^2 = 0.01 + 0.04 + 0.04 + 0.01 = 0.10, \qquad \frac{1}{4} \lVert \varepsilon - \varepsilon_\theta \rVert^2 = 0.025",
        finding: "True if the loss is the sum of squares over the coordinates, as the formula beside it says. Their mean, which the name MSE and most libraries' default stand for, is 0.025: \
                  a factor of the dimension, which a learning rate has to know.",
        mutants: &["square left out", "root of the sum", "target x0 for eps"],
        check: example_loss,
    },
];

fn points(table: &Table) -> Vec<PathPoint> {
    table.rows().iter().map(|r| PathPoint::still(r.alpha, r.sigma)).collect()
}

/// `E (eps - k x_t)^2` of a mode of variance `lambda` and mean 0.
fn eps_error<S: Scalar>(lambda: S, k: S, at: (S, S)) -> S {
    (k * at.0).powi(2) * lambda + (-k * at.1 + 1.0).powi(2)
}

/// The x0-denoiser that follows from `eps_hat = k x_t`.
fn x0_gain<S: Scalar>(k: S, at: (S, S)) -> S {
    (-at.1 * k + 1.0) / at.0
}

fn lsimple(p: &mut Probe) {
    let (bar, next, root) = (
        p.mutant("alpha_bar for alpha_step in the weight"),
        p.mutant("weight of the next step"),
        p.mutant("deviation for the variance"),
    );
    let weight = move |table: &Table, k: usize| {
        let rows = table.rows();
        let row = &rows[if next { (k + 1).min(rows.len() - 1) } else { k }];
        match (bar, root) {
            (true, _) => row.vlb_weight_beta * row.alpha_step / row.alpha_bar,
            (_, true) => row.vlb_weight_beta * row.beta.sqrt(),
            _ => row.vlb_weight_beta,
        }
    };
    p.property(
        Role::Printed,
        "-ELBO of a linear noise prediction less that of a perfect one, against sum over t of w_t E||eps - eps_theta||^2",
        96,
        "1e-10 of the larger bound: a difference of two bounds, whose SNR steps are known to about 1e-12",
        |t| {
            let table = t.table(t.int(3, 40));
            let variances: Vec<f64> = (0..3).map(|_| t.log_uniform(1e-2, 10.0)).collect();
            let (a, b) = (t.uniform(-0.5, 1.5), t.uniform(-0.5, 1.5));
            let gain = |at: &PathPoint| a + b * at.sigma;
            let data = GaussianData { variances: &variances, mean_square: 0.0 };
            let reverse =
                Reverse { var: ReverseVar::Beta, reconstruction: Reconstruction::Gaussian(table.rows()[0].beta), prior_var: 1.0 };
            let at = |at: &PathPoint| (at.alpha, at.sigma);
            let levels = points(&table);
            let bound = |error: &dyn Fn(&PathPoint, f64) -> f64| {
                gaussian_bound(&levels, data, error, &reverse).expect("a table is a chain").nats()
            };
            let (full, constant) = (bound(&|pt, l| linear_error(l, x0_gain(gain(pt), at(pt)), at(pt))), bound(&|_, _| 0.0));
            let weighted: f64 = levels
                .iter()
                .enumerate()
                .map(|(k, pt)| weight(&table, k) * variances.iter().map(|&l| eps_error(l, gain(pt), at(pt))).sum::<f64>())
                .sum();
            t.compare(full - constant, weighted, 1e-10 * (full.abs() + constant.abs()));
        },
    );
    p.property(
        Role::Printed,
        "slope of a term of the bound and of the plain loss at the same prediction, sigma/(alpha^2 lambda + sigma^2) x_t: both 0",
        96,
        "1e-11 of the term's curvature: rounding of the two parts that cancel",
        |t| {
            let table = t.table(t.int(3, 40));
            let step = t.int(2, table.steps());
            let levels = points(&table);
            let lift = |q: &PathPoint| (Dual64::from_re(q.alpha), Dual64::from_re(q.sigma));
            let (s, at) = (lift(&levels[step - 2]), lift(&levels[step - 1]));
            let lambda = t.log_uniform(1e-2, 10.0);
            let var = at.0.re.powi(2) * lambda + at.1.re.powi(2);
            let k = Dual64::from_re(at.1.re / var).derivative();
            let plain = eps_error(Dual64::from_re(lambda), k, at);
            let drop = elbo::snr_drop(s, at);
            let term =
                elbo::transition(elbo::log_ratio_beta(s, at), drop, linear_error(Dual64::from_re(lambda), x0_gain(k, at), at));
            t.compare(plain.eps, 0.0, 1e-11 * var);
            t.compare(term.eps, 0.0, 1e-11 * var * (drop.re * (at.1.re / at.0.re).powi(2) + 1.0));
        },
    );
    // The betas anew, with the product as a sum of logarithms.
    let table = Table::new(Schedule::LINEAR, 1000, false).expect("DDPM's schedule");
    let beta = |t: usize| 1e-4 + (0.02 - 1e-4) * (t - 1) as f64 / 999.0;
    let least = (1..=1000)
        .min_by(|a, b| weight(&table, a - 1).total_cmp(&weight(&table, b - 1)))
        .expect("steps");
    let exact = (1..=1000).min_by(|a, b| {
        table.rows()[a - 1].vlb_weight_beta.total_cmp(&table.rows()[b - 1].vlb_weight_beta)
    });
    let what = "linear schedule: step of the least weight, against the table's";
    p.number(Role::Printed, what, least as f64, exact.expect("steps") as f64, 0.0, "a count");
    for t in [1, 349, 1000] {
        let log_alpha_bar: f64 = (1..=t).map(|s| (-beta(s)).ln_1p()).sum();
        let want = beta(t) / (2.0 * (1.0 - beta(t)) * -log_alpha_bar.exp_m1());
        p.number(
            Role::Printed,
            format!("linear schedule: w_t at t = {t}, which the simplified loss sets to 1"),
            weight(&table, t - 1),
            want,
            1e-12 * want,
            "a sum of 1000 rounded logarithms",
        );
    }
}

fn lvlb_sum(p: &mut Probe) {
    let (no_prior, no_reconstruction) =
        (p.mutant("without the prior term"), p.mutant("without the reconstruction term"));
    let (prior_std, reverse_std) = (
        p.mutant("deviation for the variance in the prior term"),
        p.mutant("reverse variance given as a deviation"),
    );
    let tolerance =
        "1e-10 of the bound: determinants of up to 7 x 7 covariances of condition below 1e4";
    let both = move |t: &crate::Trial| {
        let betas: Vec<f64> = (0..t.int(2, 6)).map(|_| t.uniform(0.05, 0.6)).collect();
        let table = Table::from_betas(&betas).expect("betas in (0, 1)");
        let levels = points(&table);
        let (lambda, slip) = (t.log_uniform(0.1, 5.0), t.uniform(0.6, 1.3));
        // The denoiser x0_hat = gain x_t is a wrong Wiener filter.
        let gain = |at: &PathPoint| slip * wiener_gain(lambda, at.alpha, at.sigma);
        let vars: Vec<f64> =
            table.rows()[1..].iter().map(|r| r.posterior_var * t.uniform(0.7, 1.6)).collect();
        let first_var = t.uniform(0.05, 0.3);
        let given =
            if reverse_std { vars.iter().map(|v| v.sqrt()).collect() } else { vars.clone() };
        let reverse = Reverse {
            var: ReverseVar::Given(given),
            reconstruction: Reconstruction::Gaussian(first_var),
            prior_var: 1.0,
        };
        let data = GaussianData { variances: &[lambda], mean_square: 0.0 };
        let bound = gaussian_bound(
            &levels,
            data,
            |at, l| linear_error(l, gain(at), (at.alpha, at.sigma)),
            &reverse,
        )
        .expect("a chain");

        // The same as entropies of joint Gaussians of (x0, ..., x_T): E_q ln q(x_1..T|x0) - E_q ln
        // p(x_0..T).
        let n = levels.len() + 1;
        let level =
            |k: usize| if k == 0 { (1.0, 0.0) } else { (levels[k - 1].alpha, levels[k - 1].sigma) };
        let q = DMatrix::from_fn(n, n, |i, j| {
            let (s, t) = (level(i.min(j)), level(i.max(j)));
            t.0 / s.0 * (s.0 * s.0 * lambda + s.1 * s.1)
        });
        let step = |k: usize| match k {
            0 => (gain(&levels[0]), first_var),
            k => {
                let row = &table.rows()[k];
                (row.posterior_coef_xt + row.posterior_coef_x0 * gain(&levels[k]), vars[k - 1])
            }
        };
        let mut var = vec![1.0; n];
        for k in (0..n - 1).rev() {
            let (a, v) = step(k);
            var[k] = a * a * var[k + 1] + v;
        }
        let joint = DMatrix::from_fn(n, n, |i, j| {
            (i.min(j)..i.max(j)).map(|k| step(k).0).product::<f64>() * var[i.max(j)]
        });
        let normal = |cov: DMatrix<f64>| {
            Normal::new(DVector::zeros(cov.nrows()), Covariance::Full(cov))
                .expect("a positive covariance")
        };
        let (q, x0) = (normal(q), normal(DMatrix::from_element(1, 1, lambda)));
        let want =
            q.cross_entropy(&normal(joint)).expect("one dimension") - (q.entropy() - x0.entropy());
        (bound, want, levels[n - 2])
    };
    p.property(
        Role::Printed,
        "sum over t = 2..T of the expected KLs, against -ELBO from the joint Gaussians",
        64,
        tolerance,
        |t| {
            let (bound, want, _) = both(t);
            t.compare(bound.part(Part::Transition), want, 1e-10 * (1.0 + want.abs()));
        },
    );
    let first: Posterior<f64> =
        Posterior::between(Level::CLEAN, Level::new(0.9, 0.19f64.sqrt())).expect("a level");
    p.number(
        Role::Printed,
        "the summand t = 1 as printed, KL(q(x0|x1,x0) || N(0, 0.1)) at x0 = 0, against the reconstruction term that stands there",
        kl_normal(0.0, first.var, 0.0, 0.1),
        elbo::gaussian_reconstruction(0.0, 0.1),
        1e-12,
        "rounding; the KL of a point to a density is infinite",
    );
    p.property(
        Role::Corrected,
        "reconstruction + sum over t = 2..T + prior, against -ELBO from the joint Gaussians",
        64,
        tolerance,
        |t| {
            let (bound, want, last) = both(t);
            let prior = bound.part(Part::Prior)
                + if prior_std { last.sigma.ln() - 0.5 * last.sigma.ln() } else { 0.0 };
            let got = bound.part(Part::Transition)
                + if no_prior { 0.0 } else { prior }
                + if no_reconstruction { 0.0 } else { bound.part(Part::Reconstruction) };
            t.compare(got, want, 1e-10 * (1.0 + want.abs()));
        },
    );
}

fn training_step(p: &mut Probe) {
    let (bars, early, roots, swapped) = (
        p.mutant("bars left out"),
        p.mutant("product up to t - 1"),
        p.mutant("root left out"),
        p.mutant("signal and noise swapped"),
    );
    let corrected = move |table: &Table, t: usize| {
        let row = &table.rows()[if early { t.max(2) - 2 } else { t - 1 }];
        match (bars, roots, swapped) {
            (true, ..) => printed_coefficients(table, t),
            (_, true, _) => (row.alpha_bar, row.sigma * row.sigma),
            (_, _, true) => (row.sigma, row.alpha),
            _ => (row.alpha, row.sigma),
        }
    };
    let draw = |t: &crate::Trial| {
        let table = t.table(t.int(5, 200));
        let step = t.int(2, table.steps());
        // The chain itself: one kernel after the other.
        let chain = table.rows()[..step]
            .iter()
            .map(|r| Transition { scale: r.alpha_step.sqrt(), var: r.beta })
            .reduce(Transition::then)
            .expect("at least two steps");
        (table, step, chain)
    };
    let why = "1e-12: up to 200 products of rounded kernels";
    p.property(
        Role::Printed,
        "signal and noise as printed, against the chain of t kernels",
        96,
        why,
        |t| {
            let (table, step, chain) = draw(t);
            let (signal, noise) = printed_coefficients(&table, step);
            t.compare(signal, chain.scale, 1e-12);
            t.compare(noise, chain.var.sqrt(), 1e-12);
        },
    );
    let table = Table::new(Schedule::LINEAR, 1000, false).expect("DDPM's schedule");
    let log_alpha_bar: f64 = table.rows().iter().map(|r| (-r.beta).ln_1p()).sum();
    let want = (0.5 * log_alpha_bar).exp();
    p.number(
        Role::Printed,
        "linear schedule, t = 1000: share of x0 in the printed sample",
        printed_coefficients(&table, 1000).0,
        want,
        1e-12,
        "a sum of 1000 rounded logarithms",
    );
    p.number(
        Role::Corrected,
        "linear schedule, t = 1000: share of x0 with the bars",
        corrected(&table, 1000).0,
        want,
        1e-12,
        "a sum of 1000 rounded logarithms",
    );
    p.property(
        Role::Corrected,
        "signal and noise with the bars, against the chain of t kernels",
        96,
        why,
        |t| {
            let (table, step, chain) = draw(t);
            let (signal, noise) = corrected(&table, step);
            t.compare(signal, chain.scale, 1e-12);
            t.compare(noise, chain.var.sqrt(), 1e-12);
        },
    );
}

fn printed_coefficients(table: &Table, t: usize) -> (f64, f64) {
    let row = &table.rows()[t - 1];
    (row.alpha_step.sqrt(), row.beta.sqrt())
}

const X0: [f64; 4] = [0.8, -0.5, 0.3, 1.2];
const EPS: [f64; 4] = [0.2, -0.7, 1.1, -0.4];

fn example_noisy_sample(p: &mut Probe) {
    let at: Level<f64> = Level::new(0.64f64.sqrt(), (1.0 - 0.64f64).sqrt());
    let (mut signal, mut noise) = (at.alpha, at.sigma);
    if p.mutant("root left out") {
        (signal, noise) = (0.64, 0.36);
    }
    if p.mutant("signal and noise swapped") {
        (signal, noise) = (noise, signal);
    }
    if p.mutant("noise subtracted") {
        noise = -noise;
    }
    for (i, printed) in [0.76, -0.82, 0.90, 0.72].into_iter().enumerate() {
        let xt = signal * X0[i] + noise * EPS[i];
        p.number(
            Role::Printed,
            format!("x_t, coordinate {}", i + 1),
            xt,
            printed,
            0.005,
            "half a unit of the last digit printed",
        );
        p.number(
            Role::Printed,
            format!("eps got back from x_t and x0, coordinate {}", i + 1),
            (xt - at.alpha * X0[i]) / at.sigma,
            EPS[i],
            8.0 * f64::EPSILON,
            "rounding of a product, a difference and a quotient near 1",
        );
    }
}

fn example_loss(p: &mut Probe) {
    let prediction = array![[0.3, -0.5, 0.9, -0.3]];
    let row = |v: [f64; 4]| Array2::from_shape_vec((1, 4), v.to_vec()).expect("four numbers");
    let kind = p.pick(Prediction::Eps, "target x0 for eps", Prediction::X0);
    let frame = Frame::from(&PathPoint::still(0.8, 0.6));
    let mut sum = squared_errors(kind, prediction.view(), row(X0).view(), row(EPS).view(), &frame)
        .expect("one shape")[0];
    if p.mutant("square left out") {
        sum = (&prediction - &row(EPS)).mapv(f64::abs).sum();
    }
    if p.mutant("root of the sum") {
        sum = sum.sqrt();
    }
    p.number(
        Role::WithCondition,
        "sum of the squared errors",
        sum,
        0.10,
        0.005,
        "half a unit of the last digit printed",
    );
    p.number(
        Role::WithoutCondition,
        "mean of the squared errors",
        sum / 4.0,
        0.10,
        0.005,
        "half a unit of the last digit printed",
    );
}
