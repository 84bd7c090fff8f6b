//! Data laws whose noised marginals are known exactly; each is an exact [`Denoiser`].

pub mod conditional;
pub mod empirical;
pub mod gaussian;
pub mod mixture;
pub mod random_field;

use crate::diffusion::{Denoiser, PathPoint};
use crate::error::Result;
use crate::math::dd::Dd;
use crate::math::noise::Noise;
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayViewMut2, Axis, Zip};

pub use gaussian::Gaussian;

/// The noise stream that [`Law::sample`] draws from: "law" in ASCII, away from the small numbers
/// that samplers count with.
pub const SAMPLE_STREAM: u64 = 0x6c61_7700;

/// A data law p(x0) with the exact law of `x_t = alpha x0 + sigma eps`.
pub trait Law: Denoiser {
    /// `E[x0]`, shape (d).
    fn mean(&self) -> Array1<f64>;

    /// `Cov[x0]`, shape (d, d).
    fn cov(&self) -> Array2<f64>;

    /// `ln p(x_t)` of each row, in nats; the log-likelihood of clean data is at
    /// [`PathPoint::CLEAN`]. Where the law has no density (sigma = 0 and a singular
    /// covariance), `-inf` or `+inf`.
    fn log_density(&self, x: ArrayView2<f64>, at: &PathPoint) -> Array1<f64>;

    /// `Cov[x0 | x_t = x]`, shape (d, d).
    ///
    /// # Errors
    /// As [`denoise`](Denoiser::denoise), from whose estimates a law may build it.
    fn posterior_cov(&self, x: ArrayView1<f64>, at: &PathPoint) -> Result<Array2<f64>>;

    /// `n` independent draws of x0, shape (n, d), as a pure function of the noise source.
    fn sample(&self, n: usize, noise: &Noise) -> Array2<f64>;

    /// `ln p(x_t)` of one state before it is rounded: differences of large ones, as of a mixture's
    /// components far off their means, keep the digits that a law can give. By default those of
    /// [`log_density`](Self::log_density).
    ///
    /// # Shapes
    /// `x` (d).
    fn log_density_unrounded(&self, x: ArrayView1<f64>, at: &PathPoint) -> Dd {
        self.log_density(x.insert_axis(Axis(0)), at)[0].into()
    }

    /// The law of `x0 + by`, where a law can be moved: its flow about its own mean has digits that
    /// are lost far from 0.
    ///
    /// # Shapes
    /// `by` (d).
    fn translated(&self, _by: ArrayView1<f64>) -> Option<Box<dyn Law>> {
        None
    }

    /// Jacobian of the denoiser, `d E[x0|x] / dx = (alpha / sigma^2) Cov[x0|x]`, shape (d, d).
    ///
    /// # Errors
    /// As [`posterior_cov`](Self::posterior_cov).
    fn jacobian(&self, x: ArrayView1<f64>, at: &PathPoint) -> Result<Array2<f64>> {
        Ok(self.posterior_cov(x, at)? * (at.alpha / (at.sigma * at.sigma)))
    }

    /// `grad_x ln p(x_t)` of each row by Tweedie's formula, `(alpha E[x0|x] - x) / sigma^2`.
    ///
    /// # Shapes
    /// `x` and `out` (n, d).
    ///
    /// # Errors
    /// As [`denoise`](Denoiser::denoise).
    fn score(&self, x: ArrayView2<f64>, at: &PathPoint, mut out: ArrayViewMut2<f64>) -> Result<()> {
        self.denoise(x, at, out.view_mut())?;
        let var = at.sigma * at.sigma;
        Zip::from(&mut out).and(&x).for_each(|s, &x| *s = (at.alpha * *s - x) / var);
        Ok(())
    }
}

impl<D: Denoiser + ?Sized> Denoiser for Box<D> {
    fn dim(&self) -> usize {
        (**self).dim()
    }
    fn denoise(&self, x: ArrayView2<f64>, at: &PathPoint, out: ArrayViewMut2<f64>) -> Result<()> {
        (**self).denoise(x, at, out)
    }
}

