//! `tweedie net`: a U-Net folder's operations, its output on given images, its gradients.

use super::Outcome;
use super::output::{self, Document, Npz, Target};
use ndarray::ArrayD;
use serde::Serialize;
use std::path::{Path, PathBuf};
use tweedie::error::{Error, Result};
use tweedie::npy::Archive;
use tweedie_device::{Device, Place, Precision};
use tweedie_nn::checkpoint;
use tweedie_nn::element::Element;
use tweedie_nn::executor::Executor;
use tweedie_nn::layout::{channels_first, channels_last};
use tweedie_nn::program::{Pass, Program};
use tweedie_nn::unet::unet;

/// Run a U-Net of diffusers' layout, forward and backward, or list its operations
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  tweedie net ops --model ddpm-cifar10-32/\n  \
                  tweedie net forward --model ddpm-cifar10-32/ in.npz -o out.npz\n  \
                  tweedie net backward --model ddpm-cifar10-32/ in.npz -o grads.safetensors\n\n\
                  in.npz holds x (n, c, h, w) and t (n), and target (n, c, h, w) for backward; class labels, where the network has classes, as labels (n).")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Print the operations with their shapes, arithmetic, traffic and memory
    Ops(OpsArgs),
    /// Write the network's output y (n, c, h, w)
    Forward(RunArgs),
    /// Write the gradients of mean((y - target)^2) by every parameter
    Backward(RunArgs),
}

#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  tweedie net ops --model ddpm-cifar10-32/ --batch 4 --json ops.json"
)]
struct OpsArgs {
    /// A diffusers pipeline or UNet2DModel folder; its weights need not be there
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Images in a batch
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Write the table as JSON to FILE, or '-' for standard output
    #[arg(long, value_name = "FILE")]
    json: Option<Target>,
}

#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  tweedie net forward --model ddpm-cifar10-32/ in.npz -o out.npz --precision f64"
)]
struct RunArgs {
    /// A diffusers pipeline or UNet2DModel folder
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Images x (n, c, h, w) and times t (n); target for backward
    #[arg(value_name = "IN.npz")]
    input: PathBuf,
    /// OUT.npz for forward, GRADS.safetensors for backward; '-' for standard output
    #[arg(short, long, value_name = "OUT")]
    output: Target,
    /// What to compute on
    #[arg(long, value_name = "D", default_value = "auto")]
    device: Device,
    /// Number format: f64, f32, and on a GPU tf32, bf16
    #[arg(long, value_name = "P", default_value = "f32")]
    precision: Precision,
}

pub fn run(args: &Args) -> Result<Outcome> {
    match &args.command {
        Command::Ops(args) => ops(args),
        Command::Forward(args) => dispatch(args, false),
        Command::Backward(args) => dispatch(args, true),
    }
}

fn dispatch(args: &RunArgs, backward: bool) -> Result<Outcome> {
    let place = args.device.place(args.precision)?;
    let document = match args.precision {
        Precision::F64 => compute::<f64>(args, &place, backward)?,
        _ => compute::<f32>(args, &place, backward)?,
    };
    args.output.write(&document)?;
    Ok(Outcome::Success)
}

/// The images of a file, and what belongs to each.
struct Batch {
    x: ArrayD<f64>,
    times: Vec<f64>,
    labels: Vec<usize>,
    target: Option<ArrayD<f64>>,
}

fn read(
    path: &Path,
    channels: usize,
    out_channels: usize,
    classes: Option<usize>,
    backward: bool,
) -> Result<Batch> {
    let mut archive = Archive::open(path)?;
    let bad = |problem: String| {
        Error::file(
            path,
            problem,
            "write it with numpy.savez(path, x=x, t=t), x of shape (n, c, h, w)",
        )
    };
    let mut array = |name: &str| -> Result<Option<ArrayD<f64>>> {
        let Some((x, _)) = archive.array(name)? else { return Ok(None) };
        match x.iter().find(|x| !x.is_finite()) {
            Some(x) => Err(bad(format!("`{name}` holds {x}, wanted finite numbers"))),
            None => Ok(Some(x)),
        }
    };
    let x = array("x")?.ok_or_else(|| bad("no array `x`".into()))?;
    let [n, c, height, width] = x.shape()[..] else {
        return Err(bad(format!("`x` has shape {:?}, wanted (n, c, h, w)", x.shape())));
    };
    if n == 0 || c != channels {
        return Err(bad(format!(
            "`x` has shape {:?}, wanted (n, {channels}, h, w) with n at least 1",
            x.shape()
        )));
    }
    let t = array("t")?.ok_or_else(|| bad("no array `t`".into()))?;
    if t.len() != n {
        return Err(bad(format!(
            "`t` has shape {:?}, wanted ({n},), one time for each image",
            t.shape()
        )));
    }
    let labels = match (classes, array("labels")?) {
        (None, _) => vec![],
        (Some(_), None) => {
            return Err(bad("no array `labels`, which a network with classes needs".into()));
        }
        (Some(classes), Some(l)) => {
            if l.len() != n {
                return Err(bad(format!("`labels` has shape {:?}, wanted ({n},)", l.shape())));
            }
            if let Some(l) =
                l.iter().find(|l| l.fract() != 0.0 || **l < 0.0 || **l >= classes as f64)
            {
                return Err(bad(format!(
                    "`labels` holds {l}, wanted whole numbers from 0 to {}",
                    classes - 1
                )));
            }
            l.iter().map(|&l| l as usize).collect()
        }
    };
    let target = if backward {
        let target = array("target")?
            .ok_or_else(|| bad("no array `target`, which the loss needs".into()))?;
        if target.shape() != [n, out_channels, height, width] {
            return Err(bad(format!(
                "`target` has shape {:?}, wanted ({n}, {out_channels}, {height}, {width})",
                target.shape()
            )));
        }
        Some(target)
    } else {
        None
    };
    Ok(Batch { x, times: t.iter().copied().collect(), labels, target })
}

