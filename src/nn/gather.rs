//! The one dense kernel: products of gathered rows with a matrix.
//!
//! Every linear map of the network, a convolution of any stride, one behind an upsampling or in front of a padding, a 1 x 1 convolution,
//! a linear layer, is a sum over *taps* of rows gathered by an index table, times that tap's matrix:
//!
//! `y[p] = sum_tap x[table[p][tap]] w[tap]`, rows that the table leaves out counting as zero.
//!
//! Its transpose is the same thing with the table read backwards, so that two kernels do all the arithmetic of a training step: [`rows`]
//! (forward, and the gradient of the input) and [`outer`] (the gradient of the weights). Rows are read where they lie: a register tile of
//! P rows by two vectors of columns needs one broadcast load for two multiply-adds, so that nothing is copied into patches first.

use super::element::Element;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// A missing row of a [`Table`].
const NONE: u32 = u32::MAX;

/// Which input row each output row takes at each tap, the same for every image of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Rows of one image going in.
    pub inputs: usize,
    /// Rows of one image coming out.
    pub outputs: usize,
    /// Matrices, each of which several taps may share.
    pub matrices: usize,
    /// For each tap its matrix.
    taps: Vec<u32>,
    /// `index[k * taps + tap]`: the input row of the output row `order[k]`.
    index: Vec<u32>,
    /// Output rows in the order in which they are computed: rows with the same taps stand together.
    order: Vec<u32>,
}

impl Table {
    /// A table from the input row of each (output row, tap).
    fn new(inputs: usize, outputs: usize, taps: Vec<u32>, matrices: usize, at: impl Fn(usize, usize) -> Option<usize>) -> Self {
        let row = |p: usize| -> Vec<u32> { (0..taps.len()).map(|tap| at(p, tap).map_or(NONE, |q| q as u32)).collect() };
        let mut order: Vec<u32> = (0..outputs as u32).collect();
        order.sort_by_cached_key(|&p| row(p as usize).iter().map(|&q| q == NONE).collect::<Vec<_>>());
        let index = order.iter().flat_map(|&p| row(p as usize)).collect();
        Self { inputs, outputs, matrices, taps, index, order }
    }

    /// A linear layer: each row by itself.
    pub fn identity(rows: usize) -> Self {
        Self::new(rows, rows, vec![0], 1, |p, _| Some(p))
    }

    /// A `kernel` x `kernel` convolution of a `height` x `width` image, `before` and `after` rows and columns of zeros around it.
    pub fn convolution((height, width): (usize, usize), kernel: usize, stride: usize, before: usize, after: usize) -> Self {
        let out = |n: usize| (n + before + after - kernel) / stride + 1;
        let (out_height, out_width) = (out(height), out(width));
        Self::new(height * width, out_height * out_width, (0..(kernel * kernel) as u32).collect(), kernel * kernel, |p, tap| {
            let y = (p / out_width * stride + tap / kernel).checked_sub(before)?;
            let x = (p % out_width * stride + tap % kernel).checked_sub(before)?;
            (y < height && x < width).then_some(y * width + x)
        })
    }

    /// A 3 x 3 convolution, padding 1, of the image with each pixel doubled in both directions.
    pub fn upsampling((height, width): (usize, usize)) -> Self {
        let (out_height, out_width) = (2 * height, 2 * width);
        Self::new(height * width, out_height * out_width, (0..9).collect(), 9, |p, tap| {
            let y = (p / out_width + tap / 3).checked_sub(1)?;
            let x = (p % out_width + tap % 3).checked_sub(1)?;
            (y < out_height && x < out_width).then_some(y / 2 * width + x / 2)
        })
    }

