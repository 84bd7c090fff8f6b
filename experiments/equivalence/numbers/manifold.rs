//! A network with a bottleneck, on a curve in a space of many dimensions: what no training can give
//! it, and what it reaches.
//!
//! The data are points of a spiral in a plane, turned at random into d dimensions. A network whose
//! layers have h < d channels says `W a + b` with `W` of rank h at most, whatever `a` is. What it
//! should say of a target `y = a x0 + b eps` is `b x_t / sigma` in each of the d - 2 directions off
//! the plane, all alike and of variance `b^2`: so at least `(d - 2 - h) b^2` is out of its reach,
//! trained or not, however deep. For x0 there is nothing to say there, and the bound is 0.

use super::linear::{at_level, curvature};
use super::{Effort, Settings, TARGETS};
use ndarray::{Array2, Axis};
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;
use tweedie::diffusion::loss::loss_ratio;
use tweedie::diffusion::prediction::{Frame, Prediction};
use tweedie::diffusion::{Denoiser, Path, PathPoint};
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::exact::low_rank::LowRank;
use tweedie::law::Gaussian;
use tweedie::law::empirical::Empirical;
use tweedie::math::noise::Noise;
use tweedie::sample::dpmpp::Dpmpp2m;
use tweedie::sample::noise_source::Silence;
use tweedie::sample::sample;
use tweedie_nn::adamw::{AdamW, State};
use tweedie_nn::cpu::Cpu;
use tweedie_nn::denoiser::Network;
use tweedie_nn::pipeline::{Input, Setup, Time};
use tweedie_nn::program::{Op, Program, TableKind, TensorId};
use tweedie_nn::train::initial::initial;
use tweedie_report::experiment::{geometric, least};

/// What the section on networks with a bottleneck shows.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Manifold {
    /// Channels of the network's layers, h.
    pub width: usize,
    /// Steps of each network's training.
    pub steps: usize,
    /// Noise levels `sigma / alpha`.
    pub sigmas: Vec<f64>,
    /// One space each.
    pub spaces: Vec<Space>,
    /// The points of the curve in its plane, (n, 2).
    pub curve: Array2<f64>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

/// Risks of x0 in one space, in units of the data's variance.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Space {
    /// Dimensions, d.
    pub dim: usize,
    /// By target: excess risk of its network at each level.
    pub excess: Vec<Vec<f64>>,
    /// By target: what no network of the width can do without.
    pub bound: Vec<Vec<f64>>,
    /// By target: risk of the best linear map of rank h.
    pub linear: Vec<Vec<f64>>,
    /// Least risk.
    pub least: Vec<f64>,
    /// By target: samples in the plane, (n, 2).
    pub samples: Vec<Array2<f64>>,
    /// By target: root mean square distance of samples from the nearest point of the curve.
    pub distance: Vec<f64>,
}

impl Manifold {
    pub(super) fn new(
        settings: &Settings,
        effort: &Effort,
        noise: &Noise,
        told: &dyn Fn(&str),
    ) -> Result<Self> {
        let curve = spiral(settings.spiral_points);
        let [lo, hi] = settings.judged_range;
        let sigmas = geometric(lo, hi, settings.judged_levels);
        let mut spaces = Vec::new();
        for (k, dim) in settings.spiral_dims.iter().enumerate() {
            spaces.push(Space::new(
                settings,
                effort,
                &curve,
                *dim,
                &sigmas,
                &noise.child(k as u64),
                told,
            )?);
        }
        let mut evidence = Vec::new();
        for space in spaces.iter().filter(|s| s.bound[1][0] > 0.0) {
            let d = space.dim;
            let over =
                |t: usize| least(space.excess[t].iter().zip(&space.bound[t]).map(|(e, b)| e / b));
            evidence.push(
                Evidence::at_least(
                    format!("d = {d}: excess of the ε-, v- and velocity-networks over their bounds, the least"),
                    least((1..TARGETS.len()).map(over)),
                    1.0,
                    5.0 * (2.0 / (effort.spiral_draws * (d - 2 - settings.spiral_width)) as f64).sqrt(),
                )
                .because("no network of the width is below; five standard errors of a sum of squares of that many normals"),
            );
            evidence.push(
                Evidence::at_most(
                    format!("trained x₀-network, d = {d}, σ/α = {lo}: excess over the bound of every ε-network"),
                    space.excess[0][0] / space.bound[1][0],
                    1.0,
                    0.0,
                )
                .because("below 1 it does what no ε-network of its width can"),
            );
        }
        Ok(Self {
            width: settings.spiral_width,
            steps: effort.spiral_steps,
            sigmas,
            spaces,
            curve,
            evidence,
        })
    }
}

