//! A reference integrator of ordinary differential equations: Gragg's midpoint rule, extrapolated (Bulirsch and Stoer), adaptive.

use crate::error::{Error, Result};
use crate::math::larger;
use ndarray::{Array2, Zip};

/// Columns of the extrapolation table: orders 2, 4, ..., 16.
const COLUMNS: usize = 8;

/// Carries `y' = f(x, y)` from `a` to `b`, each step's estimated error at most `tol * scale[j]` in column j.
///
/// # Errors
/// [`Error::Singular`] where the step falls below 1e-13 of the interval: the solution is not smooth there.
///
/// # Source
/// Hairer, Norsett and Wanner, "Solving ordinary differential equations I", section II.9.
pub(crate) fn integrate(
    mut f: impl FnMut(f64, &Array2<f64>, &mut Array2<f64>),
    mut y: Array2<f64>,
    (a, b): (f64, f64),
    scale: &[f64],
    tol: f64,
) -> Result<Array2<f64>> {
    let (mut x, mut step) = (a, (b - a) / 8.0);
    let mut slope = Array2::zeros(y.dim());
    while x != b {
        let last = (b - x).abs() <= step.abs() * (1.0 + 1e-9);
        let h = if last { b - x } else { step };
        if h.abs() < 1e-13 * (b - a).abs() {
            let why = "the step size fell below 1e-13 of the interval";
            return Err(Error::singular("the trajectory", format!("integration variable {x}"), why, "stop before this point"));
        }
        f(x, &y, &mut slope);
        let first_slope = slope.clone();
        let mut table: Vec<Array2<f64>> = Vec::with_capacity(COLUMNS);
        let mut accepted = None;
        for column in 0..COLUMNS {
            let substeps = 2 * (column + 1);
            let mut value = midpoint(&mut f, x, h, &y, &first_slope, substeps, &mut slope);
            // Neville's scheme in h^2: each row replaces the row above it, from the left.
            for (k, above) in table.iter_mut().enumerate() {
                let ratio = substeps as f64 / (2 * (column - k)) as f64;
                let next = &value + &((&value - &*above) / (ratio * ratio - 1.0));
                *above = std::mem::replace(&mut value, next);
            }
            let error = table.last().map_or(f64::INFINITY, |previous| {
                let gaps = value.indexed_iter().map(|((i, j), v)| (v - previous[[i, j]]).abs() / scale[j]);
                gaps.fold(0.0, larger)
            });
            table.push(value);
            if error <= tol {
                accepted = table.pop().map(|value| (value, column));
                break;
            }
        }
        match accepted {
            Some((value, column)) => {
                (x, y) = (if last { b } else { x + h }, value);
                step = h * [4.0, 4.0, 3.0, 2.0, 1.6, 1.3, 1.0, 0.8][column];
            }
            None => step = 0.35 * h,
        }
    }
    Ok(y)
}

/// `substeps` (even) explicit midpoint steps over `h`, whose error is a series in `(h / substeps)^2`.
fn midpoint(
    f: &mut impl FnMut(f64, &Array2<f64>, &mut Array2<f64>),
    x: f64,
    h: f64,
    y: &Array2<f64>,
    first_slope: &Array2<f64>,
    substeps: usize,
    slope: &mut Array2<f64>,
) -> Array2<f64> {
    let small = h / substeps as f64;
    let (mut before, mut now) = (y.clone(), y + &(first_slope * small));
    for i in 1..substeps {
        f(x + small * i as f64, &now, slope);
        Zip::from(&mut before).and(&*slope).for_each(|b, s| *b += 2.0 * small * s);
        std::mem::swap(&mut before, &mut now);
    }
    now
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn a_rotation_and_a_decay() {
        // y'' = -y over ten turns, and y' = -y.
        let f = |_: f64, y: &Array2<f64>, dy: &mut Array2<f64>| {
            dy.assign(&array![[y[[0, 1]], -y[[0, 0]], -y[[0, 2]]]]);
        };
        let end = 20.0 * std::f64::consts::PI;
        let y = integrate(f, array![[1.0, 0.0, 1.0]], (0.0, end), &[1.0; 3], 1e-13).unwrap();
        // About 60 steps, each at most 1e-13 off.
        assert!((y[[0, 0]] - 1.0).abs() <= 1e-11 && y[[0, 1]].abs() <= 1e-11, "{y}");
        assert!((y[[0, 2]] - (-end).exp()).abs() <= 1e-12, "{y}");
    }

    #[test]
    fn a_blow_up_is_an_error() {
        let f = |_: f64, y: &Array2<f64>, dy: &mut Array2<f64>| dy.assign(&y.mapv(|y| y * y));
        assert!(integrate(f, array![[1.0]], (0.0, 2.0), &[1.0], 1e-12).is_err());
    }

    #[test]
    fn tolerances_are_in_units_of_the_scale() {
        // The same rotation in units of 1e-6: errors of 1e-13 of the unit, not of 1.
        let f = |_: f64, y: &Array2<f64>, dy: &mut Array2<f64>| dy.assign(&array![[y[[0, 1]], -y[[0, 0]]]]);
        let unit = 1e-6;
        let y = integrate(f, array![[unit, 0.0]], (0.0, 2.0 * std::f64::consts::PI), &[unit; 2], 1e-13).unwrap();
        assert!((y[[0, 0]] - unit).abs() <= 1e-11 * unit && y[[0, 1]].abs() <= 1e-11 * unit, "{y}");
    }

    #[test]
    fn the_least_step_is_a_part_of_the_interval() {
        // y' = k y over intervals of any length (one of 8, whose first step is 1), and one that lies far out.
        for length in [1e-8, 8.0, 1e8] {
            let f = |_: f64, y: &Array2<f64>, dy: &mut Array2<f64>| dy.assign(&(y / length));
            let y = integrate(f, array![[1.0]], (0.0, length), &[1.0], 1e-13).unwrap();
            assert!((y[[0, 0]] - 1f64.exp()).abs() <= 1e-11, "{length}: {y}");
        }
        let rise = |_: f64, _: &Array2<f64>, dy: &mut Array2<f64>| dy.fill(1.0);
        assert_eq!(integrate(rise, array![[0.0]], (1e13, 1e13 + 1.0), &[1.0], 1e-13).unwrap()[[0, 0]], 1.0);
    }
}
