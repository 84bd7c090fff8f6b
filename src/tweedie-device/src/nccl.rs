//! Sums over several GPUs by NCCL, one process for each.

use super::Precision;
use super::gpu::{Gpu, Region};
use cudarc::nccl::{result, sys};
use std::ffi::c_char;
use std::mem::MaybeUninit;
use tweedie::error::{Error, Result};

/// A process's place among those that sum with one another.
pub struct Communicator {
    handle: sys::ncclComm_t,
    /// This process, from 0.
    pub rank: usize,
    /// Processes in all.
    pub size: usize,
}

// SAFETY: NCCL asks for one call at a time, which the stream's owner makes.
unsafe impl Send for Communicator {}
unsafe impl Sync for Communicator {}

fn refused(problem: impl ToString) -> Error {
    Error::device("nccl", problem, "see `tweedie doctor`; NCCL_DEBUG=INFO tells more")
}

fn found() -> Result<()> {
    super::libraries::load();
    // SAFETY: loading NCCL runs its initialisers, made for any process.
    if unsafe { sys::is_culib_present() } {
        return Ok(());
    }
    Err(Error::device(
        "nccl",
        "NCCL, which sums over GPUs, was not found",
        "pip install nvidia-nccl-cu13, or start one process",
    ))
}

/// A new identity, which rank 0 makes and all others are told.
///
/// # Errors
/// No NCCL, or one that refuses.
pub fn identity() -> Result<[u8; 128]> {
    found()?;
    let id = result::get_uniqueid().map_err(|e| refused(format!("{:?}", e.0)))?;
    Ok(id.internal.map(|c| c as u8))
}

impl Communicator {
    /// Joins the others, and waits for all of them.
    pub(super) fn new(gpu: &Gpu, identity: [u8; 128], rank: usize, size: usize) -> Result<Self> {
        found()?;
        gpu.enter()?;
        let id = sys::ncclUniqueId { internal: identity.map(|b| b as c_char) };
        let mut handle = MaybeUninit::uninit();
        // SAFETY: the handle is read only where NCCL says that it made it.
        let handle = unsafe {
            result::comm_init_rank(handle.as_mut_ptr(), size as i32, id, rank as i32)
                .map_err(|e| refused(format!("rank {rank} of {size}: {:?}", e.0)))?;
            handle.assume_init()
        };
        Ok(Self { handle, rank, size })
    }

    /// Queues the sum of an array over all processes, in its place.
    ///
    /// # Errors
    /// A process that is gone.
    pub fn sum(&self, gpu: &Gpu, x: Region, precision: Precision) -> Result<()> {
        let kind = match precision {
            Precision::F64 => sys::ncclDataType_t::ncclDouble,
            Precision::F32 | Precision::Tf32 => sys::ncclDataType_t::ncclFloat,
            Precision::Bf16 => sys::ncclDataType_t::ncclBfloat16,
        };
        let (at, count) = (x.pointer(), x.bytes() / precision.bytes());
        gpu.enter()?;
        // SAFETY: the region is memory of the device, on whose stream the sum is queued.
        let queued = unsafe {
            result::all_reduce(
                at,
                at,
                count,
                kind,
                sys::ncclRedOp_t::ncclSum,
                self.handle,
                gpu.stream.cast(),
            )
        };
        queued
            .map(drop)
            .map_err(|e| refused(format!("a sum over {} processes: {:?}", self.size, e.0)))
    }

    /// Queues the exchange of an array of doubles of which every process has made its own equal
    /// share: all then have all of it.
    ///
    /// # Errors
    /// A process that is gone.
    pub fn gather(&self, gpu: &Gpu, x: Region) -> Result<()> {
        let share = x.bytes() / self.size;
        let own = x.part(self.rank * share, share);
        gpu.enter()?;
        // SAFETY: as `sum`; NCCL knows an array that is gathered in its place by its address.
        let queued = unsafe {
            let kind = sys::ncclDataType_t::ncclDouble;
            result::all_gather(
                own.pointer(),
                x.pointer(),
                share / 8,
                kind,
                self.handle,
                gpu.stream.cast(),
            )
        };
        queued
            .map(drop)
            .map_err(|e| refused(format!("an exchange over {} processes: {:?}", self.size, e.0)))
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        // SAFETY: nobody else has the handle; aborted, not finished, because the others may be
        // gone.
        let _ = unsafe { result::comm_abort(self.handle) };
    }
}
