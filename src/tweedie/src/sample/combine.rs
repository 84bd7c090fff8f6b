//! The one kernel of every sampler: a linear combination of batches, in one pass over memory.

use ndarray::Array2;
use rayon::prelude::*;

/// Elements of a task; below two tasks' worth the pool is not woken.
const CHUNK: usize = 1 << 15;

/// `out = keep out + sum_j w_j y_j`, each array read once; with `keep = 0` whatever `out` held does
/// not matter.
///
/// # Shapes
/// All (n, d), in standard layout.
pub fn combine(out: &mut Array2<f64>, keep: f64, terms: &[(f64, &Array2<f64>)]) {
    match *terms {
        [] => combine_n(out, keep, []),
        [a] => combine_n(out, keep, [a]),
        [a, b] => combine_n(out, keep, [a, b]),
        [a, b, c] => combine_n(out, keep, [a, b, c]),
        [a, b, c, d] => combine_n(out, keep, [a, b, c, d]),
        [a, b, c, d, ref rest @ ..] => {
            combine_n(out, keep, [a, b, c, d]);
            combine(out, 1.0, rest);
        }
    }
}

fn combine_n<const N: usize>(out: &mut Array2<f64>, keep: f64, terms: [(f64, &Array2<f64>); N]) {
    let weights = terms.map(|t| t.0);
    let values = terms.map(|t| {
        debug_assert_eq!(t.1.dim(), out.dim());
        t.1.as_slice().expect("batches of a run are in standard layout")
    });
    let out = out.as_slice_mut().expect("batches of a run are in standard layout");
    let part = |first: usize, out: &mut [f64]| {
        let values = values.map(|v| &v[first..first + out.len()]);
        let sum = |i: usize| (0..N).fold(0.0, |s, j| s + weights[j] * values[j][i]);
        if keep == 0.0 {
            out.iter_mut().enumerate().for_each(|(i, o)| *o = sum(i));
        } else {
            out.iter_mut().enumerate().for_each(|(i, o)| *o = keep * *o + sum(i));
        }
    };
    if out.len() < 2 * CHUNK {
        part(0, out);
    } else {
        out.par_chunks_mut(CHUNK).enumerate().for_each(|(c, out)| part(c * CHUNK, out));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_terms_and_any_size() {
        for shape in [(3, 5), (300, 500)] {
            let y: Vec<_> = (1..=6)
                .map(|j| Array2::from_shape_fn(shape, |(i, k)| (i * j) as f64 - k as f64))
                .collect();
            for n in 0..=6 {
                for keep in [0.0, 0.5] {
                    let start = if keep == 0.0 { f64::NAN } else { 2.0 };
                    let mut out = Array2::from_elem(shape, start);
                    let terms: Vec<_> =
                        y[..n].iter().enumerate().map(|(j, y)| (0.25 * j as f64, y)).collect();
                    combine(&mut out, keep, &terms);
                    // Multiples of 1/4 are exact.
                    let want = terms
                        .iter()
                        .fold(Array2::from_elem(shape, 2.0 * keep), |sum, (w, y)| sum + *y * *w);
                    assert_eq!(out, want);
                }
            }
        }
    }
}
