//! Linear layers by cuBLASLt: product, bias and skip in one kernel.

use super::Precision;
use super::gpu::{Gpu, Region};
use cudarc::cublaslt::{result, sys};
use cudarc::driver::result as driver;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};
use tweedie::error::Result;

/// A handle of cuBLASLt with memory to work in.
pub struct Lt {
    handle: sys::cublasLtHandle_t,
    workspace: u64,
}

// SAFETY: the handle has no state that a call changes.
unsafe impl Send for Lt {}
unsafe impl Sync for Lt {}

/// What a product may work in, in bytes.
const WORKSPACE: usize = 32 << 20;

impl Lt {
    /// On a device whose context is current, where cuBLASLt is found and works.
    pub(super) fn new(gpu: &Gpu) -> Option<Self> {
        gpu.enter().ok()?;
        // SAFETY: cuBLASLt is asked for before it is called.
        unsafe {
            if !sys::is_culib_present() {
                return None;
            }
            let handle = result::create_handle().ok()?;
            Some(Self { handle, workspace: driver::malloc_sync(WORKSPACE).ok()? })
        }
    }
}

impl Drop for Lt {
    fn drop(&mut self) {
        // SAFETY: nobody else has the handle or the memory.
        unsafe {
            let _ = result::destroy_handle(self.handle);
            let _ = driver::free_sync(self.workspace);
        }
    }
}

/// `y = x w^T + bias + skip` of one shape, with the algorithm that cuBLASLt expects to be the
/// fastest.
pub struct Linear {
    /// Its bias changes with each call.
    product: Mutex<sys::cublasLtMatmulDesc_t>,
    w: sys::cublasLtMatrixLayout_t,
    x: sys::cublasLtMatrixLayout_t,
    y: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
    double: bool,
}

// SAFETY: layouts are not written after they were made, the product is behind its lock.
unsafe impl Send for Linear {}
unsafe impl Sync for Linear {}

impl Linear {
    /// For `rows` rows of `from` numbers that become `to`; `None` where cuBLASLt is missing or has
    /// no algorithm.
    pub fn new(
        gpu: &Gpu,
        rows: usize,
        from: usize,
        to: usize,
        bias: bool,
        precision: Precision,
    ) -> Option<Self> {
        use sys::cublasComputeType_t as Compute;
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        use sys::cublasLtMatmulPreferenceAttributes_t as Preference;
        use sys::cudaDataType_t::{CUDA_R_16BF, CUDA_R_32F, CUDA_R_64F};
        let lt = gpu.lt()?;
        gpu.enter().ok()?;
        let (kind, compute, scale) = match precision {
            Precision::F64 => (CUDA_R_64F, Compute::CUBLAS_COMPUTE_64F, CUDA_R_64F),
            Precision::F32 => (CUDA_R_32F, Compute::CUBLAS_COMPUTE_32F, CUDA_R_32F),
            Precision::Tf32 => (CUDA_R_32F, Compute::CUBLAS_COMPUTE_32F_FAST_TF32, CUDA_R_32F),
            Precision::Bf16 => (CUDA_R_16BF, Compute::CUBLAS_COMPUTE_32F, CUDA_R_32F),
        };
        let layout = |rows: usize, columns: usize, step: usize| {
            result::create_matrix_layout(kind, rows as u64, columns as u64, step as i64).ok()
        };
        // cuBLASLt counts columns first: rows one after the other are its columns, and w (to, from)
        // is to be turned.
        let (w, x, y) = (layout(from, to, from)?, layout(from, rows, from)?, layout(to, rows, to)?);
        // SAFETY: every attribute is passed with its own size; what was made is destroyed with the
        // result, or at worst kept.
        unsafe {
            let product = result::create_matmul_desc(compute, scale).ok()?;
            let set = |attribute, value: u32| {
                result::set_matmul_desc_attribute(
                    product,
                    attribute,
                    (&raw const value).cast(),
                    size_of::<u32>(),
                )
                .ok()
            };
            set(
                Attribute::CUBLASLT_MATMUL_DESC_TRANSA,
                cudarc::cublas::sys::cublasOperation_t::CUBLAS_OP_T as u32,
            )?;
            if bias {
                set(
                    Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE,
                    sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as u32,
                )?;
            }
            let preference = result::create_matmul_pref().ok()?;
            let most = WORKSPACE;
            let attribute = Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            result::set_matmul_pref_attribute(
                preference,
                attribute,
                (&raw const most).cast(),
                size_of::<usize>(),
            )
            .ok()?;
            // Packs of 16 bytes are promised of every array; unsaid, algorithms may count on 256.
            for attribute in [
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
            ] {
                let bytes = 16u32;
                result::set_matmul_pref_attribute(
                    preference,
                    attribute,
                    (&raw const bytes).cast(),
                    size_of::<u32>(),
                )
                .ok()?;
            }
            let best =
                result::get_matmul_algo_heuristic(lt.handle, product, w, x, y, y, preference);
            let _ = result::destroy_matmul_pref(preference);
            let algorithm = best.ok()?.algo;
            Some(Self {
                product: Mutex::new(product),
                w,
                x,
                y,
                algorithm,
                double: precision == Precision::F64,
            })
        }
    }

    /// Queues it; `bias` in the type of `y`, `skip` as `y` or none.
    ///
    /// # Errors
    /// What cuBLASLt refuses.
    pub fn run(
        &self,
        gpu: &Gpu,
        x: Region,
        w: Region,
        bias: Region,
        skip: Region,
        y: Region,
    ) -> Result<()> {
        let lt = gpu.lt().expect("it made the layer");
        gpu.enter()?;
        let product = self.product.lock().unwrap_or_else(PoisonError::into_inner);
        let beta = if skip.bytes() == 0 { 0.0 } else { 1.0 };
        let (single, double) = ([1.0f32, beta as f32], [1.0f64, beta]);
        let scalar = |i: usize| -> *const c_void {
            if self.double { (&raw const double[i]).cast() } else { (&raw const single[i]).cast() }
        };
        let before = if skip.bytes() == 0 { y } else { skip };
        // SAFETY: the regions hold what the layouts say; the attribute is a pointer, passed with
        // its size.
        let queued = unsafe {
            let set = if bias.bytes() == 0 {
                Ok(())
            } else {
                let attribute =
                    sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER;
                let at = bias.address();
                result::set_matmul_desc_attribute(
                    *product,
                    attribute,
                    (&raw const at).cast(),
                    size_of::<u64>(),
                )
            };
            set.and_then(|()| {
                result::matmul(
                    lt.handle,
                    *product,
                    scalar(0),
                    scalar(1),
                    w.pointer(),
                    self.w,
                    x.pointer(),
                    self.x,
                    before.pointer(),
                    self.y,
                    y.pointer(),
                    self.y,
                    &raw const self.algorithm,
                    lt.workspace as *mut c_void,
                    WORKSPACE,
                    gpu.stream.cast(),
                )
            })
        };
        queued.map_err(|e| {
            gpu.error(format!("a linear layer of cuBLASLt: {:?}", e.0), "see `tweedie doctor`")
        })
    }
}

impl Drop for Linear {
    fn drop(&mut self) {
        let product = *self.product.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: nobody else has them.
        unsafe {
            let _ = result::destroy_matmul_desc(product);
            for layout in [self.w, self.x, self.y] {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
    }
}
