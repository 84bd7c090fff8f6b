//! A network on the device that it was put on: one set of verbs for the CPU and for a GPU.

use super::cpu::Cpu;
use super::cuda::Cuda;
use super::element::Element;
use super::program::{Pass, Program};
use tweedie::error::Result;
use tweedie::sample::tableau::Tableau;
use tweedie_device::Place;

/// What the network is told at one evaluation.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// The time.
    pub time: f64,
    /// Its input over the state.
    pub input: f64,
    /// The class; 0 for a network without classes.
    pub label: usize,
}

/// An executor; `T` is what the host sees, f64 where the network is computed in f64.
pub enum Executor<T> {
    /// On the CPU.
    Cpu(Box<Cpu<T>>),
    /// On a GPU.
    Cuda(Box<Cuda<T>>),
}

impl<T: Element> Executor<T> {
    /// Memory for `batch` images, with a way back.
    ///
    /// # Errors
    /// A device without that much memory.
    pub fn new(program: Program, batch: usize, place: &Place) -> Result<Self> {
        Ok(match place {
            Place::Cpu => {
                program.fits(batch, &[Pass::Recorded, Pass::Backward], 2, size_of::<T>())?;
                Self::Cpu(Box::new(Cpu::new(program, batch)))
            }
            Place::Gpu(gpu, precision) => {
                Self::Cuda(Box::new(Cuda::new(program, batch, gpu, *precision)?))
            }
        })
    }

    /// Memory for `batch` images forward alone.
    ///
    /// # Errors
    /// As [`Executor::new`].
    pub fn forward_only(program: Program, batch: usize, place: &Place) -> Result<Self> {
        Ok(match place {
            Place::Cpu => {
                program.fits(batch, &[Pass::Forward], 0, size_of::<T>())?;
                Self::Cpu(Box::new(Cpu::forward_only(program, batch)))
            }
            Place::Gpu(gpu, precision) => {
                Self::Cuda(Box::new(Cuda::forward_only(program, batch, gpu, *precision)?))
            }
        })
    }

    /// The program that it runs.
    pub fn program(&self) -> &Program {
        match self {
            Self::Cpu(cpu) => cpu.program(),
            Self::Cuda(cuda) => cuda.program(),
        }
    }

    /// Takes the parameters, all in one vector in the program's order.
    ///
    /// # Errors
    /// A lost device.
    pub fn load(&mut self, params: &[T]) -> Result<()> {
        match self {
            Self::Cpu(cpu) => {
                cpu.load(params);
                Ok(())
            }
            Self::Cuda(cuda) => cuda.load(params),
        }
    }

    /// The network's output for a batch: see [`Cpu::forward`].
    ///
    /// # Errors
    /// As [`Cpu::forward`]; a lost device.
    pub fn forward(&mut self, x: &[T], times: &[f64], labels: &[usize]) -> Result<&[T]> {
        match self {
            Self::Cpu(cpu) => cpu.forward(x, times, labels),
            Self::Cuda(cuda) => cuda.forward(x, times, labels),
        }
    }

    /// Runs a recorded sampler where the network is; `None` on the CPU, where a sampler runs
    /// itself.
    ///
    /// # Errors
    /// As [`Cuda::sample`](crate::cuda::Cuda).
    pub fn sample(
        &mut self,
        tableau: &Tableau,
        told: &[Told],
        start: &[T],
        seed: u64,
    ) -> Option<Result<Vec<T>>> {
        match self {
            Self::Cpu(_) => None,
            Self::Cuda(cuda) => Some(cuda.sample(tableau, told, start, seed)),
        }
    }

    /// Gradients of a loss by all parameters: see [`Cpu::backward`].
    ///
    /// # Errors
    /// A lost device.
    pub fn backward(&mut self, dout: &[T], grads: &mut [T]) -> Result<()> {
        match self {
            Self::Cpu(cpu) => {
                cpu.backward(dout, grads);
                Ok(())
            }
            Self::Cuda(cuda) => cuda.backward(dout, grads),
        }
    }

    /// The gradient by the input after [`Executor::backward`].
    pub fn input_gradient(&self) -> &[T] {
        match self {
            Self::Cpu(cpu) => cpu.input_gradient(),
            Self::Cuda(cuda) => cuda.input_gradient(),
        }
    }
}
