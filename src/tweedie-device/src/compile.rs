//! Kernels from source by NVRTC, kept on disk once compiled.

use super::gpu::Gpu;
use cudarc::nvrtc::{result, sys};
use std::ffi::{CString, c_char, c_int};
use tweedie::error::Result;
use tweedie_files::Cache;

/// Kind of the kept images.
const KIND: &str = "kernels";

/// What `load` makes of the image of a source for a device: machine code, or PTX where NVRTC is
/// older than the device. A kept image that does not load is dropped, and the source compiled once
/// more.
///
/// # Errors
/// A source that does not compile: the first line of the compiler's log; what `load` says of an
/// image that was just compiled.
pub(super) fn loaded<T>(
    gpu: &Gpu,
    source: &str,
    options: &[String],
    load: impl Fn(&[u8]) -> Result<T>,
) -> Result<T> {
    let capability = gpu.capability.0 * 10 + gpu.capability.1;
    let known = architectures();
    // Without the list take the device's own: NVRTC says if it does not know it.
    let exact = known.is_empty() || known.contains(&capability);
    let newest = known.into_iter().filter(|a| *a <= capability).max();
    let architecture = match newest {
        _ if exact => format!("--gpu-architecture=sm_{capability}"),
        Some(older) => format!("--gpu-architecture=compute_{older}"),
        None => {
            let problem = format!(
                "its compute capability {}.{} is older than NVRTC knows",
                gpu.capability.0, gpu.capability.1
            );
            return Err(gpu.error(problem, "install an older CUDA, or use --device cpu"));
        }
    };
    let options: Vec<String> = options.iter().cloned().chain([architecture]).collect();
    let (mut major, mut minor) = (0, 0);
    // SAFETY: two numbers to write to.
    let _ = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    // Everything that the image depends on.
    let key = format!("NVRTC {major}.{minor}\n{}\n{source}", options.join("\n"));
    let cache = Cache::of_user();
    if let Some(cache) = &cache
        && let Some(kept) = cache.get(&key, KIND)
    {
        match load(&kept) {
            Ok(loaded) => return Ok(loaded),
            Err(_) => cache.forget(&key, KIND),
        }
    }
    let image = compile(gpu, source, &options, exact)?;
    let loaded = load(&image)?;
    if let Some(cache) = cache {
        cache.put(&key, KIND, &image, 32);
    }
    Ok(loaded)
}

/// The architectures that NVRTC makes machine code for, as 10 major + minor; empty where it does
/// not tell.
fn architectures() -> Vec<i32> {
    let mut count: c_int = 0;
    // SAFETY: the second call is given as much room as the first one said.
    unsafe {
        if sys::nvrtcGetNumSupportedArchs(&raw mut count).result().is_err() {
            return vec![];
        }
        let mut known = vec![0; count.max(0) as usize];
        if sys::nvrtcGetSupportedArchs(known.as_mut_ptr()).result().is_err() {
            vec![]
        } else {
            known
        }
    }
}

fn compile(gpu: &Gpu, source: &str, options: &[String], machine_code: bool) -> Result<Vec<u8>> {
    let failed = |problem: String| {
        gpu.error(format!("compiling the kernels: {problem}"), "report this, or use --device cpu")
    };
    let text = CString::new(source).expect("kernels without zero bytes");
    let program = result::create_program(&text, Some(c"tweedie.cu"))
        .map_err(|e| failed(format!("{:?}", e.0)))?;
    // SAFETY: the program is destroyed after its last use.
    unsafe {
        let compiled = result::compile_program(program, options);
        let image = match compiled {
            Err(e) => {
                let log: Vec<u8> = result::get_program_log(program)
                    .unwrap_or_default()
                    .iter()
                    .map(|c| *c as u8)
                    .take_while(|c| *c != 0)
                    .collect();
                let log = String::from_utf8_lossy(&log).into_owned();
                let first = log
                    .lines()
                    .find(|l| l.contains("error"))
                    .map_or_else(|| format!("{:?}", e.0), str::to_owned);
                Err(failed(first))
            }
            Ok(()) if machine_code => cubin(program).map_err(|e| failed(format!("{:?}", e.0))),
            Ok(()) => result::get_ptx(program)
                .map(|ptx| ptx.into_iter().map(|c: c_char| c as u8).collect())
                .map_err(|e| failed(format!("{:?}", e.0))),
        };
        let _ = result::destroy_program(program);
        image
    }
}

/// The machine code of a compiled program.
///
/// # Safety
/// The program was compiled for an `sm_` architecture and not destroyed.
unsafe fn cubin(program: sys::nvrtcProgram) -> std::result::Result<Vec<u8>, result::NvrtcError> {
    let mut size = 0;
    // SAFETY: as the caller says; the buffer is as long as was asked for.
    unsafe {
        sys::nvrtcGetCUBINSize(program, &raw mut size).result()?;
        let mut image = vec![0u8; size];
        sys::nvrtcGetCUBIN(program, image.as_mut_ptr().cast()).result()?;
        Ok(image)
    }
}