impl Space {
    fn new(
        settings: &Settings,
        effort: &Effort,
        curve: &Array2<f64>,
        dim: usize,
        sigmas: &[f64],
        noise: &Noise,
        told: &dyn Fn(&str),
    ) -> Result<Self> {
        let (plane, h) = (plane(dim, &noise.child(0)), settings.spiral_width);
        let points = curve.dot(&plane.t());
        let (optimum, gaussian) =
            (Empirical::new(curve.clone())?, Gaussian::from_data(points.view())?.truncated(2));
        let total: f64 = gaussian.variances().sum();
        let n = effort.spiral_draws;
        let x0 =
            points.select(Axis(0), &(0..n).map(|i| i * points.nrows() / n).collect::<Vec<_>>());
        let states = sigmas
            .iter()
            .enumerate()
            .map(|(k, sigma)| {
                let at = at_level(*sigma)?;
                let xt = &x0 * at.alpha + noise.child(1).normals(k as u64, (n, dim)) * at.sigma;
                // What lies off the plane says nothing of x0.
                let best = optimum.denoised(xt.dot(&plane).view(), &at)?.dot(&plane.t());
                Ok((at, xt, best))
            })
            .collect::<Result<Vec<_>>>()?;
        let square =
            |a: &Array2<f64>, b: &Array2<f64>| (a - b).mapv(|e| e * e).sum() / n as f64 / total;
        let mut space = Space {
            dim,
            excess: Vec::new(),
            bound: Vec::new(),
            linear: Vec::new(),
            least: states.iter().map(|(_, _, best)| square(best, &x0)).collect(),
            samples: Vec::new(),
            distance: Vec::new(),
        };
        let grid = geometric(sigmas[0], *sigmas.last().unwrap_or(&1.0), 24)
            .iter()
            .rev()
            .map(|s| at_level(*s))
            .collect::<Result<Vec<_>>>()?;
        let start = noise.child(2).normals(0, (SAMPLES, dim)) * grid[0].sigma;
        told(&format!("networks of {h} channels in {dim} dimensions"));
        let networks = train(settings, effort, &points, &noise.child(3))?;
        for (target, network) in TARGETS.into_iter().zip(&networks) {
            space.excess.push(
                states
                    .iter()
                    .map(|(at, xt, best)| Ok(square(&network.denoised(xt.view(), at)?, best)))
                    .collect::<Result<_>>()?,
            );
            let ends = sample(
                &Dpmpp2m { lower_final: false },
                network,
                &grid,
                start.clone(),
                &mut Silence,
            )?
            .x;
            let last = grid[grid.len() - 1];
            let ends = network.denoised(ends.view(), &last)?;
            let nearest = Empirical::new(points.clone())?.nearest(ends.view(), 1.0);
            let off: f64 = ends
                .rows()
                .into_iter()
                .zip(nearest)
                .map(|(x, i)| (&x - &points.row(i)).mapv(|e| e * e).sum())
                .sum();
            space.distance.push((off / SAMPLES as f64).sqrt());
            space.samples.push(ends.dot(&plane));
            let (mut bound, mut linear) = (Vec::new(), Vec::new());
            for (at, ..) in &states {
                let frame = Frame::from(at);
                let scale = loss_ratio(target, Prediction::X0, &frame)? * total;
                bound.push(
                    dim.saturating_sub(2 + h) as f64 * target.coefficients(&frame).1.powi(2)
                        / scale,
                );
                let wiener: f64 = gaussian
                    .variances()
                    .iter()
                    .map(|l| l * at.sigma.powi(2) / curvature(*l, at))
                    .sum();
                linear.push(
                    LowRank::new(&gaussian, target, at, h)?.excess() / scale + wiener / total,
                );
            }
            space.bound.push(bound);
            space.linear.push(linear);
        }
        Ok(space)
    }
}

/// Samples of each network.
const SAMPLES: usize = 128;

/// Points at equal angles of a spiral of one turn, of variance 2 in all.
fn spiral(n: usize) -> Array2<f64> {
    let angle = |i: usize| PI * (1.0 + 2.0 * i as f64 / (n - 1) as f64);
    let mut points = Array2::from_shape_fn((n, 2), |(i, j)| {
        angle(i) * if j == 0 { angle(i).cos() } else { angle(i).sin() }
    });
    let mean = points.mean_axis(Axis(0)).expect("points");
    points -= &mean;
    let size = (points.mapv(|x| x * x).sum() / n as f64 / 2.0).sqrt();
    points / size
}

/// Two orthonormal columns, (d, 2).
fn plane(d: usize, noise: &Noise) -> Array2<f64> {
    let mut columns = noise.normals(0, (2, d));
    let dot = |c: &Array2<f64>, i: usize, j: usize| c.row(i).dot(&c.row(j));
    let along = dot(&columns, 0, 1) / dot(&columns, 0, 0);
    let first = columns.row(0).to_owned();
    columns.row_mut(1).scaled_add(-along, &first);
    (0..2).for_each(|i| {
        let size = dot(&columns, i, i).sqrt();
        columns.row_mut(i).mapv_inplace(|x| x / size);
    });
    columns.reversed_axes().as_standard_layout().into_owned()
}

