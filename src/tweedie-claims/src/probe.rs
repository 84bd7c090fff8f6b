//! How a check computes its evidence: single numbers, or the worst of many random cases.

use crate::{Claim, Role};
use ndarray::{Array1, Array2};
use std::cell::Cell;
use tweedie::diffusion::path::{Path, PathPoint};
use tweedie::diffusion::schedule::{Schedule, Table};
use tweedie::evidence::Evidence;
use tweedie::law::Gaussian;
use tweedie::law::mixture::Mixture;
use tweedie::math::noise::Noise;

/// The checker's side of one run: collects evidence, and says which mutant, if any, is under test.
pub struct Probe {
    evidence: Vec<(Role, Evidence)>,
    noise: Noise,
    names: &'static [&'static str],
    active: Option<&'static str>,
}

impl Probe {
    /// Runs a claim's check with one of its mutants, or with none.
    pub(super) fn run(
        claim: &Claim,
        seed: u64,
        mutant: Option<&'static str>,
    ) -> Vec<(Role, Evidence)> {
        // Each claim has its own random numbers, whatever ran before it: FNV-1a of the id.
        let label = claim.id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut probe = Probe {
            evidence: Vec::new(),
            noise: Noise::new(seed).child(label),
            names: claim.mutants,
            active: mutant,
        };
        (claim.check)(&mut probe);
        probe.evidence
    }

    /// Whether this run is to use the wrong variant of that name. Panics on a name that the claim
    /// does not list.
    pub fn mutant(&self, name: &str) -> bool {
        assert!(self.names.contains(&name), "mutant {name:?} is not listed by its claim");
        self.active == Some(name)
    }

    /// `right`, or `wrong` where that mutant is under test.
    pub fn pick<T>(&self, right: T, name: &str, wrong: T) -> T {
        if self.mutant(name) { wrong } else { right }
    }

    /// One number against another.
    pub fn number(
        &mut self,
        role: Role,
        what: impl Into<String>,
        got: f64,
        want: f64,
        tol: f64,
        why: impl Into<String>,
    ) {
        self.evidence.push((role, Evidence::new(what, got, want, tol).because(why)));
    }

    /// A statement that is true or false: `got` is 1 or 0, wanted 1. For inequalities and
    /// monotonicity, where no number says more.
    pub fn fact(&mut self, role: Role, what: impl Into<String>, holds: bool) {
        self.number(role, what, f64::from(u8::from(holds)), 1.0, 0.0, "true or false");
    }

    /// The worst of `cases` random cases: each compares any number of values through its [`Trial`],
    /// and the one with the largest `|got - want| / tol` becomes the evidence.
    ///
    /// `why` gives the reason for the tolerances that the cases use.
    pub fn property(
        &mut self,
        role: Role,
        what: impl Into<String>,
        cases: usize,
        why: impl Into<String>,
        case: impl Fn(&Trial),
    ) {
        let what = what.into();
        let stream = self.evidence.len() as u64;
        let mut worst: Option<(f64, [f64; 3])> = None;
        for index in 0..cases {
            let trial = Trial::new(self.noise.child(stream).child(index as u64));
            case(&trial);
            let (ratio, values) =
                trial.worst.get().unwrap_or_else(|| panic!("{what}: a case compared nothing"));
            // A NaN ratio is the worst there is.
            if worst.is_none_or(|(w, _)| !(ratio <= w) && !w.is_nan()) {
                worst = Some((ratio, values));
            }
        }
        let (_, [got, want, tol]) = worst.unwrap_or_else(|| panic!("{what}: no cases"));
        self.evidence
            .push((role, Evidence { cases, ..Evidence::new(what, got, want, tol).because(why) }));
    }
}

/// One random case: draws what it needs, then compares. The same seed gives the same case on any
/// number of threads.
pub struct Trial {
    noise: Noise,
    drawn: Cell<u64>,
    worst: Cell<Option<(f64, [f64; 3])>>,
}

impl Trial {
    fn new(noise: Noise) -> Self {
        Self { noise, drawn: Cell::new(0), worst: Cell::new(None) }
    }

    /// Compares two numbers; of all comparisons of a case the worst counts.
    pub fn compare(&self, got: f64, want: f64, tol: f64) {
        let error = (got - want).abs();
        // 0/0 is agreement to the bit with tolerance 0; equal infinities agree too.
        let ratio =
            if error == 0.0 || (got == want && got.is_infinite()) { 0.0 } else { error / tol };
        if self.worst.get().is_none_or(|(w, _)| !(ratio <= w) && !w.is_nan()) {
            self.worst.set(Some((ratio, [got, want, tol])));
        }
    }

    /// Compares relatively: `tol = c * epsilon * |want|`.
    pub fn compare_rel(&self, got: f64, want: f64, c: f64) {
        self.compare(got, want, c * f64::EPSILON * want.abs());
    }

