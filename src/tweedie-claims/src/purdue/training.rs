//! Three perspectives on the training objective: one bound, many VAEs, many denoising autoencoders.

use crate::chain::{Step, joint};
use crate::{Claim, Probe, Role, Trial};
use nalgebra::DVector;
use ndarray::{Array1, Array2, array};
use tweedie::diffusion::elbo::{Reconstruction, Reverse, ReverseVar, bound, linear_error, mmse};
use tweedie::diffusion::kernel::{random_walk, random_walk_posterior};
use tweedie::diffusion::level::Rates;
use tweedie::diffusion::loss::{loss_ratio, squared_errors};
use tweedie::diffusion::prediction::{Frame, Prediction};
use tweedie::diffusion::weighting::{Weighting, vlb_discrete};
use tweedie::diffusion::{Denoiser, PathPoint};
use tweedie::exact::vae::{Encoder, LinearVae};
use tweedie::law::Gaussian;
use tweedie::math::gaussian::{Covariance, Normal, kl_normal_var};
use tweedie::math::larger;

const EPS: f64 = f64::EPSILON;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "purdue/elbo-reconstruction-weight",
        slide: "Training(1): Reweighted ELBO simplifies to predicting noise from noisy input at each time t",
        statement: "With unit-variance reverse steps the negative ELBO reduces to E_t [1/(2 t^2) ||x0 - x0_theta(x_t, t)||^2].",
        reading: "The slide writes mu_theta(x_t, t) inside the norm and says that it tries to predict the clean x; two slides before, mu_theta is the mean of the reverse step. Read as the prediction of x0, from which the step's mean is (1 - 1/t) x_t + (1/t) x0_theta.",
        assumes: "The random walk with unit steps; p(x_{t-1}|x_t) = N((1 - 1/t) x_t + (1/t) x0_theta, I) and p(x0|x_1) = N(x0_theta, I).",
        printed: "",
        formula: r"-ELBO = \sum_{t=1}^{T} \mathbb{E}\left[\frac{1}{2 t^2}\,\|x_0 - x_{0,\theta}(x_t, t)\|^2\right] + C",
        finding: "The posterior's weight of x0 is 1/t, its square over twice the unit variance is the weight; t = 1 is the reconstruction. What does not depend on theta (the prior term and the cost of variance 1 in place of 1 - 1/t) is left out, and the sum over t is T times the mean over t.",
        mutants: &["weight 1/(2t)", "posterior variance in place of 1", "factor one half left out"],
        check: reconstruction_weight,
    },
    Claim {
        id: "purdue/x0-error-is-noise-error",
        slide: "Training(1): Reweighted ELBO simplifies to predicting noise from noisy input at each time t",
        statement: "With mu_theta = x_t - eps_theta, ||x0 - mu_theta||^2 = ||eps_t - eps_theta||^2 for the whole noise eps_t = x_t - x0.",
        reading: "",
        assumes: "eps_t ~ N(0, t I), not of unit variance.",
        printed: "",
        formula: r"\|x_0 - (x_t - \varepsilon_\theta)\|^2 = \|\varepsilon_t - \varepsilon_\theta\|^2, \qquad \varepsilon_t = x_t - x_0",
        finding: "An identity in each state. For noise of unit variance, x_t = x0 + sqrt(t) eps, the same errors differ by the factor t = 1/SNR.",
        mutants: &["unit-variance noise", "noise added, not subtracted", "square dropped"],
        check: x0_error,
    },
    Claim {
        id: "purdue/many-vaes",
        slide: "Training(2): Multiple VAEs with fixed encoder and shared parameters",
        statement: "Encoder N(x, t) and decoder N(z - t eps_t(z), t) for every t make the VAE objectives equal to min E||eps - eps_theta(x + t eps)||^2.",
        reading: "The scan has N(z, t]) for the encoder, read as N(x, t I): in the same list it takes an x for a z more than once, and the derivation below has z = x + t eps. The factor before the norm is garbled; read as 1/(2 t^2).",
        assumes: "eps ~ N(0, I); the encoder has no parameters, so its divergence from the prior is a constant.",
        printed: "",
        formula: r"-ELBO_t = \mathbb{E}\,\frac{1}{2 t^2}\,\|x - (z - t\,\varepsilon_\theta(z))\|^2 + C_t = \frac{1}{2}\,\mathbb{E}\,\|\varepsilon - \varepsilon_\theta(x + t\,\varepsilon)\|^2 + C_t",
        finding: "It holds if the second parameter is a standard deviation, N(x, t^2 I): then z = x + t eps, and every t has the same weight, so that the sum over t is the shared objective. Read as a variance it gives z = x + sqrt(t) eps: the best decoder's eps_theta is E[eps|z]/sqrt(t), ten times too small at t = 100, and each t has an objective of its own.",
        mutants: &[
            "encoder of variance t",
            "decoder without the factor t",
            "factor one half left out",
        ],
        check: many_vaes,
    },
    Claim {
        id: "purdue/denoising-autoencoder",
        slide: "Training(3): Multiple denoising AEs",
        statement: "E||x - (z - t eps_theta(z))||^2 = E[t^2 ||eps - eps_theta(z)||^2] for z = x + t eps.",
        reading: "",
        assumes: "t is the standard deviation of the added noise.",
        printed: "",
        formula: r"\|x - (z - t\,\varepsilon_\theta(z))\|^2 = t^2\,\|\varepsilon - \varepsilon_\theta(z)\|^2",
        finding: "An identity in each state, for any function eps_theta, and so for the expectations; t^2 = 1/SNR is the general ratio of the x0-loss to the eps-loss.",
        mutants: &["t for its square", "noise of variance t", "inverse factor"],
        check: denoising_autoencoder,
    },
    Claim {
        id: "purdue/autoencoder-weight",
        slide: "Training(3): Multiple denoising AEs",
        statement: "Weighting the t-th denoising autoencoder by 1/t^2 gives the shared noise-prediction objective.",
        reading: "",
        assumes: "t is the standard deviation of the added noise; parameters are shared over t.",
        printed: "",
        formula: r"\sum_t \frac{1}{t^2}\,\mathbb{E}\,\|x - g_t(x + t\,\varepsilon)\|^2 = \sum_t \mathbb{E}\,\|\varepsilon - \varepsilon_\theta(x + t\,\varepsilon)\|^2",
        finding: "1/t^2 is the SNR, and SNR weighting of the x0-loss is uniform weighting of the eps-loss. With parameters shared the weight matters: without it another eps_theta is best.",
        mutants: &["no weight", "weight 1/t", "weight t^2"],
        check: autoencoder_weight,
    },
];

