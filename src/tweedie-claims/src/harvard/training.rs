//! Weightings and weight averaging.

use crate::{Claim, Probe, Role};
use nalgebra::{Matrix2, Matrix4, Vector4};
use tweedie::diffusion::level::Rates;
use tweedie::diffusion::loss::{loss_ratio, squared_errors};
use tweedie::diffusion::prediction::{Conversion, Frame, Prediction};
use tweedie::diffusion::weighting::{Weighting, vlb_continuous};
use tweedie::exact::averaging::{lag, variance_ratio, window};

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "harvard/implicit-weighting",
        slide: "Training Details",
        statement: "The type of the loss is an implicit weighting over noise levels.",
        reading: "",
        assumes: "One network read under several losses, at sigma > 0 and alpha > 0. The density from which levels are drawn weighs them too, by the same product.",
        printed: "",
        formula: r"\|\varepsilon-\hat\varepsilon\|^2 = \frac{\alpha^2}{\sigma^2}\|x_0-\hat x_0\|^2,\quad \|v-\hat v\|^2 = \left(\frac{\alpha^2+\sigma^2}{\sigma}\right)^2\|x_0-\hat x_0\|^2,\quad \|u-\hat u\|^2 = \left(\frac{\alpha\dot\sigma-\sigma\dot\alpha}{\sigma}\right)^2\|x_0-\hat x_0\|^2",
        finding: "The factor is a function of the level alone, for any network and any data: SNR for eps, SNR + 1 for v on the variance-preserving circle, 1/t^2 for flow matching. \
                  A level drawn uniformly in t under the eps-loss is worth -d(log SNR)/dt /2 in the bound, so that the schedule is a weighting as well.",
        mutants: &[
            "factor without its square",
            "SNR upside down",
            "factor of v off the circle",
            "min-SNR weight divided by an SNR of 0",
        ],
        check: implicit_weighting,
    },
    Claim {
        id: "harvard/ema",
        slide: "Training Details",
        statement: "An exponential moving average smooths the weights along the training trajectory.",
        reading: "",
        assumes: "One weight of a linear model near its optimum under constant SGD steps with independent noise: w' = a w + noise with a = 1 - (learning rate)(curvature) in (-1, 1). The average is m' = g m + (1-g) w'.",
        printed: "",
        formula: r"\frac{\operatorname{Var} m}{\operatorname{Var} w} = \frac{1-g}{1+g} \cdot \frac{1+a g}{1-a g}, \qquad \text{window} = \frac{1+g}{1-g}, \qquad \text{lag} = \frac{g}{1-g}",
        finding: "For g in (0, 1) the variance falls for every stable step, by the window of independent weights times how strongly successive ones are correlated: g = 0.9999 averages over 19999 independent weights, \
                  but of the variance of weights that themselves move slowly, with a = 0.999, it leaves 9%. The price is a lag of g/(1-g) steps behind a weight that drifts.",
        mutants: &[
            "correlation of the weights left out",
            "deviation for variance",
            "lag of 1/(1-g)",
            "average by 1-g",
        ],
        check: ema,
    },
];

