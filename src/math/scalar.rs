//! What a closed form needs of a number, so that one formula serves `f64`, double-double and dual numbers.

use num_dual::DualNum;

/// Any real number type over `f64`: `f64` itself, [`Dd`](crate::math::dd::Dd), and num-dual's dual numbers over either.
///
/// A formula written once over `Scalar` is evaluated in plain precision, in 106 bits (then rounded once),
/// and with exact derivatives: `Dual<Dd>` gives a rate in 106 bits without a derivative written by hand.
pub trait Scalar: DualNum<Primitive = f64> + Copy {}
impl<T: DualNum<Primitive = f64> + Copy> Scalar for T {}
