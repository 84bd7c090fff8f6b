//! A reference integrator of ordinary differential equations: Gragg's midpoint rule, extrapolated
//! (Bulirsch and Stoer), adaptive.

use crate::error::{Error, Result};
use crate::math::dd::Dd;
use ndarray::{Array2, Zip};

/// Columns of the extrapolation table: orders 2, 4, ..., 16.
const COLUMNS: usize = 8;
/// Steps, kept or not, after which an integration is given up.
pub(crate) const MAX_STEPS: usize = 10_000;

/// Why an integration stopped before its end.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// The step control leads no further than `at`.
    Stuck { at: f64, why: &'static str },
    /// The slope could not be had.
    Slope(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Slope(error)
    }
}

/// Carries `y' = f(x, y)` from `a` to `b` and counts the steps; each step's estimated error is at
/// most `allowed(x, y)`, entry by entry: neither of two other values of the extrapolation table is
/// farther from the one that is taken.
///
/// Steps are computed as increments and added up with the rounding of each sum carried on, so that
/// many small ones cost no digits of `y`.
///
/// # Errors
/// [`Stopped`] where the step falls below 1e-13 of the interval (the solution is not smooth there),
/// or after [`MAX_STEPS`]; what `f` refuses.
///
/// # Source
/// Hairer, Norsett and Wanner, "Solving ordinary differential equations I", section II.9.
pub(crate) fn integrate(
    mut f: impl FnMut(f64, &Array2<f64>, &mut Array2<f64>) -> Result<()>,
    mut y: Array2<f64>,
    (a, b): (f64, f64),
    allowed: impl Fn(f64, &Array2<f64>) -> Array2<f64>,
) -> std::result::Result<(Array2<f64>, usize), Stopped> {
    let (mut x, mut step, mut steps) = (a, (b - a) / 8.0, 0);
    let (mut first_slope, mut rest) = (Array2::zeros(y.dim()), Array2::<f64>::zeros(y.dim()));
    let mut scratch = (Array2::zeros(y.dim()), Array2::zeros(y.dim()));
    while x != b {
        let last = (b - x).abs() <= step.abs() * (1.0 + 1e-9);
        let h = if last { b - x } else { step };
        if h.abs() < 1e-13 * (b - a).abs() {
            return Err(Stopped::Stuck {
                at: x,
                why: "the step size fell below 1e-13 of the interval, so the slope is not smooth there",
            });
        }
        if steps == MAX_STEPS {
            return Err(Stopped::Stuck { at: x, why: "10,000 steps lead no further" });
        }
        steps += 1;
        f(x, &y, &mut first_slope)?;
        let allowed = allowed(x, &y);
        let mut table: Vec<Array2<f64>> = Vec::with_capacity(COLUMNS);
        let (mut accepted, mut last_above) = (None, Array2::zeros(y.dim()));
        for column in 0..COLUMNS {
            let substeps = 2 * (column + 1);
            let mut value = midpoint(&mut f, x, h, &y, &first_slope, substeps, &mut scratch)?;
            // Neville's scheme in h^2: each row replaces the row above it, from the left.
            for (k, above) in table.iter_mut().enumerate() {
                let ratio = substeps as f64 / (2 * (column - k)) as f64;
                let next = &value + &((&value - &*above) / (ratio * ratio - 1.0));
                *above = std::mem::replace(&mut value, next);
            }
            // Written so that a NaN is too much.
            let near = |other: &Array2<f64>| {
                Zip::from(&value)
                    .and(other)
                    .and(&allowed)
                    .all(|v, o, allowed| (v - o).abs() <= *allowed)
            };
            // Two extrapolated values may agree by chance, far from the solution: three are asked,
            // the last in its row, the one beside it, and the last of the row above.
            let close = column >= 2 && table.last().is_some_and(near) && near(&last_above);
            last_above.assign(&value);
            table.push(value);
            if close {
                accepted = table.pop().map(|value| (value, column));
                break;
            }
        }
        match accepted {
            Some((value, column)) => {
                x = if last { b } else { x + h };
                Zip::from(&mut y).and(&mut rest).and(&value).for_each(|y, rest, v| {
                    let sum = Dd::sum_of(*y, v + *rest);
                    (*y, *rest) = (sum.hi(), sum.lo());
                });
                step = h * [4.0, 4.0, 3.0, 2.0, 1.6, 1.3, 1.0, 0.8][column];
            }
            None => step = 0.35 * h,
        }
    }
    Ok((y, steps))
}

