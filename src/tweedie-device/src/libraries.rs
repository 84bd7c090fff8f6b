//! The CUDA driver and libraries: where they are, and loading them. Nothing here needs them.

use super::{Cuda, Library, Properties};
use cudarc::driver::{result, sys};
use libloading::Library as Handle;
use std::ffi::c_int;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

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

/// Name, the stem of its file, purpose, version, remedy; a library comes after those that it
/// depends on.
const LIBRARIES: [(&str, &str, &str, Version, &str); 7] = [
    (
        "driver",
        "cuda",
        "reaching the GPU",
        Version::Thousands("cuDriverGetVersion"),
        "install NVIDIA's driver",
    ),
    (
        "nvrtc",
        "nvrtc",
        "compiling kernels at run time",
        Version::Pair("nvrtcVersion"),
        "pip install nvidia-cuda-nvrtc",
    ),
    (
        "cublaslt",
        "cublasLt",
        "matrix products with epilogues",
        Version::Property("cublasLtGetProperty"),
        "pip install nvidia-cublas",
    ),
    (
        "cublas",
        "cublas",
        "matrix products",
        Version::Property("cublasGetProperty"),
        "pip install nvidia-cublas",
    ),
    (
        "curand",
        "curand",
        "random numbers",
        Version::Property("curandGetProperty"),
        "pip install nvidia-curand",
    ),
    (
        "cudnn",
        "cudnn",
        "convolutions",
        Version::Property("cudnnGetProperty"),
        "pip install nvidia-cudnn-cu13",
    ),
    (
        "nccl",
        "nccl",
        "several GPUs",
        Version::Nccl("ncclGetVersion"),
        "pip install nvidia-nccl-cu13",
    ),
];

/// Loads everything that is found, so that whoever asks for it by name gets it, wherever it lies.
pub fn load() {
    libraries();
}

/// Every library that is found, loaded once for the life of the process.
fn libraries() -> &'static [Library] {
    static FOUND: OnceLock<Vec<Library>> = OnceLock::new();
    FOUND.get_or_init(|| {
        // Not used itself, but others depend on it, and outside the loader's path they find it only
        // once it is loaded.
        open("cudart").map(std::mem::forget).ok();
        LIBRARIES.iter().map(library).collect()
    })
}

/// The CUDA version that the driver supports, as 1000 major + 10 minor.
pub fn driver_version() -> Option<i32> {
    let mut version: c_int = 0;
    // SAFETY: the driver is asked for before it is called, which it allows before its
    // initialisation.
    (unsafe {
        sys::is_culib_present() && sys::cuDriverGetVersion(&raw mut version).result().is_ok()
    })
    .then_some(version)
}

/// What `tweedie doctor` tells of CUDA.
pub fn survey() -> Cuda {
    let libraries = libraries().to_vec();
    let (devices, problem) = match devices() {
        Ok(devices) if devices.is_empty() => (devices, Some("the driver knows no device".into())),
        Ok(devices) => (devices, None),
        Err(problem) => (Vec::new(), Some(problem)),
    };
    Cuda { devices, problem, libraries }
}

/// The driver's devices, or why it has none to tell of.
pub fn devices() -> Result<Vec<Properties>, String> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    // SAFETY: loading NVIDIA's driver runs its initialisers, made for any process. cudarc panics
    // where it is missing: ask first.
    if !unsafe { sys::is_culib_present() } {
        return Err("no NVIDIA driver".into());
    }
    let device = |n| -> Result<Properties, result::DriverError> {
        let device = result::device::get(n)?;
        // SAFETY: the driver gave the device.
        let (memory, major, minor) = unsafe {
            (
                result::device::total_mem(device)?,
                result::device::get_attribute(device, MAJOR)?,
                result::device::get_attribute(device, MINOR)?,
            )
        };
        Ok(Properties {
            name: result::device::get_name(device)?,
            capability: (major, minor),
            memory: memory as u64,
        })
    };
    let all = result::init().and_then(|()| (0..result::device::get_count()?).map(device).collect());
    all.map_err(|e| format!("the driver refuses: {:?}", e.0))
}

