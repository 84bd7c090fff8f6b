//! Checkpoints: diffusers' `diffusion_pytorch_model.safetensors`, read into and written from one
//! flat vector of parameters.

use super::config::UNetConfig;
use super::element::Element;
use super::program::{Param, Program};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use tweedie::error::{Error, Result};
use tweedie::input;
use tweedie_files::sums;

/// The name of the weights in a folder.
pub const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// The SHA-256 of every file of a training run's checkpoint, in its folder.
pub const SUMS: &str = "training/SHA256SUMS";

/// The checkpoint of a training run that a model's folder is, or lies in as an average of the
/// weights or as the network alone.
fn checkpoint_of(folder: &Path) -> Option<PathBuf> {
    let folder = folder.canonicalize().ok()?;
    folder.ancestors().take(3).find(|f| f.join("training/state.json").is_file()).map(Path::to_owned)
}

/// The checkpoint that a model's folder is of, where an older version wrote it, without the sums by
/// which damage is found.
pub fn without_sums(folder: &Path) -> Option<PathBuf> {
    checkpoint_of(folder).filter(|checkpoint| !checkpoint.join(SUMS).is_file())
}

/// Holds a model of a training run's checkpoint to the sums it was written with, if it has any.
fn verify(folder: &Path) -> Result<()> {
    let Some(checkpoint) =
        checkpoint_of(folder).filter(|checkpoint| checkpoint.join(SUMS).is_file())
    else {
        return Ok(());
    };
    let inner = folder.canonicalize().ok();
    let within = inner
        .as_deref()
        .and_then(|inner| inner.strip_prefix(&checkpoint).ok())
        .unwrap_or(Path::new(""));
    let within: String = within
        .components()
        .map(|part| format!("{}/", part.as_os_str().to_string_lossy()))
        .collect();
    sums::verify(&checkpoint, &checkpoint.join(SUMS), &within)
}

/// A folder's config, and where its weights lie: a diffusers pipeline with a `unet` folder, or that
/// folder itself.
///
/// # Errors
/// A folder without a config; a config that is refused; a file of a training run's checkpoint that
/// has changed since it was written.
pub fn open(folder: &Path) -> Result<(UNetConfig, PathBuf)> {
    let unet = [folder.join("unet"), folder.to_owned()]
        .into_iter()
        .find(|f| f.join("config.json").is_file());
    let unet = unet.ok_or_else(|| {
        Error::file(
            folder,
            "holds neither config.json nor unet/config.json",
            "pass a diffusers pipeline or a UNet2DModel folder",
        )
    })?;
    verify(folder)?;
    Ok((UNetConfig::read(&unet.join("config.json"))?, unet.join(WEIGHTS)))
}

/// Names that older checkpoints use for the parts of an attention.
const OLD_NAMES: [(&str, &str); 4] = [
    (".to_q.", ".query."),
    (".to_k.", ".key."),
    (".to_v.", ".value."),
    (".to_out.0.", ".proj_attn."),
];

/// Reads the parameters of `program`.
///
/// # Errors
/// A file that is no safetensors file or ends early; a tensor that is missing, superfluous, of
/// another shape or type, or not finite, by name.
pub fn read<T: Element>(path: &Path, program: &Program) -> Result<Vec<T>> {
    let bytes = input::read(path, FOREIGN)?;
    from_bytes(&bytes, path, program)
}

const FOREIGN: &str = "pass the weights that belong to the config, as diffusers saves them";

fn foreign(path: &Path, problem: String) -> Error {
    Error::file(path, problem, FOREIGN)
}

