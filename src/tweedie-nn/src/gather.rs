//! The one dense kernel: products of gathered rows with a matrix.
//!
//! Every linear map of the network, a convolution of any stride, one behind an upsampling or in
//! front of a padding, a 1 x 1 convolution, a linear layer, is a sum over *taps* of rows gathered
//! by an index table, times that tap's matrix:
//!
//! `y[p] = sum_tap x[table[p][tap]] w[tap]`, rows that the table leaves out counting as zero.
//!
//! Taps may share a matrix, and a matrix may be a sum of stored ones: behind an upsampling the nine
//! taps of a 3 x 3 kernel fall on four pixels only, so that each of the four kinds of output pixel
//! is a 2 x 2 convolution with summed weights.
//!
//! Its transpose is the same thing with the table read backwards, so that two kernels do all the
//! arithmetic of a training step: [`rows`] (forward, and the gradient of the input) and [`outer`]
//! (the gradient of the weights). Rows are read where they lie: a register tile of P rows by two
//! vectors of columns needs one broadcast load for two multiply-adds, so that nothing is copied
//! into patches first.

use super::element::Element;
use super::tile::{Shared, TILE, accumulate, in_tiles, store, store_added, zeros};
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
    /// For each matrix the stored ones that it is the sum of.
    parts: Vec<Vec<usize>>,
    /// For each tap its matrix.
    taps: Vec<u32>,
    /// `index[k * taps + tap]`: the input row of the output row `order[k]`.
    index: Vec<u32>,
    /// Output rows in the order in which they are computed: rows with the same taps stand together.
    order: Vec<u32>,
    /// Where [`outer`] finds its pairs.
    stretches: Vec<Stretch>,
}

/// Output rows whose gradients are read together.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stretch {
    /// The first of them, in an image or in several small ones.
    first: usize,
    rows: usize,
    /// For each tap the pairs (input row, output row behind `first`).
    pairs: Vec<Vec<(u32, u32)>>,
}

/// Output rows of a [`Stretch`] at most: their columns of one tile fill a third of the first cache.
const STRETCH: usize = 128;

impl Table {
    /// A table from the input row of each (output row, tap).
    fn new(
        inputs: usize,
        outputs: usize,
        parts: Vec<Vec<usize>>,
        taps: Vec<u32>,
        at: impl Fn(usize, usize) -> Option<usize>,
    ) -> Self {
        let row = |p: usize| -> Vec<u32> {
            (0..taps.len()).map(|tap| at(p, tap).map_or(NONE, |q| q as u32)).collect()
        };
        let mut order: Vec<u32> = (0..outputs as u32).collect();
        order.sort_by_cached_key(|&p| {
            row(p as usize).iter().map(|&q| q == NONE).collect::<Vec<_>>()
        });
        let index = order.iter().flat_map(|&p| row(p as usize)).collect();
        let together = (STRETCH / outputs.max(1)).max(1);
        let stretches = (0..together * outputs)
            .step_by(STRETCH.min(together * outputs).max(1))
            .map(|first| {
                let rows = STRETCH.min(together * outputs - first);
                let pair = |p: usize, tap: usize| {
                    at(p % outputs, tap)
                        .map(|q| ((p / outputs * inputs + q) as u32, (p - first) as u32))
                };
                let pairs = (0..taps.len())
                    .map(|tap| (first..first + rows).filter_map(|p| pair(p, tap)).collect())
                    .collect();
                Stretch { first, rows, pairs }
            })
            .collect();
        Self { inputs, outputs, parts, taps, index, order, stretches }
    }

    /// A linear layer: each row by itself.
    pub fn identity(rows: usize) -> Self {
        Self::new(rows, rows, each(1), vec![0], |p, _| Some(p))
    }

