//! A recorded sampler on a device: states, outputs and noise stay there, and every step is the same
//! recorded work.

use super::Cuda;
use crate::element::Element;
use crate::executor::Told;
use tweedie::error::Result;
use tweedie::sample::tableau::Tableau;
use tweedie_device::gpu::{Arg, Buffer, Region, Repeated};

/// The tables of a [`Tableau`] on a device.
struct Tables {
    step: Buffer,
    draw_first: Buffer,
    draw: Buffer,
    draw_slot: Buffer,
    first: Buffer,
    slot: Buffer,
    weight: Buffer,
    target: Buffer,
    output: Buffer,
    input: Buffer,
    time: Buffer,
    label: Buffer,
    first_image: Buffer,
    history: Buffer,
}

impl<T: Element> Cuda<T> {
    /// Runs a recorded sampler from these starts, a batch at a time, with the draws of
    /// [`Noise`](tweedie::math::noise::Noise) of this seed: those of the CPU.
    ///
    /// # Shapes
    /// `start` and the result: images, channels last, in whole batches or less; `told` one for each
    /// evaluation.
    ///
    /// # Errors
    /// Times or labels that the network has no place for; not enough memory; a lost device.
    pub fn sample(
        &mut self,
        tableau: &Tableau,
        told: &[Told],
        start: &[T],
        seed: u64,
    ) -> Result<Vec<T>> {
        for told in told {
            let labels = if self.program.has_classes() { vec![told.label] } else { vec![] };
            self.program.validate(1, &[told.time], &labels)?;
        }
        let gpu = self.device.gpu.clone();
        let size = self.program.tensors[self.program.input].size();
        let (n, wide) = (self.batch * size, self.device.wide());
        // Kernels read one entry more than the network is told: the last move has no evaluation.
        let padded =
            |f: &dyn Fn(&Told) -> f64| told.iter().map(f).chain([1.0]).collect::<Vec<f64>>();
        let labels: Vec<i32> = told.iter().map(|t| t.label as i32).chain([0]).collect();
        let tables = Tables {
            step: gpu.allocate(4)?,
            draw_first: gpu.upload(&tableau.draw_first)?,
            draw: gpu.upload(&tableau.draw)?,
            draw_slot: gpu.upload(&tableau.draw_slot)?,
            first: gpu.upload(&tableau.first)?,
            slot: gpu.upload(&tableau.slot)?,
            weight: gpu.upload(&tableau.weight)?,
            target: gpu.upload(&tableau.target)?,
            output: gpu.upload(&tableau.output)?,
            input: gpu.upload(&padded(&|t| t.input))?,
            time: gpu.upload(&padded(&|t| t.time))?,
            label: gpu.upload(&labels)?,
            first_image: gpu.allocate(8)?,
            history: gpu.allocate(tableau.slots * n * wide)?,
        };
        let slot = |i: i32| tables.history.part(i as usize * n * wide, n * wide);
        let mut result = vec![T::zero(); start.len()];
        let mut one_move = Repeated::default();
        for (i, (start, result)) in start.chunks(n).zip(result.chunks_mut(n)).enumerate() {
            gpu.write(tables.step.region(), &[0i32])?;
            gpu.write(tables.first_image.region(), &[(i * self.batch) as u64])?;
            // Rows behind the last one are computed, and not read.
            gpu.fill(slot(0), 0)?;
            gpu.write(slot(0), start)?;
            for _ in told {
                one_move.run(&gpu, || self.queue_move(&tables, seed))?;
            }
            self.queue_state(&tables, seed)?;
            gpu.read(slot(*tableau.target.last().expect("a tableau has a last move")), result)?;
        }
        Ok(result)
    }

    /// Queues a move: draws, state, what the network is told, the network, its output kept, the
    /// next move.
    fn queue_move(&self, tables: &Tables, seed: u64) -> Result<()> {
        self.queue_state(tables, seed)?;
        let on = &self.device;
        let step: Arg = tables.step.region().into();
        let args = [
            self.times.region().into(),
            self.labels.region().into(),
            step,
            tables.time.region().into(),
            tables.label.region().into(),
            self.batch.into(),
        ];
        on.launch("tell", (1, 1, 1), (256, 1), &args)?;
        self.queue_forward(&mut |_| Ok(()))?;
        let n = self.batch * self.program.tensors[self.program.output].size();
        let args = [
            self.output().into(),
            tables.history.region().into(),
            step,
            tables.output.region().into(),
            Arg::Long(n as i64),
        ];
        on.over(n, "keep_output", &args)?;
        on.launch("advance", (1, 1, 1), (1, 1), &[step])
    }

    /// Queues the draws of a move, and the state that it makes.
    fn queue_state(&self, tables: &Tables, seed: u64) -> Result<()> {
        let (on, input) = (&self.device, &self.program.tensors[self.program.input]);
        let n = self.batch * input.size();
        let at = |buffer: &Buffer| Arg::from(Region::from(buffer));
        let args = [
            at(&tables.history),
            at(&tables.step),
            at(&tables.draw_first),
            at(&tables.draw),
            at(&tables.draw_slot),
            Arg::Word(seed),
            at(&tables.first_image),
            self.batch.into(),
            input.height.into(),
            input.width.into(),
            input.channels.into(),
        ];
        on.over(n, "draw_normals", &args)?;
        let args = [
            at(&tables.history),
            at(&tables.step),
            at(&tables.first),
            at(&tables.slot),
            at(&tables.weight),
            at(&tables.input),
            at(&tables.target),
            self.input().into(),
            Arg::Long(n as i64),
        ];
        on.over(n, "combine", &args)
    }
}