fn implicit_weighting(p: &mut Probe) {
    let (linear, upside, circle) = (
        p.mutant("factor without its square"),
        p.mutant("SNR upside down"),
        p.mutant("factor of v off the circle"),
    );
    let divided = p.mutant("min-SNR weight divided by an SNR of 0");
    let factor = move |kind: Prediction, at: &Frame<f64>| {
        let factor = match kind {
            Prediction::Eps if upside => at.sigma / at.alpha,
            Prediction::Eps => at.alpha / at.sigma,
            Prediction::V if circle => (1.0 + (at.alpha / at.sigma).powi(2)).sqrt(),
            Prediction::V => (at.alpha * at.alpha + at.sigma * at.sigma) / at.sigma,
            Prediction::Velocity => {
                let rates = at.rates.expect("rates");
                (at.alpha * rates.sigma - at.sigma * rates.alpha) / at.sigma
            }
            _ => 1.0,
        };
        if linear { factor } else { factor * factor }
    };
    const KINDS: [Prediction; 4] =
        [Prediction::X0, Prediction::Eps, Prediction::V, Prediction::Velocity];
    p.property(
        Role::Printed,
        "squared error under each loss over that of x0, for one random network, against the slide's kind of factor",
        128,
        "1e-9 relative: an error of 1 is the difference of numbers up to 1e3",
        |t| {
            let frame = Frame {
                alpha: t.uniform(0.1, 1.0),
                sigma: t.uniform(0.05, 2.0),
                rates: Some(Rates::new(t.uniform(-2.0, 0.0), t.uniform(0.2, 2.0))),
                sigma_data: 0.5,
            };
            let (x0, eps, error) = (t.normal_rows(2, 3), t.normal_rows(2, 3), t.normal_rows(2, 3) + 2.0);
            let (x, x0_hat) = (&x0 * frame.alpha + &eps * frame.sigma, &x0 + &error);
            let square = |kind: Prediction| {
                let mut out = x0_hat.clone();
                let conversion = Conversion::new(Prediction::X0, kind, frame).expect("sigma > 0");
                conversion.apply_batch(x0_hat.view(), x.view(), out.view_mut()).expect("shapes fit");
                squared_errors(kind, out.view(), x0.view(), eps.view(), &frame).expect("shapes fit").sum()
            };
            for kind in KINDS {
                let got = square(kind) / square(Prediction::X0);
                t.compare(got, factor(kind, &frame), 1e-9 * got);
                t.compare(loss_ratio(kind, Prediction::X0, &frame).expect("sigma > 0"), got, 1e-9 * got);
            }
        },
    );
    p.property(
        Role::Printed,
        "the bound's weight on the eps-loss at uniform t, against -d(log SNR)/dt / 2 by a difference",
        96,
        "1e-6 relative: a central difference of step 1e-5",
        |t| {
            let path = t.path();
            let (time, h) = (t.uniform(0.1, 0.9), 1e-5);
            let rate = (path.log_snr(time + h).expect("inside") - path.log_snr(time - h).expect("inside")) / (2.0 * h);
            let got = vlb_continuous(&Frame::from(&path.at(time).expect("inside"))).expect("sigma > 0").eps;
            t.compare(got, -0.5 * rate, 1e-6 * got);
        },
    );
    p.property(
        Role::Printed,
        "weight 1 on the eps-loss, read on the losses of x0 and v: SNR, and alpha^2",
        96,
        "1e-12 relative",
        |t| {
            let l = t.uniform(-8.0, 8.0);
            let (w, frame) = (Weighting::Simple.weights(l), Frame::variance_preserving(l));
            t.compare(w.x0, factor(Prediction::Eps, &frame), 1e-12 * w.x0);
            t.compare(
                w.v,
                factor(Prediction::Eps, &frame) / factor(Prediction::V, &frame),
                1e-12 * w.v,
            );
        },
    );
    p.property(
        Role::Printed,
        "weight min(SNR, 5) on the loss of x0, read on that of eps: min(1, 5/SNR), at pure noise too",
        96,
        "256 ulp: the exponential of a log-SNR up to 30",
        |t| {
            for l in [t.uniform(-30.0, 30.0), f64::NEG_INFINITY] {
                let snr = l.exp();
                let weight = Weighting::MinSnr { gamma: 5.0 }.weights(l);
                let got = if divided { snr.min(5.0) / snr } else { weight.eps };
                t.compare_rel(got, if snr <= 5.0 { 1.0 } else { 5.0 / snr }, 256.0);
                t.compare_rel(weight.x0, snr.min(5.0), 256.0);
            }
        },
    );
}

