//! A CUDA device in use: its memory, its queue of work, its kernels.
//!
//! Everything that a network does on a device goes through one stream: kernels and copies run in
//! the order in which they were queued, and the host waits only where it reads a result. Errors are
//! met at the latest there.

use super::blas::Blas;
use super::dnn::Dnn;
use super::linear::Lt;
use super::nccl::Communicator;
use super::{compile, libraries};
use cudarc::driver::{result, sys};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use tweedie::error::{Error, Result};

/// The oldest driver that knows all that is called here, as 1000 major + 10 minor of the CUDA
/// version that it supports.
const OLDEST_DRIVER: i32 = 12_000;

/// A CUDA device, opened.
pub struct Gpu {
    /// The driver's name for it.
    pub name: String,
    /// Compute capability, `(9, 0)` for an H100.
    pub capability: (i32, i32),
    /// The CUDA version that the driver supports, `(13, 0)`.
    pub driver: (i32, i32),
    /// Multiprocessors.
    pub multiprocessors: usize,
    /// Memory in bytes.
    pub memory: u64,
    number: usize,
    device: sys::CUdevice,
    context: sys::CUcontext,
    pub(super) stream: sys::CUstream,
    blas: OnceLock<Option<Blas>>,
    dnn: OnceLock<Option<Dnn>>,
    lt: OnceLock<Option<Lt>>,
    communicator: OnceLock<Communicator>,
    unrecorded: OnceLock<String>,
    /// Compiled programs, by source and options.
    programs: Mutex<HashMap<String, Weak<Program>>>,
}

// SAFETY: contexts, streams and modules of the driver may be used from any thread; every call makes
// the context current first, and the libraries' handles are behind a lock of their own.
unsafe impl Send for Gpu {}
unsafe impl Sync for Gpu {}

impl std::fmt::Display for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "cuda:{}, {}", self.number, self.name)
    }
}