impl<L: Law + ?Sized> Law for Box<L> {
    fn mean(&self) -> Array1<f64> {
        (**self).mean()
    }
    fn cov(&self) -> Array2<f64> {
        (**self).cov()
    }
    fn log_density(&self, x: ArrayView2<f64>, at: &PathPoint) -> Array1<f64> {
        (**self).log_density(x, at)
    }
    fn log_density_unrounded(&self, x: ArrayView1<f64>, at: &PathPoint) -> Dd {
        (**self).log_density_unrounded(x, at)
    }
    fn translated(&self, by: ArrayView1<f64>) -> Option<Box<dyn Law>> {
        (**self).translated(by)
    }
    fn posterior_cov(&self, x: ArrayView1<f64>, at: &PathPoint) -> Result<Array2<f64>> {
        (**self).posterior_cov(x, at)
    }
    fn sample(&self, n: usize, noise: &Noise) -> Array2<f64> {
        (**self).sample(n, noise)
    }
    fn jacobian(&self, x: ArrayView1<f64>, at: &PathPoint) -> Result<Array2<f64>> {
        (**self).jacobian(x, at)
    }
    fn score(&self, x: ArrayView2<f64>, at: &PathPoint, out: ArrayViewMut2<f64>) -> Result<()> {
        (**self).score(x, at, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    /// A law that states no more than it has to.
    struct Plain(Gaussian);

    impl Denoiser for Plain {
        fn dim(&self) -> usize {
            self.0.dim()
        }
        fn denoise(
            &self,
            x: ArrayView2<f64>,
            at: &PathPoint,
            out: ArrayViewMut2<f64>,
        ) -> Result<()> {
            self.0.denoise(x, at, out)
        }
    }

    impl Law for Plain {
        fn mean(&self) -> Array1<f64> {
            Law::mean(&self.0)
        }
        fn cov(&self) -> Array2<f64> {
            self.0.cov()
        }
        fn log_density(&self, x: ArrayView2<f64>, at: &PathPoint) -> Array1<f64> {
            self.0.log_density(x, at)
        }
        fn posterior_cov(&self, x: ArrayView1<f64>, at: &PathPoint) -> Result<Array2<f64>> {
            self.0.posterior_cov(x, at)
        }
        fn sample(&self, n: usize, noise: &Noise) -> Array2<f64> {
            self.0.sample(n, noise)
        }
    }

    fn jacobian_and_score(
        law: &dyn Law,
        x: &Array2<f64>,
        at: &PathPoint,
    ) -> (Array2<f64>, Array2<f64>) {
        let mut score = Array2::zeros(x.raw_dim());
        law.score(x.view(), at, score.view_mut()).unwrap();
        (law.jacobian(x.row(0), at).unwrap(), score)
    }

    #[test]
    fn what_follows_from_the_posterior_is_what_a_law_states_itself() {
        let law = Gaussian::new(array![1.0, -2.0], array![[2.0, 0.5], [0.5, 1.0]].view()).unwrap();
        let (x, at) = (array![[0.3, 0.7], [-1.0, 2.0]], PathPoint::still(0.6, 0.7));
        let (jacobian, score) = jacobian_and_score(&law, &x, &at);
        let (general_jacobian, general_score) = jacobian_and_score(&Plain(law.clone()), &x, &at);
        assert!((jacobian - general_jacobian).iter().all(|e| e.abs() <= 1e-14));
        assert!((score - general_score).iter().all(|e| e.abs() <= 1e-14));
    }

    #[test]
    fn a_boxed_law_is_the_law() {
        let law = Gaussian::new(array![1.0, -2.0], array![[2.0, 0.5], [0.5, 1.0]].view()).unwrap();
        let boxed: Box<dyn Law> = Box::new(law.clone());
        let (x, at) = (array![[0.3, 0.7], [-1.0, 2.0]], PathPoint::still(0.6, 0.7));
        let denoise = |law: &dyn Denoiser| {
            let mut out = Array2::zeros(x.raw_dim());
            law.denoise(x.view(), &at, out.view_mut()).unwrap();
            out
        };
        // A box of the box, so that it is the box's own methods that are called.
        let boxed = &Box::new(boxed);
        assert_eq!((boxed.dim(), denoise(boxed)), (2, denoise(&law)));
        assert_eq!((Law::mean(boxed), Law::cov(boxed)), (Law::mean(&law), Law::cov(&law)));
        assert_eq!(Law::log_density(boxed, x.view(), &at), law.log_density(x.view(), &at));
        assert_eq!(
            Law::posterior_cov(boxed, x.row(0), &at).unwrap(),
            law.posterior_cov(x.row(0), &at).unwrap()
        );
        assert_eq!(Law::sample(boxed, 3, &Noise::new(1)), law.sample(3, &Noise::new(1)));
        assert_eq!(jacobian_and_score(boxed, &x, &at), jacobian_and_score(&law, &x, &at));
        assert_eq!(
            Law::log_density_unrounded(boxed, x.row(0), &at),
            law.log_density_unrounded(x.row(0), &at)
        );
        assert_ne!(Law::log_density_unrounded(boxed, x.row(0), &at).lo(), 0.0);
        let by = array![1.0, 2.0];
        assert_eq!(Law::translated(boxed, by.view()).unwrap().mean(), array![2.0, 0.0]);
    }

    /// Every law that can be moved is itself elsewhere: moments, densities, denoiser.
    #[test]
    fn a_moved_law_is_the_law_elsewhere() {
        let gaussian =
            Gaussian::new(array![1.0, -2.0], array![[2.0, 0.5], [0.5, 1.0]].view()).unwrap();
        let diagonal = Gaussian::diagonal(array![0.5, 1.0], array![2.0, 0.25]).unwrap();
        let mixture =
            mixture::Mixture::new(array![0.25, 0.75], vec![gaussian.clone(), diagonal.clone()])
                .unwrap();
        let empirical = empirical::Empirical::weighted(
            array![[0.0, 1.0], [2.0, 0.5], [-1.0, 0.25]],
            array![1.0, 2.0, 1.0],
        )
        .unwrap();
        let field = random_field::RandomField::new(0.5, array![[2.0, 0.25]]).unwrap();
        let laws: [&dyn Law; 5] = [&gaussian, &diagonal, &mixture, &empirical, &field];
        let (x, by, at) =
            (array![[0.5, 0.75], [-1.0, 2.0]], array![4.0, -8.0], PathPoint::still(0.5, 0.75));
        // A homogeneous law is moved by the same amount everywhere, or not at all.
        assert!(field.translated(by.view()).is_none());
        for (i, law) in laws.into_iter().enumerate() {
            let by = if i < 4 { by.clone() } else { array![4.0, 4.0] };
            let there = &x + &(&by * at.alpha);
            let moved = law.translated(by.view()).unwrap();
            let close = |a: Array2<f64>, b: Array2<f64>| {
                assert!((&a - &b).iter().all(|e| e.abs() <= 1e-14 * 16.0), "{a} {b}")
            };
            close(
                (moved.mean() - law.mean()).insert_axis(Axis(0)),
                by.clone().insert_axis(Axis(0)),
            );
            close(moved.cov(), law.cov());
            close(
                moved.denoised(there.view(), &at).unwrap(),
                law.denoised(x.view(), &at).unwrap() + &by,
            );
            let density = |law: &dyn Law, x: &Array2<f64>| {
                law.log_density(x.view(), &at).insert_axis(Axis(1))
            };
            close(density(moved.as_ref(), &there), density(law, &x));
            let unrounded = |law: &dyn Law, x: &Array2<f64>| {
                Array2::from_shape_fn((2, 1), |(i, _)| {
                    law.log_density_unrounded(x.row(i), &at).hi()
                })
            };
            close(unrounded(law, &x), density(law, &x));
            close(unrounded(moved.as_ref(), &there), density(law, &x));
        }
        // A law that does not say how is not moved, nor is a mixture of such.
        let plain = Plain(gaussian);
        assert!(plain.translated(by.view()).is_none());
        assert_eq!(
            plain.log_density_unrounded(x.row(0), &at),
            Dd::from(plain.log_density(x.view(), &at)[0])
        );
        assert!(
            mixture::Mixture::new(array![1.0], vec![plain])
                .unwrap()
                .translated(by.view())
                .is_none()
        );
    }
}
