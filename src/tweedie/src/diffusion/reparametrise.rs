//! One path into another: every path is the same process seen with another clock and another unit
//! of length.
//!
//! # Formula
//! Two points with the same `sigma / alpha` differ by the factor `c = alpha' / alpha`: `x' = c x`
//! has the law of the other path at the matching time. Hence one denoiser, trained or exact, serves
//! every path, and a trajectory on one is a trajectory on all.
//!
//! # Source
//! Karras et al. 2022 (arXiv 2206.00364), eq. 3 to 5; Harvard deck, "Link to Variance-Preserving
//! (VP) ODE".

use crate::diffusion::path::{Path, PathPoint};
use crate::error::{Error, Result};

/// Where a point of one path lies on another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Matched {
    /// The point of the other path with the same `sigma / alpha`.
    pub point: PathPoint,
    /// `x' = scale x`.
    pub scale: f64,
}

/// The point of `to` that shows the same noise level as `from`, and the factor that carries states
/// over.
///
/// # Errors
/// A noise level that `to` does not reach, a point of pure noise (`alpha = 0`, where no finite
/// factor exists), or a time of `to` at which its rates are singular.
///
/// # Example
/// ```
/// use tweedie::diffusion::{path::Path, reparametrise::matched};
/// let m = matched(&Path::VP.at(0.3).unwrap(), &Path::FlowMatching).unwrap();
/// // Straight-line time of a noise level s is s / (1 + s).
/// let s = Path::VP.at(0.3).unwrap().edm_sigma();
/// assert!((m.point.t.unwrap() - s / (1.0 + s)).abs() < 1e-15);
/// ```
pub fn matched(from: &PathPoint, to: &Path) -> Result<Matched> {
    // A finite ratio beyond 1.8e308 finds no point either.
    if !(from.alpha > 0.0 && from.edm_sigma().is_finite()) {
        return Err(Error::singular(
            format!("reparametrisation into {}", to.name()),
            format!("alpha = {}", from.alpha),
            "pure noise has no scale to match",
            "start from a point with alpha > 0",
        ));
    }
    let point = to.at(to.t_from_edm_sigma(from.edm_sigma())?)?;
    Ok(Matched { point, scale: point.alpha / from.alpha })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// There and back, and a detour over a third path: scales multiply, noise levels stay.
        #[test]
        fn paths_form_a_groupoid(s in 0.02..40.0f64) {
            let paths = [Path::VP, Path::VE, Path::EDM, Path::Cosine, Path::FlowMatching];
            for a in &paths {
                let p = a.at(a.t_from_edm_sigma(s).unwrap()).unwrap();
                for b in &paths {
                    let direct = matched(&p, b).unwrap();
                    let back = matched(&direct.point, a).unwrap();
                    // t -> sigma/alpha -> t costs the condition number of the noise level in t, at
                    // most 20 on VP at t = 1.
                    prop_assert!((back.scale * direct.scale - 1.0).abs() <= 1e-13, "{} {}", a.name(), b.name());
                    prop_assert!((direct.point.edm_sigma() / s - 1.0).abs() <= 1e-13);
                    // The marginal of N(m, v): x' = scale x must have the other path's moments.
                    let (m, v) = (0.7, 2.3);
                    let (mean, var) = (p.alpha * m, p.alpha * p.alpha * v + p.sigma * p.sigma);
                    let q = direct.point;
                    prop_assert!((mean * direct.scale - q.alpha * m).abs() <= 1e-13 * q.alpha);
                    let want = q.alpha * q.alpha * v + q.sigma * q.sigma;
                    prop_assert!((var * direct.scale * direct.scale - want).abs() <= 1e-13 * want);
                }
            }
        }
    }

    #[test]
    fn pure_noise_has_no_match() {
        assert!(matched(&Path::FlowMatching.at(1.0).unwrap(), &Path::VP).is_err());
        assert!(matched(&Path::EDM.at(1.0).unwrap(), &Path::VE).is_err());
    }

    #[test]
    fn pure_noise_is_refused_by_name() {
        let message = matched(&PathPoint::NOISE, &Path::FlowMatching).unwrap_err().to_string();
        assert!(message.contains("pure noise has no scale"), "{message}");
    }

    #[test]
    fn a_ratio_beyond_the_range_is_pure_noise() {
        for to in [Path::FlowMatching, Path::VP, Path::EDM] {
            let message = matched(&PathPoint::still(1e-310, 1.0), &to).unwrap_err().to_string();
            assert!(message.contains("pure noise has no scale"), "{message}");
        }
    }
}
