//! Classes: each a law of its own, with the exact classifier of noisy states, and denoisers guided
//! by it.

use crate::diffusion::{Denoiser, PathPoint};
use crate::error::{Error, Result};
use crate::law::Law;
use crate::law::mixture::Mixture;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Zip};

/// Classes with prior probabilities, each any law: the unconditional law is their [`Mixture`],
/// `p(c | x_t)` its responsibilities.
pub type Conditional = Mixture<Box<dyn Law>>;

impl<L: Law> Mixture<L> {
    /// The law of one class, `p(x0 | c)`: the class-conditional denoiser.
    ///
    /// # Errors
    /// A class that is not there.
    pub fn class(&self, c: usize) -> Result<&L> {
        self.components().get(c).ok_or_else(|| {
            Error::domain(
                "class",
                c,
                format!("below {}", self.components().len()),
                "classes are counted from 0",
            )
        })
    }

    /// `grad_x ln p(c | x_t)` of each row: the gradient of the exact noisy classifier.
    ///
    /// # Formula
    /// `score_c - score = sum_k r_k (score_c - score_k)`, by Bayes' rule; the sum keeps its digits
    /// where the class is certain.
    ///
    /// # Shapes
    /// `x` and `out` (n, d).
    ///
    /// # Errors
    /// A class that is not there.
    pub fn classifier_score(
        &self,
        c: usize,
        x: ArrayView2<f64>,
        at: &PathPoint,
        out: ArrayViewMut2<f64>,
    ) -> Result<()> {
        let mut own = Array2::zeros(x.raw_dim());
        self.class(c)?.score(x, at, own.view_mut())?;
        self.average(x, at, out, |law, mut part| {
            law.score(x, at, part.view_mut())?;
            Zip::from(&mut part).and(&own).for_each(|s, own| *s = own - *s);
            Ok(())
        })
    }
}

/// Classifier-free guidance: extrapolates from one denoiser through another.
///
/// # Formula
/// `x0_hat = uncond + weight (cond - uncond)`: weight 0 is unconditional, 1 conditional, above 1
/// guided (Ho and Salimans' own weight is this one less 1). With a weaker model as `uncond` it is
/// autoguidance.
///
/// In exact arithmetic the same in x0, eps, v or score, since all of them are affine in `x0_hat` at
/// one `x_t`.
///
/// # Source
/// Ho and Salimans 2022, "Classifier-Free Diffusion Guidance", equation 6.
#[derive(Clone, Copy)]
pub struct Guided<'a> {
    cond: &'a dyn Denoiser,
    uncond: &'a dyn Denoiser,
    weight: f64,
    /// Noise levels at which it guides.
    levels: (f64, f64),
}

impl<'a> Guided<'a> {
    /// Of two denoisers of one dimension.
    ///
    /// # Errors
    /// Dimensions that differ; a weight that is not finite.
    pub fn new(cond: &'a dyn Denoiser, uncond: &'a dyn Denoiser, weight: f64) -> Result<Self> {
        if cond.dim() != uncond.dim() {
            return Err(Error::shape(
                "conditional denoiser",
                &[cond.dim()],
                format!("({},)", uncond.dim()),
                "guide within one space",
            ));
        }
        check_weight(weight)?;
        Ok(Self { cond, uncond, weight, levels: (0.0, f64::INFINITY) })
    }

    /// The same for noise levels `low <= sigma / alpha < high`; at the others it is the conditional
    /// denoiser, and the other is not asked.
    ///
    /// # Errors
    /// Levels out of order, negative or NaN.
    ///
    /// # Source
    /// Kynkaanniemi et al. 2024, "Applying guidance in a limited interval improves sample and
    /// distribution quality in diffusion models".
    pub fn within(self, low: f64, high: f64) -> Result<Self> {
        if 0.0 <= low && low < high {
            return Ok(Self { levels: (low, high), ..self });
        }
        Err(Error::domain(
            "levels of guidance",
            format!("{low}, {high}"),
            "0 <= low < high",
            "pass sigma / alpha in ascending order",
        ))
    }
}

fn check_weight(weight: f64) -> Result<()> {
    if weight.is_finite() {
        Ok(())
    } else {
        Err(Error::domain("guidance weight", weight, "finite", "1 is the conditional model itself"))
    }
}

impl Denoiser for Guided<'_> {
    fn dim(&self) -> usize {
        self.cond.dim()
    }

    fn denoise(
        &self,
        x: ArrayView2<f64>,
        at: &PathPoint,
        mut out: ArrayViewMut2<f64>,
    ) -> Result<()> {
        self.cond.denoise(x, at, out.view_mut())?;
        let (low, high) = self.levels;
        // Compared as products: pure noise has no finite ratio, and belongs to an interval without
        // an upper end.
        if at.sigma < low * at.alpha || (high.is_finite() && at.sigma >= high * at.alpha) {
            return Ok(());
        }
        let mut uncond = Array2::zeros(x.raw_dim());
        self.uncond.denoise(x, at, uncond.view_mut())?;
        Zip::from(&mut out).and(&uncond).for_each(|c, u| *c = u + self.weight * (*c - u));
        Ok(())
    }
}