/// Three layers of `width` channels, the first of them told the time, and one back to the space: no
/// skip past them.
fn network(dim: usize, width: usize) -> Program {
    let mut p = Program::default();
    let table = p.table(TableKind::Identity { rows: 1 });
    let dense = |p: &mut Program, name: &str, x: TensorId, channels: usize, image_bias, skip| {
        let (weight, bias) = (
            p.dense_param(format!("{name}.weight"), &[channels, p.tensors[x].channels]),
            Some(p.param(format!("{name}.bias"), &[channels])),
        );
        let out = p.tensor(name, 1, 1, channels);
        p.ops.push(Op::Dense { table, x, weight, bias, image_bias, skip, scale: 1.0, out });
        out
    };
    let silu = |p: &mut Program, x: TensorId| {
        let out = p.tensor("silu", 1, 1, p.tensors[x].channels);
        p.ops.push(Op::Silu { x, out });
        out
    };
    p.input = p.tensor("x", 1, 1, dim);
    let time = p.tensor("time", 1, 1, 16);
    p.ops.push(Op::Sinusoid { flip: true, shift: 0.0, out: time });
    let time = dense(&mut p, "time", time, width, None, None);
    let time = silu(&mut p, time);
    let time = dense(&mut p, "told", time, width, None, None);
    let mut x = p.input;
    for layer in 0..3 {
        let (told, skip) = if layer == 0 { (Some(time), None) } else { (None, Some(x)) };
        x = dense(&mut p, &format!("layer.{layer}"), x, width, told, skip);
        x = silu(&mut p, x);
    }
    p.output = dense(&mut p, "out", x, dim, None, None);
    p
}

/// Networks trained to say one target each, on the plain loss and the same draws, times uniform on
/// the straight path.
fn train(
    settings: &Settings,
    effort: &Effort,
    points: &Array2<f64>,
    noise: &Noise,
) -> Result<Vec<Network<f32>>> {
    struct Student {
        cpu: Cpu<f32>,
        params: Vec<f32>,
        state: State<f32>,
    }
    let (path, dim, n) = (Path::FlowMatching, points.ncols(), settings.spiral_batch);
    let program = network(dim, settings.spiral_width);
    let params: Vec<f32> =
        initial(&program, &noise.child(0), true).iter().map(|w| *w as f32).collect();
    let mut students: Vec<Student> = TARGETS
        .iter()
        .map(|_| Student {
            cpu: Cpu::new(program.clone(), n),
            params: params.clone(),
            state: State::new(params.len()),
        })
        .collect();
    let (mut gradient, mut x, mut dy) =
        (vec![0.0; params.len()], vec![0.0f32; n * dim], vec![0.0f32; n * dim]);
    let (lo, hi) = settings.train.times.range.unwrap_or((0.02, 50.0));
    let (lo, hi) = (path.t_from_edm_sigma(lo)?, path.t_from_edm_sigma(hi)?);
    for step in 0..effort.spiral_steps {
        let draw = noise.child(1 + step as u64);
        let eps = draw.normals(0, (n, dim));
        let x0 = points.select(
            Axis(0),
            &(0..n as u64)
                .map(|i| (draw.bits(2, i) % points.nrows() as u64) as usize)
                .collect::<Vec<_>>(),
        );
        let times: Vec<f64> = (0..n)
            .map(|i| lo + (hi - lo) * (i as f64 + draw.uniform(1, i as u64)) / n as f64)
            .collect();
        let levels = times.iter().map(|t| path.at(*t)).collect::<Result<Vec<PathPoint>>>()?;
        for (i, at) in levels.iter().enumerate() {
            let row = x0.row(i).into_iter().zip(eps.row(i));
            x[i * dim..][..dim]
                .iter_mut()
                .zip(row)
                .for_each(|(x, (x0, eps))| *x = (at.alpha * x0 + at.sigma * eps) as f32);
        }
        let told: Vec<f64> = times.iter().map(|t| 1000.0 * t).collect();
        let along = step as f64 / effort.spiral_steps as f64;
        let learning_rate =
            settings.spiral_rate * (50.0 * along).min(0.5 * (1.0 + (PI * along).cos()));
        for (Student { cpu, params, state }, target) in students.iter_mut().zip(TARGETS) {
            cpu.load(params);
            let said = cpu.forward(&x, &told, &[])?;
            for (i, at) in levels.iter().enumerate() {
                let (a, b) = target.coefficients(&Frame::from(at));
                for j in 0..dim {
                    let y = a * x0[[i, j]] + b * eps[[i, j]];
                    dy[i * dim + j] = 2.0 * (said[i * dim + j] - y as f32) / (n * dim) as f32;
                }
            }
            cpu.backward(&dy, &mut gradient);
            AdamW { learning_rate, beta2: 0.99, decay: 0.0, ..AdamW::default() }
                .step(state, params, &gradient);
        }
    }
    let setup = |prediction| Setup {
        path: path.clone(),
        prediction,
        sigma_data: 1.0,
        input: Input::State,
        time: Time::Scaled(1000.0),
        shape: (dim, 1, 1),
        null_class: None,
    };
    TARGETS
        .into_iter()
        .zip(&students)
        .map(|(target, s)| Network::new(program.clone(), &s.params, setup(target), 128))
        .collect()
}