fn reconstruction_weight(p: &mut Probe) {
    let slow = p.mutant("weight 1/(2t)");
    let posterior_var = p.mutant("posterior variance in place of 1");
    let doubled = p.mutant("factor one half left out");
    let weight = move |t: f64| {
        let var =
            if posterior_var && t > 1.0 { random_walk_posterior(t - 1.0, t).var } else { 1.0 };
        let w = vlb_discrete(random_walk(t - 1.0), random_walk(t), var).expect("noise grows").x0;
        w * if slow { t } else { 1.0 } * if doubled { 2.0 } else { 1.0 }
    };
    p.property(
        Role::Printed,
        "the bound's weight of ||x0 - x0_theta||^2 at step t, against 1/(2 t^2)",
        128,
        "rounded roots of t and t - 1 keep eps t of their gap",
        |t| {
            let time = t.int(1, 1000) as f64;
            t.compare_rel(weight(time), 0.5 / (time * time), 16.0 * time);
        },
    );
    let why = "a difference of variances 1 - 1/t and 1, and residuals against unit variances";
    p.property(
        Role::Printed,
        "KL(q(x_{t-1}|x_t,x0) || N(., I)) in three dimensions, by linear algebra",
        128,
        why,
        |t| {
            let time = t.int(2, 200) as f64;
            let (x0, hat, xt) = (t.normals(3), t.normals(3), t.normals(3) * time.sqrt());
            let step = random_walk_posterior(time - 1.0, time);
            let law = |x0: &Array1<f64>, var: f64| {
                let mean = DVector::from_fn(3, |i, _| (1.0 - 1.0 / time) * xt[i] + x0[i] / time);
                Normal::new(mean, Covariance::Isotropic(var)).expect("a variance")
            };
            let kl = law(&x0, 1.0 - 1.0 / time).kl(&law(&hat, 1.0)).expect("same dimension");
            let error = (&x0 - &hat).dot(&(&x0 - &hat));
            let constant = 3.0 * kl_normal_var(step.var, 1.0);
            t.compare(
                weight(time) * error + constant,
                kl,
                64.0 * EPS * (1.0 + kl + time * weight(time) * error),
            );
        },
    );
    let why = "sums of up to 40 terms, each known to eps t";
    p.property(
        Role::Printed,
        "difference of the whole negative ELBO of two models, t = 1 included",
        64,
        why,
        |t| {
            let steps = t.int(2, 40);
            let points: Vec<_> =
                (1..=steps).map(|k| PathPoint::still(1.0, (k as f64).sqrt())).collect();
            let reverse = Reverse {
                var: ReverseVar::Given(vec![1.0; steps - 1]),
                reconstruction: Reconstruction::Gaussian(1.0),
                prior_var: steps as f64,
            };
            let errors: [Vec<f64>; 2] =
                std::array::from_fn(|_| (0..steps).map(|_| t.log_uniform(0.1, 10.0)).collect());
            let [a, b] = errors
                .each_ref()
                .map(|e| bound(&points, 3, 5.0, e, &reverse).expect("a bound").nats());
            let want: f64 =
                (0..steps).map(|k| weight(k as f64 + 1.0) * (errors[0][k] - errors[1][k])).sum();
            t.compare(want, a - b, 64.0 * EPS * steps as f64 * (a.abs() + b.abs()));
        },
    );
}

