//! Speed of the laws' hot paths, each held to a yardstick of the same run: check the result, print
//! the ratio, then measure.
//!
//! `cargo bench --bench law`. The ratios are medians of interleaved runs, which a busy machine
//! moves less than either time; criterion's own figures follow. The yardstick of a denoiser is its
//! two bare matrix products; that of the eigenproblem is numpy's `eigh` (`benches/peers/eigen.py`,
//! where a Python with numpy is at hand: `PYTHON` names another than `python3`).

use criterion::{Criterion, criterion_group, criterion_main};
use ndarray::{Array1, Array2, Axis};
use std::hint::black_box;
use std::process::Command;
use std::time::Instant;
use tweedie::diffusion::{Denoiser, PathPoint};
use tweedie::law::{Gaussian, empirical::Empirical};
use tweedie::math::eigen::{Backend, symmetric_eigen_with};
use tweedie::math::larger;
use tweedie::math::matmul::matmul;
use tweedie::math::noise::Noise;

const D: usize = 784;

/// Rows with the decaying spectrum of images: white noise through a random mixing of falling gains,
/// and a mean.
fn data(n: usize, seed: u64) -> Array2<f64> {
    let noise = Noise::new(seed);
    let mut eps = Array2::zeros((n, D));
    noise.fill_normal(0, eps.as_slice_mut().unwrap());
    let mut mix = Array2::zeros((D, D));
    Noise::new(0).fill_normal(1, mix.as_slice_mut().unwrap());
    for (k, mut row) in mix.axis_iter_mut(Axis(0)).enumerate() {
        row /= (1 + k) as f64;
    }
    let mut out = Array2::from_elem((n, D), -0.5);
    matmul(0.5, eps.view(), mix.view(), 1.0, out.view_mut());
    out
}

/// Median of a's times over median of b's, run in turns after one warm-up each.
fn ratio(name: &str, rounds: usize, mut a: impl FnMut(), mut b: impl FnMut()) {
    a();
    b();
    let time = |f: &mut dyn FnMut()| {
        let start = Instant::now();
        f();
        start.elapsed().as_secs_f64()
    };
    let (mut times_a, mut times_b) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        times_a.push(time(&mut a));
        times_b.push(time(&mut b));
    }
    let median = |t: &mut Vec<f64>| {
        t.sort_by(f64::total_cmp);
        t[t.len() / 2]
    };
    let (a, b) = (median(&mut times_a), median(&mut times_b));
    println!(
        "{name}: {:.1} ms against {:.1} ms, ratio {:.3} (medians of {rounds} interleaved runs)",
        a * 1e3,
        b * 1e3,
        a / b
    );
}

fn wiener(c: &mut Criterion) {
    let law = Gaussian::from_data(data(2000, 1).view()).unwrap();
    let (x, at) = (data(4096, 2), PathPoint::still(0.8, 0.6));
    let (mut out, mut coordinates) = (Array2::zeros((4096, D)), Array2::zeros((4096, D)));

    // One row by the covariance form: x0_hat = mean + alpha Sigma (alpha^2 Sigma + sigma^2)^-1 (x -
    // alpha mean), residual of the system.
    law.denoise(x.view(), &at, out.view_mut()).unwrap();
    let z = &x.row(7) - &(&law.mean() * at.alpha);
    let mut score = Array2::zeros((1, D));
    tweedie::law::Law::score(&law, x.slice(ndarray::s![7..8, ..]), &at, score.view_mut()).unwrap();
    let cov = tweedie::law::Law::cov(&law);
    let score = score.row(0);
    let back: Array1<f64> = cov.dot(&score) * -at.alpha.powi(2) - &score * at.sigma.powi(2);
    assert!((&back - &z).iter().all(|e| e.abs() <= 1e-10), "score solves the covariance's system");
    let want = &law.mean() - &(cov.dot(&score) * at.alpha);
    assert!(
        (&out.row(7) - &want).iter().all(|e| e.abs() <= 1e-10),
        "the Wiener filter is mean + alpha Sigma S^-1 z"
    );

    let mut two = Array2::zeros((4096, D));
    ratio(
        "Wiener denoiser 4096 x 784 against its two matrix products",
        15,
        || law.denoise(black_box(x.view()), &at, out.view_mut()).unwrap(),
        || {
            matmul(1.0, black_box(x.view()), law.modes(), 0.0, coordinates.view_mut());
            matmul(1.0, coordinates.view(), law.modes().t(), 0.0, two.view_mut());
        },
    );
    c.bench_function("wiener 4096x784", |b| {
        b.iter(|| law.denoise(black_box(x.view()), &at, out.view_mut()).unwrap())
    });
}