/// [`read`] of the contents of a file.
///
/// # Errors
/// As [`read`].
pub fn from_bytes<T: Element>(bytes: &[u8], path: &Path, program: &Program) -> Result<Vec<T>> {
    let bad = |problem: String| foreign(path, problem);
    let file = SafeTensors::deserialize(bytes)
        .map_err(|e| bad(format!("not a complete safetensors file ({e})")))?;
    // Behind the eight bytes of its length, which the line above has checked.
    let length = SafeTensors::read_metadata(bytes).map_or(0, |(length, _)| length);
    input::unique_keys(&bytes[8..8 + length])
        .map_err(|e| bad(format!("a tensor stands twice ({e})")))?;
    let mut found = Vec::with_capacity(program.params.len());
    let mut used = std::collections::HashSet::new();
    for param in &program.params {
        let old = OLD_NAMES
            .iter()
            .find(|(new, _)| param.name.contains(new))
            .map(|(new, old)| param.name.replace(new, old));
        let (name, tensor) = [Some(param.name.clone()), old]
            .into_iter()
            .flatten()
            .find_map(|name| file.tensor(&name).ok().map(|t| (name, t)))
            .ok_or_else(|| bad(format!("tensor `{}` is missing", param.name)))?;
        // Old checkpoints hold a linear layer as a 1 x 1 convolution and the other way round.
        let same = |a: &[usize], b: &[usize]| {
            let bare =
                |s: &[usize]| s.iter().rev().skip_while(|n| **n == 1).copied().collect::<Vec<_>>();
            bare(a) == bare(b)
        };
        if !same(tensor.shape(), &param.shape) {
            return Err(bad(format!(
                "tensor `{name}` has shape {:?}, the config wants {:?}",
                tensor.shape(),
                param.shape
            )));
        }
        used.insert(name.clone());
        found.push((param, name, tensor));
    }
    // Memory is taken once the file is known to hold as many numbers.
    let mut params = vec![T::zero(); program.param_count()];
    for (param, name, tensor) in found {
        let mut stored = vec![T::zero(); param.at.len()];
        decode(&tensor, &mut stored).ok_or_else(|| {
            bad(format!(
                "tensor `{name}` is of type {:?}, readable are F64, F32, F16, BF16",
                tensor.dtype()
            ))
        })?;
        if let Some(i) = stored.iter().position(|x| !x.is_finite()) {
            return Err(bad(format!("tensor `{name}` holds {:?} at {i}", stored[i])));
        }
        params[param.at.clone()].copy_from_slice(&arranged(param, &stored, false));
    }
    match file.names().iter().find(|name| !used.contains(**name)) {
        Some(extra) => Err(bad(format!(
            "tensor `{extra}` is not part of the network that the config describes"
        ))),
        None => Ok(params),
    }
}

fn decode<T: Element>(tensor: &TensorView, out: &mut [T]) -> Option<()> {
    fn each<T: Element, const N: usize>(bytes: &[u8], out: &mut [T], f: impl Fn([u8; N]) -> f64) {
        for (out, bytes) in out.iter_mut().zip(bytes.chunks_exact(N)) {
            *out = T::of(f(bytes.try_into().expect("a chunk of N bytes")));
        }
    }
    let bytes = tensor.data();
    match tensor.dtype() {
        Dtype::F64 => each(bytes, out, f64::from_le_bytes),
        Dtype::F32 => each(bytes, out, |b| f32::from_le_bytes(b).into()),
        Dtype::F16 => each(bytes, out, |b| half::f16::from_le_bytes(b).into()),
        Dtype::BF16 => each(bytes, out, |b| half::bf16::from_le_bytes(b).into()),
        _ => return None,
    }
    Some(())
}

/// One parameter in a checkpoint's order (`stored`), or from it in the program's.
pub fn arranged<T: Element>(param: &Param, x: &[T], stored: bool) -> Vec<T> {
    if !param.dense {
        return x.to_vec();
    }
    let (out, inside) = (param.shape[0], param.shape[1]);
    let matrices = x.len() / (out * inside);
    let mut y = vec![T::zero(); x.len()];
    for ((m, k), j) in (0..matrices)
        .flat_map(|m| (0..inside).map(move |k| (m, k)))
        .flat_map(|mk| (0..out).map(move |j| (mk, j)))
    {
        let (native, checkpoint) = ((m * inside + k) * out + j, (j * inside + k) * matrices + m);
        if stored { y[checkpoint] = x[native] } else { y[native] = x[checkpoint] }
    }
    y
}

/// The bytes of a checkpoint of `program`, as diffusers reads it.
///
/// # Errors
/// Only what the format itself refuses.
pub fn to_bytes<T: Element>(params: &[T], program: &Program) -> Result<Vec<u8>> {
    struct Stored<'a, T>(Vec<T>, &'a [usize]);
    impl<T: Element> safetensors::View for Stored<'_, T> {
        fn dtype(&self) -> Dtype {
            if size_of::<T>() == 8 { Dtype::F64 } else { Dtype::F32 }
        }
        fn shape(&self) -> &[usize] {
            self.1
        }
        fn data(&self) -> Cow<'_, [u8]> {
            // Little-endian, as every machine that this runs on.
            Cow::Borrowed(bytemuck::cast_slice(&self.0))
        }
        fn data_len(&self) -> usize {
            size_of_val(&self.0[..])
        }
    }
    let tensors = program
        .params
        .iter()
        .map(|p| (p.name.as_str(), Stored(arranged(p, &params[p.at.clone()], true), &p.shape)));
    let metadata = std::collections::HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize(tensors, Some(metadata))
        .map_err(|e| Error::domain("checkpoint", e, "named arrays", "report this as a bug"))
}