impl Gpu {
    /// Opens device `number` of the driver.
    ///
    /// # Errors
    /// No driver, one that is too old, no such device, a device that refuses; no NVRTC to compile
    /// kernels with.
    pub fn open(number: usize) -> Result<Arc<Self>> {
        let device = format!("cuda:{number}");
        let refuse = |problem: String, mend: &str| Error::device(&device, problem, mend);
        libraries::load();
        // SAFETY: loading NVIDIA's libraries runs their initialisers, made for any process.
        if !unsafe { sys::is_culib_present() } {
            return Err(refuse(
                "there is no NVIDIA driver".into(),
                "install it, or use --device cpu",
            ));
        }
        if !unsafe { cudarc::nvrtc::sys::is_culib_present() } {
            return Err(refuse(
                "NVRTC, which compiles the kernels, was not found".into(),
                "pip install nvidia-cuda-nvrtc into the active environment, set CUDA_HOME, or use --device cpu",
            ));
        }
        let driver = libraries::driver_version().unwrap_or(0);
        if driver < OLDEST_DRIVER {
            let (major, minor) = (driver / 1000, driver % 1000 / 10);
            let problem = format!(
                "the driver is too old: it knows CUDA {major}.{minor}, wanted {} or newer",
                OLDEST_DRIVER / 1000
            );
            return Err(refuse(problem, "update NVIDIA's driver, or use --device cpu"));
        }
        let said = |e: result::DriverError| {
            refuse(describe(e.0), "see `tweedie doctor`, or use --device cpu")
        };
        result::init().map_err(said)?;
        let count = result::device::get_count().map_err(said)?;
        if number >= count as usize {
            let problem = format!("there is no such device, the driver knows {count}");
            return Err(refuse(
                problem,
                "choose one that `tweedie doctor` names, or use --device cpu",
            ));
        }
        use sys::CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
            CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as COUNT,
        };
        let handle = result::device::get(number as i32).map_err(said)?;
        // SAFETY: the driver gave the device.
        let open = || unsafe {
            let attribute = |which| result::device::get_attribute(handle, which);
            let context = result::primary_ctx::retain(handle)?;
            result::ctx::set_current(context)?;
            Ok(Self {
                name: result::device::get_name(handle)?,
                capability: (attribute(MAJOR)?, attribute(MINOR)?),
                driver: (driver / 1000, driver % 1000 / 10),
                multiprocessors: attribute(COUNT)? as usize,
                memory: result::device::total_mem(handle)? as u64,
                number,
                device: handle,
                context,
                stream: result::stream::create(result::stream::StreamKind::NonBlocking)?,
                blas: OnceLock::new(),
                dnn: OnceLock::new(),
                lt: OnceLock::new(),
                communicator: OnceLock::new(),
                unrecorded: OnceLock::new(),
                programs: Mutex::default(),
            })
        };
        Ok(Arc::new(open().map_err(said)?))
    }

    /// An error of this device.
    pub fn error(&self, problem: impl ToString, mend: impl ToString) -> Error {
        Error::device(self, problem, mend)
    }

    pub(super) fn check(
        &self,
        doing: &str,
        result: std::result::Result<(), result::DriverError>,
    ) -> Result<()> {
        result.map_err(|e| {
            let mend = match e.0 {
                sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                    "use a smaller batch, or free the device of other programs"
                }
                _ => "see `tweedie doctor`; what was saved last is whole",
            };
            self.error(format!("{doing}: {}", describe(e.0)), mend)
        })
    }

    /// Makes the context current for this thread: the driver keeps one for each.
    pub(super) fn enter(&self) -> Result<()> {
        // SAFETY: the context lives as long as this.
        self.check("entering its context", unsafe { result::ctx::set_current(self.context) })
    }

    /// Waits for everything queued.
    ///
    /// # Errors
    /// What went wrong in it.
    pub fn synchronize(&self) -> Result<()> {
        self.enter()?;
        // SAFETY: the stream is ours.
        self.check("running", unsafe { result::stream::synchronize(self.stream) })
    }

    /// Memory that is free now, in bytes.
    ///
    /// # Errors
    /// A lost device.
    pub fn free_memory(&self) -> Result<usize> {
        self.enter()?;
        let (free, _) = result::mem_get_info()
            .map_err(|e| self.error(describe(e.0), "see `tweedie doctor`"))?;
        Ok(free)
    }

    /// Memory of `bytes` bytes, every one of them 0xFF: read before it is written it is NaN in
    /// every format.
    ///
    /// # Errors
    /// Not so much memory.
    pub fn allocate(self: &Arc<Self>, bytes: usize) -> Result<Buffer> {
        self.enter()?;
        // The driver refuses 0.
        let bytes = bytes.max(16);
        // SAFETY: a plain allocation.
        let at = unsafe { result::malloc_sync(bytes) }.map_err(|e| match e.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let free = self.free_memory().map_or(0, |free| free >> 20);
                let problem = format!("out of memory: {} MiB wanted, {free} MiB free", bytes.div_ceil(1 << 20));
                self.error(problem, "use a smaller batch or precision, free the device of other programs, or use --device cpu")
            }
            other => self.error(format!("allocating: {}", describe(other)), "see `tweedie doctor`"),
        })?;
        let buffer = Buffer { gpu: self.clone(), at, bytes };
        // SAFETY: the memory was allocated with this length.
        self.check("clearing memory", unsafe {
            result::memset_d8_async(at, 0xFF, bytes, self.stream)
        })?;
        Ok(buffer)
    }

    /// Memory with this content.
    ///
    /// # Errors
    /// Not so much memory.
    pub fn upload<P: bytemuck::Pod>(self: &Arc<Self>, x: &[P]) -> Result<Buffer> {
        let buffer = self.allocate(size_of_val(x))?;
        self.write(buffer.region(), x)?;
        Ok(buffer)
    }

    /// Copies to the device.
    ///
    /// # Errors
    /// A lost device.
    pub fn write<P: bytemuck::Pod>(&self, to: Region, x: &[P]) -> Result<()> {
        assert!(size_of_val(x) <= to.bytes, "{} bytes into {}", size_of_val(x), to.bytes);
        self.enter()?;
        // SAFETY: the region is as long as was asserted; from pageable memory the call returns when
        // the source has been read.
        self.check("copying to the device", unsafe {
            result::memcpy_htod_async(to.at, bytemuck::cast_slice::<P, u8>(x), self.stream)
        })
    }

    /// Copies from the device, and waits.
    ///
    /// # Errors
    /// What went wrong in the work that it waited for.
    pub fn read<P: bytemuck::Pod>(&self, from: Region, x: &mut [P]) -> Result<()> {
        assert!(size_of_val(x) <= from.bytes, "{} bytes out of {}", size_of_val(x), from.bytes);
        self.enter()?;
        let bytes = bytemuck::cast_slice_mut::<P, u8>(x);
        // SAFETY: the region is as long as was asserted.
        self.check("copying from the device", unsafe {
            result::memcpy_dtoh_async(bytes, from.at, self.stream)
        })?;
        self.synchronize()
    }

    /// Copies within the device.
    ///
    /// # Errors
    /// A lost device.
    pub fn copy(&self, to: Region, from: Region) -> Result<()> {
        assert!(from.bytes <= to.bytes, "{} bytes into {}", from.bytes, to.bytes);
        self.enter()?;
        // SAFETY: both regions are as long as was asserted.
        self.check("copying on the device", unsafe {
            result::memcpy_dtod_async(to.at, from.at, from.bytes, self.stream)
        })
    }

    /// Sets every byte.
    ///
    /// # Errors
    /// A lost device.
    pub fn fill(&self, to: Region, byte: u8) -> Result<()> {
        self.enter()?;
        // SAFETY: the region is memory of the device.
        self.check("setting memory", unsafe {
            result::memset_d8_async(to.at, byte, to.bytes, self.stream)
        })
    }

    /// The kernels of a source text, compiled for this device, or fetched from where they were kept
    /// when compiled before.
    ///
    /// # Errors
    /// A source that does not compile; a device that does not load it.
    pub fn program(self: &Arc<Self>, source: &str, options: &[String]) -> Result<Arc<Program>> {
        let key = format!("{}\n{source}", options.join(" "));
        // Held while compiling: a second thread that wants the same waits for it.
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = programs.get(&key).and_then(Weak::upgrade) {
            return Ok(program);
        }
        let module = compile::loaded(self, source, options, |image| {
            self.enter()?;
            // SAFETY: the image is what NVRTC made, to the bit, kept alive until the driver has
            // read it.
            unsafe { result::module::load_data(image.as_ptr().cast()) }.map_err(|e| {
                self.error(
                    format!("loading the kernels: {}", describe(e.0)),
                    "update NVIDIA's driver, or use --device cpu",
                )
            })
        })?;
        let program = Arc::new(Program { gpu: self.clone(), module, kernels: Mutex::default() });
        programs.insert(key, Arc::downgrade(&program));
        Ok(program)
    }

    /// cuBLAS on this device, where it is installed.
    pub fn blas(&self) -> Option<&Blas> {
        self.blas.get_or_init(|| Blas::new(self)).as_ref()
    }

    /// cuDNN on this device, where it is installed.
    pub fn dnn(&self) -> Option<&Dnn> {
        self.dnn.get_or_init(|| Dnn::new(self)).as_ref()
    }

    /// cuBLASLt on this device, where it is installed.
    pub fn lt(&self) -> Option<&Lt> {
        self.lt.get_or_init(|| Lt::new(self)).as_ref()
    }

    /// Joins the processes that train together; from then on every training step on this device is
    /// one of all of them.
    ///
    /// # Errors
    /// No NCCL; processes that do not come.
    pub fn join(&self, identity: [u8; 128], rank: usize, size: usize) -> Result<()> {
        let communicator = Communicator::new(self, identity, rank, size)?;
        if self.communicator.set(communicator).is_err() {
            return Err(self.error("it has joined other processes before", "join once"));
        }
        Ok(())
    }

    /// The processes that it has joined.
    pub fn communicator(&self) -> Option<&Communicator> {
        self.communicator.get()
    }

    /// Records what `queue` queues, to be run as a whole as often as wanted: one call instead of
    /// hundreds. `None` where this device, or a library on it, can't be recorded:
    /// [`Gpu::unrecorded`] then says why.
    ///
    /// # Errors
    /// A lost device.
    pub fn record(self: &Arc<Self>, queue: impl FnOnce() -> Result<()>) -> Result<Option<Graph>> {
        self.enter()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is ours.
        self.check("recording", unsafe { result::stream::begin_capture(self.stream, mode) })?;
        let queued = queue();
        // Also after an error: the stream would go on recording. SAFETY: the stream is ours; the
        // graph is the one recorded, and the executable one does not need it.
        let exec = unsafe {
            result::stream::end_capture(self.stream).and_then(|graph| {
                let exec = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
                result::graph::destroy(graph).and(exec)
            })
        };
        match (queued, exec) {
            (Ok(()), Ok(exec)) => return Ok(Some(Graph { gpu: self.clone(), exec })),
            (Err(e), _) => self.unrecorded.set(e.to_string()).ok(),
            (Ok(()), Err(e)) => self.unrecorded.set(describe(e.0)).ok(),
        };
        // Where it was the device that failed, it does so again.
        self.synchronize().map(|()| None)
    }

    /// Why work is queued piece by piece, where it could not be recorded.
    pub fn unrecorded(&self) -> Option<&str> {
        self.unrecorded.get().map(String::as_str)
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if self.enter().is_ok() {
            // Handles first: they may still use the stream.
            drop(self.blas.take());
            drop(self.dnn.take());
            drop(self.lt.take());
            drop(self.communicator.take());
            // SAFETY: nothing else holds the stream or the context.
            unsafe {
                let _ = result::stream::destroy(self.stream);
                let _ = result::primary_ctx::release(self.device);
            }
        }
    }
}

