//! The kernels' source: one translation unit, compiled once for each precision.

use crate::device::Precision;
use crate::device::gpu::{Gpu, Program};
use crate::error::Result;
use std::sync::Arc;

/// Every file, the prelude first; each lies beside the Rust code that does the same on the CPU.
const FILES: [(&str, &str); 11] = [
    ("src/nn/prelude.cuh", include_str!("../prelude.cuh")),
    ("src/math/noise.cu", include_str!("../../math/noise.cu")),
    ("src/nn/op/pointwise.cu", include_str!("../op/pointwise.cu")),
    ("src/nn/op/embedding.cu", include_str!("../op/embedding.cu")),
    ("src/nn/op/dense.cu", include_str!("../op/dense.cu")),
    ("src/nn/op/norm.cu", include_str!("../op/norm.cu")),
    ("src/nn/op/attention.cu", include_str!("../op/attention.cu")),
    ("src/nn/adamw.cu", include_str!("../adamw.cu")),
    ("src/train/objective.cu", include_str!("../../train/objective.cu")),
    ("src/sample/draw.cu", include_str!("../../sample/draw.cu")),
    ("src/sample/combine.cu", include_str!("../../sample/combine.cu")),
];

/// The translation unit; a compiler's messages name the files.
pub fn source() -> String {
    FILES.iter().map(|(name, text)| format!("#line 1 \"{name}\"\n{text}\n")).collect()
}

/// What the compiler is told beside the architecture: C++17, that functions without a mark are for the device, the storage type by its bits.
pub fn options(precision: Precision) -> Vec<String> {
    vec!["--std=c++17".into(), "-default-device".into(), format!("-DPRECISION={}", 8 * precision.bytes())]
}

/// The kernels on a device.
///
/// # Errors
/// As [`Gpu::program`].
pub fn kernels(gpu: &Arc<Gpu>, precision: Precision) -> Result<Arc<Program>> {
    gpu.program(&source(), &options(precision))
}
