//! A sampler's own overhead: everything but the denoiser, against a plain copy of as many bytes.
//!
//! `cargo bench --bench sample`. The model does nothing at all, so that a step is the sampler's own
//! work; ratios are medians of interleaved runs of as many steps and as many copies in a row. A
//! step with one `x0_hat` reads x and x0_hat and writes x: three batches, where a copy of one batch
//! moves two. The results are checked before anything is timed.

use criterion::{Criterion, criterion_group, criterion_main};
use ndarray::{Array2, ArrayView2, ArrayViewMut2};
use rayon::prelude::*;
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tweedie::diffusion::{Denoiser, Path, PathPoint};
use tweedie::error::Result;
use tweedie::law::Gaussian;
use tweedie::math::noise::Noise;
use tweedie::sample::grid::{Grid, Spacing};
use tweedie::sample::noise_source::Silence;
use tweedie::sample::registry::{Options, sampler};
use tweedie::sample::sample;

const N: usize = 4096;
const D: usize = 784;
const STEPS: usize = 23;
const CHUNK: usize = 1 << 15;

/// A model that costs nothing after its first calls: it leaves what is there. The first calls
/// write, or the buffers would be pages that the system has promised and never touched, all of them
/// one page of zeros in the cache.
struct Nothing {
    writes: usize,
    calls: AtomicUsize,
}

impl Denoiser for Nothing {
    fn dim(&self) -> usize {
        D
    }
    fn denoise(
        &self,
        _: ArrayView2<f64>,
        _: &PathPoint,
        mut out: ArrayViewMut2<f64>,
    ) -> Result<()> {
        if self.calls.fetch_add(1, Ordering::Relaxed) < self.writes {
            out.fill(0.0);
        }
        Ok(())
    }
}

/// A model of a point mass at 0.
struct Origin;

impl Denoiser for Origin {
    fn dim(&self) -> usize {
        D
    }
    fn denoise(
        &self,
        _: ArrayView2<f64>,
        _: &PathPoint,
        mut out: ArrayViewMut2<f64>,
    ) -> Result<()> {
        out.fill(0.0);
        Ok(())
    }
}

fn seconds(f: &mut dyn FnMut()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64()
}

fn median(mut t: Vec<f64>) -> f64 {
    t.sort_by(f64::total_cmp);
    t[t.len() / 2]
}

fn overhead(c: &mut Criterion) {
    let grid =
        Grid { clean: false, ..Grid::new(Spacing::Karras, STEPS) }.points(&Path::EDM).unwrap();
    let x = Array2::from_elem((N, D), 0.5);
    let mut group = c.benchmark_group("overhead");
    group.sample_size(10);
    // Batches read and written in a step, without the noise.
    for (name, batches) in [("ddim", 3.0), ("dpmpp-2m", 4.0), ("dpmpp-3m", 5.0), ("heun", 14.0)] {
        let method = sampler(name, &Options::default()).unwrap();
        // A point mass at 0 shrinks with sigma.
        let end = sample(&method, &Origin, &grid, x.clone(), &mut Silence).unwrap().x;
        let want = 0.5 * grid[STEPS].sigma / grid[0].sigma;
        assert!(
            end.iter().all(|v| (v / want - 1.0).abs() <= 1e-9),
            "{name} is wrong: {} for {want}",
            end[[0, 0]]
        );

        let (mut own, mut copies) = (Vec::new(), Vec::new());
        let mut target = x.clone();
        let mut copy = |times: usize| {
            seconds(&mut || {
                for _ in 0..times {
                    let pairs = target
                        .as_slice_mut()
                        .unwrap()
                        .par_chunks_mut(CHUNK)
                        .zip(x.as_slice().unwrap().par_chunks(CHUNK));
                    pairs.for_each(|(to, from)| to.copy_from_slice(from));
                    black_box(&mut target);
                }
            })
        };
        // As many as the shortest run has.
        let nothing = || Nothing { writes: method.nfe(&grid[..4]), calls: AtomicUsize::new(0) };
        let run = |points: &[PathPoint]| {
            let model = nothing();
            seconds(&mut || {
                black_box(sample(&method, &model, points, x.clone(), &mut Silence).unwrap());
            })
        };
        run(&grid);
        copy(STEPS);
        for _ in 0..15 {
            // The run's start, its buffers and a multistep method's first steps are not the step's:
            // a run of three steps is subtracted.
            own.push((run(&grid) - run(&grid[..4])) / (STEPS - 3) as f64);
            copies.push((copy(STEPS) - copy(3)) / (STEPS - 3) as f64);
        }
        // A copy of a batch moves two.
        let (own, copy) = (median(own), median(copies) * batches / 2.0);
        println!(
            "{name}: {:.2} ms a step against {:.2} ms of copying as many bytes, ratio {:.2}",
            own * 1e3,
            copy * 1e3,
            own / copy
        );
        group.bench_function(name, |b| {
            b.iter(|| sample(&method, &nothing(), &grid, x.clone(), &mut Silence).unwrap())
        });
    }
    group.finish();
}

fn ddpm(_: &mut Criterion) {
    // DDPM on 4096 images of 28 x 28 beside the Wiener filter alone.
    let noise = Noise::new(0);
    let rows = {
        let mut z = Array2::zeros((2000, D));
        noise.fill_normal(9, z.as_slice_mut().unwrap());
        z
    };
    let law = Gaussian::from_data(rows.view()).unwrap();
    let grid = Grid::new(Spacing::Uniform, 20).points(&Path::VP).unwrap();
    let method = sampler("ddpm", &Options::default()).unwrap();
    let (x, mut out) = (Array2::from_elem((N, D), 0.5), Array2::zeros((N, D)));
    let (mut whole, mut filter) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        whole.push(
            seconds(&mut || {
                black_box(sample(&method, &law, &grid, x.clone(), &mut noise.clone()).unwrap());
            }) / 20.0,
        );
        filter.push(seconds(&mut || law.denoise(x.view(), &grid[5], out.view_mut()).unwrap()));
    }
    let (whole, filter) = (median(whole), median(filter));
    println!(
        "ddpm: {:.1} ms a step, the Wiener filter alone {:.1} ms, ratio {:.2}; 1000 steps take {:.0} s",
        whole * 1e3,
        filter * 1e3,
        whole / filter,
        whole * 1e3
    );
}

criterion_group!(benches, overhead, ddpm);
criterion_main!(benches);
