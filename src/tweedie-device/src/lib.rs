//! What this machine has: threads, vector units, memory, LAPACK, CUDA. The only module that names
//! cudarc.
//!
//! Nothing here fails or panics for want of a driver or a library: what is missing is a value, with
//! what that means.

pub mod blas;
mod compile;
pub mod dnn;
pub mod gpu;
mod libraries;
pub mod linear;
pub mod nccl;

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::str::FromStr;
use tweedie::error::{Error, Result};
use tweedie::math::eigen;
use tweedie::room::{Memory, memory};

/// Where the user wants the computation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The best there is.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device of this number.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "auto" => Ok(Device::Auto),
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda(0)),
            _ => match s.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(n)) => Ok(Device::Cuda(n)),
                _ => Err(Error::domain(
                    "device",
                    format!("'{s}'"),
                    "auto, cpu, cuda, cuda:N",
                    "write for example cuda:0",
                )),
            },
        }
    }
}

/// Number formats of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Double.
    F64,
    /// Single.
    #[default]
    F32,
    /// Single, products of numbers rounded to 11 bits (TensorFloat-32); on a GPU alone.
    Tf32,
    /// bfloat16 between operations, arithmetic and master weights in single; on a GPU alone.
    Bf16,
}

impl Precision {
    /// All, the most exact first.
    pub const ALL: [Self; 4] = [Self::F64, Self::F32, Self::Tf32, Self::Bf16];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        }
    }

    /// Bytes of a number between operations.
    pub fn bytes(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 | Self::Tf32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// Half the distance from 1 to the next number that a product's factors, or what is stored, can
    /// be.
    pub fn unit_roundoff(self) -> f64 {
        match self {
            Self::F64 => f64::EPSILON / 2.0,
            Self::F32 => f64::from(f32::EPSILON) / 2.0,
            Self::Tf32 => 2f64.powi(-11),
            Self::Bf16 => 2f64.powi(-8),
        }
    }

    /// Whether the CPU computes in double.
    ///
    /// # Errors
    /// A format that the CPU does not compute in.
    pub fn double_on_cpu(self) -> Result<bool> {
        match self {
            Self::F64 => Ok(true),
            Self::F32 => Ok(false),
            Self::Tf32 | Self::Bf16 => Err(Error::domain(
                "precision",
                self.name(),
                "f64, f32 on the CPU",
                "choose one of them, or a --device with more",
            )),
        }
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let known = || {
            Error::domain(
                "precision",
                format!("'{s}'"),
                "f64, f32, tf32, bf16",
                "write for example f32",
            )
        };
        Self::ALL.into_iter().find(|p| p.name() == s).ok_or_else(known)
    }
}

impl Device {
    /// Where networks run: `auto` takes the first CUDA device that works, else the CPU.
    ///
    /// # Errors
    /// A CUDA device that is asked for by name and can't be had; a precision that the CPU does not
    /// compute in.
    pub fn place(self, precision: Precision) -> Result<Place> {
        let cpu = || precision.double_on_cpu().map(|_| Place::Cpu);
        match self {
            Device::Cpu => cpu(),
            Device::Auto => {
                gpu::Gpu::open(0).map_or_else(|_| cpu(), |gpu| Ok(Place::Gpu(gpu, precision)))
            }
            Device::Cuda(n) => gpu::Gpu::open(n).map(|gpu| Place::Gpu(gpu, precision)),
        }
    }

    /// Where closed forms run, in words: they are f64 and run on the CPU, whatever else the machine
    /// has.
    ///
    /// # Errors
    /// A CUDA device.
    ///
    /// # Example
    /// ```
    /// use tweedie_device::Device;
    /// assert!(Device::Auto.for_closed_forms().unwrap().starts_with("cpu"));
    /// assert!("cuda:1".parse::<Device>().unwrap().for_closed_forms().is_err());
    /// ```
    pub fn for_closed_forms(self) -> Result<String> {
        let cpu = format!("cpu, {} threads", rayon::current_num_threads());
        match self {
            Device::Cpu => Ok(cpu),
            Device::Auto => match gpus().first() {
                Some(gpu) => Ok(format!(
                    "{cpu} ({} is there; closed forms are f64 and do not use it)",
                    gpu.name
                )),
                None => Ok(cpu),
            },
            Device::Cuda(n) => {
                let allowed = "auto, cpu (closed forms are computed in f64 on the CPU)";
                Err(Error::domain("device", format!("cuda:{n}"), allowed, "leave --device out"))
            }
        }
    }
}

