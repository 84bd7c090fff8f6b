//! The diffusion process itself, for any data: noise schedules and paths, kernels, predictions,
//! weightings, the ELBO.
//!
//! What a formula needs of a schedule at one time is a [`Level`](level::Level) or, for a velocity,
//! a [`Moving`](level::Moving) one; a model is asked at a [`PathPoint`]. VP, VE, EDM, cosine, flow
//! matching and the discrete DDPM tables differ only in how they make these.

pub mod decoder;
pub mod denoiser;
pub mod elbo;
pub mod kernel;
pub mod level;
pub mod loss;
pub mod path;
pub mod preconditioning;
pub mod prediction;
pub mod reparametrise;
pub mod schedule;
pub mod sde;
pub mod weighting;

pub use denoiser::Denoiser;
pub use path::{Path, PathPoint};

#[cfg(test)]
mod extremes {
    use super::kernel::{Posterior, Transition};
    use super::level::{Level, Moving, Rates};
    use super::loss::loss_ratio;
    use super::prediction::{Conversion, Frame, Prediction};
    use super::sde::Sde;
    use super::weighting::Weighting;
    use proptest::prelude::*;

    fn size() -> impl Strategy<Value = f64> {
        (-300.0..300.0f64).prop_map(|e| 10f64.powf(e))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever is returned as a value is a number: what has none is an error, but for
        /// conversions whose x0 or eps leave the range on the way. Infinite only where the
        /// documentation says so, a weight of a loss that vanishes, or where the exact value is
        /// beyond the range.
        #[test]
        fn no_value_is_nan((alpha, sigma, p, xt) in (size(), size(), size(), size()), (d_alpha, d_sigma) in (size(), size()), noisier in size()) {
            let rates = Rates::new(-d_alpha, d_sigma);
            let at = Frame { alpha, sigma, rates: Some(rates), sigma_data: 0.5 };
            for a in Prediction::ALL {
                for b in Prediction::ALL {
                    if let Ok(ratio) = loss_ratio(a, b, &at) {
                        prop_assert!(ratio.is_finite(), "{a} against {b} at {at:?}: {ratio}");
                    }
                    if let Ok(conversion) = Conversion::new(a, b, at) {
                        // Terms of one sign: the difference of two that overflow has no value.
                        let y = conversion.apply(p, xt);
                        let z = conversion.apply(-p, xt);
                        let sizes = [1.0, alpha, sigma, d_alpha, d_sigma];
                        let passes = |kind, p| {
                            let part = Conversion::new(a, kind, at).map_or(f64::INFINITY, |c| c.apply(p, xt));
                            sizes.iter().all(|size| (size * part).is_finite())
                        };
                        let in_range = [Prediction::X0, Prediction::Eps].iter().all(|kind| passes(*kind, p) && passes(*kind, -p));
                        prop_assert!(!in_range || !y.is_nan() || !z.is_nan(), "{b} from {a} at {at:?}: {y} {z}");
                    }
                }
                for name in ["simple", "x0", "snr+1", "truncated-snr", "min-snr", "edm", "sigmoid", "p2"] {
                    if let Ok(weight) = name.parse::<Weighting>().unwrap().weight(a, &at) {
                        prop_assert!(!weight.is_nan(), "{name} on {a} at {at:?}");
                    }
                }
            }
            if let Ok(sde) = Sde::at(&Moving { level: Level::new(alpha, sigma), rates }) {
                prop_assert!(sde.f.is_finite() && sde.g2.is_finite());
            }
            let (s, t) = (Level::new(alpha, sigma), Level::new(alpha, sigma * (1.0 + noisier)));
            if t.sigma.is_finite() {
                let (q, posterior) = (Transition::between(s, t).unwrap(), Posterior::between(s, t).unwrap());
                prop_assert!(!q.var.is_nan() && !posterior.var.is_nan() && posterior.coef_x0.is_finite() && posterior.coef_xt.is_finite());
            }
        }
    }
}
