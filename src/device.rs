//! What this machine has: threads, vector units, memory, LAPACK, CUDA. The only module that names cudarc.
//!
//! Nothing here fails or panics for want of a driver or a library: what is missing is a value, with what that means.

use crate::error::{Error, Result};
use serde::Serialize;
use std::path::PathBuf;
use std::str::FromStr;

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
                _ => Err(Error::domain("device", format!("'{s}'"), "auto, cpu, cuda, cuda:N", "write for example cuda:0")),
            },
        }
    }
}

impl Device {
    /// Where networks run, in words: on the CPU, until there are kernels for a GPU.
    ///
    /// # Errors
    /// A CUDA device.
    pub fn for_networks(self) -> Result<String> {
        match self {
            Device::Cpu | Device::Auto => Ok(format!("cpu, {} threads", rayon::current_num_threads())),
            Device::Cuda(n) => {
                Err(Error::domain("device", format!("cuda:{n}"), "auto, cpu (there are no CUDA kernels yet)", "leave --device out"))
            }
        }
    }

    /// Where closed forms run, in words: they are f64 and run on the CPU, whatever else the machine has.
    ///
    /// # Errors
    /// A CUDA device.
    ///
    /// # Example
    /// ```
    /// use tweedie::device::Device;
    /// assert!(Device::Auto.for_closed_forms().unwrap().starts_with("cpu"));
    /// assert!("cuda:1".parse::<Device>().unwrap().for_closed_forms().is_err());
    /// ```
    pub fn for_closed_forms(self) -> Result<String> {
        let cpu = format!("cpu, {} threads", rayon::current_num_threads());
        match self {
            Device::Cpu => Ok(cpu),
            Device::Auto => match gpus().first() {
                Some(gpu) => Ok(format!("{cpu} ({} is there; closed forms are f64 and do not use it)", gpu.name)),
                None => Ok(cpu),
            },
            Device::Cuda(n) => {
                let allowed = "auto, cpu (closed forms are computed in f64 on the CPU; there are no CUDA kernels yet)";
                Err(Error::domain("device", format!("cuda:{n}"), allowed, "leave --device out"))
            }
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
    /// Vector extensions found, of those that matter here.
    pub simd: Vec<&'static str>,
    /// Memory in bytes, where the system tells.
    pub memory: Option<Memory>,
    /// Whether LAPACK is built in (`--features lapack`).
    pub lapack: bool,
    /// CUDA, or `None` where it is not built in.
    pub cuda: Option<Cuda>,
}

/// Memory in bytes, the container's limit counted.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Memory {
    /// What the machine, or the container's limit, has.
    pub total: u64,
    /// What is free or can be freed.
    pub available: u64,
}

/// The CUDA driver, its devices and libraries.
#[derive(Clone, Debug, Serialize)]
pub struct Cuda {
    /// Devices in the driver's order.
    pub devices: Vec<Gpu>,
    /// Why there is none, if so.
    pub problem: Option<String>,
    /// The driver and each library that the crate can load.
    pub libraries: Vec<Library>,
}

/// One CUDA device.
#[derive(Clone, Debug, Serialize)]
pub struct Gpu {
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
        lapack: cfg!(feature = "lapack"),
        cuda: cuda(),
    }
}

fn simd() -> Vec<&'static str> {
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

