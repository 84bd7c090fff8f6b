//! What a GPU computes, held to f64 on the CPU: operations alone, whole networks, a trained model
//! and its samples.

use crate::gpu::numbers::Check;
use ndarray::{Array2, Zip};
use std::collections::HashMap;
use std::sync::Arc;
use tweedie::diffusion::{Denoiser, Path};
use tweedie::error::Result;
use tweedie::math::larger;
use tweedie::math::noise::Noise;
use tweedie::sample::grid::{Grid, Spacing};
use tweedie::sample::noise_source::standard_start;
use tweedie::sample::registry::{Options, sampler};
use tweedie::sample::sample;
use tweedie_device::gpu::Gpu;
use tweedie_device::{Place, Precision};
use tweedie_nn::bundled::{digits, digits_at, digits_program};
use tweedie_nn::cpu::Cpu;
use tweedie_nn::cuda::Cuda;
use tweedie_nn::element::Element;
use tweedie_nn::program::{Op, Program, TableKind};

/// How far beyond its prediction the error of one operation may be: the largest of many roundings
/// is several deviations.
const SLACK: f64 = 8.0;

/// The same of a whole network, in which such errors have been averaged.
const SLACK_OF_WHOLE: f64 = 3.0;

/// Errors of one kind, of which the worst is kept.
#[derive(Default)]
pub struct Errors(HashMap<(String, String, String, &'static str), (usize, Check)>);

impl Errors {
    fn add(
        &mut self,
        of: &str,
        (what, way): (&str, &str),
        precision: Precision,
        (error, predicted): (f64, f64),
        slack: f64,
        place: &str,
    ) {
        let key = (of.to_owned(), what.to_owned(), way.to_owned(), precision.name());
        let order = self.0.len();
        let (_, worst) = self.0.entry(key).or_insert_with(|| {
            let (of, what, way, precision) =
                (of.into(), what.into(), way.into(), precision.name().into());
            (
                order,
                Check { of, what, way, precision, error: -1.0, allowed: 1.0, ..Check::default() },
            )
        });
        worst.cases += 1;
        let allowed = slack * predicted;
        // NaN is the worst there is, and stays.
        let before = worst.error / worst.allowed;
        if !before.is_nan() && !(error / allowed <= before) {
            (worst.error, worst.predicted, worst.allowed, worst.worst) =
                (error, predicted, allowed, place.into());
        }
    }

    /// The worst of each kind, in the order in which kinds were met.
    pub fn checks(self) -> Vec<Check> {
        let mut checks: Vec<_> = self.0.into_values().collect();
        checks.sort_by_key(|(order, _)| *order);
        checks.into_iter().map(|(_, check)| check).collect()
    }
}

/// Largest difference, in units of the largest entry; NaN where one is NaN, or where there is
/// nothing to compare.
fn error<T: Element>(got: &[T], want: &[f64]) -> f64 {
    if got.len() != want.len() || got.is_empty() {
        return f64::NAN;
    }
    let largest = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x.abs()).fold(0.0, larger);
    let off = largest(&mut got.iter().zip(want).map(|(g, w)| g.wide() - w));
    let size = largest(&mut want.iter().copied());
    if size > 0.0 { off / size } else { off }
}

/// A number as a precision stores it.
fn stored(precision: Precision, x: f64) -> f64 {
    match precision {
        Precision::F64 => x,
        Precision::F32 | Precision::Tf32 => f64::from(x as f32),
        Precision::Bf16 => half::bf16::from_f64(x).to_f64(),
    }
}

/// Unit roundoffs of what a precision does: storing, factors of products, sums.
struct Roundoff {
    store: f64,
    factor: f64,
    sum: f64,
}

impl Roundoff {
    fn of(precision: Precision) -> Self {
        let single = Precision::F32.unit_roundoff();
        match precision {
            Precision::F64 => Self {
                store: precision.unit_roundoff(),
                factor: 0.0,
                sum: precision.unit_roundoff(),
            },
            Precision::F32 => Self { store: single, factor: 0.0, sum: single },
            // Devices may cut factors off instead of rounding them: twice the unit roundoff.
            Precision::Tf32 => {
                Self { store: single, factor: 2.0 * precision.unit_roundoff(), sum: single }
            }
            Precision::Bf16 => Self { store: precision.unit_roundoff(), factor: 0.0, sum: single },
        }
    }
}

/// The error that rounding predicts of one operation, forward and backward, for numbers of order 1.
///
/// Of a sum of n products in units of its own size: two roundings of factors, and sqrt(n) of sums,
/// whose signs are random; then what is stored, more than once where a library leaves biases to an
/// epilogue. An exponential of a score s is off by the score's own error, s times its roundoff, and
/// normal scores reach 4 or 5. An angle of 1000 has an error of 1000 roundings of f64, in which it
/// is computed.
fn predicted(program: &Program, op: &Op, batch: usize, precision: Precision) -> (f64, f64) {
    let Roundoff { store, factor, sum } = Roundoff::of(precision);
    let double = Precision::F64.unit_roundoff();
    match *op {
        Op::Dense { table, x, out, .. } => {
            let (a, b) = (&program.tensors[x], &program.tensors[out]);
            let taps = (program.tables[table].pairs() as f64 / b.rows() as f64).max(1.0);
            let length = |n: f64| sum * (2.0 + n.sqrt());
            let forward = 2.0 * store + 2.0 * factor + length(taps * a.channels as f64);
            let backward = 3.0 * store
                + 2.0 * factor
                + length((taps * b.channels as f64).max((batch * b.rows()) as f64));
            (forward, backward)
        }
        Op::Norm { x, groups, .. } => {
            let t = &program.tensors[x];
            let group = (t.size() / groups) as f64;
            (
                2.0 * store + 16.0 * sum,
                4.0 * store + sum * (32.0 + group.max((batch * t.rows()) as f64).sqrt()),
            )
        }
        Op::Attention { .. } => {
            (8.0 * store + 8.0 * factor + 64.0 * sum, 16.0 * store + 16.0 * factor + 128.0 * sum)
        }
        Op::Sinusoid { .. } | Op::Fourier { .. } => (store + 4000.0 * double, store),
        Op::Lookup { .. } => (store, store + sum * (batch as f64).sqrt()),
        _ => (store + 4.0 * sum, 2.0 * store + 8.0 * sum),
    }
}

/// Weights that keep activations near 1, as single-precision numbers; those of dense operations as
/// `precision` stores them.
pub fn weights(program: &Program, precision: Precision) -> Vec<f64> {
    let noise = Noise::new(0);
    let mut params = vec![0.0; program.param_count()];
    for (i, param) in program.params.iter().enumerate() {
        let fan_in = param.shape[1..].iter().product::<usize>().max(1) as f64;
        let scale = if param.shape.len() == 1 { 0.1 } else { fan_in.sqrt().recip() };
        let offset =
            if param.name.contains("norm") && param.name.ends_with("weight") { 1.0 } else { 0.0 };
        let w = &mut params[param.at.clone()];
        noise.fill_normal(i as u64, w);
        let kept = if param.dense { precision } else { Precision::F32 };
        w.iter_mut().for_each(|w| *w = stored(kept, offset + scale * *w));
    }
    params
}

/// A batch of inputs for a program, and of what it is told.
struct Asked {
    times: Vec<f64>,
    labels: Vec<usize>,
}

fn asked(program: &Program, batch: usize) -> Asked {
    let rows = |by_class: bool| {
        program.ops.iter().find_map(|op| match *op {
            Op::Lookup { weight, by_class: b, .. } if b == by_class => {
                Some(program.params[weight].shape[0])
            }
            _ => None,
        })
    };
    let most = rows(false).unwrap_or(1000);
    // Whole numbers from 1, which every embedding takes.
    let times =
        (0..batch).map(|i| ((1 + i * 997) % most) as f64 + if most == 1000 { 1.0 } else { 0.0 });
    let scale = if program.divide_by_time { 1e-3 } else { 1.0 };
    Asked {
        times: times.map(|t| scale * t).collect(),
        labels: rows(true).map_or(vec![], |rows| (0..batch).map(|i| (i * 7 + 1) % rows).collect()),
    }
}

fn normals(noise: &Noise, stream: u64, n: usize, precision: Precision) -> Vec<f64> {
    let mut x = vec![0.0; n];
    noise.fill_normal(stream, &mut x);
    x.iter_mut().for_each(|x| *x = stored(precision, *x));
    x
}

fn of<T: Element>(x: &[f64]) -> Vec<T> {
    x.iter().map(|x| T::of(*x)).collect()
}

/// One operation alone, forward and backward: the worst error of its output, and of its inputs' and
/// parameters' gradients.
fn operation<T: Element>(
    gpu: &Arc<Gpu>,
    program: &Program,
    batch: usize,
    precision: Precision,
    libraries: bool,
) -> Result<(f64, Option<f64>)> {
    let (op, noise, asked) = (&program.ops[0], Noise::new(1), asked(program, batch));
    let numbers = |t: usize| batch * program.tensors[t].size();
    let inputs: Vec<Vec<f64>> = op
        .inputs()
        .into_iter()
        .enumerate()
        .map(|(i, t)| normals(&noise, i as u64, numbers(t), precision))
        .collect();
    let dout = normals(&noise, 99, numbers(op.out()), precision);
    let params = weights(program, precision);

    let mut cpu = Cpu::<f64>::new(program.clone(), batch);
    cpu.load(&params);
    let want = cpu.alone(0, &inputs, &asked.times, &asked.labels)?;
    let mut want_grads = vec![0.0; params.len()];
    let want_back = cpu.alone_back(0, &dout, &mut want_grads);

    let make = if libraries { Cuda::<T>::new } else { Cuda::<T>::without_libraries };
    let mut cuda = make(program.clone(), batch, gpu, precision)?;
    cuda.load(&of(&params))?;
    let got = cuda.alone(
        0,
        &inputs.iter().map(|x| of(x)).collect::<Vec<_>>(),
        &asked.times,
        &asked.labels,
    )?;
    let forward = error(&got, &want);
    // Sines have no gradient.
    if op.inputs().is_empty() && !matches!(op, Op::Lookup { .. }) {
        return Ok((forward, None));
    }
    let mut grads = vec![T::zero(); params.len()];
    let got_back = cuda.alone_back(0, &of(&dout), &mut grads)?;
    let inputs = got_back.iter().zip(&want_back).map(|(g, w)| error(g, w));
    let params =
        program.params.iter().map(|p| error(&grads[p.at.clone()], &want_grads[p.at.clone()]));
    Ok((forward, Some(inputs.chain(params).fold(0.0, larger))))
}

/// Holds programs of one operation each to f64 in every precision: by NVIDIA's libraries where they
/// are, and by our own kernels.
pub fn operations(
    gpu: &Arc<Gpu>,
    of: &str,
    programs: &[Program],
    batch: usize,
    errors: &mut Errors,
) -> Result<()> {
    for program in programs {
        let op = &program.ops[0];
        let shape = |t: usize| {
            let t = &program.tensors[t];
            format!("{}x{}x{}", t.height, t.width, t.channels)
        };
        let shapes: Vec<String> = op.inputs().into_iter().chain([op.out()]).map(shape).collect();
        for precision in Precision::ALL {
            // Only products are anybody else's, and ours knows no TF32.
            let by_library = matches!(op, Op::Dense { .. } | Op::Attention { .. });
            let ways = if by_library { &[true, false][..] } else { &[false][..] };
            for &libraries in ways {
                let (forward, backward) = match precision {
                    Precision::F64 => operation::<f64>(gpu, program, batch, precision, libraries)?,
                    _ => operation::<f32>(gpu, program, batch, precision, libraries)?,
                };
                let (by_forward, by_backward) = predicted(program, op, batch, precision);
                let what = if libraries {
                    format!("{} by libraries", op.kind())
                } else {
                    op.kind().to_owned()
                };
                let place = format!("{batch} of {}", shapes.join(", "));
                errors.add(of, (&what, "forward"), precision, (forward, by_forward), SLACK, &place);
                if let Some(backward) = backward {
                    errors.add(
                        of,
                        (&what, "backward"),
                        precision,
                        (backward, by_backward),
                        SLACK,
                        &place,
                    );
                }
            }
        }
    }
    Ok(())
}

/// The operations of a network, each kind and shape once.
pub fn apart(program: &Program) -> Vec<Program> {
    let mut seen = vec![];
    let mut alone = vec![];
    for i in 0..program.ops.len() {
        let mut one = program.alone(i);
        one.tensors.iter_mut().for_each(|t| t.name.clear());
        let signature = format!(
            "{:?} {:?} {:?}",
            one.ops,
            one.tensors,
            one.params.iter().map(|p| &p.shape).collect::<Vec<_>>()
        );
        let table = one.tables.first().map(|t| (t.pairs(), t.inputs, t.outputs));
        if !seen.contains(&(signature.clone(), table)) {
            seen.push((signature, table));
            alone.push(one);
        }
    }
    alone
}

/// Programs of one operation each, of random shapes: `n` of every kind and option.
pub fn random_operations(n: usize, size: usize, channels: usize) -> Vec<Program> {
    let noise = Noise::new(2);
    let mut drawn = 0;
    let mut draw = |low: usize, high: usize| {
        drawn += 1;
        low + (noise.uniform(0, drawn) * (high - low + 1) as f64) as usize
    };
    let mut programs = vec![];
    for k in 0..n {
        let (h, w, c) = (draw(2, size), draw(2, size), draw(1, channels));
        let one = |build: &mut dyn FnMut(&mut Program) -> Op| {
            let mut program = Program::default();
            let op = build(&mut program);
            program.output = op.out();
            program.input = op.inputs().first().copied().unwrap_or(program.output);
            program.ops.push(op);
            program
        };
        // Convolutions of every kind, and a linear layer, with every part of the epilogue.
        let out_channels = draw(1, channels);
        let kinds = [
            (TableKind::Identity { rows: h * w }, h, w),
            (
                TableKind::Convolution { size: (h, w), kernel: 3, stride: 1, before: 1, after: 1 },
                h,
                w,
            ),
            (
                TableKind::Convolution { size: (h, w), kernel: 3, stride: 2, before: 1, after: 1 },
                h.div_ceil(2),
                w.div_ceil(2),
            ),
            (
                TableKind::Convolution { size: (h, w), kernel: 3, stride: 2, before: 0, after: 1 },
                h / 2,
                w / 2,
            ),
            (TableKind::Upsampling { size: (h, w) }, 2 * h, 2 * w),
        ];
        for (i, (kind, out_h, out_w)) in kinds.into_iter().enumerate() {
            programs.push(one(&mut |p| {
                let (x, out) =
                    (p.tensor("x", h, w, c), p.tensor("out", out_h, out_w, out_channels));
                let image_bias =
                    (i + k).is_multiple_of(2).then(|| p.tensor("image_bias", 1, 1, out_channels));
                let skip =
                    (i + k).is_multiple_of(3).then(|| p.tensor("skip", out_h, out_w, out_channels));
                let shape = [out_channels, c, 3, 3];
                let weight = p.dense_param("weight", if i == 0 { &shape[..2] } else { &shape });
                let bias = (!(i + k).is_multiple_of(4)).then(|| p.param("bias", &[out_channels]));
                let scale = if (i + k).is_multiple_of(3) { 0.5f64.sqrt() } else { 1.0 };
                Op::Dense { table: p.table(kind), x, weight, bias, image_bias, skip, scale, out }
            }));
        }
        // Groups of one channel up to all of them; of 8 numbers at least, which have a deviation.
        let (groups, of_group) = (draw(1, 8), draw(1, channels.div_ceil(8)));
        let (rows, norm_channels) =
            (if h * w * of_group < 8 { (4, 4) } else { (h, w) }, groups * of_group);
        for silu in [false, true] {
            programs.push(one(&mut |p| {
                let (x, out) = (
                    p.tensor("x", rows.0, rows.1, norm_channels),
                    p.tensor("out", rows.0, rows.1, norm_channels),
                );
                let modulation = (silu == k.is_multiple_of(2))
                    .then(|| p.tensor("modulation", 1, 1, 2 * norm_channels));
                let (gamma, beta) = (
                    p.param("norm.weight", &[norm_channels]),
                    p.param("norm.bias", &[norm_channels]),
                );
                Op::Norm { x, gamma, beta, groups, eps: 1e-5, modulation, silu, out }
            }));
        }
        let (heads, depth) = (draw(1, 4), draw(1, channels.div_ceil(4)));
        programs.push(one(&mut |p| {
            let [q, k, v, out] =
                ["q", "k", "v", "out"].map(|name| p.tensor(name, h, w, heads * depth));
            Op::Attention { q, k, v, heads, out }
        }));
        programs.push(one(&mut |p| {
            let (x, out) = (p.tensor("x", h, w, c), p.tensor("out", h, w, c));
            Op::Silu { x, out }
        }));
        programs.push(one(&mut |p| {
            let (a, b, out) =
                (p.tensor("a", h, w, c), p.tensor("b", h, w, c), p.tensor("out", h, w, c));
            Op::Add { a, b, out }
        }));
        programs.push(one(&mut |p| {
            let (a, b) = (p.tensor("a", h, w, c), p.tensor("b", h, w, out_channels));
            Op::Concat { a, b, out: p.tensor("out", h, w, c + out_channels) }
        }));
        programs.push(one(&mut |p| {
            let (x, out) = (p.tensor("x", 2 * h, 2 * w, c), p.tensor("out", h, w, c));
            Op::Halve { x, out }
        }));
        programs.push(one(&mut |p| {
            let (x, out) = (p.tensor("x", h, w, c), p.tensor("out", 2 * h, 2 * w, c));
            Op::Double { x, out }
        }));
        let flip = k.is_multiple_of(2);
        programs.push(one(&mut |p| Op::Sinusoid {
            flip,
            shift: k as f64 % 2.0,
            out: p.tensor("out", 1, 1, 2 * c + 2),
        }));
        programs.push(one(&mut |p| {
            let (weight, out) = (p.param("frequencies", &[c]), p.tensor("out", 1, 1, 2 * c));
            Op::Fourier { weight, flip, out }
        }));
        for by_class in [false, true] {
            programs.push(one(&mut |p| {
                let (weight, out) =
                    (p.param("table", &[c + 2, out_channels]), p.tensor("out", 1, 1, out_channels));
                Op::Lookup { weight, by_class, out }
            }));
        }
    }
    programs
}

/// A whole network in every precision: its output, its gradients, and that a recorded pass says
/// what the first one said.
pub fn network(
    gpu: &Arc<Gpu>,
    name: &str,
    program: &Program,
    batch: usize,
    errors: &mut Errors,
) -> Result<()> {
    for precision in Precision::ALL {
        match precision {
            Precision::F64 => whole::<f64>(gpu, name, program, batch, precision, errors)?,
            _ => whole::<f32>(gpu, name, program, batch, precision, errors)?,
        }
    }
    Ok(())
}

/// What rounding predicts of a network's output and of its gradients: independent errors of all
/// operations.
fn predicted_whole(program: &Program, batch: usize, precision: Precision) -> (f64, f64) {
    let squares = program
        .ops
        .iter()
        .map(|op| predicted(program, op, batch, precision))
        .map(|(f, b)| (f * f, b * b));
    let (forward, backward) = squares.fold((0.0, 0.0), |sum, x| (sum.0 + x.0, sum.1 + x.1));
    // The weights themselves are rounded, and the way back reads the errors of the way there; the
    // mean of errors is a third of their largest.
    (f64::sqrt(2.0 * forward) / 3.0, f64::sqrt(2.0 * forward + backward) / 3.0)
}

fn whole<T: Element>(
    gpu: &Arc<Gpu>,
    name: &str,
    program: &Program,
    batch: usize,
    precision: Precision,
    errors: &mut Errors,
) -> Result<()> {
    let (asked, noise) = (asked(program, batch), Noise::new(3));
    let params = weights(program, Precision::F32);
    let x = normals(&noise, 0, batch * program.tensors[program.input].size(), Precision::F32);
    let dout = normals(&noise, 1, batch * program.tensors[program.output].size(), Precision::F32);
    let mut cpu = Cpu::<f64>::new(program.clone(), batch);
    cpu.load(&params);
    let want = cpu.forward(&x, &asked.times, &asked.labels)?.to_vec();
    let mut want_grads = vec![0.0; params.len()];
    cpu.backward(&dout, &mut want_grads);

    let mut cuda = Cuda::<T>::new(program.clone(), batch, gpu, precision)?;
    cuda.load(&of(&params))?;
    let (x, dout) = (of::<T>(&x), of::<T>(&dout));
    let (forward, backward) = predicted_whole(program, batch, precision);
    let mut grads = vec![T::zero(); params.len()];
    // Piece by piece; while it is recorded; from the record.
    for run in ["first run", "recorded run", "repeated run"] {
        let got = cuda.forward(&x, &asked.times, &asked.labels)?.to_vec();
        let mut add = |what: &str, way: &str, error: f64, predicted: f64| {
            errors.add(name, (what, way), precision, (error, predicted), SLACK_OF_WHOLE, run);
        };
        add("output", "forward", error(&got, &want), forward);
        cuda.backward(&dout, &mut grads)?;
        // Lengths of the whole: some gradients, as those of a bias before a norm, are 0 but for
        // rounding.
        let length = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
        let off = length(&mut grads.iter().zip(&want_grads).map(|(g, w)| g.wide() - w))
            / length(&mut want_grads.iter().copied());
        add("gradient of the parameters", "backward", off, backward);
        add(
            "gradient of the input",
            "backward",
            error(cuda.input_gradient(), cpu.input_gradient()),
            backward,
        );
    }
    Ok(())
}

/// The trained digits model: what it denoises, and the samples that two samplers draw with it,
/// against the same on the CPU in f64.
pub fn trained(
    gpu: &Arc<Gpu>,
    images: usize,
    samples: usize,
    steps: usize,
    errors: &mut Errors,
) -> Result<()> {
    let exact = digits::<f64>(images.max(samples))?;
    let program = digits_program()?;
    let x0 = tweedie_nn::data::load("digits")?.images;
    let x0 = x0.slice(ndarray::s![..images, ..]);
    let noise = Noise::new(4);
    let grid = Grid::new(Spacing::LogSnr, steps).points(&Path::Cosine)?;
    let start = standard_start(&noise, samples, 64) * grid[0].sigma;
    let methods = ["dpmpp-2m", "ddpm"]
        .map(|name| sampler(name, &Options::DEFAULT).map(|method| (name, method)));
    let methods = methods.into_iter().collect::<Result<Vec<_>>>()?;
    let runs = methods.iter().map(|(_, method)| {
        Ok(sample(method, &exact, &grid, start.clone(), &mut noise.child(1))?.x)
    });
    let runs = runs.collect::<Result<Vec<_>>>()?;
    for precision in Precision::ALL {
        let place = Place::Gpu(gpu.clone(), precision);
        let (predicted, _) = predicted_whole(&program, images, precision);
        let mut hold = |denoiser: &dyn Denoiser, drawn: Vec<Option<Array2<f64>>>| -> Result<()> {
            for level in [0.1, 0.65, 5.0] {
                let at = Path::Cosine.at(Path::Cosine.t_from_edm_sigma(level)?)?;
                let mut xt = Array2::zeros(x0.raw_dim());
                noise.fill_normal(2, xt.as_slice_mut().expect("a new array is contiguous"));
                Zip::from(&mut xt).and(&x0).for_each(|x, x0| *x = at.alpha * x0 + at.sigma * *x);
                let (got, want) =
                    (denoiser.denoised(xt.view(), &at)?, exact.denoised(xt.view(), &at)?);
                let off =
                    error(got.as_slice().unwrap_or_default(), want.as_slice().unwrap_or_default());
                let place = format!("sigma/alpha = {level}");
                errors.add(
                    "trained digits",
                    ("x0_hat", "forward"),
                    precision,
                    (off, predicted),
                    SLACK_OF_WHOLE,
                    &place,
                );
            }
            for (((name, _), got), want) in methods.iter().zip(drawn).zip(&runs) {
                // Not recorded is not run.
                let got = got.unwrap_or_else(|| Array2::from_elem(want.raw_dim(), f64::NAN));
                let off =
                    error(got.as_slice().unwrap_or_default(), want.as_slice().unwrap_or_default());
                // Each evaluation brings its error, and none is larger than what the state has by
                // then.
                let along = predicted * (steps as f64).sqrt();
                let (what, place) = (format!("samples by {name}"), format!("{steps} steps"));
                errors.add(
                    "trained digits",
                    (&what, "forward"),
                    precision,
                    (off, along),
                    SLACK_OF_WHOLE,
                    &place,
                );
            }
            Ok(())
        };
        macro_rules! with {
            ($t:ty) => {{
                let network = digits_at::<$t>(images.max(samples), &place)?;
                let drawn = methods.iter().map(|(_, method)| {
                    let end = network.sampled(method, &grid, start.view(), noise.child(1), None)?;
                    Ok(end.map(|end| end.x))
                });
                let drawn = drawn.collect::<Result<Vec<_>>>()?;
                hold(&network, drawn)?;
            }};
        }
        match precision {
            Precision::F64 => with!(f64),
            _ => with!(f32),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_poisoned_number_is_an_error_wherever_it_stands() {
        let want = [1.0, -2.0, 0.5];
        assert_eq!(error(&want, &want), 0.0);
        for place in 0..3 {
            let mut got = want;
            got[place] = f64::NAN;
            assert!(error(&got, &want).is_nan(), "{place}");
        }
        assert!(error::<f64>(&[], &[]).is_nan() && error(&want[..2], &want).is_nan());
    }

    #[test]
    fn an_error_that_is_no_number_stays_the_worst_of_its_kind() {
        for place in 0..3 {
            let mut errors = Errors::default();
            for k in 0..3 {
                let error = if k == place { f64::NAN } else { 1e-9 };
                errors.add(
                    "net",
                    ("Conv", "forward"),
                    Precision::F32,
                    (error, 1e-6),
                    SLACK,
                    "here",
                );
            }
            let checks = errors.checks();
            assert!(checks.len() == 1 && checks[0].cases == 3 && !checks[0].holds(), "{place}");
        }
    }
}