/// Where a network runs, and in which format.
#[derive(Clone)]
pub enum Place {
    /// The CPU, in the format of its numbers.
    Cpu,
    /// A CUDA device.
    Gpu(std::sync::Arc<gpu::Gpu>, Precision),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Cpu => write!(f, "cpu, {} threads", rayon::current_num_threads()),
            Self::Gpu(gpu, precision) => write!(f, "{gpu}, {}", precision.name()),
        }
    }
}

/// Everything `tweedie doctor` tells.
#[derive(Clone, Debug, Serialize)]
pub struct Survey {
    /// Operating system and architecture.
    pub platform: String,
    /// Model of the CPU, where the system tells.
    pub cpu: Option<String>,
    /// Threads that parallel parts use.
    pub threads: usize,
    /// Vector extensions found here, of those that matter.
    pub simd: Vec<&'static str>,
    /// Memory in bytes, where the system tells.
    pub memory: Option<Memory>,
    /// Whether LAPACK is built in (`--features lapack`).
    pub lapack: bool,
    /// CUDA, or `None` where it is not built in.
    pub cuda: Option<Cuda>,
}

/// The CUDA driver, its devices and libraries.
#[derive(Clone, Debug, Serialize)]
pub struct Cuda {
    /// Devices in the driver's order.
    pub devices: Vec<Properties>,
    /// Why there is none, if so.
    pub problem: Option<String>,
    /// The driver and each library that the crate can load.
    pub libraries: Vec<Library>,
}

/// One CUDA device.
#[derive(Clone, Debug, Serialize)]
pub struct Properties {
    /// The driver's name for it.
    pub name: String,
    /// Compute capability, `(9, 0)` for an H100.
    pub capability: (i32, i32),
    /// Memory in bytes.
    pub memory: u64,
}

/// One shared library, found or not.
#[derive(Clone, Debug, Serialize)]
pub struct Library {
    /// `driver`, or the library's usual name.
    pub name: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// Where it was found; `None` if missing.
    pub path: Option<PathBuf>,
    /// Its version, if it tells.
    pub version: Option<String>,
    /// Why it does not load, where a file is there and does not.
    pub problem: Option<String>,
    /// How to get it.
    pub remedy: &'static str,
}

/// Looks at the machine.
pub fn survey() -> Survey {
    Survey {
        platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        cpu: cpu_model(),
        threads: rayon::current_num_threads(),
        simd: simd(),
        memory: memory(),
        lapack: eigen::LAPACK,
        cuda: cuda(),
    }
}

/// CUDA devices that the driver shows this process.
pub fn gpu_count() -> usize {
    gpus().len()
}

/// Vector extensions found here, of those that matter.
pub fn simd() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let found = [
            ("avx", is_x86_feature_detected!("avx")),
            ("avx2", is_x86_feature_detected!("avx2")),
            ("fma", is_x86_feature_detected!("fma")),
            ("avx512f", is_x86_feature_detected!("avx512f")),
        ];
        found.into_iter().filter_map(|(name, there)| there.then_some(name)).collect()
    }
    #[cfg(target_arch = "aarch64")]
    {
        // Part of every 64-bit ARM.
        vec!["neon"]
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        Vec::new()
    }
}

fn cpu_model() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn cuda() -> Option<Cuda> {
    Some(libraries::survey())
}

fn gpus() -> Vec<Properties> {
    libraries::devices().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_parse() {
        for (text, want) in [
            ("auto", Device::Auto),
            ("cpu", Device::Cpu),
            ("cuda", Device::Cuda(0)),
            ("cuda:3", Device::Cuda(3)),
        ] {
            assert_eq!(text.parse::<Device>().unwrap(), want);
        }
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CPU"] {
            let got = text.parse::<Device>().unwrap_err().to_string();
            assert_eq!(
                got,
                format!(
                    "device: got '{text}', allowed: auto, cpu, cuda, cuda:N; write for example cuda:0"
                )
            );
        }
    }

    #[test]
    fn closed_forms_refuse_cuda() {
        let got = Device::Cuda(1).for_closed_forms().unwrap_err().to_string();
        assert!(got.starts_with("device: got cuda:1, allowed: auto, cpu (closed forms are computed in f64 on the CPU"), "{got}");
    }

    #[test]
    fn the_survey_never_panics_and_is_consistent() {
        let survey = survey();
        assert!(survey.threads >= 1);
        if let Some(memory) = survey.memory {
            assert!(memory.available <= memory.total && memory.total > 1 << 20);
        }
        if let Some(cuda) = survey.cuda {
            assert_eq!(cuda.libraries.len(), 7);
            // Devices need a driver, and their absence has a reason.
            assert!(cuda.devices.is_empty() || cuda.libraries[0].path.is_some());
            assert_eq!(cuda.devices.is_empty(), cuda.problem.is_some());
        }
    }
}