fn memory() -> Option<Memory> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)?.split_whitespace().next()?.parse::<u64>().ok());
    let (total, available) = (kib("MemTotal:")? * 1024, kib("MemAvailable:")? * 1024);
    // A container may be allowed less than the machine has.
    let number = |file: &str| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    match (number("/sys/fs/cgroup/memory.max"), number("/sys/fs/cgroup/memory.current")) {
        (Some(limit), used) if limit < total => {
            Some(Memory { total: limit, available: available.min(limit.saturating_sub(used.unwrap_or(0))) })
        }
        _ => Some(Memory { total, available }),
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Option<Cuda> {
    None
}

#[cfg(feature = "cuda")]
fn cuda() -> Option<Cuda> {
    Some(cuda::survey())
}

#[cfg(not(feature = "cuda"))]
fn gpus() -> Vec<Gpu> {
    Vec::new()
}

#[cfg(feature = "cuda")]
fn gpus() -> Vec<Gpu> {
    cuda::devices().unwrap_or_default()
}

#[cfg(feature = "cuda")]
mod cuda {
    use super::{Cuda, Gpu, Library};
    use cudarc::driver::{result, sys};
    use libloading::Library as Handle;
    use std::ffi::c_int;
    use std::path::{Path, PathBuf};

    /// How a library tells its version.
    enum Version {
        /// `f(&mut v)` with v = 1000 major + 10 minor.
        Thousands(&'static str),
        /// `f(&mut major, &mut minor)`.
        Pair(&'static str),
        /// `f(kind, &mut value)` for kind = 0, 1, 2.
        Property(&'static str),
        /// `f(&mut v)` with v = 10000 major + 100 minor + patch.
        Nccl(&'static str),
    }

    /// Name, the stem of its file, purpose, version, remedy; a library comes after those that it depends on.
    const LIBRARIES: [(&str, &str, &str, Version, &str); 7] = [
        ("driver", "cuda", "reaching the GPU", Version::Thousands("cuDriverGetVersion"), "install NVIDIA's driver"),
        ("nvrtc", "nvrtc", "compiling kernels at run time", Version::Pair("nvrtcVersion"), "pip install nvidia-cuda-nvrtc"),
        (
            "cublaslt",
            "cublasLt",
            "matrix products with epilogues",
            Version::Property("cublasLtGetProperty"),
            "pip install nvidia-cublas",
        ),
        ("cublas", "cublas", "matrix products", Version::Property("cublasGetProperty"), "pip install nvidia-cublas"),
        ("curand", "curand", "random numbers", Version::Property("curandGetProperty"), "pip install nvidia-curand"),
        ("cudnn", "cudnn", "convolutions", Version::Property("cudnnGetProperty"), "pip install nvidia-cudnn-cu13"),
        ("nccl", "nccl", "several GPUs", Version::Nccl("ncclGetVersion"), "pip install nvidia-nccl-cu13"),
    ];

    pub fn survey() -> Cuda {
        // Not used itself, but others depend on it, and outside the loader's path they find it only once it is loaded.
        open("cudart").map(std::mem::forget).ok();
        let libraries: Vec<Library> = LIBRARIES.iter().map(library).collect();
        let (devices, problem) = match devices() {
            Ok(devices) if devices.is_empty() => (devices, Some("the driver knows no device".into())),
            Ok(devices) => (devices, None),
            Err(problem) => (Vec::new(), Some(problem)),
        };
        Cuda { devices, problem, libraries }
    }

    /// The driver's devices, or why it has none to tell of.
    pub fn devices() -> Result<Vec<Gpu>, String> {
        use sys::CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
        };
        // SAFETY: loading NVIDIA's driver runs its initialisers, made for any process. cudarc panics where it is missing: ask first.
        if !unsafe { sys::is_culib_present() } {
            return Err("no NVIDIA driver".into());
        }
        let device = |n| -> Result<Gpu, result::DriverError> {
            let device = result::device::get(n)?;
            // SAFETY: the driver gave the device.
            let (memory, major, minor) = unsafe {
                (
                    result::device::total_mem(device)?,
                    result::device::get_attribute(device, MAJOR)?,
                    result::device::get_attribute(device, MINOR)?,
                )
            };
            Ok(Gpu { name: result::device::get_name(device)?, capability: (major, minor), memory: memory as u64 })
        };
        let all = result::init().and_then(|()| (0..result::device::get_count()?).map(device).collect());
        all.map_err(|e| format!("the driver refuses: {:?}", e.0))
    }

    fn library(&(name, stem, purpose, ref version, remedy): &(&'static str, &str, &'static str, Version, &'static str)) -> Library {
        let missing = Library { name, purpose, path: None, version: None, problem: None, remedy };
        match open(stem) {
            Ok((handle, opened)) => {
                let found = Library { path: Some(loaded_path(stem).unwrap_or(opened)), version: tell(&handle, version), ..missing };
                // Kept loaded for the life of the process: whoever asks for it by name later gets this one.
                std::mem::forget(handle);
                found
            }
            Err(problem) => Library { problem, ..missing },
        }
    }

    /// The library that cudarc would load, by its own candidate names; else the first of the usual folders that loads, by absolute
    /// path. The error says why a file that is there does not load; it is `None` where there is no file.
    fn open(stem: &str) -> Result<(Handle, PathBuf), Option<String>> {
        // SAFETY: these are NVIDIA's libraries, whose initialisers are made to be run by any process.
        let load = |name: &Path| unsafe { Handle::new(name) };
        let by_name = cudarc::get_lib_name_candidates(stem).into_iter().map(PathBuf::from);
        if let Some(found) = by_name.into_iter().find_map(|name| Some((load(&name).ok()?, name))) {
            return Ok(found);
        }
        let mut problem = None;
        for file in folders().iter().flat_map(|folder| files(folder, stem)) {
            match load(&file) {
                Ok(handle) => return Ok((handle, file)),
                Err(e) => {
                    let why = std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string);
                    problem = Some(format!("{} cannot be loaded: {why}", file.display()));
                }
            }
        }
        Err(problem)
    }

    /// Folders outside the loader's path: CUDA_HOME, the usual installation, the wheels of the active Python environment.
    fn folders() -> Vec<PathBuf> {
        let env = |key| std::env::var_os(key).filter(|v| !v.is_empty()).map(PathBuf::from);
        let toolkits = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env).chain([PathBuf::from("/usr/local/cuda")]);
        let mut folders: Vec<PathBuf> = toolkits.flat_map(|home| [home.join("lib64"), home.join("lib")]).collect();
        for environment in ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(env) {
            let pythons = entries(&environment.join("lib"))
                .into_iter()
                .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("python3")));
            folders.extend(
                pythons.flat_map(|python| entries(&python.join("site-packages/nvidia"))).map(|package| package.join("lib")),
            );
        }
        folders
    }

    fn files(folder: &Path, stem: &str) -> Vec<PathBuf> {
        let start = format!("lib{stem}.so");
        entries(folder).into_iter().filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&start))).collect()
    }

    fn entries(folder: &Path) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(folder).into_iter().flatten().filter_map(|e| Some(e.ok()?.path())).collect();
        paths.sort();
        paths
    }

    /// The file behind a library that is loaded, where the system tells (Linux).
    fn loaded_path(stem: &str) -> Option<PathBuf> {
        let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
        let start = format!("lib{stem}.so");
        // Addresses, permissions, offset, device, inode, path; the path may hold spaces.
        let paths = maps.lines().filter_map(|l| l.find('/').map(|i| Path::new(&l[i..])));
        paths.into_iter().find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&start))).map(Path::to_owned)
    }

    fn tell(library: &Handle, version: &Version) -> Option<String> {
        let (mut a, mut b): (c_int, c_int) = (0, 0);
        // SAFETY: the signatures are those of CUDA's headers; every function accepts a process without a device. 0 is success in all.
        unsafe {
            match version {
                Version::Thousands(f) => {
                    let f = library.get::<unsafe extern "C" fn(*mut c_int) -> c_int>(f.as_bytes()).ok()?;
                    (f(&mut a) == 0).then(|| format!("{}.{}", a / 1000, a % 1000 / 10))
                }
                Version::Pair(f) => {
                    let f = library.get::<unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int>(f.as_bytes()).ok()?;
                    (f(&mut a, &mut b) == 0).then(|| format!("{a}.{b}"))
                }
                Version::Property(f) => {
                    let f = library.get::<unsafe extern "C" fn(c_int, *mut c_int) -> c_int>(f.as_bytes()).ok()?;
                    let parts: Option<Vec<String>> = (0..3).map(|kind| (f(kind, &mut a) == 0).then(|| a.to_string())).collect();
                    parts.map(|p| p.join("."))
                }
                Version::Nccl(f) => {
                    let f = library.get::<unsafe extern "C" fn(*mut c_int) -> c_int>(f.as_bytes()).ok()?;
                    (f(&mut a) == 0).then(|| format!("{}.{}.{}", a / 10_000, a % 10_000 / 100, a % 100))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_parse() {
        for (text, want) in [("auto", Device::Auto), ("cpu", Device::Cpu), ("cuda", Device::Cuda(0)), ("cuda:3", Device::Cuda(3))] {
            assert_eq!(text.parse::<Device>().unwrap(), want);
        }
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CPU"] {
            let got = text.parse::<Device>().unwrap_err().to_string();
            assert_eq!(got, format!("device: got '{text}', allowed: auto, cpu, cuda, cuda:N; write for example cuda:0"));
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