    /// The table of the transposed map: for each input row the output rows it enters, matrix by matrix.
    pub fn transposed(&self) -> Self {
        let mut lists = vec![vec![Vec::new(); self.matrices]; self.inputs];
        for (k, &p) in self.order.iter().enumerate() {
            for (tap, &m) in self.taps.iter().enumerate() {
                let q = self.index[k * self.taps.len() + tap];
                if q != NONE {
                    lists[q as usize][m as usize].push(p as usize);
                }
            }
        }
        // Each matrix needs as many taps as the row that uses it most.
        let counts: Vec<usize> = (0..self.matrices).map(|m| lists.iter().map(|l| l[m].len()).max().unwrap_or(0)).collect();
        let taps: Vec<(usize, usize)> = (0..self.matrices).flat_map(|m| (0..counts[m]).map(move |i| (m, i))).collect();
        Self::new(self.outputs, self.inputs, taps.iter().map(|t| t.0 as u32).collect(), self.matrices, |q, tap| {
            let (m, i) = taps[tap];
            lists[q][m].get(i).copied()
        })
    }

    /// Pairs of an output row and a tap that has a row for it: products of one image.
    pub fn pairs(&self) -> usize {
        self.index.iter().filter(|&&q| q != NONE).count()
    }
}

/// Columns of a tile: two registers of the widest vectors (AVX-512, f32), so that packed weights do not depend on the machine.
pub const TILE: usize = 32;

/// Length of a packed weight: `matrices` of (`depth`, `columns`), the columns rounded up to whole tiles.
pub fn packed_len(matrices: usize, depth: usize, columns: usize) -> usize {
    matrices * depth * columns.next_multiple_of(TILE)
}

/// Packs `w` (matrices, depth, columns) tile by tile: `out[((tile * matrices + matrix) * depth + k) * TILE + column]`, zeros behind the last
/// column.
pub fn pack<T: Element>(out: &mut [T], matrices: usize, depth: usize, columns: usize, w: &[T]) {
    out.par_chunks_mut(matrices * depth * TILE).enumerate().for_each(|(tile, out)| {
        let first = tile * TILE;
        let width = TILE.min(columns - first);
        for (out, row) in out.chunks_exact_mut(TILE).zip(w.chunks_exact(columns)) {
            out[..width].copy_from_slice(&row[first..first + width]);
            out[width..].fill(T::zero());
        }
    });
}

/// [`pack`] for the transposed matrices: `w` (matrices, columns, depth).
pub fn pack_transposed<T: Element>(out: &mut [T], matrices: usize, depth: usize, columns: usize, w: &[T]) {
    // As many k at a time as keep what is written in the first cache.
    const STRIP: usize = 64;
    out.par_chunks_mut(matrices * depth * TILE).enumerate().for_each(|(tile, out)| {
        let first = tile * TILE;
        let width = TILE.min(columns - first);
        for (out, w) in out.chunks_exact_mut(depth * TILE).zip(w.chunks_exact(columns * depth)) {
            for (strip, out) in out.chunks_mut(STRIP * TILE).enumerate() {
                let from = strip * STRIP;
                for (j, row) in w[first * depth..].chunks_exact(depth).take(width).enumerate() {
                    for (out, x) in out.chunks_exact_mut(TILE).zip(&row[from..]) {
                        out[j] = *x;
                    }
                }
                for out in out.chunks_exact_mut(TILE) {
                    out[width..].fill(T::zero());
                }
            }
        }
    });
}

/// What is added to a product before it is written: `out = (product + bias + image_bias[image] + skip) scale + keep out`.
#[derive(Clone, Copy)]
pub struct Epilogue<'a, T> {
    /// (columns), empty for none.
    pub bias: &'a [T],
    /// (images, columns), empty for none.
    pub image_bias: &'a [T],
    /// Shaped like the output, empty for none.
    pub skip: &'a [T],
    pub scale: T,
    /// Add to what the output holds.
    pub keep: bool,
}

impl<T: Element> Epilogue<'_, T> {
    /// Writes the bare product, or adds it.
    pub fn plain(keep: bool) -> Self {
        Self { bias: &[], image_bias: &[], skip: &[], scale: T::one(), keep }
    }
}