/// What the driver says of an error: its name and its sentence.
pub(super) fn describe(e: sys::CUresult) -> String {
    let error = result::DriverError(e);
    let text = |s: std::result::Result<&std::ffi::CStr, _>| {
        s.ok().map(|s| s.to_string_lossy().into_owned())
    };
    match (text(error.error_name()), text(error.error_string())) {
        (Some(name), Some(sentence)) => format!("{sentence} ({name})"),
        _ => format!("error {}", e as u32),
    }
}

/// Memory on a device, freed with this.
pub struct Buffer {
    gpu: Arc<Gpu>,
    at: u64,
    bytes: usize,
}

impl Buffer {
    /// All of it.
    pub fn region(&self) -> Region {
        Region { at: self.at, bytes: self.bytes }
    }

    /// `bytes` bytes from byte `from`.
    ///
    /// # Panics
    /// Beyond its end.
    pub fn part(&self, from: usize, bytes: usize) -> Region {
        self.region().part(from, bytes)
    }
}

impl From<&Buffer> for Region {
    fn from(buffer: &Buffer) -> Self {
        buffer.region()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.gpu.enter().is_ok() {
            // SAFETY: allocated by `malloc_sync`; freeing waits for what still uses it. On a lost
            // device nothing is left to free.
            let _ = unsafe { result::free_sync(self.at) };
        }
    }
}

