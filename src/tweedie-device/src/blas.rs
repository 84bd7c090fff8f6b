//! Matrix products by cuBLAS.

use super::Precision;
use super::gpu::{Gpu, Region};
use cudarc::cublas::{result, sys};
use cudarc::driver::result as driver;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};
use tweedie::error::Result;

/// `c[i, j] = alpha sum_l a[i, l] b[l, j]`, or that added to what `c` holds, for every pair (outer,
/// inner) of a batch.
///
/// Steps are counted in numbers; of the two steps of `a` and of `b` one is 1, and columns of `c`
/// lie side by side.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    pub a: Region,
    /// From one row, and from one column, to the next.
    pub a_steps: (usize, usize),
    pub b: Region,
    pub b_steps: (usize, usize),
    pub c: Region,
    /// From one row of `c` to the next.
    pub c_row: usize,
    /// Rows, columns and length of the sum.
    pub size: (usize, usize, usize),
    /// How many pairs.
    pub batch: (usize, usize),
    /// From one outer, and from one inner, to the next: in `a`, `b` and `c`.
    pub batch_steps: [(usize, usize); 3],
    pub alpha: f64,
    pub keep: bool,
}

/// A handle of cuBLAS with memory of its own to work in, so that recorded work allocates nothing.
pub struct Blas {
    handle: Mutex<sys::cublasHandle_t>,
    workspace: u64,
}

/// What NVIDIA recommends for a Hopper, in bytes.
const WORKSPACE: usize = 32 << 20;

impl Blas {
    /// On the stream of a device whose context is current, where cuBLAS is found and works.
    pub(super) fn new(gpu: &Gpu) -> Option<Self> {
        gpu.enter().ok()?;
        // SAFETY: cuBLAS is asked for before it is called; the handle is used on the stream that it
        // is given.
        unsafe {
            if !sys::is_culib_present() {
                return None;
            }
            let handle = result::create_handle().ok()?;
            let workspace = driver::malloc_sync(WORKSPACE).ok()?;
            let ready = result::set_stream(handle, gpu.stream.cast()).is_ok()
                && sys::cublasSetWorkspace_v2(handle, workspace as *mut c_void, WORKSPACE)
                    .result()
                    .is_ok();
            ready.then(|| Self { handle: Mutex::new(handle), workspace })
        }
    }

    /// Queues a product.
    ///
    /// # Errors
    /// What cuBLAS refuses.
    ///
    /// # Panics
    /// Where none of two steps is 1.
    pub fn run(&self, gpu: &Gpu, p: &Product, precision: Precision) -> Result<()> {
        use sys::cublasComputeType_t as Compute;
        use sys::cudaDataType_t::{CUDA_R_16BF, CUDA_R_32F, CUDA_R_64F};
        gpu.enter()?;
        let (kind, compute, bytes) = match precision {
            Precision::F64 => (CUDA_R_64F, Compute::CUBLAS_COMPUTE_64F, 8),
            Precision::F32 => (CUDA_R_32F, Compute::CUBLAS_COMPUTE_32F, 4),
            Precision::Tf32 => (CUDA_R_32F, Compute::CUBLAS_COMPUTE_32F_FAST_TF32, 4),
            Precision::Bf16 => (CUDA_R_16BF, Compute::CUBLAS_COMPUTE_32F, 2),
        };
        // cuBLAS counts columns first: it is asked for the transpose of c, which is b^T a^T.
        let turned = |(row, column): (usize, usize)| match (row, column) {
            (row, 1) => (sys::cublasOperation_t::CUBLAS_OP_N, row),
            (1, column) => (sys::cublasOperation_t::CUBLAS_OP_T, column),
            steps => panic!("steps {steps:?}: one has to be 1"),
        };
        let ((a_op, a_step), (b_op, b_step)) = (turned(p.a_steps), turned(p.b_steps));
        let (m, n, k) = p.size;
        let beta = if p.keep { 1.0 } else { 0.0 };
        let (single, double) = ([p.alpha as f32, beta as f32], [p.alpha, beta]);
        let scalar = |i: usize| -> *const c_void {
            if precision == Precision::F64 {
                (&raw const double[i]).cast()
            } else {
                (&raw const single[i]).cast()
            }
        };
        let handle = *self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        // One call for each of the smaller side of the batch: (steps of calls, steps within one).
        let by_outer = p.batch.0 < p.batch.1;
        let sides =
            |(outer, inner): (usize, usize)| if by_outer { (outer, inner) } else { (inner, outer) };
        let (calls, count) = sides(p.batch);
        for call in 0..calls {
            let at = |region: Region, i: usize| {
                (region.address() + (call * sides(p.batch_steps[i]).0 * bytes) as u64)
                    as *mut c_void
            };
            let stride = |i: usize| sides(p.batch_steps[i]).1 as i64;
            // A row that is not read needs a valid step all the same.
            let ld = |step: usize, least: usize| step.max(least).max(1) as i32;
            let (b_least, a_least) = (
                if b_op == sys::cublasOperation_t::CUBLAS_OP_N { n } else { k },
                if a_op == sys::cublasOperation_t::CUBLAS_OP_N { k } else { m },
            );
            // SAFETY: the regions hold what the sizes say, which the executor made them for.
            let queued = unsafe {
                result::gemm_strided_batched_ex(
                    handle,
                    b_op,
                    a_op,
                    n as i32,
                    m as i32,
                    k as i32,
                    scalar(0),
                    at(p.b, 1),
                    kind,
                    ld(b_step, b_least),
                    stride(1),
                    at(p.a, 0),
                    kind,
                    ld(a_step, a_least),
                    stride(0),
                    scalar(1),
                    at(p.c, 2),
                    kind,
                    ld(p.c_row, n),
                    stride(2),
                    count as i32,
                    compute,
                    sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
                )
            };
            queued.map_err(|e| {
                gpu.error(format!("a product of cuBLAS: {:?}", e.0), "see `tweedie doctor`")
            })?;
        }
        Ok(())
    }
}

// SAFETY: the handle is behind its lock.
unsafe impl Send for Blas {}
unsafe impl Sync for Blas {}

impl Drop for Blas {
    fn drop(&mut self) {
        let handle = *self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: nobody else has the handle or the memory.
        unsafe {
            let _ = result::destroy_handle(handle);
            let _ = driver::free_sync(self.workspace);
        }
    }
}