/// `out[image][p] = sum_tap x[image][table[p][tap]] w[tap]`, then the epilogue.
///
/// # Shapes
/// `x` (images, inputs, depth), `w` packed by [`pack`], `out` (images, outputs, columns).
pub fn rows<T: Element>(table: &Table, x: &[T], depth: usize, w: &[T], columns: usize, epilogue: Epilogue<T>, out: &mut [T]) {
    let images = x.len() / (table.inputs * depth).max(1);
    assert_eq!(x.len(), images * table.inputs * depth, "gathered rows");
    assert_eq!(out.len(), images * table.outputs * columns, "output rows");
    assert_eq!(w.len(), packed_len(table.matrices, depth, columns), "packed weights");
    let zeros = vec![T::zero(); depth];
    let arch = Arch::new();
    // A block is computed by one thread: enough rows that its share of the weights is read often, few enough that all threads have work.
    const BLOCK: usize = 192;
    let per_image = table.outputs.div_ceil(BLOCK);
    let block = table.outputs.div_ceil(per_image);
    let out = Shared(out.as_mut_ptr(), out.len());
    // Small images stand together in one block, so that a linear layer on a batch is not one row at a time.
    let together = (BLOCK / table.outputs.max(1)).clamp(1, images.max(1));
    let blocks = images.div_ceil(together) * per_image;
    // Where the rows alone do not keep all threads busy, the columns are shared out too.
    let tiles = columns.div_ceil(TILE);
    let shares = (4 * rayon::current_num_threads()).div_ceil(blocks.max(1)).min(tiles);
    let share = tiles.div_ceil(shares);
    (0..blocks * shares).into_par_iter().for_each(|task| {
        let (task, tiles) = (task / shares, task % shares * share..((task % shares + 1) * share).min(tiles));
        let first = task / per_image * together;
        let images = first..(first + together).min(images);
        let span = task % per_image * block..((task % per_image + 1) * block).min(table.outputs);
        arch.dispatch(RowsTask { table, x, depth, w, columns, epilogue, out, images, span, tiles, zeros: &zeros });
    });
}

/// An output that tasks write at disjoint places.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T, usize);
// SAFETY: every task writes rows (or matrix entries) that no other task touches.
unsafe impl<T: Send> Send for Shared<T> {}
unsafe impl<T: Send> Sync for Shared<T> {}

/// Runs a task with tiles of P rows by V registers, TILE columns: as many sums as the registers hold beside V weights and one broadcast.
/// With 32 registers P is `$half` where two make a tile, `$quarter` where four do.
macro_rules! in_tiles {
    ($task:ident, $simd:ident, $half:literal, $quarter:literal) => {
        match (S::REGISTER_COUNT >= 32, TILE / T::lanes::<S>()) {
            (true, 2) => $task.run::<S, $half, 2>($simd),
            (true, 4) => $task.run::<S, $quarter, 4>($simd),
            (_, 4) => $task.run::<S, 2, 4>($simd),
            (_, 8) => $task.run::<S, 1, 8>($simd),
            (_, 16) => $task.run::<S, 1, 16>($simd),
            (_, 32) => $task.run::<S, 1, 32>($simd),
            (_, lanes) => unreachable!("no vectors of {TILE} / {lanes}"),
        }
    };
}

/// One row of a tile as numbers.
#[inline(always)]
fn unpacked<S: Simd, T: Element, const V: usize>(acc: [T::Vector<S>; V]) -> [T; TILE] {
    assert_eq!(V * T::lanes::<S>(), TILE);
    let mut sums = [T::zero(); TILE];
    // SAFETY: V registers are TILE numbers, as asserted.
    unsafe { sums.as_mut_ptr().cast::<[T::Vector<S>; V]>().write_unaligned(acc) };
    sums
}

struct RowsTask<'a, T> {
    table: &'a Table,
    x: &'a [T],
    depth: usize,
    w: &'a [T],
    columns: usize,
    epilogue: Epilogue<'a, T>,
    out: Shared<T>,
    images: std::ops::Range<usize>,
    span: std::ops::Range<usize>,
    tiles: std::ops::Range<usize>,
    zeros: &'a [T],
}

impl<T: Element> WithSimd for RowsTask<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        in_tiles!(self, simd, 12, 6);
    }
}

