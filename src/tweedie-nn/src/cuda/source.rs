//! The kernels' source: one translation unit, compiled once for each precision.

use std::sync::Arc;
use tweedie::error::Result;
use tweedie_device::Precision;
use tweedie_device::gpu::{Gpu, Program};

/// Every file, the prelude first; each lies beside the Rust code that does the same on the CPU.
const FILES: [(&str, &str); 11] = [
    ("src/tweedie-nn/src/prelude.cuh", include_str!("../prelude.cuh")),
    ("src/tweedie-nn/src/cuda/noise.cu", include_str!("noise.cu")),
    ("src/tweedie-nn/src/op/pointwise.cu", include_str!("../op/pointwise.cu")),
    ("src/tweedie-nn/src/op/embedding.cu", include_str!("../op/embedding.cu")),
    ("src/tweedie-nn/src/op/dense.cu", include_str!("../op/dense.cu")),
    ("src/tweedie-nn/src/op/norm.cu", include_str!("../op/norm.cu")),
    ("src/tweedie-nn/src/op/attention.cu", include_str!("../op/attention.cu")),
    ("src/tweedie-nn/src/adamw.cu", include_str!("../adamw.cu")),
    ("src/tweedie-nn/src/train/objective.cu", include_str!("../train/objective.cu")),
    ("src/tweedie-nn/src/cuda/draw.cu", include_str!("draw.cu")),
    ("src/tweedie-nn/src/cuda/combine.cu", include_str!("combine.cu")),
];

/// The translation unit; a compiler's messages name the files.
pub fn source() -> String {
    FILES.iter().map(|(name, text)| format!("#line 1 \"{name}\"\n{text}\n")).collect()
}

/// What the compiler is told beside the architecture: C++17, that functions without a mark are for
/// the device, the storage type by its bits.
pub fn options(precision: Precision) -> Vec<String> {
    vec![
        "--std=c++17".into(),
        "-default-device".into(),
        format!("-DPRECISION={}", 8 * precision.bytes()),
    ]
}

/// The kernels on a device.
///
/// # Errors
/// As [`Gpu::program`].
pub fn kernels(gpu: &Arc<Gpu>, precision: Precision) -> Result<Arc<Program>> {
    gpu.program(&source(), &options(precision))
}