fn x0_error(p: &mut Probe) {
    let (unit, added, dropped) = (
        p.mutant("unit-variance noise"),
        p.mutant("noise added, not subtracted"),
        p.mutant("square dropped"),
    );
    let why = "x_t - (x_t - x0) rounds to eps |x_t|, and its square accordingly";
    p.property(
        Role::Printed,
        "both squared errors, for random data, noise and predictions in four dimensions",
        256,
        why,
        |t| {
            let time = t.int(1, 1000) as f64;
            let (x0, eps) = (t.normal_rows(1, 4), t.normal_rows(1, 4));
            let whole = &eps * time.sqrt();
            let xt = &x0 + &whole;
            let eps_theta = &whole + &(t.normal_rows(1, 4) * t.log_uniform(0.1, 10.0));
            // The whole noise is the noise of a frame with sigma = 1.
            let frame = Frame {
                alpha: 1.0,
                sigma: 1.0,
                rates: Some(Rates::new(0.0, 1.0)),
                sigma_data: 0.5,
            };
            let mean = if added { &xt + &eps_theta } else { &xt - &eps_theta };
            let x0_side =
                squared_errors(Prediction::X0, mean.view(), x0.view(), whole.view(), &frame)
                    .expect("shapes")[0];
            let target = if unit { &eps } else { &whole };
            let eps_side =
                squared_errors(Prediction::Eps, eps_theta.view(), x0.view(), target.view(), &frame)
                    .expect("shapes")[0];
            let got = if dropped { x0_side.sqrt() } else { x0_side };
            let size = xt.iter().chain(&eps_theta).map(|x| x.abs()).fold(0.0, larger);
            t.compare(got, eps_side, 32.0 * EPS * size * (x0_side.sqrt() + size * EPS));
        },
    );
    p.property(
        Role::Printed,
        "for unit-variance noise the two errors differ by the factor t",
        128,
        "sqrt(t) squared again",
        |t| {
            let time = t.int(1, 1000) as f64;
            let level = random_walk(time);
            let frame = Frame {
                alpha: 1.0,
                sigma: level.sigma,
                rates: Some(Rates::new(0.0, 1.0)),
                sigma_data: 0.5,
            };
            t.compare_rel(
                loss_ratio(Prediction::X0, Prediction::Eps, &frame).expect("both see errors"),
                time,
                4.0,
            );
        },
    );
}

/// `-ELBO` at x of the VAE with encoder `N(x, cov)` and decoder `N(z - factor (a z + b), cov)`.
fn vae_loss(
    x: &Array1<f64>,
    a: &Array2<f64>,
    b: &Array1<f64>,
    factor: f64,
    encoder_var: f64,
    decoder_var: f64,
) -> f64 {
    let one = Array2::<f64>::eye(x.len());
    let mean = b * -factor;
    let vae =
        LinearVae::new(mean.clone(), &one - &(a * factor), decoder_var).expect("a noise variance");
    let encoder = Encoder { gain: one.clone(), shift: mean, cov: one * encoder_var };
    -vae.elbo(x.view().insert_axis(ndarray::Axis(0)), &encoder).expect("shapes")[0]
}