impl<T: Element> RowsTask<'_, T> {
    #[inline(always)]
    fn run<S: Simd, const P: usize, const V: usize>(self, simd: S) {
        let Self { table, x, depth, w, columns, epilogue, out, images, span, tiles, zeros } = self;
        let taps = table.taps.len();
        let spanned = span.len();
        let count = images.len() * spanned;
        for tile in tiles {
            let w = &w[tile * table.matrices * depth * TILE..][..table.matrices * depth * TILE];
            let first = tile * TILE;
            let width = TILE.min(columns - first);
            let mut done = 0;
            while done < count {
                let n = P.min(count - done);
                // Rows behind the last one repeat it: computed, not written.
                let place: [(usize, usize); P] = std::array::from_fn(|i| {
                    let at = done + i.min(n - 1);
                    (images.start + at / spanned, span.start + at % spanned)
                });
                let mut acc = [[T::splat(simd, T::zero()); V]; P];
                for tap in 0..taps {
                    let index: [u32; P] = std::array::from_fn(|i| table.index[place[i].1 * taps + tap]);
                    if index.iter().all(|&q| q == NONE) {
                        continue;
                    }
                    let rows: [*const T; P] = std::array::from_fn(|i| match index[i] {
                        NONE => zeros.as_ptr(),
                        q => x[(place[i].0 * table.inputs + q as usize) * depth..][..depth].as_ptr(),
                    });
                    let w = &w[table.taps[tap] as usize * depth * TILE..][..depth * TILE];
                    for (k, w) in w.chunks_exact(TILE).enumerate() {
                        // SAFETY: each row has `depth` elements, as sliced above, and `w` has as many rows.
                        let a: [T; P] = std::array::from_fn(|i| unsafe { *rows[i].add(k) });
                        accumulate::<S, T, P, V>(simd, &mut acc, &a, w);
                    }
                }
                for (i, &(image, k)) in place.iter().enumerate().take(n) {
                    let mut sums = unpacked::<S, T, V>(acc[i]);
                    let at = (image * table.outputs + table.order[k] as usize) * columns + first;
                    assert!(at + width <= out.1);
                    // SAFETY: in bounds as asserted; this task alone writes this row.
                    let out = unsafe { std::slice::from_raw_parts_mut(out.0.add(at), width) };
                    let sums = &mut sums[..width];
                    add(sums, epilogue.bias, first);
                    add(sums, epilogue.image_bias, image * columns + first);
                    add(sums, epilogue.skip, at);
                    if epilogue.keep {
                        for (o, s) in out.iter_mut().zip(sums) {
                            *o += *s * epilogue.scale;
                        }
                    } else {
                        for (o, s) in out.iter_mut().zip(sums) {
                            *o = *s * epilogue.scale;
                        }
                    }
                }
                done += n;
            }
        }
    }
}

/// Adds `more[at..]`, or nothing where there is none.
#[inline(always)]
fn add<T: Element>(sums: &mut [T], more: &[T], at: usize) {
    if !more.is_empty() {
        let n = sums.len();
        for (s, m) in sums.iter_mut().zip(&more[at..at + n]) {
            *s += *m;
        }
    }
}

/// The gradient of the weights: `out[matrix][k][column] = sum over images and (p, tap) of that matrix of x[table[p][tap]][k] dy[p][column]`.
///
/// Each entry is one thread's sum in a fixed order, so that the result does not depend on the number of threads.
///
/// # Shapes
/// `x` (images, inputs, depth), `dy` (images, outputs, columns), `out` (matrices, depth, columns).
pub fn outer<T: Element>(table: &Table, x: &[T], depth: usize, dy: &[T], columns: usize, out: &mut [T]) {
    let images = x.len() / (table.inputs * depth).max(1);
    assert_eq!(x.len(), images * table.inputs * depth, "gathered rows");
    assert_eq!(dy.len(), images * table.outputs * columns, "output rows");
    assert_eq!(out.len(), table.matrices * depth * columns, "gradient of the weights");
    out.fill(T::zero());
    let arch = Arch::new();
    // A task owns some rows k of one matrix.
    let per_matrix = depth.div_ceil(DEPTHS);
    let out = Shared(out.as_mut_ptr(), out.len());
    (0..table.matrices * per_matrix).into_par_iter().for_each(|task| {
        let (matrix, part) = (task / per_matrix, task % per_matrix);
        let depths = part * DEPTHS..((part + 1) * DEPTHS).min(depth);
        arch.dispatch(OuterTask { table, x, depth, dy, columns, out, matrix, depths, images });
    });
}