/// A part of a [`Buffer`], by its address. Nothing ties the two together: whoever queues work on a
/// part keeps the buffer until the work is done, also what is recorded, and passes a kernel what
/// its declaration says. That can't be checked, and so everything that takes a part or records work
/// is the crate's own.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    at: u64,
    bytes: usize,
}

impl Region {
    /// No memory: what a kernel is passed for an array that there is not.
    pub const NONE: Self = Self { at: 0, bytes: 0 };

    /// Its address on the device.
    pub fn address(self) -> u64 {
        self.at
    }

    pub(super) fn pointer(self) -> *mut c_void {
        self.at as *mut c_void
    }

    /// Its length.
    pub fn bytes(self) -> usize {
        self.bytes
    }

    /// `bytes` bytes from byte `from`.
    ///
    /// # Panics
    /// Beyond its end.
    pub fn part(self, from: usize, bytes: usize) -> Self {
        assert!(from + bytes <= self.bytes, "bytes {from} to {} of {}", from + bytes, self.bytes);
        Self { at: self.at + from as u64, bytes }
    }
}

/// Kernels loaded on a device.
pub struct Program {
    gpu: Arc<Gpu>,
    module: sys::CUmodule,
    kernels: Mutex<HashMap<&'static str, usize>>,
}

// SAFETY: as for `Gpu`.
unsafe impl Send for Program {}
unsafe impl Sync for Program {}

/// One argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// An array.
    At(Region),
    /// `int`
    Int(i32),
    /// `long`
    Long(i64),
    /// `unsigned long long`
    Word(u64),
    /// `float`
    Single(f32),
    /// `double`
    Double(f64),
    /// A struct of eleven `int`.
    Ints([i32; 11]),
}

impl From<Region> for Arg {
    fn from(x: Region) -> Self {
        Self::At(x)
    }
}

impl From<i32> for Arg {
    fn from(x: i32) -> Self {
        Self::Int(x)
    }
}

impl From<bool> for Arg {
    fn from(x: bool) -> Self {
        Self::Int(x.into())
    }
}