/// Classifier guidance: a denoiser moved up the gradient of a classifier of noisy states.
///
/// # Formula
/// `x0_hat = uncond + weight (sigma^2 / alpha) grad_x ln p(c | x_t)`, singular at `alpha = 0`
///
/// With the exact classifier ([`Mixture::classifier_score`]) this is [`Guided`] itself.
///
/// # Source
/// Dhariwal and Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis", section 4.2, in x0 by
/// Tweedie's formula.
#[derive(Clone, Copy)]
pub struct ClassifierGuided<'a, G> {
    uncond: &'a dyn Denoiser,
    gradient: G,
    weight: f64,
}

impl<'a, G: Fn(ArrayView2<f64>, &PathPoint, ArrayViewMut2<f64>) -> Result<()> + Sync>
    ClassifierGuided<'a, G>
{
    /// `gradient(x, at, out)` writes `grad_x ln p(c | x_t)` of each row, or says why it cannot.
    ///
    /// # Errors
    /// A weight that is not finite.
    pub fn new(uncond: &'a dyn Denoiser, gradient: G, weight: f64) -> Result<Self> {
        check_weight(weight)?;
        Ok(Self { uncond, gradient, weight })
    }
}

impl<G: Fn(ArrayView2<f64>, &PathPoint, ArrayViewMut2<f64>) -> Result<()> + Sync> Denoiser
    for ClassifierGuided<'_, G>
{
    fn dim(&self) -> usize {
        self.uncond.dim()
    }

    fn denoise(
        &self,
        x: ArrayView2<f64>,
        at: &PathPoint,
        mut out: ArrayViewMut2<f64>,
    ) -> Result<()> {
        self.uncond.denoise(x, at, out.view_mut())?;
        let mut gradient = Array2::zeros(x.raw_dim());
        (self.gradient)(x, at, gradient.view_mut())?;
        out.scaled_add(self.weight * at.sigma * at.sigma / at.alpha, &gradient);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::law::Gaussian;
    use crate::law::empirical::Empirical;
    use crate::law::random_field::RandomField;
    use crate::math::noise::Noise;
    use ndarray::{Array1, array};
    use num_dual::Dual64;
    use proptest::prelude::*;

    fn random_classes(d: usize, seed: u64) -> (Mixture, Array2<f64>) {
        let noise = Noise::new(seed);
        let random = |stream: u64| Array1::from_shape_fn(d, |i| noise.normal(stream, i as u64));
        let class = |c: u64| {
            Gaussian::diagonal(random(c) * 1.5, random(10 + c).mapv(|v| 0.2 + v * v)).unwrap()
        };
        (
            Mixture::new(array![0.5, 0.3, 0.2], vec![class(1), class(2), class(3)]).unwrap(),
            random(20).insert_axis(ndarray::Axis(0)),
        )
    }

    proptest! {
        /// Second route: the gradient of `ln p(c|x)` written out with dual numbers.
        #[test]
        fn classifier_score_is_the_gradient_of_the_classifier(d in 1usize..4, c in 0usize..3, seed: u64, alpha in 0.0..1.2f64, sigma in 0.1..3.0f64) {
            let (law, x) = random_classes(d, seed);
            let at = PathPoint::still(alpha, sigma);
            let mut got = Array2::zeros((1, d));
            law.classifier_score(c, x.view(), &at, got.view_mut()).unwrap();
            let r = law.log_responsibilities(x.view(), &at);
            for j in 0..d {
                let dual: Vec<Dual64> = (0..d).map(|i| Dual64::new(x[[0, i]], f64::from(i == j))).collect();
                let (alpha, sigma) = (Dual64::from(alpha), Dual64::from(sigma));
                let log_class = law.components()[c].log_density_of(&dual, alpha, sigma) + law.weights()[c].ln() - law.log_density_of(&dual, alpha, sigma);
                let precision = 1.0 / (0.2 * at.alpha.powi(2) + at.sigma.powi(2));
                let size = precision * (1.0 + 10.0 * d as f64);
                prop_assert!((r[[0, c]] - log_class.re).abs() <= 256.0 * f64::EPSILON * (1.0 + size * 10.0 + log_class.re.abs()));
                prop_assert!((got[[0, j]] - log_class.eps).abs() <= 1024.0 * f64::EPSILON * size * (1.0 + size * 10.0));
            }
        }

        /// Classifier-free guidance is classifier guidance with the implicit classifier, at any
        /// weight; weights 0 and 1 are the two models.
        #[test]
        fn both_guidances_agree(d in 1usize..4, c in 0usize..3, weight in -1.0..8.0f64, seed: u64, alpha in 0.1..1.2f64, sigma in 0.1..3.0f64) {
            let (law, x) = random_classes(d, seed);
            let at = PathPoint::still(alpha, sigma);
            let denoise = |m: &dyn Denoiser| {
                let mut out = Array2::zeros((1, d));
                m.denoise(x.view(), &at, out.view_mut()).unwrap();
                out
            };
            let class = law.class(c).unwrap();
            let free = denoise(&Guided::new(class, &law, weight).unwrap());
            let gradient = |x: ArrayView2<f64>, at: &PathPoint, out: ArrayViewMut2<f64>| law.classifier_score(c, x, at, out);
            let classifier = denoise(&ClassifierGuided::new(&law, gradient, weight).unwrap());
            // The responsibilities' own rounding, then Tweedie's sigma^2 / alpha.
            let condition = 1.0 + 100.0 * d as f64 / (0.2 * alpha.powi(2) + sigma.powi(2));
            let tol = 64.0 * f64::EPSILON * condition * (1.0 + weight.abs()) * (10.0 + 10.0 / alpha);
            prop_assert!((&free - &classifier).iter().all(|e| e.abs() <= tol), "{} {}", free, classifier);
            prop_assert_eq!(denoise(&Guided::new(class, &law, 0.0).unwrap()), denoise(&law));
            let one = denoise(&Guided::new(class, &law, 1.0).unwrap()) - denoise(class);
            prop_assert!(one.iter().all(|e| e.abs() <= 64.0 * f64::EPSILON));
        }
    }

    #[test]
    fn classes_may_be_any_laws() {
        let laws: Vec<Box<dyn Law>> = vec![
            Box::new(Gaussian::isotropic(array![0.0, 0.0], 1.0).unwrap()),
            Box::new(Empirical::new(array![[1.0, 1.0], [-1.0, 2.0]]).unwrap()),
            Box::new(RandomField::power_law(1, 2, 0.5, 1.0, 1.0, 1.0).unwrap()),
        ];
        let law: Conditional = Mixture::new(array![1.0, 1.0, 2.0], laws).unwrap();
        let (x, at) = (array![[0.3, 0.4], [1.0, 1.0]], PathPoint::still(0.8, 0.6));
        let r = law.responsibilities(x.view(), &at);
        let (mut got, mut part, mut want) =
            (Array2::zeros((2, 2)), Array2::zeros((2, 2)), Array2::zeros((2, 2)));
        law.denoise(x.view(), &at, got.view_mut()).unwrap();
        for c in 0..3 {
            law.class(c).unwrap().denoise(x.view(), &at, part.view_mut()).unwrap();
            want += &(&part * &r.column(c).insert_axis(ndarray::Axis(1)));
        }
        assert!((&got - &want).iter().all(|e| e.abs() <= 8.0 * f64::EPSILON));
        assert!(law.sample(4, &Noise::new(1)).iter().all(|v| v.is_finite()));
        assert!(law.class(3).is_err());
        assert!(law.classifier_score(3, x.view(), &at, got.view_mut()).is_err());
        let one = Gaussian::isotropic(array![0.0], 1.0).unwrap();
        assert!(Guided::new(&one, &law, 1.0).is_err());
        assert!(Guided::new(&law, &law, f64::NAN).is_err());
    }

    #[test]
    fn guidance_within_levels_is_off_outside_them() {
        let (law, x) = random_classes(2, 3);
        let class = law.class(1).unwrap();
        let always = Guided::new(class, &law, 3.0).unwrap();
        let some = always.within(0.5, 2.0).unwrap();
        // The lower end belongs to the interval, the upper one does not; pure noise lies outside of
        // every bounded one.
        for (alpha, sigma, inside) in [
            (1.0, 0.49, false),
            (2.0, 1.0, true),
            (1.0, 1.9, true),
            (0.5, 1.0, false),
            (0.0, 1.0, false),
            (0.5, 0.26, true),
            (0.5, 0.24, false),
            (3.0, 1.6, true),
            (3.0, 1.4, false),
        ] {
            let at = PathPoint::still(alpha, sigma);
            let want: &dyn Denoiser = if inside { &always } else { class };
            assert_eq!(
                some.denoised(x.view(), &at).unwrap(),
                want.denoised(x.view(), &at).unwrap()
            );
            assert_ne!(
                always.denoised(x.view(), &at).unwrap(),
                class.denoised(x.view(), &at).unwrap()
            );
        }
        for (low, high) in [(-1.0, 1.0), (1.0, 1.0), (2.0, 1.0), (f64::NAN, 1.0), (0.0, f64::NAN)] {
            assert!(always.within(low, high).is_err());
        }
    }

    #[test]
    fn guided_denoisers_live_in_their_law_s_space() {
        let (law, _) = random_classes(3, 1);
        let gradient = |_: ArrayView2<f64>, _: &PathPoint, _: ArrayViewMut2<f64>| Ok(());
        assert_eq!(Guided::new(&law, &law, 2.0).unwrap().dim(), 3);
        assert_eq!(ClassifierGuided::new(&law, gradient, 2.0).unwrap().dim(), 3);
    }
}