fn ema(p: &mut Probe) {
    let (alone, deviation) =
        (p.mutant("correlation of the weights left out"), p.mutant("deviation for variance"));
    let (ahead, reversed) = (p.mutant("lag of 1/(1-g)"), p.mutant("average by 1-g"));
    let ratio = move |a: f64, g: f64| {
        let g = if reversed { 1.0 - g } else { g };
        let ratio = if alone { window(g).recip() } else { variance_ratio(a, g) };
        if deviation { ratio.sqrt() } else { ratio }
    };
    p.property(
        Role::Printed,
        "variance of the average over that of the weight, against the stationary covariance of the pair (linear equations)",
        128,
        "1e-9 relative: the equations have condition 1/((1-a)(1-g)), up to 1e5",
        |t| {
            let (a, g) = (t.uniform(-0.9, 0.999), t.uniform(0.01, 0.99));
            // (w, m)' = F (w, m) + (1, 1-g) noise; vec(P) = (F x F) vec(P) + vec(q q^T).
            let f = Matrix2::new(a, 0.0, (1.0 - g) * a, g);
            let q = Vector4::new(1.0, 1.0 - g, 1.0 - g, (1.0 - g) * (1.0 - g));
            let p = (Matrix4::identity() - f.kronecker(&f)).lu().solve(&q).expect("stable");
            t.compare(ratio(a, g), p[3] / p[0], 1e-9 * (p[3] / p[0]));
        },
    );
    p.property(
        Role::Printed,
        "the same, against the double sum over the weights' autocovariances",
        32,
        "1e-10 relative: the sums end where g^k is 1e-13",
        |t| {
            let (a, g) = (t.uniform(-0.9, 0.99), t.uniform(0.2, 0.9));
            let n = (1e-13f64.ln() / g.ln()).ceil() as i32;
            let mut sum = 0.0;
            for lag in -n..=n {
                // sum over i, j >= 0 with i - j = lag of (1-g)^2 g^(i+j) a^|lag|
                sum += (1.0 - g).powi(2) * a.powi(lag.abs()) * g.powi(lag.abs()) / (1.0 - g * g);
            }
            t.compare(ratio(a, g), sum, 1e-10 * sum);
        },
    );
    p.property(
        Role::Printed,
        "independent weights: (1+g)/(1-g) of them, against 1 over the sum of the squared shares",
        64,
        "1e-10 relative",
        |t| {
            let g = t.uniform(0.2, 0.95);
            let squares: f64 = (0..2000).map(|k| ((1.0 - g) * g.powi(k)).powi(2)).sum();
            t.compare(1.0 / ratio(0.0, g), 1.0 / squares, 1e-10 / squares);
        },
    );
    // The double sum over lags again, to where g^lag is 1e-15.
    let summed = |a: f64, g: f64| {
        let lags = (1..(1e-15f64.ln() / g.ln()) as i32).map(|lag| (a * g).powi(lag)).sum::<f64>();
        (1.0 - g).powi(2) * (1.0 + 2.0 * lags) / (1.0 - g * g)
    };
    let what = "g = 0.9999: number of independent weights averaged, against the sum over lags";
    p.number(
        Role::Printed,
        what,
        1.0 / ratio(0.0, 0.9999),
        1.0 / summed(0.0, 0.9999),
        1e-6,
        "1 - g is known to 1e-12 of itself",
    );
    let what = "g = 0.9999, a = 0.999: share of the variance left, against the sum over lags";
    p.number(
        Role::Printed,
        what,
        ratio(0.999, 0.9999),
        summed(0.999, 0.9999),
        1e-9,
        "1 - g is known to 1e-12 of itself",
    );
    p.property(
        Role::Printed,
        "the variance never grows: ratio less 1, above 0",
        128,
        "0 or below",
        |t| {
            t.compare(
                (ratio(t.uniform(-0.99, 0.9999), t.uniform(0.01, 0.9999)) - 1.0).max(0.0),
                0.0,
                0.0,
            );
        },
    );
    p.property(
        Role::Printed,
        "lag behind a weight that drifts by 1 a step, in steps, against the average run for long",
        32,
        "1e-9: the start is forgotten by 1e-13",
        |t| {
            let g = t.uniform(0.2, 0.95);
            let steps = (1e-15f64.ln() / g.ln()).ceil() as usize;
            let m = (0..=steps).fold(0.0, |m, k| g * m + (1.0 - g) * k as f64);
            t.compare(if ahead { lag(g) + 1.0 } else { lag(g) }, steps as f64 - m, 1e-9);
        },
    );
}
