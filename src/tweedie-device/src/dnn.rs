//! Convolutions by cuDNN, channels last.

use super::Precision;
use super::gpu::{Gpu, Region};
use cudarc::cudnn::{result, sys};
use std::ffi::{c_int, c_void};
use std::sync::{Mutex, PoisonError};
use tweedie::error::Result;

/// A handle of cuDNN.
pub struct Dnn {
    handle: Mutex<sys::cudnnHandle_t>,
}

// SAFETY: the handle is behind its lock.
unsafe impl Send for Dnn {}
unsafe impl Sync for Dnn {}

/// A convolution with as many zeros before as behind the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub images: usize,
    pub height: usize,
    pub width: usize,
    /// Channels in and out.
    pub channels: (usize, usize),
    pub kernel: usize,
    pub stride: usize,
    /// Rows and columns of zeros on each side.
    pub padding: usize,
}

impl Shape {
    fn out(&self, n: usize) -> usize {
        (n + 2 * self.padding - self.kernel) / self.stride + 1
    }
}

/// A convolution of one shape and its two gradients, each with the algorithm that cuDNN expects to
/// be the fastest of those that make the same bits every time.
pub struct Convolution {
    x: sys::cudnnTensorDescriptor_t,
    y: sys::cudnnTensorDescriptor_t,
    w: sys::cudnnFilterDescriptor_t,
    convolution: sys::cudnnConvolutionDescriptor_t,
    forward: (sys::cudnnConvolutionFwdAlgo_t, usize),
    input: (sys::cudnnConvolutionBwdDataAlgo_t, usize),
    weight: (sys::cudnnConvolutionBwdFilterAlgo_t, usize),
}

// SAFETY: descriptors are not written after they were made.
unsafe impl Send for Convolution {}
unsafe impl Sync for Convolution {}

/// Memory that an algorithm may work in at most, in bytes.
const MOST: usize = 512 << 20;

impl Dnn {
    /// On the stream of a device whose context is current, where cuDNN is found and works.
    pub(super) fn new(gpu: &Gpu) -> Option<Self> {
        gpu.enter().ok()?;
        // SAFETY: cuDNN is asked for before it is called; the handle is used on the stream that it
        // is given.
        unsafe {
            if !sys::is_culib_present() {
                return None;
            }
            let handle = result::create_handle().ok()?;
            result::set_stream(handle, gpu.stream.cast()).ok()?;
            Some(Self { handle: Mutex::new(handle) })
        }
    }