fn library(
    &(name, stem, purpose, ref version, remedy): &(
        &'static str,
        &str,
        &'static str,
        Version,
        &'static str,
    ),
) -> Library {
    let missing = Library { name, purpose, path: None, version: None, problem: None, remedy };
    match open(stem) {
        Ok((handle, opened)) => {
            let found = Library {
                path: Some(loaded_path(stem).unwrap_or(opened)),
                version: tell(&handle, version),
                ..missing
            };
            // Kept loaded for the life of the process: whoever asks for it by name later gets this
            // one.
            std::mem::forget(handle);
            found
        }
        Err(problem) => Library { problem, ..missing },
    }
}

/// The library that cudarc would load, by its own candidate names; else the first of the usual
/// folders that loads, by absolute path. The error says why a file that is there does not load; it
/// is `None` where there is no file.
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
                let why = std::error::Error::source(&e)
                    .map_or_else(|| e.to_string(), ToString::to_string);
                problem = Some(format!("{} cannot be loaded: {why}", file.display()));
            }
        }
    }
    Err(problem)
}

/// Folders outside the loader's path: CUDA_HOME, the usual installation, the wheels of the active
/// Python environment.
fn folders() -> Vec<PathBuf> {
    let env = |key| std::env::var_os(key).filter(|v| !v.is_empty()).map(PathBuf::from);
    let toolkits = ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(env)
        .chain([PathBuf::from("/usr/local/cuda")]);
    let mut folders: Vec<PathBuf> =
        toolkits.flat_map(|home| [home.join("lib64"), home.join("lib")]).collect();
    // The environment of the python3 that the shell would start counts as active too.
    let python = env("PATH").and_then(|path| {
        let found = std::env::split_paths(&path).find(|folder| folder.join("python3").is_file())?;
        found.parent().map(Path::to_owned)
    });
    for environment in ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(env).chain(python) {
        let pythons = entries(&environment.join("lib"))
            .into_iter()
            .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("python3")));
        folders.extend(
            pythons
                .flat_map(|python| entries(&python.join("site-packages/nvidia")))
                .map(|package| package.join("lib")),
        );
    }
    folders
}

fn files(folder: &Path, stem: &str) -> Vec<PathBuf> {
    let start = format!("lib{stem}.so");
    entries(folder)
        .into_iter()
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&start)))
        .collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|e| Some(e.ok()?.path()))
        .collect();
    paths.sort();
    paths
}

/// The file behind a library that is loaded, where the system tells (Linux).
fn loaded_path(stem: &str) -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let start = format!("lib{stem}.so");
    // Addresses, permissions, offset, device, inode, path; the path may hold spaces.
    let paths = maps.lines().filter_map(|l| l.find('/').map(|i| Path::new(&l[i..])));
    paths
        .into_iter()
        .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&start)))
        .map(Path::to_owned)
}

fn tell(library: &Handle, version: &Version) -> Option<String> {
    let (mut a, mut b): (c_int, c_int) = (0, 0);
    // SAFETY: the signatures are those of CUDA's headers; every function accepts a process without
    // a device. 0 is success in all.
    unsafe {
        match version {
            Version::Thousands(f) => {
                let f =
                    library.get::<unsafe extern "C" fn(*mut c_int) -> c_int>(f.as_bytes()).ok()?;
                (f(&mut a) == 0).then(|| format!("{}.{}", a / 1000, a % 1000 / 10))
            }
            Version::Pair(f) => {
                let f = library
                    .get::<unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int>(f.as_bytes())
                    .ok()?;
                (f(&mut a, &mut b) == 0).then(|| format!("{a}.{b}"))
            }
            Version::Property(f) => {
                let f = library
                    .get::<unsafe extern "C" fn(c_int, *mut c_int) -> c_int>(f.as_bytes())
                    .ok()?;
                let parts: Option<Vec<String>> =
                    (0..3).map(|kind| (f(kind, &mut a) == 0).then(|| a.to_string())).collect();
                parts.map(|p| p.join("."))
            }
            Version::Nccl(f) => {
                let f =
                    library.get::<unsafe extern "C" fn(*mut c_int) -> c_int>(f.as_bytes()).ok()?;
                (f(&mut a) == 0).then(|| format!("{}.{}.{}", a / 10_000, a % 10_000 / 100, a % 100))
            }
        }
    }
}