/// `E||eps - (A z + b)||^2` at x for `z = x + t eps`: the mean of the bracket and what multiplies
/// eps.
fn noise_loss(x: &Array1<f64>, a: &Array2<f64>, b: &Array1<f64>, t: f64) -> f64 {
    let mean = a.dot(x) + b;
    let rest = Array2::<f64>::eye(x.len()) - a * t;
    mean.dot(&mean) + rest.iter().map(|r| r * r).sum::<f64>()
}

fn many_vaes(p: &mut Probe) {
    let encoder_slip = p.mutant("encoder of variance t");
    let bare = p.mutant("decoder without the factor t");
    let doubled = p.mutant("factor one half left out");
    // Two linear noise predictors, each with a scale that suits t.
    let draw = |t: &Trial, time: f64| (t.normal_rows(2, 2) * (0.5 / time), t.normals(2) * 0.5);
    let difference = |t: &Trial, time: f64, encoder_var: f64, decoder_var: f64| {
        let x = t.normals(2);
        let models = [draw(t, time), draw(t, time)];
        let factor = if bare { 1.0 } else { time };
        let [a, b] =
            models.each_ref().map(|(a, b)| vae_loss(&x, a, b, factor, encoder_var, decoder_var));
        let [c, d] = models.each_ref().map(|(a, b)| noise_loss(&x, a, b, time));
        let half = if doubled { 1.0 } else { 0.5 };
        t.compare(a - b, half * (c - d), 64.0 * EPS * (a.abs() + b.abs() + encoder_var + c + d));
    };
    let why = "differences of two bounds whose constant part has terms of size t^2";
    p.property(
        Role::WithCondition,
        "t as a deviation: difference of -ELBO between two eps_theta, against half that of E||eps - eps_theta||^2",
        128,
        why,
        |t| {
            let time = t.int(2, 100) as f64;
            difference(t, time, if encoder_slip { time } else { time * time }, time * time);
        },
    );
    p.property(Role::WithoutCondition, "t as a variance: the same differences", 128, why, |t| {
        let time = t.int(2, 100) as f64;
        difference(t, time, time, time);
    });
    // The best decoder of N(z - t eps_theta, .) has z - t eps_theta = E[x|z]; eps is what the
    // encoder really added.
    let law = Gaussian::isotropic(array![0.0], 1.0).expect("a variance");
    let ratio = |time: f64, std: f64| {
        let mut x_hat = array![[0.0]];
        law.denoise(array![[3.0]].view(), &PathPoint::still(1.0, std), x_hat.view_mut())
            .expect("an exact law");
        let removed = 3.0 - x_hat[[0, 0]];
        (removed / time) / (removed / std)
    };
    let why = "c eps";
    p.number(
        Role::WithCondition,
        "t = 100 as a deviation: best eps_theta over E[eps|z]",
        ratio(100.0, 100.0),
        1.0,
        1e-14,
        why,
    );
    p.number(
        Role::WithoutCondition,
        "t = 100 as a variance: best eps_theta over E[eps|z]",
        ratio(100.0, 10.0),
        1.0,
        1e-14,
        why,
    );
}

/// The frame of `z = x + t eps`.
fn additive(t: f64) -> Frame<f64> {
    Frame { alpha: 1.0, sigma: t, rates: Some(Rates::new(0.0, 1.0)), sigma_data: 0.5 }
}

