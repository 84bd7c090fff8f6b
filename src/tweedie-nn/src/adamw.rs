//! AdamW on the flat vector of parameters.

use super::element::Element;
use rayon::prelude::*;

/// Settings of AdamW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub decay: f64,
}

impl Default for AdamW {
    /// PyTorch's.
    fn default() -> Self {
        Self { learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: 1e-2 }
    }
}

/// The running averages, one of each for every parameter.
#[derive(Clone, Debug)]
pub struct State<T> {
    /// Steps taken.
    pub steps: u32,
    /// Average gradient.
    pub first: Vec<T>,
    /// Average squared gradient.
    pub second: Vec<T>,
}

impl<T: Element> State<T> {
    /// Before the first step.
    pub fn new(params: usize) -> Self {
        Self { steps: 0, first: vec![T::zero(); params], second: vec![T::zero(); params] }
    }
}

impl AdamW {
    /// One step, in place.
    ///
    /// # Formula
    /// `w = w (1 - rate decay) - rate (m / (1 - beta1^n)) / (sqrt(v / (1 - beta2^n)) + eps)` with
    /// `m` and `v` the averages after this gradient and n the number of steps.
    ///
    /// # Source
    /// Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019, algorithm 2 (the
    /// schedule multiplier 1).
    pub fn step<T: Element>(&self, state: &mut State<T>, params: &mut [T], grads: &[T]) {
        state.steps += 1;
        let n = state.steps as i32;
        let (beta1, beta2) = (T::of(self.beta1), T::of(self.beta2));
        let (rest1, rest2) = (T::of(1.0 - self.beta1), T::of(1.0 - self.beta2));
        let kept = T::of(1.0 - self.learning_rate * self.decay);
        let rate = T::of(self.learning_rate / (1.0 - self.beta1.powi(n)));
        let root = T::of(1.0 / (1.0 - self.beta2.powi(n)).sqrt());
        let eps = T::of(self.eps);
        const BLOCK: usize = 1 << 14;
        let averages = state.first.par_chunks_mut(BLOCK).zip(state.second.par_chunks_mut(BLOCK));
        params.par_chunks_mut(BLOCK).zip(grads.par_chunks(BLOCK)).zip(averages).for_each(
            |((w, g), (m, v))| {
                for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
                    *m = beta1 * *m + rest1 * *g;
                    *v = beta2 * *v + rest2 * *g * *g;
                    *w = kept * *w - rate * *m / (v.sqrt() * root + eps);
                }
            },
        );
    }
}