    /// A convolution of this shape; `None` where cuDNN has no algorithm for it, or in f64, for
    /// which its algorithms are not made.
    pub fn convolution(
        &self,
        gpu: &Gpu,
        shape: &Shape,
        precision: Precision,
    ) -> Option<Convolution> {
        use sys::cudnnDataType_t::{CUDNN_DATA_BFLOAT16, CUDNN_DATA_FLOAT};
        use sys::cudnnMathType_t::{CUDNN_FMA_MATH, CUDNN_TENSOR_OP_MATH};
        let (kind, math) = match precision {
            Precision::F64 => return None,
            Precision::F32 => (CUDNN_DATA_FLOAT, CUDNN_FMA_MATH),
            Precision::Tf32 => (CUDNN_DATA_FLOAT, CUDNN_TENSOR_OP_MATH),
            Precision::Bf16 => (CUDNN_DATA_BFLOAT16, CUDNN_TENSOR_OP_MATH),
        };
        gpu.enter().ok()?;
        let handle = *self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        let [n, h, w, k, stride, padding] =
            [shape.images, shape.height, shape.width, shape.kernel, shape.stride, shape.padding]
                .map(|x| x as c_int);
        let (a, b) = (shape.channels.0 as c_int, shape.channels.1 as c_int);
        let (out_h, out_w) = (shape.out(shape.height) as c_int, shape.out(shape.width) as c_int);
        let nhwc = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
        let deterministic = sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC;
        let success = sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS;
        // SAFETY: every descriptor is made before it is used; each list has room for what is asked.
        unsafe {
            let mut made = Convolution {
                x: result::create_tensor_descriptor().ok()?,
                y: result::create_tensor_descriptor().ok()?,
                w: result::create_filter_descriptor().ok()?,
                convolution: result::create_convolution_descriptor().ok()?,
                forward: (
                    sys::cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM,
                    0,
                ),
                input: (sys::cudnnConvolutionBwdDataAlgo_t::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1, 0),
                weight: (
                    sys::cudnnConvolutionBwdFilterAlgo_t::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1,
                    0,
                ),
            };
            result::set_tensor4d_descriptor(made.x, nhwc, kind, [n, a, h, w]).ok()?;
            result::set_tensor4d_descriptor(made.y, nhwc, kind, [n, b, out_h, out_w]).ok()?;
            result::set_filter4d_descriptor(made.w, kind, nhwc, [b, a, k, k]).ok()?;
            let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
            result::set_convolution2d_descriptor(
                made.convolution,
                padding,
                padding,
                stride,
                stride,
                1,
                1,
                mode,
                CUDNN_DATA_FLOAT,
            )
            .ok()?;
            result::set_convolution_math_type(made.convolution, math).ok()?;

            // Tensor cores round what they multiply: not in f32. Elsewhere the descriptor lets
            // every algorithm use them that can.
            let exact_enough = |of: sys::cudnnMathType_t| {
                precision != Precision::F32
                    || matches!(of, CUDNN_FMA_MATH | sys::cudnnMathType_t::CUDNN_DEFAULT_MATH)
            };
            const LIST: usize = 8;
            macro_rules! fastest {
                ($function:ident, $perf:ty, $($descriptor:expr),*) => {{
                    let mut list: [std::mem::MaybeUninit<$perf>; LIST] = [const { std::mem::MaybeUninit::uninit() }; LIST];
                    let mut count: c_int = 0;
                    result::$function(handle, $($descriptor,)* LIST as c_int, &raw mut count, list.as_mut_ptr().cast()).ok()?;
                    list.iter()
                        .take(count.max(0) as usize)
                        .map(|perf| perf.assume_init_ref())
                        .find(|perf| perf.status == success && perf.determinism == deterministic && perf.memory <= MOST && exact_enough(perf.mathType))
                        .map(|perf| perf.algo)?
                }};
            }
            let c = made.convolution;
            made.forward.0 = fastest!(
                get_convolution_forward_algorithm,
                sys::cudnnConvolutionFwdAlgoPerf_t,
                made.x,
                made.w,
                c,
                made.y
            );
            made.input.0 = fastest!(
                get_convolution_backward_data_algorithm,
                sys::cudnnConvolutionBwdDataAlgoPerf_t,
                made.w,
                made.y,
                c,
                made.x
            );
            made.weight.0 = fastest!(
                get_convolution_backward_filter_algorithm,
                sys::cudnnConvolutionBwdFilterAlgoPerf_t,
                made.x,
                made.y,
                c,
                made.w
            );
            made.forward.1 = result::get_convolution_forward_workspace_size(
                handle,
                made.x,
                made.w,
                c,
                made.y,
                made.forward.0,
            )
            .ok()?;
            made.input.1 = result::get_convolution_backward_data_workspace_size(
                handle,
                made.w,
                made.y,
                c,
                made.x,
                made.input.0,
            )
            .ok()?;
            made.weight.1 = result::get_convolution_backward_filter_workspace_size(
                handle,
                made.x,
                made.y,
                c,
                made.w,
                made.weight.0,
            )
            .ok()?;
            Some(made)
        }
    }

    /// Whether it was queued: of some shapes cuDNN says only then that it has nothing for them.
    fn queued(
        gpu: &Gpu,
        what: &str,
        result: std::result::Result<(), result::CudnnError>,
    ) -> Result<bool> {
        match result {
            Ok(()) => Ok(true),
            // Its statuses come in thousands; this one holds NOT_SUPPORTED and what it was that is
            // not.
            Err(e)
                if e.0 as u32 / 1000
                    == sys::cudnnStatus_t::CUDNN_STATUS_NOT_SUPPORTED as u32 / 1000 =>
            {
                Ok(false)
            }
            Err(e) => Err(gpu.error(format!("{what} of cuDNN: {:?}", e.0), "see `tweedie doctor`")),
        }
    }