/// Rows of a matrix whose gradient one task sums; a multiple of every tile's height.
const DEPTHS: usize = 64;

struct OuterTask<'a, T> {
    table: &'a Table,
    x: &'a [T],
    depth: usize,
    dy: &'a [T],
    columns: usize,
    out: Shared<T>,
    matrix: usize,
    depths: std::ops::Range<usize>,
    images: usize,
}

impl<T: Element> WithSimd for OuterTask<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        in_tiles!(self, simd, 8, 4);
    }
}

impl<T: Element> OuterTask<'_, T> {
    #[inline(always)]
    fn run<S: Simd, const P: usize, const V: usize>(self, simd: S) {
        let Self { table, x, depth, dy, columns, out, matrix, depths, images } = self;
        let taps = table.taps.len();
        // (row of x, row of dy) of one image, for this matrix.
        let list: Vec<(usize, usize)> = (0..table.outputs)
            .flat_map(|k| (0..taps).map(move |tap| (k, tap)))
            .filter(|&(k, tap)| table.taps[tap] as usize == matrix && table.index[k * taps + tap] != NONE)
            .map(|(k, tap)| (table.index[k * taps + tap] as usize, table.order[k] as usize))
            .collect();
        // A stretch of the batch's pairs is copied side by side, zeros where a tile is ragged, so that the tiles read it from the
        // first cache.
        const STRETCH: usize = 128;
        let (mut a, mut b) = (vec![T::zero(); STRETCH * DEPTHS], vec![T::zero(); STRETCH * TILE]);
        let mut pairs = Vec::new();
        let mut image = 0;
        while image < images && !list.is_empty() {
            // Whole images: several small ones, or one.
            pairs.clear();
            while image < images && pairs.len() + list.len() <= STRETCH.max(list.len()) {
                pairs.extend(list.iter().map(|&(q, p)| (image * table.inputs + q, image * table.outputs + p)));
                image += 1;
            }
            for pairs in pairs.chunks(STRETCH) {
                for (&(q, _), a) in pairs.iter().zip(a.chunks_exact_mut(DEPTHS)) {
                    a[..depths.len()].copy_from_slice(&x[q * depth + depths.start..][..depths.len()]);
                }
                for first in (0..columns).step_by(TILE) {
                    let width = TILE.min(columns - first);
                    for (&(_, p), b) in pairs.iter().zip(b.chunks_exact_mut(TILE)) {
                        let row = &dy[p * columns + first..][..width];
                        match (<&mut [T; TILE]>::try_from(&mut *b), <&[T; TILE]>::try_from(row)) {
                            (Ok(b), Ok(row)) => *b = *row,
                            _ => {
                                b[..width].copy_from_slice(row);
                                b[width..].fill(T::zero());
                            }
                        }
                    }
                    for k in (0..depths.len()).step_by(P) {
                        let mut acc = [[T::splat(simd, T::zero()); V]; P];
                        for (a, b) in a.chunks_exact(DEPTHS).zip(b.chunks_exact(TILE)).take(pairs.len()) {
                            accumulate::<S, T, P, V>(simd, &mut acc, &a[k..k + P], b);
                        }
                        for (i, acc) in acc.iter().enumerate().take(depths.len() - k) {
                            let sums = unpacked::<S, T, V>(*acc);
                            let at = (matrix * depth + depths.start + k + i) * columns + first;
                            assert!(at + width <= out.1);
                            // SAFETY: in bounds as asserted; this task alone writes these rows of this matrix.
                            let out = unsafe { std::slice::from_raw_parts_mut(out.0.add(at), width) };
                            for (o, s) in out.iter_mut().zip(sums) {
                                *o += s;
                            }
                        }
                    }
                }
            }
        }
    }
}