impl From<usize> for Arg {
    /// An `int`: sizes of one image. Whole arrays are [`Arg::Long`].
    fn from(x: usize) -> Self {
        Self::Int(i32::try_from(x).expect("sizes of one image fit in 31 bits"))
    }
}

impl From<f64> for Arg {
    fn from(x: f64) -> Self {
        Self::Double(x)
    }
}

impl Arg {
    /// Where the value itself lies, as the driver wants it.
    fn pointer(&self) -> *mut c_void {
        let at: *const c_void = match self {
            Self::At(x) => (&raw const x.at).cast(),
            Self::Int(x) => (&raw const *x).cast(),
            Self::Long(x) => (&raw const *x).cast(),
            Self::Word(x) => (&raw const *x).cast(),
            Self::Single(x) => (&raw const *x).cast(),
            Self::Double(x) => (&raw const *x).cast(),
            Self::Ints(x) => x.as_ptr().cast(),
        };
        at.cast_mut()
    }
}

/// How many blocks of how many threads.
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    pub grid: (usize, usize, usize),
    pub block: (usize, usize),
}

impl Program {
    /// Queues a kernel.
    ///
    /// # Errors
    /// A kernel that the source does not have; a launch that the device refuses.
    ///
    /// # Panics
    /// For a grid beyond what a device takes.
    pub fn launch(&self, name: &'static str, launch: Launch, args: &[Arg]) -> Result<()> {
        self.gpu.enter()?;
        let kernel = {
            let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
            match kernels.get(name) {
                Some(kernel) => *kernel,
                None => {
                    let symbol = CString::new(name).expect("a name without zero bytes");
                    // SAFETY: the module is loaded.
                    let kernel = unsafe { result::module::get_function(self.module, symbol) }
                        .map_err(|e| {
                            self.gpu
                                .error(format!("kernel {name}: {}", describe(e.0)), "report this")
                        })?;
                    kernels.insert(name, kernel as usize);
                    kernel as usize
                }
            }
        };
        let number = |x: usize| u32::try_from(x).expect("a grid in 32 bits");
        let grid = (number(launch.grid.0), number(launch.grid.1), number(launch.grid.2));
        assert!(grid.1 < 1 << 16 && grid.2 < 1 << 16, "kernel {name}: grid {grid:?}");
        let mut pointers: Vec<*mut c_void> = args.iter().map(Arg::pointer).collect();
        // SAFETY: the arguments are those of the kernel's declaration, which the tests hold; the
        // driver copies them before it returns.
        let queued = unsafe {
            let block = (number(launch.block.0), number(launch.block.1), 1);
            result::launch_kernel(
                kernel as sys::CUfunction,
                grid,
                block,
                0,
                self.gpu.stream,
                &mut pointers,
            )
        };
        self.gpu.check(&format!("kernel {name}"), queued)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.gpu.enter().is_ok() {
            // SAFETY: nobody holds a kernel of it.
            let _ = unsafe { result::module::unload(self.module) };
        }
    }
}

/// Work that is done over and over: queued piece by piece the first time, for the libraries make
/// ready then, recorded the second, and one call from then on.
#[derive(Default)]
pub struct Repeated {
    runs: usize,
    graph: Option<Graph>,
}

impl Repeated {
    /// Queues it once more; `queue` queues the same each time.
    ///
    /// # Errors
    /// Those of `queue`; a lost device.
    pub fn run(&mut self, gpu: &Arc<Gpu>, queue: impl Fn() -> Result<()>) -> Result<()> {
        self.runs += 1;
        if self.runs == 2 {
            self.graph = gpu.record(&queue)?;
        }
        self.graph.as_ref().map_or_else(queue, Graph::run)
    }
}

/// Recorded work.
pub struct Graph {
    gpu: Arc<Gpu>,
    exec: sys::CUgraphExec,
}

// SAFETY: as for `Gpu`.
unsafe impl Send for Graph {}
unsafe impl Sync for Graph {}

impl Graph {
    /// Queues all of it.
    ///
    /// # Errors
    /// A lost device.
    pub fn run(&self) -> Result<()> {
        self.gpu.enter()?;
        // SAFETY: the memory that it names is kept by whoever recorded it.
        self.gpu.check("running recorded work", unsafe {
            result::graph::launch(self.exec, self.gpu.stream)
        })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.gpu.enter().is_ok() {
            // SAFETY: it is ours.
            let _ = unsafe { result::graph::exec_destroy(self.exec) };
        }
    }
}