/// What is to be written.
fn compute<T: Element>(args: &RunArgs, place: &Place, backward: bool) -> Result<Document> {
    super::note_missing_sums(&args.model);
    let (config, weights) = checkpoint::open(&args.model)?;
    let batch = read(
        &args.input,
        config.in_channels,
        config.out_channels,
        config.num_class_embeds,
        backward,
    )?;
    let (n, height, width) = (batch.x.shape()[0], batch.x.shape()[2], batch.x.shape()[3]);
    let program = unet(&config, height, width)?;
    let params = checkpoint::read::<T>(&weights, &program)?;
    let mut network = if backward {
        Executor::new(program, n, place)?
    } else {
        Executor::forward_only(program, n, place)?
    };
    network.load(&params)?;
    let of = |x: &ArrayD<f64>| channels_last(x).into_iter().map(T::of).collect::<Vec<T>>();
    let y = network.forward(&of(&batch.x), &batch.times, &batch.labels)?.to_vec();
    let Some(target) = &batch.target else {
        let y: Vec<f64> = y.iter().map(|y| y.wide()).collect();
        let mut npz = Npz::new();
        npz.add(
            "y",
            channels_first(&y, n, height, width, config.out_channels).view(),
            size_of::<T>() == 4,
        )?;
        return Ok(npz.document());
    };
    let scale = T::of(2.0 / y.len() as f64);
    let dy: Vec<T> = y.iter().zip(of(target)).map(|(y, t)| scale * (*y - t)).collect();
    let mut grads = vec![T::zero(); params.len()];
    network.backward(&dy, &mut grads)?;
    if let Some(param) =
        network.program().params.iter().find(|p| grads[p.at.clone()].iter().any(|g| !g.is_finite()))
    {
        let mend = "the loss or the network overflows: try --precision f64, or smaller inputs";
        return Err(Error::domain(
            format!("gradient by {}", param.name),
            "a number that is not finite",
            "finite numbers",
            mend,
        ));
    }
    Ok(Document::made(checkpoint::to_bytes(&grads, network.program())?))
}

#[derive(Serialize)]
struct Row {
    op: &'static str,
    name: String,
    /// (height, width, channels) of one image.
    shape: [usize; 3],
    /// Multiplications and additions, forward, of the batch.
    flops: usize,
    /// Bytes read and written in f32, forward, of the batch, parameters not counted.
    bytes: usize,
    params: usize,
}

#[derive(Serialize)]
struct Table {
    batch: usize,
    params: usize,
    flops_forward: usize,
    bytes_forward: usize,
    /// Memory of the tensors in f32, slots being used again: forward alone, and in training, where
    /// the gradients need all values.
    sampling_bytes: usize,
    training_bytes: usize,
    ops: Vec<Row>,
}

fn table(program: &Program, batch: usize) -> Table {
    let rows: Vec<Row> = program
        .ops
        .iter()
        .map(|op| {
            let out = &program.tensors[op.out()];
            Row {
                op: op.kind(),
                name: out.name.clone(),
                shape: [out.height, out.width, out.channels],
                flops: batch * program.flops(op),
                bytes: 4 * batch * program.traffic(op),
                params: op.params().into_iter().map(|p| program.params[p].at.len()).sum(),
            }
        })
        .collect();
    let bytes = |passes: &[Pass]| {
        4 * batch * passes.iter().map(|&pass| program.plan(pass).len()).sum::<usize>()
    };
    Table {
        batch,
        params: program.param_count(),
        flops_forward: rows.iter().map(|r| r.flops).sum(),
        bytes_forward: rows.iter().map(|r| r.bytes).sum(),
        sampling_bytes: bytes(&[Pass::Forward]),
        training_bytes: bytes(&[Pass::Recorded, Pass::Backward]),
        ops: rows,
    }
}

fn ops(args: &OpsArgs) -> Result<Outcome> {
    let (config, _) = checkpoint::open(&args.model)?;
    let (height, width) = config.sample_shape().ok_or_else(|| {
        Error::domain(
            "U-Net config `sample_size`",
            "null",
            "a size, for a list of shapes",
            "add sample_size to config.json",
        )
    })?;
    let program = unet(&config, height, width)?;
    let table = table(&program, args.batch.into());
    if let Some(target) = &args.json {
        target.write(&Document::json(&table)?)?;
    }
    if args.json != Some(Target::Stdout) {
        let mut text = format!(
            "{:10} {:44} {:>14} {:>10} {:>10} {:>10}\n",
            "operation", "name", "shape", "MFLOP", "MB", "params"
        );
        for row in &table.ops {
            let [h, w, c] = row.shape;
            text += &format!(
                "{:10} {:44} {:>14} {:>10.2} {:>10.3} {:>10}\n",
                row.op,
                row.name,
                format!("{h}x{w}x{c}"),
                row.flops as f64 * 1e-6,
                row.bytes as f64 * 1e-6,
                row.params
            );
        }
        text += &format!(
            "\nbatch {}: {} parameters, forward {:.3} GFLOP and {:.1} MB, a training step three times the arithmetic; tensors in f32 take {:.1} MB \
             forward alone, {:.1} MB in training\n",
            table.batch,
            table.params,
            table.flops_forward as f64 * 1e-9,
            table.bytes_forward as f64 * 1e-6,
            table.sampling_bytes as f64 * 1e-6,
            table.training_bytes as f64 * 1e-6
        );
        output::print(text)?;
    }
    Ok(Outcome::Success)
}