    /// A `kernel` x `kernel` convolution of a `height` x `width` image, `before` and `after` rows
    /// and columns of zeros around it.
    pub fn convolution(
        (height, width): (usize, usize),
        kernel: usize,
        stride: usize,
        before: usize,
        after: usize,
    ) -> Self {
        let out = |n: usize| (n + before + after - kernel) / stride + 1;
        let (out_height, out_width) = (out(height), out(width));
        Self::new(
            height * width,
            out_height * out_width,
            each(kernel * kernel),
            (0..(kernel * kernel) as u32).collect(),
            |p, tap| {
                let y = (p / out_width * stride + tap / kernel).checked_sub(before)?;
                let x = (p % out_width * stride + tap % kernel).checked_sub(before)?;
                (y < height && x < width).then_some(y * width + x)
            },
        )
    }

    /// A 3 x 3 convolution, padding 1, of the image with each pixel doubled in both directions.
    ///
    /// An output pixel in an even row reads the pixel above once and its own twice, one in an odd
    /// row its own twice and the one below once; columns likewise. Matrix `4 kind + 2 a + b`
    /// belongs to the kind `2 (row % 2) + column % 2` and the pixel `(a, b)` of its 2 x 2.
    pub fn upsampling((height, width): (usize, usize)) -> Self {
        // Rows of the kernel that fall on the first (a = 0) or second pixel, for outputs in even
        // and odd rows.
        const FALL: [[&[usize]; 2]; 2] = [[&[0], &[1, 2]], [&[0, 1], &[2]]];
        let bits = |m: usize| (m >> 3 & 1, m >> 2 & 1, m >> 1 & 1, m & 1);
        let parts = (0..16)
            .map(|m| {
                let (y, x, a, b) = bits(m);
                FALL[y][a]
                    .iter()
                    .flat_map(|row| FALL[x][b].iter().map(move |column| 3 * row + column))
                    .collect()
            })
            .collect();
        Self::new(height * width, 4 * height * width, parts, (0..16).collect(), |p, tap| {
            let (row, column) = (p / (2 * width), p % (2 * width));
            let (y, x, a, b) = bits(tap);
            let at = |place: usize, parity: usize, step: usize, size: usize| {
                let i = (place / 2 + parity + step).checked_sub(1)?;
                (place % 2 == parity && i < size).then_some(i)
            };
            Some(at(row, y, a, height)? * width + at(column, x, b, width)?)
        })
    }

    /// The table of the transposed map: for each input row the output rows it enters, matrix by
    /// matrix.
    pub fn transposed(&self) -> Self {
        let mut lists = vec![vec![Vec::new(); self.matrices()]; self.inputs];
        for (k, &p) in self.order.iter().enumerate() {
            for (tap, &m) in self.taps.iter().enumerate() {
                let q = self.index[k * self.taps.len() + tap];
                if q != NONE {
                    lists[q as usize][m as usize].push(p as usize);
                }
            }
        }
        // Each matrix needs as many taps as the row that uses it most.
        let counts: Vec<usize> = (0..self.matrices())
            .map(|m| lists.iter().map(|l| l[m].len()).max().unwrap_or(0))
            .collect();
        let taps: Vec<(usize, usize)> =
            (0..self.matrices()).flat_map(|m| (0..counts[m]).map(move |i| (m, i))).collect();
        let matrices = taps.iter().map(|t| t.0 as u32).collect();
        Self::new(self.outputs, self.inputs, self.parts.clone(), matrices, |q, tap| {
            let (m, i) = taps[tap];
            lists[q][m].get(i).copied()
        })
    }

    /// Matrices that are multiplied with.
    pub fn matrices(&self) -> usize {
        self.parts.len()
    }

    /// Matrices of the stored weight.
    pub fn stored(&self) -> usize {
        self.parts.iter().flatten().max().map_or(0, |m| m + 1)
    }

    /// Images of a batch, from the numbers going in and coming out.
    fn images(&self, numbers_in: usize, depth: usize, numbers_out: usize, columns: usize) -> usize {
        let images = numbers_in / (self.inputs * depth).max(1);
        assert_eq!(numbers_in, images * self.inputs * depth, "gathered rows");
        assert_eq!(numbers_out, images * self.outputs * columns, "output rows");
        images
    }