/// What `substeps` (even) explicit midpoint steps over `h` add to `y`, whose error is a series in
/// `(h / substeps)^2`.
fn midpoint(
    f: &mut impl FnMut(f64, &Array2<f64>, &mut Array2<f64>) -> Result<()>,
    x: f64,
    h: f64,
    y: &Array2<f64>,
    first_slope: &Array2<f64>,
    substeps: usize,
    (state, slope): &mut (Array2<f64>, Array2<f64>),
) -> Result<Array2<f64>> {
    let small = h / substeps as f64;
    let (mut before, mut now) = (Array2::zeros(y.dim()), first_slope * small);
    for i in 1..substeps {
        Zip::from(&mut *state).and(y).and(&now).for_each(|s, y, now| *s = y + now);
        f(x + small * i as f64, state, slope)?;
        Zip::from(&mut before).and(&*slope).for_each(|b, s| *b += 2.0 * small * s);
        std::mem::swap(&mut before, &mut now);
    }
    Ok(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::larger;
    use ndarray::array;

    /// The same error in every entry.
    fn up_to(tol: f64) -> impl Fn(f64, &Array2<f64>) -> Array2<f64> {
        move |_, y| Array2::from_elem(y.dim(), tol)
    }

    #[test]
    fn a_rotation_and_a_decay() {
        // y'' = -y over ten turns, and y' = -y.
        let f = |_: f64, y: &Array2<f64>, dy: &mut Array2<f64>| {
            dy.assign(&array![[y[[0, 1]], -y[[0, 0]], -y[[0, 2]]]]);
            Ok(())
        };
        let end = 20.0 * std::f64::consts::PI;
        let y = integrate(f, array![[1.0, 0.0, 1.0]], (0.0, end), up_to(1e-13)).unwrap().0;
        // About 60 steps, each at most 1e-13 off.
        assert!((y[[0, 0]] - 1.0).abs() <= 1e-11 && y[[0, 1]].abs() <= 1e-11, "{y}");
        assert!((y[[0, 2]] - (-end).exp()).abs() <= 1e-12, "{y}");
    }

    /// No step is off by more than was allowed where two extrapolated values agree by chance: the
    /// two kinds of modes of a singular law's PF-ODE, from where they bend most.
    #[test]
    fn values_that_agree_by_chance_are_not_taken() {
        let f = |u: f64, y: &Array2<f64>, dy: &mut Array2<f64>| {
            let bend = 2.0 * u.tanh() / (u.cosh().powi(2) * (1.0 + 2.0 * u.tanh().powi(2)));
            dy.assign(&array![[bend * y[[0, 0]], -u.tanh() * y[[0, 1]]]]);
            Ok(())
        };
        let exact = |u: f64| [((1.0 + 2.0 * u.tanh().powi(2)) / 3.0).sqrt(), u.cosh().recip()];
        for k in 0..100 {
            let start: f64 = -0.002 * f64::from(k);
            let end = start - 4.305;
            let (y, steps) =
                integrate(f, array![exact(start)], (start, end), up_to(4e-14)).unwrap();
            let off = (0..2).map(|j| (y[[0, j]] - exact(end)[j]).abs()).fold(0.0, larger);
            assert!(off <= 4e-14 * steps as f64, "{start} {off} {steps}");
        }
    }

    #[test]
    fn a_blow_up_is_an_error() {
        let f = |_: f64, y: &Array2<f64>, dy: &mut Array2<f64>| {
            dy.assign(&y.mapv(|y| y * y));
            Ok(())
        };
        let Stopped::Stuck { at, why } =
            integrate(f, array![[1.0]], (0.0, 2.0), up_to(1e-12)).unwrap_err()
        else {
            unreachable!("the slope is never refused")
        };
        // y = 1 / (1 - x).
        assert!((at - 1.0).abs() <= 1e-6 && why.contains("step"), "{at} {why}");
    }

    #[test]
    fn tolerances_are_in_units_of_the_scale() {
        // The same rotation in units of 1e-6: errors of 1e-13 of the unit, not of 1.
        let f = |_: f64, y: &Array2<f64>, dy: &mut Array2<f64>| {
            dy.assign(&array![[y[[0, 1]], -y[[0, 0]]]]);
            Ok(())
        };
        let unit = 1e-6;
        let y = integrate(
            f,
            array![[unit, 0.0]],
            (0.0, 2.0 * std::f64::consts::PI),
            up_to(1e-13 * unit),
        )
        .unwrap()
        .0;
        assert!((y[[0, 0]] - unit).abs() <= 1e-11 * unit && y[[0, 1]].abs() <= 1e-11 * unit, "{y}");
    }

    #[test]
    fn the_least_step_is_a_part_of_the_interval() {
        // y' = k y over intervals of any length (one of 8, whose first step is 1), and one that
        // lies far out.
        for length in [1e-8, 8.0, 1e8] {
            let f = |_: f64, y: &Array2<f64>, dy: &mut Array2<f64>| {
                dy.assign(&(y / length));
                Ok(())
            };
            let y = integrate(f, array![[1.0]], (0.0, length), up_to(1e-13)).unwrap().0;
            assert!((y[[0, 0]] - 1f64.exp()).abs() <= 1e-11, "{length}: {y}");
        }
        let rise = |_: f64, _: &Array2<f64>, dy: &mut Array2<f64>| {
            dy.fill(1.0);
            Ok(())
        };
        assert_eq!(
            integrate(rise, array![[0.0]], (1e13, 1e13 + 1.0), up_to(1e-13)).unwrap().0[[0, 0]],
            1.0
        );
    }

    #[test]
    fn an_integration_has_an_end() {
        // A slope with a jump in every thousandth needs more steps than are allowed, and says how
        // far it came.
        let saw = |x: f64, _: &Array2<f64>, dy: &mut Array2<f64>| {
            dy.fill((x * 1234.567).floor().rem_euclid(2.0));
            Ok(())
        };
        let Stopped::Stuck { at, why } =
            integrate(saw, array![[0.0]], (0.0, 1e3), up_to(1e-12)).unwrap_err()
        else {
            unreachable!("the slope is never refused")
        };
        assert!(at > 0.0 && at < 1e3 && why.starts_with("10,000 steps"), "{at} {why}");
        // NaN is never close enough.
        let lost = |_: f64, _: &Array2<f64>, dy: &mut Array2<f64>| {
            dy.fill(f64::NAN);
            Ok(())
        };
        assert!(integrate(lost, array![[0.0]], (0.0, 1.0), up_to(1e-12)).is_err());
    }

    #[test]
    fn a_slope_that_is_refused_ends_it() {
        let f = |x: f64, _: &Array2<f64>, _: &mut Array2<f64>| match x {
            x if x < 0.5 => Ok(()),
            x => Err(Error::domain("time", x, "below 0.5", "stop earlier")),
        };
        let stopped = integrate(f, array![[0.0]], (0.0, 1.0), up_to(1e-12)).unwrap_err();
        assert!(matches!(stopped, Stopped::Slope(Error::Domain { .. })), "{stopped:?}");
    }

    #[test]
    fn small_steps_add_up() {
        // Back to 1e6 after fifty turns of y' = sin x: nearly two hundred steps, each of which
        // would round to 1e-10.
        let f = |x: f64, _: &Array2<f64>, dy: &mut Array2<f64>| {
            dy.fill(x.sin());
            Ok(())
        };
        let (y, steps) =
            integrate(f, array![[1e6]], (0.0, 100.0 * std::f64::consts::PI), up_to(1e-13)).unwrap();
        assert!(steps >= 150, "{steps}");
        assert!((y[[0, 0]] - 1e6).abs() <= 1.2e-10, "{:e}", y[[0, 0]] - 1e6);
    }
}
