//! Where a sampler's noise comes from: seeded, silent, recorded, or one impulse at a time.

use crate::math::noise::Noise;
use ndarray::{Array2, Axis};

/// A source of standard normals for whole batches, addressed by the number of the draw.
///
/// Draws of a run are counted from 0 in the order in which the sampler asks; the start of a run is
/// not one of them.
pub trait NoiseSource {
    /// Writes draw `draw`.
    ///
    /// # Shapes
    /// `out` (n, d), in standard layout.
    fn fill(&mut self, draw: usize, out: &mut Array2<f64>);
}

/// The noise stream of a run's start, "start" in ASCII, away from the small numbers of the draws.
const START_STREAM: u64 = 0x73_7461_7274;

impl NoiseSource for Noise {
    /// Element (i, j) is `normal(draw, i d + j)`: keyed by (seed, draw, element), the same for any
    /// number of threads.
    fn fill(&mut self, draw: usize, out: &mut Array2<f64>) {
        self.fill_normal(draw as u64, out.as_slice_mut().expect("standard layout"));
    }
}

/// A part of a larger batch: rows `first_row..` of what the whole would draw, so that a run can be
/// split without changing a bit.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// The source of the whole.
    pub noise: Noise,
    /// Row of the whole at which the part begins.
    pub first_row: usize,
}

impl NoiseSource for Rows {
    fn fill(&mut self, draw: usize, out: &mut Array2<f64>) {
        let first = (self.first_row * out.ncols()) as u64;
        self.noise.fill_normal_from(
            draw as u64,
            first,
            out.as_slice_mut().expect("standard layout"),
        );
    }
}

/// `n` standard normal starts of dimension `d` from a source, apart from every draw of a run.
pub fn standard_start(noise: &Noise, n: usize, d: usize) -> Array2<f64> {
    let mut z = Array2::zeros((n, d));
    noise.fill_normal(START_STREAM, z.as_slice_mut().expect("standard layout"));
    z
}

/// No noise at all.
#[derive(Clone, Copy, Debug)]
pub struct Silence;

impl NoiseSource for Silence {
    fn fill(&mut self, _: usize, out: &mut Array2<f64>) {
        out.fill(0.0);
    }
}

/// Noise that was drawn elsewhere: another program's, to run the same trajectory.
#[derive(Clone, Debug)]
pub struct Recorded(pub Vec<Array2<f64>>);

impl NoiseSource for Recorded {
    /// # Panics
    /// When the record ends before the run does, or has another shape.
    fn fill(&mut self, draw: usize, out: &mut Array2<f64>) {
        out.assign(&self.0[draw]);
    }
}

/// 1 in row `first + draw` for draw number `draw`, 0 elsewhere: each row sees one draw, so that an
/// affine sampler shows its gain on it.
#[derive(Clone, Copy, Debug)]
pub struct Impulses {
    /// Row of draw 0.
    pub first: usize,
}

impl NoiseSource for Impulses {
    fn fill(&mut self, draw: usize, out: &mut Array2<f64>) {
        out.fill(0.0);
        out.index_axis_mut(Axis(0), self.first + draw).fill(1.0);
    }
}