    /// Pairs of an output row and a tap that has a row for it: products of one image.
    pub fn pairs(&self) -> usize {
        self.index.iter().filter(|&&q| q != NONE).count()
    }
}

/// Each matrix a stored one.
fn each(matrices: usize) -> Vec<Vec<usize>> {
    (0..matrices).map(|m| vec![m]).collect()
}

/// Length of a packed weight: the table's matrices of (`depth`, `columns`), the columns rounded up
/// to whole tiles.
pub fn packed_len(table: &Table, depth: usize, columns: usize) -> usize {
    table.matrices() * depth * columns.next_multiple_of(TILE)
}

/// Packs `w` (stored matrices, depth, columns) tile by tile:
/// `out[((tile * matrices + matrix) * depth + k) * TILE + column]`, zeros behind the last column.
pub fn pack<T: Element>(table: &Table, out: &mut [T], depth: usize, columns: usize, w: &[T]) {
    out.par_chunks_mut(table.matrices() * depth * TILE).enumerate().for_each(|(tile, out)| {
        let first = tile * TILE;
        let width = TILE.min(columns - first);
        for (out, parts) in out.chunks_exact_mut(depth * TILE).zip(&table.parts) {
            for (i, part) in parts.iter().enumerate() {
                let w = w[part * depth * columns..].chunks_exact(columns);
                for (out, row) in out.chunks_exact_mut(TILE).zip(w) {
                    if i == 0 {
                        out[..width].copy_from_slice(&row[first..first + width]);
                        out[width..].fill(T::zero());
                    } else {
                        add(&mut out[..width], row, first);
                    }
                }
            }
        }
    });
}