/// `acc[i] += a[i] b` for P scalars and V vectors.
#[inline(always)]
fn accumulate<S: Simd, T: Element, const P: usize, const V: usize>(simd: S, acc: &mut [[T::Vector<S>; V]; P], a: &[T], b: &[T]) {
    assert!(a.len() >= P && b.len() >= TILE);
    // SAFETY: lengths as asserted; V registers are TILE elements.
    unsafe {
        let b: [T::Vector<S>; V] =
            std::array::from_fn(|v| b.as_ptr().add(v * T::lanes::<S>()).cast::<T::Vector<S>>().read_unaligned());
        for (acc, a) in acc.iter_mut().zip(a) {
            let a = T::splat(simd, *a);
            for (acc, b) in acc.iter_mut().zip(&b) {
                *acc = T::mul_add_vector(simd, a, *b, *acc);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::noise::Noise;
    use proptest::prelude::*;

    fn random<T: Element>(n: usize, stream: u64) -> Vec<T> {
        (0..n).map(|i| T::of(Noise::new(7).normal(stream, i as u64))).collect()
    }

    /// A table of any kind that fits the size.
    fn table(kind: usize, height: usize, width: usize) -> Table {
        match kind {
            0 => Table::identity(height * width),
            1 => Table::convolution((height, width), 3, 1, 1, 1),
            2 => Table::convolution((2 * height, 2 * width), 3, 2, 1, 1),
            3 => Table::convolution((2 * height, 2 * width), 3, 2, 0, 1),
            _ => Table::upsampling((height, width)),
        }
    }

    /// The definition, in f64: the convolution of the image as it stands behind its padding or doubling.
    fn naive(kind: usize, (height, width): (usize, usize), x: &[f64], depth: usize, w: &[f64], columns: usize) -> Vec<f64> {
        let (kernel, stride, before, zoom, size) = match kind {
            0 => (1, 1, 0, 1, (height, width)),
            1 => (3, 1, 1, 1, (height, width)),
            2 => (3, 2, 1, 1, (2 * height, 2 * width)),
            3 => (3, 2, 0, 1, (2 * height, 2 * width)),
            _ => (3, 1, 1, 2, (height, width)),
        };
        let (out_height, out_width) = (size.0 * zoom / stride, size.1 * zoom / stride);
        let mut y = Vec::new();
        for image in x.chunks_exact(size.0 * size.1 * depth) {
            for (r, c, j) in (0..out_height).flat_map(|r| (0..out_width).flat_map(move |c| (0..columns).map(move |j| (r, c, j)))) {
                let mut sum = 0.0;
                for (a, b) in (0..kernel).flat_map(|a| (0..kernel).map(move |b| (a, b))) {
                    let (r, c) = ((r * stride + a) as isize - before as isize, (c * stride + b) as isize - before as isize);
                    if r >= 0 && c >= 0 && (r as usize) < size.0 * zoom && (c as usize) < size.1 * zoom {
                        let pixel = r as usize / zoom * size.1 + c as usize / zoom;
                        sum += (0..depth)
                            .map(|k| image[pixel * depth + k] * w[((a * kernel + b) * depth + k) * columns + j])
                            .sum::<f64>();
                    }
                }
                y.push(sum);
            }
        }
        y
    }

    fn packed<T: Element>(w: &[T], matrices: usize, depth: usize, columns: usize) -> Vec<T> {
        let mut out = vec![T::zero(); packed_len(matrices, depth, columns)];
        pack(&mut out, matrices, depth, columns, w);
        out
    }

    fn assert_close<T: Element>(got: &[T], want: &[T], terms: usize) {
        let size = want.iter().fold(1.0, |m: f64, x| m.max(x.wide().abs()));
        let unit = if size_of::<T>() == 8 { f64::EPSILON } else { f32::EPSILON.into() };
        assert_eq!(got.len(), want.len());
        for (g, w) in got.iter().zip(want) {
            // A sum of n terms of order `size` rounds n times at most.
            assert!((g.wide() - w.wide()).abs() <= 4.0 * terms as f64 * unit * size, "{g:?} {w:?}");
        }
    }

    fn check<T: Element>(kind: usize, height: usize, width: usize, images: usize, depth: usize, columns: usize) {
        let t = table(kind, height, width);
        let (x, w) = (random::<T>(images * t.inputs * depth, 1), random::<T>(t.matrices * depth * columns, 2));
        let widened = |x: &[T]| x.iter().map(|x| x.wide()).collect::<Vec<_>>();
        let product: Vec<T> =
            naive(kind, (height, width), &widened(&x), depth, &widened(&w), columns).into_iter().map(T::of).collect();
        let n = product.len();
        let terms = 9 * depth + 4;
        let mut y = vec![T::nan(); n];
        rows(&t, &x, depth, &packed(&w, t.matrices, depth, columns), columns, Epilogue::plain(false), &mut y);
        assert_close(&y, &product, terms);

        let (bias, image_bias, skip) = (random::<T>(columns, 3), random::<T>(images * columns, 4), random::<T>(n, 5));
        let scale = T::of(0.75);
        let epilogue = Epilogue { bias: &bias, image_bias: &image_bias, skip: &skip, scale, keep: true };
        rows(&t, &x, depth, &packed(&w, t.matrices, depth, columns), columns, epilogue, &mut y);
        let want: Vec<T> = (0..n)
            .map(|i| {
                product[i]
                    + (product[i] + bias[i % columns] + image_bias[i / (t.outputs * columns) * columns + i % columns] + skip[i])
                        * scale
            })
            .collect();
        assert_close(&y, &want, terms);

        // The transpose: <A x, z> = <x, A^T z>, and the gradient of the weights likewise, entry by entry.
        let z = random::<T>(n, 6);
        let back = t.transposed();
        assert_eq!(back.pairs(), t.pairs());
        let mut turned = vec![T::nan(); packed_len(t.matrices, columns, depth)];
        pack_transposed(&mut turned, t.matrices, columns, depth, &w);
        let mut dx = vec![T::nan(); x.len()];
        rows(&back, &z, columns, &turned, depth, Epilogue::plain(false), &mut dx);
        let dot = |a: &[T], b: &[T]| a.iter().zip(b).map(|(a, b)| a.wide() * b.wide()).sum::<f64>();
        let size = dot(&product, &product).sqrt() * dot(&z, &z).sqrt() + 1.0;
        let unit: f64 = if size_of::<T>() == 8 { f64::EPSILON } else { f32::EPSILON.into() };
        assert!((dot(&product, &z) - dot(&x, &dx)).abs() <= 4.0 * terms as f64 * unit * size);
        let mut dw = vec![T::nan(); w.len()];
        outer(&t, &x, depth, &z, columns, &mut dw);
        assert!((dot(&product, &z) - dot(&w, &dw)).abs() <= 4.0 * (terms + n) as f64 * unit * size);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn equals_the_definition(kind in 0usize..5, height in 1usize..6, width in 1usize..6, images in 1usize..4, depth in 1usize..40, columns in 1usize..70) {
            check::<f64>(kind, height, width, images, depth, columns);
            check::<f32>(kind, height, width, images, depth, columns);
        }
    }

    #[test]
    fn blocks_of_many_rows_and_columns() {
        check::<f64>(1, 17, 19, 2, 3, 33);
        check::<f64>(2, 15, 16, 1, 50, 5);
        check::<f32>(0, 1, 1, 500, 7, 64);
    }

    #[test]
    fn the_same_bits_on_any_number_of_threads() {
        let t = Table::convolution((9, 7), 3, 1, 1, 1);
        let (x, w) = (random::<f32>(5 * 63 * 20, 1), random::<f32>(9 * 20 * 40, 2));
        let run = |threads| {
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
                let (mut y, mut dw) = (vec![0.0f32; 5 * 63 * 40], vec![0.0f32; w.len()]);
                rows(&t, &x, 20, &packed(&w, 9, 20, 40), 40, Epilogue::plain(false), &mut y);
                outer(&t, &x, 20, &y, 40, &mut dw);
                (y, dw)
            })
        };
        let one = run(1);
        assert!(run(2) == one && run(3) == one);
    }
}
