//! The operations that are not products of gathered rows: one file each, forward and backward on
//! slices.
//!
//! Activations are channels last: `x[(image * rows + pixel) * channels + channel]`. A gradient is
//! written with `keep`: false writes it, true adds to what is there.

pub mod attention;
pub mod embedding;
pub mod norm;
pub mod pointwise;

#[cfg(test)]
pub(crate) mod testing {
    use tweedie::math::noise::Noise;

    /// Standard normals.
    pub fn random(n: usize, seed: u64) -> Vec<f64> {
        (0..n).map(|i| Noise::new(seed).normal(0, i as u64)).collect()
    }

    /// Holds the gradient of `<dout, f(x)>` by every input to central differences along a random
    /// direction.
    pub fn assert_gradients(
        inputs: &[usize],
        seed: u64,
        f: impl Fn(&[Vec<f64>]) -> Vec<f64>,
        gradient: impl Fn(&[Vec<f64>], &[f64]) -> Vec<Vec<f64>>,
    ) {
        let x: Vec<Vec<f64>> = inputs
            .iter()
            .enumerate()
            .map(|(i, &n)| random(n, seed.wrapping_add(i as u64)))
            .collect();
        let dout = random(f(&x).len(), !seed);
        let dx = gradient(&x, &dout);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        for (i, &n) in inputs.iter().enumerate() {
            let direction = random(n, seed ^ 0x5555);
            let moved = |h: f64| {
                let mut x = x.clone();
                x[i].iter_mut().zip(&direction).for_each(|(x, d)| *x += h * d);
                dot(&dout, &f(&x))
            };
            // Five points: the error is h^4 times a fifth derivative, plus eps / h.
            let h = 1e-3;
            let difference =
                (8.0 * (moved(h) - moved(-h)) - (moved(2.0 * h) - moved(-2.0 * h))) / (12.0 * h);
            let got = dot(&dx[i], &direction);
            let size = dot(&dx[i], &dx[i]).sqrt() * dot(&direction, &direction).sqrt()
                + dot(&dout, &dout).sqrt();
            assert!(
                (got - difference).abs() <= 1e-6 * size,
                "input {i}: {got}, differences say {difference}"
            );
        }
    }
}