/// The packed transposes (matrices, depth, columns) of packed matrices (matrices, columns, depth).
pub fn turn<T: Element>(table: &Table, packed: &[T], depth: usize, columns: usize, out: &mut [T]) {
    let matrices = table.matrices();
    out.par_chunks_mut(matrices * depth * TILE).enumerate().for_each(|(tile, out)| {
        let first = tile * TILE;
        let width = TILE.min(columns - first);
        for (m, out) in out.chunks_exact_mut(depth * TILE).enumerate() {
            // Squares of one tile, read along their rows.
            for (square, out) in out.chunks_mut(TILE * TILE).enumerate() {
                let rows = &packed[((square * matrices + m) * columns + first) * TILE..];
                for (j, row) in rows.chunks_exact(TILE).enumerate().take(width) {
                    for (out, x) in out.chunks_exact_mut(TILE).zip(row) {
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

/// What is added to a product before it is written:
/// `out = (product + bias + image_bias[image] + skip) scale + keep out`.
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
pub fn rows<T: Element>(
    table: &Table,
    x: &[T],
    depth: usize,
    w: &[T],
    columns: usize,
    epilogue: Epilogue<T>,
    out: &mut [T],
) {
    let images = table.images(x.len(), depth, out.len(), columns);
    assert_eq!(w.len(), packed_len(table, depth, columns), "packed weights");
    let missing = vec![T::zero(); depth];
    let arch = Arch::new();
    // A block is computed by one thread: enough rows that its share of the weights is read often,
    // few enough that all threads have work.
    const BLOCK: usize = 192;
    let per_image = table.outputs.div_ceil(BLOCK);
    let block = table.outputs.div_ceil(per_image);
    let out = Shared::new(out);
    // Small images stand together in one block, so that a linear layer on a batch is not one row at
    // a time.
    let together = (BLOCK / table.outputs.max(1)).clamp(1, images.max(1));
    let blocks = images.div_ceil(together) * per_image;
    // Where the rows alone do not keep all threads busy, the columns are shared out too.
    let tiles = columns.div_ceil(TILE);
    let shares = (4 * rayon::current_num_threads()).div_ceil(blocks.max(1)).min(tiles);
    let share = tiles.div_ceil(shares);
    (0..blocks * shares).into_par_iter().for_each(|task| {
        let (task, tiles) =
            (task / shares, task % shares * share..((task % shares + 1) * share).min(tiles));
        let first = task / per_image * together;
        let images = first..(first + together).min(images);
        let span = task % per_image * block..((task % per_image + 1) * block).min(table.outputs);
        arch.dispatch(RowsTask {
            table,
            x,
            depth,
            w,
            columns,
            epilogue,
            out,
            images,
            span,
            tiles,
            missing: &missing,
        });
    });
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
    missing: &'a [T],
}

impl<T: Element> WithSimd for RowsTask<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let narrow = self.columns <= TILE / 2;
        in_tiles!(self, simd, 12, 6, narrow: narrow);
    }
}

impl<T: Element> RowsTask<'_, T> {
    #[inline(always)]
    fn run<S: Simd, const P: usize, const V: usize>(self, simd: S) {
        let Self { table, x, depth, w, columns, epilogue, out, images, span, tiles, missing } =
            self;
        let taps = table.taps.len();
        let spanned = span.len();
        let count = images.len() * spanned;
        for tile in tiles {
            let w = &w[tile * table.matrices() * depth * TILE..][..table.matrices() * depth * TILE];
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
                let mut acc = zeros::<S, T, P, V>(simd);
                for tap in 0..taps {
                    let index: [u32; P] =
                        std::array::from_fn(|i| table.index[place[i].1 * taps + tap]);
                    if index.iter().all(|&q| q == NONE) {
                        continue;
                    }
                    let rows: [*const T; P] = std::array::from_fn(|i| match index[i] {
                        NONE => missing.as_ptr(),
                        q => {
                            x[(place[i].0 * table.inputs + q as usize) * depth..][..depth].as_ptr()
                        }
                    });
                    let w = &w[table.taps[tap] as usize * depth * TILE..][..depth * TILE];
                    for (k, w) in w.chunks_exact(TILE).enumerate() {
                        // SAFETY: each row has `depth` elements, as sliced above, and `w` has as
                        // many rows.
                        let a: [T; P] = std::array::from_fn(|i| unsafe { *rows[i].add(k) });
                        accumulate::<S, T, P, V>(simd, &mut acc, &a, w);
                    }
                }
                for (i, &(image, k)) in place.iter().enumerate().take(n) {
                    let mut sums = [T::zero(); TILE];
                    store::<S, T, V>(acc[i], &mut sums);
                    let at = (image * table.outputs + table.order[k] as usize) * columns + first;
                    // SAFETY: `out` outlives the task, which alone writes these columns of this
                    // row.
                    let out = unsafe { out.slice(at, width) };
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

/// The gradient of the weights: `out[matrix][k][column] = sum over images and (p, tap) of that
/// matrix of x[table[p][tap]][k] dy[p][column]`.
///
/// Each entry is one thread's sum in a fixed order, so that the result does not depend on the
/// number of threads.
///
/// # Shapes
/// `x` (images, inputs, depth), `dy` (images, outputs, columns), `out` (stored matrices, depth,
/// columns).
pub fn outer<T: Element>(
    table: &Table,
    x: &[T],
    depth: usize,
    dy: &[T],
    columns: usize,
    out: &mut [T],
) {
    let images = table.images(x.len(), depth, dy.len(), columns);
    assert_eq!(out.len(), table.stored() * depth * columns, "gradient of the weights");
    out.fill(T::zero());
    let arch = Arch::new();
    // A task owns some rows k and one tile of columns of all matrices: many rows, so that a stretch
    // of dy is copied seldom, but few enough that all threads have work.
    let tiles = columns.div_ceil(TILE);
    let shares = (4 * rayon::current_num_threads()).div_ceil(tiles);
    let share = depth.div_ceil(shares).next_multiple_of(8).min(64);
    let out = Shared::new(out);
    (0..tiles * depth.div_ceil(share)).into_par_iter().for_each(|task| {
        let (tile, part) = (task % tiles, task / tiles);
        let depths = part * share..((part + 1) * share).min(depth);
        arch.dispatch(OuterTask {
            table,
            x,
            depth,
            dy,
            columns,
            out,
            depths,
            first: tile * TILE,
            images,
        });
    });
}

struct OuterTask<'a, T> {
    table: &'a Table,
    x: &'a [T],
    depth: usize,
    dy: &'a [T],
    columns: usize,
    out: Shared<T>,
    depths: std::ops::Range<usize>,
    first: usize,
    images: usize,
}

impl<T: Element> WithSimd for OuterTask<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let narrow = self.columns <= TILE / 2;
        in_tiles!(self, simd, 8, 4, narrow: narrow);
    }
}

impl<T: Element> OuterTask<'_, T> {
    #[inline(always)]
    fn run<S: Simd, const P: usize, const V: usize>(self, simd: S) {
        let Self { table, x, depth, dy, columns, out, depths, first, images } = self;
        let width = TILE.min(columns - first);
        let padded = depths.len().next_multiple_of(P);
        // (taps, rows k, TILE)
        let mut sums = vec![T::zero(); table.taps.len() * padded * TILE];
        // Columns of a stretch of dy side by side, zeros where the tile is ragged, for the tiles to
        // read it from the first cache.
        let mut b = [T::zero(); STRETCH * TILE];
        let together = (STRETCH / table.outputs).max(1);
        for image in (0..images).step_by(together) {
            let x = &x[image * table.inputs * depth..];
            let present = together.min(images - image) * table.outputs;
            for stretch in &table.stretches {
                let rows = stretch.rows.min(present - stretch.first);
                let dy = &dy[(image * table.outputs + stretch.first) * columns + first..];
                for (b, dy) in b.chunks_exact_mut(TILE).zip(dy.chunks(columns)).take(rows) {
                    match (<&mut [T; TILE]>::try_from(&mut *b), dy.first_chunk::<TILE>()) {
                        (Ok(b), Some(dy)) if width == TILE => *b = *dy,
                        _ => b[..width].copy_from_slice(&dy[..width]),
                    }
                }
                for (pairs, sums) in stretch.pairs.iter().zip(sums.chunks_exact_mut(padded * TILE))
                {
                    // Images that are not there any more come last.
                    let pairs = &pairs[..pairs.partition_point(|pair| (pair.1 as usize) < rows)];
                    for (k, sums) in depths.clone().step_by(P).zip(sums.chunks_exact_mut(P * TILE))
                    {
                        let mut acc = zeros::<S, T, P, V>(simd);
                        if k + P <= depth {
                            for &(q, p) in pairs {
                                accumulate(
                                    simd,
                                    &mut acc,
                                    &x[q as usize * depth + k..][..P],
                                    &b[p as usize * TILE..][..TILE],
                                );
                            }
                        } else {
                            // Rows behind the last repeat it: computed, not used.
                            for &(q, p) in pairs {
                                let a: [T; P] = std::array::from_fn(|i| {
                                    x[q as usize * depth + (k + i).min(depth - 1)]
                                });
                                accumulate(simd, &mut acc, &a, &b[p as usize * TILE..][..TILE]);
                            }
                        }
                        for (acc, sums) in acc.into_iter().zip(sums.chunks_exact_mut(TILE)) {
                            store_added::<S, T, V>(simd, acc, sums);
                        }
                    }
                }
            }
        }
        for (tap, sums) in table.taps.iter().zip(sums.chunks_exact(padded * TILE)) {
            for part in &table.parts[*tap as usize] {
                for (k, sums) in depths.clone().zip(sums.chunks_exact(TILE)) {
                    // SAFETY: `out` outlives the task, which alone writes these rows and columns of
                    // the matrices.
                    let out = unsafe { out.slice((part * depth + k) * columns + first, width) };
                    add(out, sums, 0);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tweedie::math::larger;
    use tweedie::math::noise::Noise;

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

    /// The definition, in f64: the convolution of the image as it stands behind its padding or
    /// doubling.
    fn naive(
        kind: usize,
        (height, width): (usize, usize),
        x: &[f64],
        depth: usize,
        w: &[f64],
        columns: usize,
    ) -> Vec<f64> {
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
            for (r, c, j) in (0..out_height).flat_map(|r| {
                (0..out_width).flat_map(move |c| (0..columns).map(move |j| (r, c, j)))
            }) {
                let mut sum = 0.0;
                for (a, b) in (0..kernel).flat_map(|a| (0..kernel).map(move |b| (a, b))) {
                    let (r, c) = (
                        (r * stride + a) as isize - before as isize,
                        (c * stride + b) as isize - before as isize,
                    );
                    if r >= 0
                        && c >= 0
                        && (r as usize) < size.0 * zoom
                        && (c as usize) < size.1 * zoom
                    {
                        let pixel = r as usize / zoom * size.1 + c as usize / zoom;
                        sum += (0..depth)
                            .map(|k| {
                                image[pixel * depth + k]
                                    * w[((a * kernel + b) * depth + k) * columns + j]
                            })
                            .sum::<f64>();
                    }
                }
                y.push(sum);
            }
        }
        y
    }

    fn packed<T: Element>(table: &Table, w: &[T], depth: usize, columns: usize) -> Vec<T> {
        let mut out = vec![T::nan(); packed_len(table, depth, columns)];
        pack(table, &mut out, depth, columns, w);
        out
    }

    fn assert_close<T: Element>(got: &[T], want: &[T], terms: usize) {
        let size = want.iter().map(|x| x.wide().abs()).fold(1.0, larger);
        let unit = if size_of::<T>() == 8 { f64::EPSILON } else { f32::EPSILON.into() };
        assert_eq!(got.len(), want.len());
        for (g, w) in got.iter().zip(want) {
            // A sum of n terms of order `size` rounds n times at most.
            assert!((g.wide() - w.wide()).abs() <= 4.0 * terms as f64 * unit * size, "{g:?} {w:?}");
        }
    }

    fn check<T: Element>(
        kind: usize,
        height: usize,
        width: usize,
        images: usize,
        depth: usize,
        columns: usize,
    ) {
        let t = table(kind, height, width);
        let (x, w) = (
            random::<T>(images * t.inputs * depth, 1),
            random::<T>(t.stored() * depth * columns, 2),
        );
        let widened = |x: &[T]| x.iter().map(|x| x.wide()).collect::<Vec<_>>();
        let product: Vec<T> =
            naive(kind, (height, width), &widened(&x), depth, &widened(&w), columns)
                .into_iter()
                .map(T::of)
                .collect();
        let n = product.len();
        let terms = 9 * depth + 4;
        let mut y = vec![T::nan(); n];
        rows(
            &t,
            &x,
            depth,
            &packed(&t, &w, depth, columns),
            columns,
            Epilogue::plain(false),
            &mut y,
        );
        assert_close(&y, &product, terms);

        let (bias, image_bias, skip) =
            (random::<T>(columns, 3), random::<T>(images * columns, 4), random::<T>(n, 5));
        let scale = T::of(0.75);
        let epilogue =
            Epilogue { bias: &bias, image_bias: &image_bias, skip: &skip, scale, keep: true };
        rows(&t, &x, depth, &packed(&t, &w, depth, columns), columns, epilogue, &mut y);
        let want: Vec<T> = (0..n)
            .map(|i| {
                product[i]
                    + (product[i]
                        + bias[i % columns]
                        + image_bias[i / (t.outputs * columns) * columns + i % columns]
                        + skip[i])
                        * scale
            })
            .collect();
        assert_close(&y, &want, terms);

        // The transpose: <A x, z> = <x, A^T z>, and the gradient of the weights likewise, entry by
        // entry.
        let z = random::<T>(n, 6);
        let back = t.transposed();
        assert_eq!(back.pairs(), t.pairs());
        let mut turned = vec![T::nan(); packed_len(&t, columns, depth)];
        turn(&back, &packed(&t, &w, depth, columns), columns, depth, &mut turned);
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
                rows(&t, &x, 20, &packed(&t, &w, 20, 40), 40, Epilogue::plain(false), &mut y);
                outer(&t, &x, 20, &y, 40, &mut dw);
                (y, dw)
            })
        };
        let one = run(1);
        assert!(run(2) == one && run(3) == one);
    }
}