    /// Queues `y = x * w`; false where cuDNN has nothing for it after all, as of the other two.
    ///
    /// # Errors
    /// What cuDNN refuses.
    pub fn forward(
        &self,
        gpu: &Gpu,
        c: &Convolution,
        x: Region,
        w: Region,
        y: Region,
        workspace: Region,
    ) -> Result<bool> {
        gpu.enter()?;
        let handle = *self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        let (one, zero) = (scalar(&1.0), scalar(&0.0));
        // SAFETY: the regions are as long as the shape says, the workspace as
        // `Convolution::workspace`.
        let queued = unsafe {
            result::convolution_forward(
                handle,
                one,
                c.x,
                x.pointer(),
                c.w,
                w.pointer(),
                c.convolution,
                c.forward.0,
                workspace.pointer(),
                c.forward.1,
                zero,
                c.y,
                y.pointer(),
            )
        };
        Self::queued(gpu, "a convolution", queued)
    }

    /// Queues the gradient by the input, added to what is there where `keep`.
    ///
    /// # Errors
    /// What cuDNN refuses.
    #[allow(clippy::too_many_arguments)]
    pub fn input_gradient(
        &self,
        gpu: &Gpu,
        c: &Convolution,
        dy: Region,
        w: Region,
        dx: Region,
        keep: bool,
        workspace: Region,
    ) -> Result<bool> {
        gpu.enter()?;
        let handle = *self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        let (one, beta) = (scalar(&1.0), scalar(if keep { &1.0 } else { &0.0 }));
        // SAFETY: as `forward`.
        let queued = unsafe {
            result::convolution_backward_data(
                handle,
                one,
                c.w,
                w.pointer(),
                c.y,
                dy.pointer(),
                c.convolution,
                c.input.0,
                workspace.pointer(),
                c.input.1,
                beta,
                c.x,
                dx.pointer(),
            )
        };
        Self::queued(gpu, "a convolution's gradient", queued)
    }

    /// Queues the gradient by the weights.
    ///
    /// # Errors
    /// What cuDNN refuses.
    pub fn weight_gradient(
        &self,
        gpu: &Gpu,
        c: &Convolution,
        x: Region,
        dy: Region,
        dw: Region,
        workspace: Region,
    ) -> Result<bool> {
        gpu.enter()?;
        let handle = *self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        let (one, zero) = (scalar(&1.0), scalar(&0.0));
        // SAFETY: as `forward`.
        let queued = unsafe {
            result::convolution_backward_filter(
                handle,
                one,
                c.x,
                x.pointer(),
                c.y,
                dy.pointer(),
                c.convolution,
                c.weight.0,
                workspace.pointer(),
                c.weight.1,
                zero,
                c.w,
                dw.pointer(),
            )
        };
        Self::queued(gpu, "a convolution's gradient", queued)
    }
}

fn scalar(x: &'static f32) -> *const c_void {
    (&raw const *x).cast()
}

impl Convolution {
    /// Memory that all three work in, in bytes.
    pub fn workspace(&self) -> usize {
        self.forward.1.max(self.input.1).max(self.weight.1)
    }
}

impl Drop for Convolution {
    fn drop(&mut self) {
        // SAFETY: nobody else has them.
        unsafe {
            let _ = result::destroy_tensor_descriptor(self.x);
            let _ = result::destroy_tensor_descriptor(self.y);
            let _ = result::destroy_filter_descriptor(self.w);
            let _ = result::destroy_convolution_descriptor(self.convolution);
        }
    }
}

impl Drop for Dnn {
    fn drop(&mut self) {
        let handle = *self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: nobody else has the handle.
        let _ = unsafe { result::destroy_handle(handle) };
    }
}