fn denoising_autoencoder(p: &mut Probe) {
    let (linear, variance, inverse) =
        (p.mutant("t for its square"), p.mutant("noise of variance t"), p.mutant("inverse factor"));
    let factor = move |t: f64| {
        let f = loss_ratio(Prediction::X0, Prediction::Eps, &additive(t)).expect("both see errors");
        match () {
            _ if linear => f.sqrt(),
            _ if inverse => 1.0 / f,
            _ => f,
        }
    };
    let why = "x - (z - t eps_theta) rounds to eps (|x| + t), times the error itself";
    p.property(
        Role::Printed,
        "both sides at random x, eps and a nonlinear eps_theta in four dimensions",
        256,
        why,
        |t| {
            let time = t.log_uniform(0.05, 100.0);
            let (x, eps) = (t.normal_rows(1, 4), t.normal_rows(1, 4));
            let z = &x + &(&eps * if variance { time.sqrt() } else { time });
            let (slope, shift) = (t.normal(), t.normal());
            let eps_theta = z.mapv(|z| (slope * z + shift).tanh());
            let decoded = &z - &(&eps_theta * time);
            let left = squared_errors(
                Prediction::X0,
                decoded.view(),
                x.view(),
                eps.view(),
                &additive(time),
            )
            .expect("shapes")[0];
            let right = squared_errors(
                Prediction::Eps,
                eps_theta.view(),
                x.view(),
                eps.view(),
                &additive(time),
            )
            .expect("shapes")[0];
            let size = 8.0 * (1.0 + time);
            t.compare(left, factor(time) * right, 32.0 * EPS * size * (left.sqrt() + EPS * size));
        },
    );
    p.property(
        Role::Printed,
        "the least errors for Gaussian data: E||x - E[x|z]||^2 against t^2 Var[eps|z] by conditioning",
        128,
        "conditioning of (eps, z), whose covariance has the condition (var + t^2)/var",
        |t| {
            let (time, lambda) = (t.log_uniform(0.05, 100.0), t.log_uniform(0.1, 10.0));
            // (eps, z): z = t eps + x.
            let law = joint(0.0, 1.0, &[Step::new(time, lambda)]);
            let left_over = law.condition(&[1], &[0.3]).expect("z has variance").cov_matrix()[(0, 0)];
            let left = mmse(lambda, (1.0, if variance { time.sqrt() } else { time }));
            t.compare(left, factor(time) * left_over, 16.0 * EPS * factor(time));
        },
    );
}

fn autoencoder_weight(p: &mut Probe) {
    let (none, linear, inverse) =
        (p.mutant("no weight"), p.mutant("weight 1/t"), p.mutant("weight t^2"));
    let weight = move |t: f64| {
        let w = Weighting::Simple.weights(-2.0 * t.ln()).x0;
        match () {
            _ if none => 1.0,
            _ if linear => w.sqrt(),
            _ if inverse => 1.0 / w,
            _ => w,
        }
    };
    p.property(
        Role::Printed,
        "the uniform weighting of the eps-loss, stated on the x0-loss, against 1/t^2",
        64,
        "an exponential of a logarithm",
        |t| {
            let time = t.log_uniform(0.05, 1000.0);
            t.compare_rel(weight(time), 1.0 / (time * time), 16.0);
        },
    );
    let why = "sums of positive terms, each an exponential of a logarithm";
    p.property(
        Role::Printed,
        "weighted sum over t = 1..T of E||x - g_t(z)||^2, against that of E||eps - eps_theta(z)||^2",
        128,
        why,
        |t| {
            let (steps, lambda) = (t.int(2, 50), t.log_uniform(0.1, 10.0));
            let (mut autoencoders, mut noise) = (0.0, 0.0);
            for time in (1..=steps).map(|k| k as f64) {
                // g_t(z) = gain z, so eps_theta = (1 - gain) z / t, and eps - eps_theta = gain eps - (1 - gain) x / t.
                let gain = t.uniform(0.0, 1.0);
                autoencoders += weight(time) * linear_error(lambda, gain, (1.0, time));
                noise += gain * gain + (1.0 - gain).powi(2) * lambda / (time * time);
            }
            t.compare_rel(autoencoders, noise, 32.0);
        },
    );
    // One shared slope c, eps_theta(z) = c z: the sums are quadratic in c.
    p.property(
        Role::Printed,
        "the best shared slope of eps_theta: from the weighted autoencoders, against regression of eps on z",
        64,
        "quotients of positive sums",
        |t| {
            let (steps, lambda) = (t.int(2, 50), t.log_uniform(0.1, 10.0));
            let times = || (1..=steps).map(|k| k as f64);
            // x - (z - t c z) = -(t eps) + t c z: normal equation in c, with E[eps z] = t and
            // E[z^2] = var + t^2.
            let weighted = |f: &dyn Fn(f64) -> f64| times().map(|s| weight(s) * s * s * f(s)).sum::<f64>();
            let got = weighted(&|s| s) / weighted(&|s| lambda + s * s);
            let want = times().sum::<f64>() / times().map(|s| lambda + s * s).sum::<f64>();
            t.compare_rel(got, want, 32.0);
        },
    );
}