    /// Compares element by element with one tolerance.
    pub fn compare_all<'a>(
        &self,
        got: impl IntoIterator<Item = &'a f64>,
        want: impl IntoIterator<Item = &'a f64>,
        tol: f64,
    ) {
        let (got, want): (Vec<_>, Vec<_>) = (got.into_iter().collect(), want.into_iter().collect());
        assert_eq!(got.len(), want.len(), "compare_all: lengths differ");
        got.into_iter().zip(want).for_each(|(g, w)| self.compare(*g, *w, tol));
    }

    fn next(&self) -> u64 {
        let index = self.drawn.get();
        self.drawn.set(index + 1);
        index
    }

    /// The noise of this case, for whatever takes a source (laws, samplers).
    pub fn noise(&self) -> Noise {
        self.noise.child(self.next())
    }

    /// Uniform on (lo, hi).
    pub fn uniform(&self, lo: f64, hi: f64) -> f64 {
        lo + (hi - lo) * self.noise.uniform(0, self.next())
    }

    /// Log-uniform on (lo, hi), both positive.
    pub fn log_uniform(&self, lo: f64, hi: f64) -> f64 {
        self.uniform(lo.ln(), hi.ln()).exp()
    }

    /// A whole number in lo..=hi.
    pub fn int(&self, lo: usize, hi: usize) -> usize {
        (lo + (self.uniform(0.0, 1.0) * (hi - lo + 1) as f64) as usize).min(hi)
    }

    /// Standard normal.
    pub fn normal(&self) -> f64 {
        self.noise.normal(1, self.next())
    }

    /// Standard normals, shape (d).
    pub fn normals(&self, d: usize) -> Array1<f64> {
        Array1::from_shape_fn(d, |_| self.normal())
    }

    /// Standard normals, shape (n, d).
    pub fn normal_rows(&self, n: usize, d: usize) -> Array2<f64> {
        Array2::from_shape_fn((n, d), |_| self.normal())
    }

    /// A discrete schedule of any kind with random parameters and `steps` steps.
    pub fn table(&self, steps: usize) -> Table {
        let (beta_start, beta_end) = (self.log_uniform(1e-5, 5e-3), self.log_uniform(1e-2, 0.3));
        let schedule = match self.int(0, 3) {
            0 => Schedule::Linear { beta_start, beta_end },
            1 => Schedule::ScaledLinear { beta_start, beta_end },
            2 => Schedule::Sigmoid { beta_start, beta_end },
            _ => Schedule::Cosine {
                offset: self.log_uniform(1e-3, 5e-2),
                max_beta: self.uniform(0.9, 0.999),
            },
        };
        Table::new(schedule, steps, false).expect("random parameters are in range")
    }

    /// A continuous path of any kind with random parameters.
    pub fn path(&self) -> Path {
        match self.int(0, 4) {
            0 => Path::Vp {
                beta_min: self.log_uniform(0.02, 0.5),
                beta_max: self.uniform(5.0, 30.0),
            },
            1 => Path::Ve {
                sigma_min: self.log_uniform(1e-3, 0.1),
                sigma_max: self.log_uniform(5.0, 100.0),
            },
            2 => Path::Edm { sigma_max: self.log_uniform(5.0, 100.0) },
            3 => Path::Cosine,
            _ => Path::FlowMatching,
        }
    }

    /// A point of a random path, away from its ends.
    pub fn point(&self) -> PathPoint {
        self.path().at(self.uniform(0.01, 0.99)).expect("inside the path")
    }

    /// Orthonormal columns, shape (d, d).
    pub fn rotation(&self, d: usize) -> Array2<f64> {
        let a = nalgebra::DMatrix::from_fn(d, d, |_, _| self.normal());
        let q = a.qr().q();
        Array2::from_shape_fn((d, d), |(i, j)| q[(i, j)])
    }

    /// A Gaussian with a random mean, random modes and variances log-uniform on (1e-2, 1e1).
    pub fn gaussian(&self, d: usize) -> Gaussian {
        let variances = Array1::from_shape_fn(d, |_| self.log_uniform(1e-2, 10.0));
        Gaussian::from_modes(self.normals(d), variances, self.rotation(d))
            .expect("random modes are orthonormal")
    }

    /// A mixture of k such Gaussians, means spread by 2.
    pub fn mixture(&self, d: usize, k: usize) -> Mixture {
        let weights = Array1::from_shape_fn(k, |_| self.uniform(0.2, 1.0));
        let parts = (0..k)
            .map(|_| {
                let variances = Array1::from_shape_fn(d, |_| self.log_uniform(5e-2, 1.0));
                Gaussian::from_modes(self.normals(d) * 2.0, variances, self.rotation(d))
                    .expect("random modes are orthonormal")
            })
            .collect();
        Mixture::new(weights, parts).expect("positive weights")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The property "three numbers are what they should be" over three cases, with a NaN at a place
    /// of one of them.
    fn poisoned(case: Option<usize>, place: usize) -> bool {
        let mut probe =
            Probe { evidence: Vec::new(), noise: Noise::new(0), names: &[], active: None };
        let counted = Cell::new(0);
        probe.property(Role::Printed, "three numbers", 3, "equal", |t| {
            let mut got = [1.0, 2.0, 3.0];
            if Some(counted.get()) == case {
                got[place] = f64::NAN;
            }
            counted.set(counted.get() + 1);
            t.compare_all(&got, &[1.0, 2.0, 3.0], 1e-9);
        });
        probe.evidence[0].1.holds()
    }

    #[test]
    fn one_poisoned_number_fails_a_property_wherever_it_stands() {
        assert!(poisoned(None, 0));
        for case in 0..3 {
            assert!((0..3).all(|place| !poisoned(Some(case), place)), "{case}");
        }
    }
}