fn empirical(c: &mut Criterion) {
    let points = data(10_000, 3);
    let law = Empirical::new(points.clone()).unwrap();
    // Typical states at a level where many points count.
    let at = PathPoint::still(0.3, 0.95);
    let mut x = data(256, 4) * at.alpha;
    let noise = Noise::new(5);
    x.indexed_iter_mut()
        .for_each(|((i, j), x)| *x += at.sigma * noise.normal(0, (i * D + j) as u64));
    let mut out = Array2::zeros((256, D));

    law.denoise(x.view(), &at, out.view_mut()).unwrap();
    let exponents: Array1<f64> = points
        .rows()
        .into_iter()
        .map(|y| (&x.row(9) - &(&y * at.alpha)).mapv(|z| z * z).sum() / (-2.0 * at.sigma.powi(2)))
        .collect();
    let largest = exponents.iter().copied().fold(f64::NEG_INFINITY, larger);
    let p = exponents.mapv(|e| (e - largest).exp());
    let want = p.dot(&points) / p.sum();
    assert!(
        (&out.row(9) - &want).iter().all(|e| e.abs() <= 1e-11),
        "the softmax average of the points"
    );
    println!("effective points: {:.1}", law.effective_points(x.view(), &at).mean().unwrap());

    let (mut exponents, mut two) = (Array2::zeros((256, 10_000)), Array2::zeros((256, D)));
    for sigma in [0.95, 0.05] {
        let at = PathPoint::still(0.3, sigma);
        ratio(
            &format!(
                "empirical denoiser 256 x (10,000 x 784) at sigma = {sigma} against its two matrix products"
            ),
            15,
            || law.denoise(black_box(x.view()), &at, out.view_mut()).unwrap(),
            || {
                matmul(1.0, black_box(x.view()), points.t(), 0.0, exponents.view_mut());
                matmul(1.0, exponents.view(), points.view(), 0.0, two.view_mut());
            },
        );
    }
    c.bench_function("empirical 256x(10000x784)", |b| {
        b.iter(|| law.denoise(black_box(x.view()), &at, out.view_mut()).unwrap())
    });
}

fn eigen(c: &mut Criterion) {
    let cov =
        tweedie::math::moments::mean_and_cov(data(2000, 6).view(), Default::default()).unwrap().1;
    let e = symmetric_eigen_with(Backend::Faer, cov.view()).unwrap();
    let mut back = Array2::zeros((D, D));
    matmul(1.0, (&e.vectors * &e.values).view(), e.vectors.t(), 0.0, back.view_mut());
    assert!(
        (&back - &cov).iter().all(|v| v.abs() <= 8.0 * D as f64 * f64::EPSILON * e.values[0]),
        "U S U^T is the matrix"
    );

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cov.npy");
    ndarray_npy::write_npy(&path, &cov).unwrap();
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../benches/peers/eigen.py");
    // Taken in turns: numpy times seven runs in one process, then we do, five times.
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        match Command::new(&python).args([script, path.to_str().unwrap(), "7"]).output() {
            Ok(run) if run.status.success() => theirs.extend(
                String::from_utf8_lossy(&run.stdout).lines().map(|t| t.parse::<f64>().unwrap()),
            ),
            Ok(run) => println!(
                "numpy skipped: {}",
                String::from_utf8_lossy(&run.stderr).lines().last().unwrap_or("no message")
            ),
            Err(e) => println!("numpy skipped: {python}: {e}"),
        }
        for _ in 0..7 {
            let start = Instant::now();
            black_box(symmetric_eigen_with(Backend::Faer, black_box(cov.view())).unwrap());
            ours.push(start.elapsed().as_secs_f64());
        }
    }
    let median = |t: &mut Vec<f64>| {
        t.sort_by(f64::total_cmp);
        t[t.len() / 2]
    };
    if !theirs.is_empty() {
        let (a, b) = (median(&mut ours), median(&mut theirs));
        println!(
            "eigendecomposition of a 784-covariance: {:.1} ms against numpy's {:.1} ms, ratio {:.3}",
            a * 1e3,
            b * 1e3,
            a / b
        );
    }
    c.bench_function("eigen 784", |b| {
        b.iter(|| symmetric_eigen_with(Backend::Faer, black_box(cov.view())).unwrap())
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = wiener, empirical, eigen
}
criterion_main!(benches);
