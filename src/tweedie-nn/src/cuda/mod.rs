//! The executor on a CUDA device: the same list of operations as on the CPU, forward and backward.
//!
//! All memory is taken once. A pass is a fixed sequence of kernels on fixed addresses, recorded the
//! second time that it runs and then queued as a whole. Convolutions go to cuDNN and products to
//! cuBLAS where these are installed, everything else to kernels of our own, which also stand in for
//! the libraries.

mod dense;
pub mod sampling;
pub mod source;
pub mod weights;

use self::dense::Dense;
use self::weights::Layout;
use crate::element::Element;
use crate::program::{Op, ParamId, Pass, Plan, Program, TensorId};
use std::sync::Arc;
use tweedie::error::Result;
use tweedie_device::Precision;
use tweedie_device::blas::Product;
use tweedie_device::gpu::{Arg, Buffer, Gpu, Launch, Program as Kernels, Region, Repeated};

/// Threads of a block of the kernels that loop over whole arrays.
const BLOCK: usize = 256;

/// A program with its memory on a device, for a batch of a fixed size. `T` is what the host sees:
/// f64 for [`Precision::F64`], else f32.
pub struct Cuda<T> {
    program: Program,
    batch: usize,
    device: On,
    layout: Layout,
    values: Memory,
    /// None where there is no way back.
    back: Option<Back>,
    /// By operation: statistics of a norm, probabilities of an attention where there is a way back.
    kept: Vec<Option<Buffer>>,
    /// By operation.
    dense: Vec<Option<Dense>>,
    /// Master copies, in the arithmetic type.
    params: Buffer,
    /// All of them in the storage type, where that is another.
    narrow: Option<Buffer>,
    times: Buffer,
    labels: Buffer,
    scratch: Scratch,
    /// The forward pass once it has run.
    forward: Repeated,
    /// Parameters as the device has them, a batch in, a batch out.
    host: Vec<T>,
    output: Vec<T>,
    input_gradient: Vec<T>,
}

/// What all queued work needs.
pub struct On {
    pub gpu: Arc<Gpu>,
    pub kernels: Arc<Kernels>,
    pub precision: Precision,
    /// Whether cuDNN and cuBLAS may be used where they are.
    pub libraries: bool,
}

/// Memory that is free again after each operation.
struct Scratch {
    /// Images made larger, scores of an attention; in the storage type.
    images: Buffer,
    /// Gradients of scores.
    scores: Buffer,
    /// Partial sums, in the arithmetic type.
    sums: Buffer,
    /// What cuDNN works in.
    workspace: Buffer,
    /// Arrays on their way to and from the host, in the arithmetic type.
    staging: Buffer,
}

struct Back {
    gradients: Memory,
    /// Of the dense weights, in the storage type.
    dense: Buffer,
    /// Of all others, in the arithmetic type.
    rest: Buffer,
    pass: Repeated,
}

/// The tensors of one pass.
struct Memory {
    plan: Plan,
    /// Where each slot begins, in bytes.
    starts: Vec<usize>,
    buffer: Buffer,
    /// By tensor: bytes of a batch.
    bytes: Vec<usize>,
}

impl Memory {
    fn new(on: &On, program: &Program, pass: Pass, batch: usize) -> Result<Self> {
        let plan = program.plan(pass);
        let number = on.precision.bytes();
        let mut end = 0;
        let starts = plan
            .sizes
            .iter()
            // Packs of 16 bytes, and whole lines of the cache.
            .map(|n| {
                let start = end;
                end = (start + batch * n * number).next_multiple_of(256);
                start
            })
            .collect();
        let bytes = program.tensors.iter().map(|t| batch * t.size() * number).collect();
        Ok(Self { plan, starts, buffer: on.gpu.allocate(end)?, bytes })
    }

    fn get(&self, t: TensorId) -> Region {
        self.buffer.part(self.starts[self.plan.slots[t]], self.bytes[t])
    }
}

impl On {
    /// Bytes of a number in the arithmetic type.
    pub fn wide(&self) -> usize {
        if self.precision == Precision::F64 { 8 } else { 4 }
    }

    /// A number in the arithmetic type.
    pub fn real(&self, x: f64) -> Arg {
        if self.precision == Precision::F64 { Arg::Double(x) } else { Arg::Single(x as f32) }
    }

    /// Queues a kernel that loops over `n` numbers.
    pub fn over(&self, n: usize, name: &'static str, args: &[Arg]) -> Result<()> {
        let blocks = n.div_ceil(BLOCK * 4).clamp(1, 32 * self.gpu.multiprocessors.max(1));
        self.kernels.launch(name, Launch { grid: (blocks, 1, 1), block: (BLOCK, 1) }, args)
    }

    /// Queues a kernel.
    pub fn launch(
        &self,
        name: &'static str,
        grid: (usize, usize, usize),
        block: (usize, usize),
        args: &[Arg],
    ) -> Result<()> {
        self.kernels.launch(name, Launch { grid, block }, args)
    }

    /// Queues a product: by cuBLAS, or by our own kernel.
    pub fn product(&self, p: &Product) -> Result<()> {
        if let Some(blas) = self.gpu.blas().filter(|_| self.libraries) {
            return blas.run(&self.gpu, p, self.precision);
        }
        let long = |x: usize| Arg::Long(x as i64);
        let (m, n, k) = p.size;
        let [a, b, c] = p.batch_steps;
        let args = [
            p.a.into(),
            p.b.into(),
            p.c.into(),
            m.into(),
            n.into(),
            k.into(),
            long(p.a_steps.0),
            long(p.a_steps.1),
            long(p.b_steps.0),
            long(p.b_steps.1),
            long(p.c_row),
            long(1),
            p.batch.1.into(),
            long(a.0),
            long(a.1),
            long(b.0),
            long(b.1),
            long(c.0),
            long(c.1),
            self.real(p.alpha),
            p.keep.into(),
        ];
        self.launch(
            "product",
            (m.div_ceil(64), n.div_ceil(64), p.batch.0 * p.batch.1),
            (BLOCK, 1),
            &args,
        )
    }
}

impl<T: Element> Cuda<T> {
    /// Memory for `batch` images, with a way back.
    ///
    /// # Errors
    /// Not enough memory; kernels that do not compile.
    ///
    /// # Panics
    /// Where `T` is not what the host sees of this precision.
    pub fn new(
        program: Program,
        batch: usize,
        gpu: &Arc<Gpu>,
        precision: Precision,
    ) -> Result<Self> {
        Self::with(program, batch, gpu, precision, true, true)
    }

    /// Memory for `batch` images forward alone.
    ///
    /// # Errors
    /// As [`Cuda::new`].
    pub fn forward_only(
        program: Program,
        batch: usize,
        gpu: &Arc<Gpu>,
        precision: Precision,
    ) -> Result<Self> {
        Self::with(program, batch, gpu, precision, false, true)
    }

    /// As [`Cuda::new`], by our own kernels alone.
    ///
    /// # Errors
    /// As [`Cuda::new`].
    pub fn without_libraries(
        program: Program,
        batch: usize,
        gpu: &Arc<Gpu>,
        precision: Precision,
    ) -> Result<Self> {
        Self::with(program, batch, gpu, precision, true, false)
    }

    fn with(
        program: Program,
        batch: usize,
        gpu: &Arc<Gpu>,
        precision: Precision,
        with_back: bool,
        libraries: bool,
    ) -> Result<Self> {
        assert_eq!(
            size_of::<T>() == 8,
            precision == Precision::F64,
            "f64 for f64, f32 for the others"
        );
        let kernels = source::kernels(gpu, precision)?;
        let on = On { gpu: gpu.clone(), kernels, precision, libraries };
        let (number, wide) = (precision.bytes(), on.wide());
        let layout = Layout::new(&program);
        let values = Memory::new(
            &on,
            &program,
            if with_back { Pass::Recorded } else { Pass::Forward },
            batch,
        )?;
        let dense = program
            .ops
            .iter()
            .map(|op| match op {
                Op::Dense { .. } => Some(Dense::new(&on, &program, op, batch)),
                _ => None,
            })
            .collect::<Vec<_>>();

        let rows_of =
            |channels: usize, rows: usize| span(channels, rows, batch, gpu.multiprocessors);
        let (mut images, mut scores, mut sums) = (0, 0, 0);
        let mut kept = vec![];
        for (op, dense) in program.ops.iter().zip(&dense) {
            let tensor = |t: TensorId| &program.tensors[t];
            kept.push(match *op {
                Op::Norm { x, groups, .. } => {
                    let chunks =
                        tensor(x).rows().div_ceil(rows_of(tensor(x).channels, tensor(x).rows()));
                    sums = sums.max(batch * chunks * tensor(x).channels.max(groups) * 2 * wide);
                    Some(gpu.allocate(batch * groups * 2 * wide)?)
                }
                Op::Attention { q, heads, .. } => {
                    let size = batch * heads * tensor(q).rows() * tensor(q).rows() * number;
                    images = images.max(size);
                    if with_back {
                        scores = scores.max(size);
                        Some(gpu.allocate(size)?)
                    } else {
                        None
                    }
                }
                Op::Dense { out, .. } => {
                    images = images.max(dense.as_ref().map_or(0, Dense::scratch) * number);
                    let partial = dense
                        .as_ref()
                        .filter(|_| with_back)
                        .map_or(0, |dense| dense.partial_sums(&on));
                    sums = sums.max(partial.max(batch * tensor(out).channels) * wide);
                    None
                }
                _ => None,
            });
        }
        let workspace = dense.iter().flatten().map(Dense::workspace).max().unwrap_or(0);
        let sizes = |t: TensorId| batch * program.tensors[t].size();
        let staging = sizes(program.input).max(sizes(program.output)).max(layout.len) * wide;
        let back = with_back
            .then(|| -> Result<Back> {
                let rest = gpu.allocate((layout.len - layout.dense) * wide)?;
                // Frequencies are drawn once and never trained: nothing else writes their gradient.
                gpu.fill(rest.region(), 0)?;
                let dense = gpu.allocate(layout.dense * number)?;
                // What lies between two weights has no gradient.
                gpu.fill(dense.region(), 0)?;
                Ok(Back {
                    gradients: Memory::new(&on, &program, Pass::Backward, batch)?,
                    dense,
                    rest,
                    pass: Repeated::default(),
                })
            })
            .transpose()?;
        Ok(Self {
            scratch: Scratch {
                images: gpu.allocate(images)?,
                scores: gpu.allocate(scores)?,
                sums: gpu.allocate(sums)?,
                workspace: gpu.allocate(workspace)?,
                staging: gpu.allocate(staging)?,
            },
            params: gpu.allocate(layout.len * wide)?,
            narrow: if number == wide { None } else { Some(gpu.allocate(layout.len * number)?) },
            times: gpu.allocate(batch * 8)?,
            labels: gpu.upload(&vec![0i32; batch])?,
            host: vec![T::zero(); layout.len],
            output: vec![T::zero(); sizes(program.output)],
            input_gradient: vec![],
            forward: Repeated::default(),
            layout,
            values,
            back,
            kept,
            dense,
            device: on,
            batch,
            program,
        })
    }

    /// The program that it runs.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The device.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.device.gpu
    }

    /// The kernels, and what else queued work needs.
    pub fn device(&self) -> &On {
        &self.device
    }

    /// Where each parameter lies.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The master copies of the parameters on the device, in its order.
    pub fn params(&self) -> Region {
        self.params.region()
    }

    /// All parameters in the storage type where that is another one.
    pub fn narrow(&self) -> Region {
        self.narrow.as_ref().map_or(Region::NONE, Buffer::region)
    }

    /// The gradients after [`Cuda::backward_on_device`]: of dense weights in the storage type, of
    /// the others in the arithmetic type.
    pub fn gradients(&self) -> (Region, Region) {
        let back = self.back();
        (back.dense.region(), back.rest.region())
    }

    fn back(&self) -> &Back {
        self.back.as_ref().expect("an executor with a way back")
    }

    /// Takes the parameters, all in one vector in the program's order.
    ///
    /// # Errors
    /// A lost device.
    pub fn load(&mut self, params: &[T]) -> Result<()> {
        assert_eq!(params.len(), self.program.param_count(), "parameters");
        self.layout.scatter(&self.program, params, &mut self.host);
        self.device.gpu.write(self.params.region(), &self.host)?;
        // The storage type's are rounded from them.
        let Some(narrow) = &self.narrow else { return Ok(()) };
        let n = self.layout.len;
        self.device.over(
            n,
            "narrow",
            &[self.params.region().into(), narrow.region().into(), Arg::Long(n as i64)],
        )
    }

    /// The parameters as they are on the device now, in the program's order.
    ///
    /// # Errors
    /// A lost device.
    pub fn download(&mut self, params: &mut [T]) -> Result<()> {
        self.device.gpu.read(self.params.region(), &mut self.host)?;
        self.layout.gather(&self.program, &self.host, params);
        Ok(())
    }

    /// A parameter in the type in which kernels read it: the weights of dense operations in the
    /// storage type.
    fn param(&self, id: ParamId) -> Region {
        if self.program.params[id].dense {
            return self.stored(id);
        }
        let (place, len) = (self.layout.place(id), self.program.params[id].at.len());
        self.params.part(place * self.device.wide(), len * self.device.wide())
    }

    /// A parameter in the storage type.
    fn stored(&self, id: ParamId) -> Region {
        let (place, len) = (self.layout.place(id), self.program.params[id].at.len());
        let number = self.device.precision.bytes();
        self.narrow.as_ref().unwrap_or(&self.params).part(place * number, len * number)
    }

    /// The gradient of a parameter.
    fn gradient(&self, id: ParamId) -> Region {
        let (place, len, back) =
            (self.layout.place(id), self.program.params[id].at.len(), self.back());
        if self.program.params[id].dense {
            let number = self.device.precision.bytes();
            back.dense.part(place * number, len * number)
        } else {
            back.rest
                .part((place - self.layout.dense) * self.device.wide(), len * self.device.wide())
        }
    }

    /// Where the batch goes in, in the storage type.
    pub fn input(&self) -> Region {
        self.values.get(self.program.input)
    }

    /// Where the network's output stands after a pass, in the storage type.
    pub fn output(&self) -> Region {
        self.values.get(self.program.output)
    }

    /// Where the gradient by the output goes in, in the storage type.
    pub fn output_gradient(&self) -> Region {
        self.back().gradients.get(self.program.output)
    }

    /// Says at which times the batch is, and of which classes.
    ///
    /// # Errors
    /// A time that is not finite, or that the embedding has no place for; a label that is missing
    /// or beyond the table.
    pub fn tell(&mut self, times: &[f64], labels: &[usize]) -> Result<()> {
        assert_eq!(times.len(), self.batch, "times");
        self.program.validate(self.batch, times, labels)?;
        self.device.gpu.write(self.times.region(), times)?;
        if !labels.is_empty() {
            let labels: Vec<i32> = labels.iter().map(|l| *l as i32).collect();
            self.device.gpu.write(self.labels.region(), &labels)?;
        }
        Ok(())
    }

    /// The network's output for a batch, (batch, rows, channels).
    ///
    /// # Shapes
    /// As [`Cpu::forward`](crate::cpu::Cpu::forward).
    ///
    /// # Errors
    /// As [`Cuda::tell`]; a lost device.
    pub fn forward(&mut self, x: &[T], times: &[f64], labels: &[usize]) -> Result<&[T]> {
        self.tell(times, labels)?;
        self.put(self.input(), x)?;
        self.forward_on_device()?;
        let mut output = std::mem::take(&mut self.output);
        let got = self.take(self.output(), &mut output);
        self.output = output;
        got.map(|()| &self.output[..])
    }

    /// The value of a tensor after [`Cuda::forward`], (batch, rows, channels); with
    /// [`Cuda::forward_only`] the output alone still stands.
    ///
    /// # Errors
    /// A lost device.
    pub fn value(&self, tensor: TensorId) -> Result<Vec<T>> {
        let mut value = vec![T::zero(); self.batch * self.program.tensors[tensor].size()];
        self.take(self.values.get(tensor), &mut value)?;
        Ok(value)
    }

    /// One operation alone, as [`Cpu::alone`](crate::cpu::Cpu::alone).
    ///
    /// # Errors
    /// As [`Cuda::forward`].
    pub fn alone(
        &mut self,
        i: usize,
        inputs: &[Vec<T>],
        times: &[f64],
        labels: &[usize],
    ) -> Result<Vec<T>> {
        self.tell(times, labels)?;
        let op = self.program.ops[i].clone();
        op.inputs()
            .into_iter()
            .zip(inputs)
            .try_for_each(|(t, x)| self.put(self.values.get(t), x))?;
        self.forward_op(i)?;
        self.value(op.out())
    }

    /// The way back of the operation that [`Cuda::alone`] ran, as
    /// [`Cpu::alone_back`](crate::cpu::Cpu::alone_back).
    ///
    /// # Errors
    /// A lost device.
    pub fn alone_back(&mut self, i: usize, dout: &[T], grads: &mut [T]) -> Result<Vec<Vec<T>>> {
        let op = self.program.ops[i].clone();
        self.put(self.back().gradients.get(op.out()), dout)?;
        self.backward_op(i, &mut vec![false; self.program.tensors.len()])?;
        self.read_gradients(grads)?;
        let gradient = |t: TensorId| {
            let mut gradient = vec![T::zero(); self.batch * self.program.tensors[t].size()];
            self.take(self.back().gradients.get(t), &mut gradient).map(|()| gradient)
        };
        op.inputs().into_iter().map(gradient).collect()
    }

    /// Brings an array of the host into the storage type on the device.
    fn put(&self, to: Region, x: &[T]) -> Result<()> {
        if self.narrow.is_none() {
            assert_eq!(size_of_val(x), to.bytes(), "a batch");
            return self.device.gpu.write(to, x);
        }
        let number = self.device.precision.bytes();
        assert_eq!(x.len() * number, to.bytes(), "a batch");
        // A tensor in the middle may be larger than what comes and goes.
        let most = self.scratch.staging.region().bytes() / size_of::<T>();
        for (i, x) in x.chunks(most).enumerate() {
            let staging = self.scratch.staging.part(0, size_of_val(x));
            self.device.gpu.write(staging, x)?;
            let to = to.part(i * most * number, x.len() * number);
            self.device.over(
                x.len(),
                "narrow",
                &[staging.into(), to.into(), Arg::Long(x.len() as i64)],
            )?;
        }
        Ok(())
    }

    /// The way back.
    fn take(&self, from: Region, x: &mut [T]) -> Result<()> {
        if self.narrow.is_none() {
            return self.device.gpu.read(from, x);
        }
        let most = self.scratch.staging.region().bytes() / size_of::<T>();
        let number = self.device.precision.bytes();
        for (i, x) in x.chunks_mut(most).enumerate() {
            let staging = self.scratch.staging.part(0, size_of_val(x));
            let from = from.part(i * most * number, x.len() * number);
            self.device.over(
                x.len(),
                "widen",
                &[from.into(), staging.into(), Arg::Long(x.len() as i64)],
            )?;
            self.device.gpu.read(staging, x)?;
        }
        Ok(())
    }

    /// Queues the forward pass of what [`Cuda::input`] and [`Cuda::tell`] were given.
    pub fn forward_on_device(&mut self) -> Result<()> {
        let mut forward = std::mem::take(&mut self.forward);
        let run = forward.run(&self.device.gpu, || self.queue_forward(&mut |_| Ok(())));
        self.forward = forward;
        run
    }

    /// The forward pass piece by piece, calling `after` with the index of each operation when it is
    /// done.
    ///
    /// # Errors
    /// As [`Cuda::forward`]; those of `after`.
    pub fn forward_observed(&self, after: &mut dyn FnMut(usize) -> Result<()>) -> Result<()> {
        self.queue_forward(&mut |i| {
            self.device.gpu.synchronize()?;
            after(i)
        })
    }

    /// The way back piece by piece, calling `after` with the index of each operation when its
    /// gradient is done.
    ///
    /// # Errors
    /// A lost device; those of `after`.
    pub fn backward_observed(&self, after: &mut dyn FnMut(usize) -> Result<()>) -> Result<()> {
        self.queue_backward(&mut |i| {
            self.device.gpu.synchronize()?;
            after(i)
        })
    }

    /// Queues the forward pass piece by piece; also inside a recording.
    pub fn queue_forward(&self, after: &mut dyn FnMut(usize) -> Result<()>) -> Result<()> {
        let on = &self.device;
        if self.program.center_input {
            let n = self.batch * self.program.tensors[self.program.input].size();
            on.over(
                n,
                "affine",
                &[self.input().into(), on.real(2.0), on.real(-1.0), Arg::Long(n as i64)],
            )?;
        }
        for i in 0..self.program.ops.len() {
            self.forward_op(i)?;
            after(i)?;
        }
        if self.program.divide_by_time { self.divide_by_time(self.output()) } else { Ok(()) }
    }

    fn divide_by_time(&self, x: Region) -> Result<()> {
        let size = self.program.tensors[self.program.output].size();
        let args =
            [x.into(), self.times.region().into(), self.batch.into(), Arg::Long(size as i64)];
        self.device.over(self.batch * size, "divide_by_time", &args)
    }

    fn forward_op(&self, i: usize) -> Result<()> {
        let (p, on, n) = (&self.program, &self.device, self.batch);
        let tensor = |t: TensorId| &p.tensors[t];
        let value = |t: TensorId| self.values.get(t);
        let optional = |t: Option<TensorId>| t.map_or(Region::NONE, value);
        let numbers = |t: TensorId| n * tensor(t).size();
        let op = &p.ops[i];
        let out = value(op.out());
        let kept = self.kept[i].as_ref().map_or(Region::NONE, Buffer::region);
        match *op {
            Op::Sinusoid { flip, shift, out: o } => {
                let c = tensor(o).channels;
                on.over(
                    n * c,
                    "sinusoid",
                    &[
                        self.times.region().into(),
                        out.into(),
                        n.into(),
                        c.into(),
                        flip.into(),
                        shift.into(),
                    ],
                )
            }
            Op::Fourier { weight, flip, out: o } => {
                let c = tensor(o).channels;
                let weight = self.param(weight);
                on.over(
                    n * c,
                    "fourier",
                    &[
                        self.times.region().into(),
                        weight.into(),
                        out.into(),
                        n.into(),
                        c.into(),
                        flip.into(),
                    ],
                )
            }
            Op::Lookup { weight, by_class, out: o } => {
                let c = tensor(o).channels;
                let index = if by_class { self.labels.region() } else { Region::NONE };
                let args = [
                    self.param(weight).into(),
                    index.into(),
                    self.times.region().into(),
                    out.into(),
                    n.into(),
                    c.into(),
                ];
                on.over(n * c, "lookup", &args)
            }
            Op::Silu { x, .. } => on.over(
                numbers(x),
                "silu",
                &[value(x).into(), out.into(), Arg::Long(numbers(x) as i64)],
            ),
            Op::Dense { x, weight, bias, image_bias, skip, scale, .. } => {
                let dense = self.dense[i].as_ref().expect("made for every dense operation");
                dense.forward(
                    on,
                    value(x),
                    self.param(weight),
                    dense::Epilogue {
                        bias: bias.map_or(Region::NONE, |b| self.param(b)),
                        stored_bias: bias.map_or(Region::NONE, |b| self.stored(b)),
                        image_bias: optional(image_bias),
                        skip: optional(skip),
                        scale,
                    },
                    out,
                    (self.scratch.images.region(), self.scratch.workspace.region()),
                )
            }
            Op::Norm { x, gamma, beta, groups, eps, modulation, silu, .. } => {
                let (rows, c) = (tensor(x).rows(), tensor(x).channels);
                let span = span(c, rows, n, on.gpu.multiprocessors);
                let (grid, partial) = ((rows.div_ceil(span), n, 1), self.scratch.sums.region());
                let sizes: [Arg; 4] = [rows.into(), c.into(), groups.into(), span.into()];
                let [a, b, d, e] = sizes;
                on.launch(
                    "norm_partial",
                    grid,
                    (BLOCK, 1),
                    &[value(x).into(), partial.into(), a, b, d, e],
                )?;
                let args = [
                    value(x).into(),
                    self.param(gamma).into(),
                    self.param(beta).into(),
                    optional(modulation).into(),
                    partial.into(),
                    kept.into(),
                    out.into(),
                    a,
                    b,
                    d,
                    e,
                    on.real(eps),
                    silu.into(),
                ];
                on.launch("norm_forward", grid, (BLOCK, 1), &args)
            }
            Op::Concat { a, b, .. } => {
                let (ca, cb) = (tensor(a).channels, tensor(b).channels);
                let pixels = Arg::Long((n * tensor(a).rows()) as i64);
                let args =
                    [value(a).into(), ca.into(), value(b).into(), cb.into(), out.into(), pixels];
                on.over(numbers(op.out()), "concat", &args)
            }
            Op::Attention { q, k, v, heads, .. } => {
                let scores = if self.back.is_some() { kept } else { self.scratch.images.region() };
                let shape = self.heads(q, heads);
                on.product(&shape.scores(value(q), value(k), scores))?;
                let rows = n * heads * shape.rows;
                let args = [
                    scores.into(),
                    Arg::Long(rows as i64),
                    shape.rows.into(),
                    on.real(shape.scale()),
                ];
                on.launch("softmax", (rows.div_ceil(4), 1, 1), (128, 1), &args)?;
                on.product(&shape.mixed(scores, value(v), out, false))
            }
            Op::Halve { x, out: o } => self.resample("halve", value(x), out, 0.25, false, o),
            Op::Double { x, .. } => self.resample("doubled", value(x), out, 1.0, false, x),
            Op::Add { a, b, .. } => on.over(
                numbers(a),
                "add",
                &[value(a).into(), value(b).into(), out.into(), Arg::Long(numbers(a) as i64)],
            ),
        }
    }

    fn heads(&self, q: TensorId, heads: usize) -> Heads {
        let q = &self.program.tensors[q];
        Heads { images: self.batch, rows: q.rows(), channels: q.channels, heads }
    }

    /// `halve` or `doubled` between two sizes, of which `small` is the smaller tensor.
    fn resample(
        &self,
        kernel: &'static str,
        from: Region,
        to: Region,
        scale: f64,
        keep: bool,
        small: TensorId,
    ) -> Result<()> {
        let (on, t) = (&self.device, &self.program.tensors[small]);
        let args = [
            from.into(),
            to.into(),
            on.real(scale),
            keep.into(),
            self.batch.into(),
            t.height.into(),
            t.width.into(),
            t.channels.into(),
        ];
        on.over(to.bytes() / on.precision.bytes(), kernel, &args)
    }

    /// Gradients of a loss by all parameters, given its gradient by the output; that by the input
    /// is then [`Cuda::input_gradient`].
    ///
    /// # Shapes
    /// As [`Cpu::backward`](crate::cpu::Cpu::backward).
    ///
    /// # Errors
    /// A lost device.
    pub fn backward(&mut self, dout: &[T], grads: &mut [T]) -> Result<()> {
        assert_eq!(grads.len(), self.program.param_count(), "gradients");
        self.put(self.output_gradient(), dout)?;
        self.backward_on_device()?;
        self.read_gradients(grads)?;
        let mut gradient = std::mem::take(&mut self.input_gradient);
        gradient.resize(self.batch * self.program.tensors[self.program.input].size(), T::zero());
        let got = self.take(self.back().gradients.get(self.program.input), &mut gradient);
        self.input_gradient = gradient;
        got
    }

    /// The gradients as they are on the device now, in the program's order.
    ///
    /// # Errors
    /// A lost device.
    pub fn read_gradients(&mut self, grads: &mut [T]) -> Result<()> {
        let mut host = std::mem::take(&mut self.host);
        let (dense, rest) = host.split_at_mut(self.layout.dense);
        let (from, others) = self.gradients();
        let got = self.take(from, dense).and_then(|()| self.device.gpu.read(others, rest));
        self.layout.gather(&self.program, &host, grads);
        self.host = host;
        got
    }

    /// The gradient by the input after [`Cuda::backward`], (batch, rows, channels).
    pub fn input_gradient(&self) -> &[T] {
        &self.input_gradient
    }

    /// Queues the backward pass from what [`Cuda::output_gradient`] was given.
    pub fn backward_on_device(&mut self) -> Result<()> {
        let mut pass =
            std::mem::take(&mut self.back.as_mut().expect("an executor with a way back").pass);
        let run = pass.run(&self.device.gpu, || self.queue_backward(&mut |_| Ok(())));
        self.back.as_mut().expect("an executor with a way back").pass = pass;
        run
    }

    /// Queues the backward pass piece by piece; also inside a recording.
    pub fn queue_backward(&self, after: &mut dyn FnMut(usize) -> Result<()>) -> Result<()> {
        let on = &self.device;
        if self.program.divide_by_time {
            self.divide_by_time(self.output_gradient())?;
        }
        // Whether a tensor's gradient already holds something that the next one is added to.
        let mut begun = vec![false; self.program.tensors.len()];
        begun[self.program.output] = true;
        for i in (0..self.program.ops.len()).rev() {
            self.backward_op(i, &mut begun)?;
            after(i)?;
        }
        if self.program.center_input {
            let n = self.batch * self.program.tensors[self.program.input].size();
            let dx = self.back().gradients.get(self.program.input);
            on.over(n, "affine", &[dx.into(), on.real(2.0), on.real(0.0), Arg::Long(n as i64)])?;
        }
        Ok(())
    }

    fn backward_op(&self, i: usize, begun: &mut [bool]) -> Result<()> {
        let (p, on, n, back) = (&self.program, &self.device, self.batch, self.back());
        let tensor = |t: TensorId| &p.tensors[t];
        let value = |t: TensorId| self.values.get(t);
        let d = |t: TensorId| back.gradients.get(t);
        let numbers = |t: TensorId| n * tensor(t).size();
        let long = |x: usize| Arg::Long(x as i64);
        let op = &p.ops[i];
        let dout = d(op.out());
        let sums = self.scratch.sums.region();
        let mut begin = |t: TensorId| std::mem::replace(&mut begun[t], true);
        let accumulate = |t: TensorId, keep: bool| {
            on.over(
                numbers(t),
                "accumulate",
                &[dout.into(), on.real(1.0), d(t).into(), keep.into(), long(numbers(t))],
            )
        };
        match *op {
            Op::Sinusoid { .. } | Op::Fourier { .. } => Ok(()),
            Op::Lookup { weight, by_class, out } => {
                let index = if by_class { self.labels.region() } else { Region::NONE };
                let (rows, c) = (p.params[weight].shape[0], tensor(out).channels);
                let args = [
                    index.into(),
                    self.times.region().into(),
                    dout.into(),
                    self.gradient(weight).into(),
                    n.into(),
                    rows.into(),
                    c.into(),
                ];
                on.over(rows * c, "lookup_gradient", &args)
            }
            Op::Silu { x, .. } => {
                let args =
                    [value(x).into(), dout.into(), d(x).into(), begin(x).into(), long(numbers(x))];
                on.over(numbers(x), "silu_gradient", &args)
            }
            Op::Dense { x, weight, bias, image_bias, skip, scale, out, .. } => {
                if scale != 1.0 {
                    on.over(
                        numbers(out),
                        "affine",
                        &[dout.into(), on.real(scale), on.real(0.0), long(numbers(out))],
                    )?;
                }
                if let Some(skip) = skip {
                    accumulate(skip, begin(skip))?;
                }
                if bias.is_some() || image_bias.is_some() {
                    let (rows, c) = (tensor(out).rows(), tensor(out).channels);
                    let args = [dout.into(), sums.into(), n.into(), rows.into(), c.into()];
                    on.launch("bias_gradient", (n, c.div_ceil(32), 1), (32, 8), &args)?;
                    let args = [
                        sums.into(),
                        bias.map_or(Region::NONE, |b| self.gradient(b)).into(),
                        image_bias.map_or(Region::NONE, d).into(),
                        image_bias.is_some_and(&mut begin).into(),
                        n.into(),
                        c.into(),
                    ];
                    on.launch("bias_gradient_finish", (c.div_ceil(32), 1, 1), (32, 16), &args)?;
                }
                let dense = self.dense[i].as_ref().expect("made for every dense operation");
                let scratch = (self.scratch.images.region(), self.scratch.workspace.region());
                dense.weight_gradient(on, value(x), dout, self.gradient(weight), sums, scratch)?;
                dense.input_gradient(on, dout, self.param(weight), d(x), begin(x), scratch)
            }
            Op::Norm { x, gamma, beta, groups, modulation, silu, .. } => {
                let (rows, c) = (tensor(x).rows(), tensor(x).channels);
                let span = span(c, rows, n, on.gpu.multiprocessors);
                let chunks = rows.div_ceil(span);
                let stats = self.kept[i].as_ref().map_or(Region::NONE, Buffer::region);
                let shared: [Arg; 6] = [
                    value(x).into(),
                    dout.into(),
                    self.param(gamma).into(),
                    self.param(beta).into(),
                    modulation.map_or(Region::NONE, value).into(),
                    stats.into(),
                ];
                let sizes: [Arg; 5] =
                    [rows.into(), c.into(), groups.into(), span.into(), silu.into()];
                let grid = (chunks, n, 1);
                on.launch(
                    "norm_backward_partial",
                    grid,
                    (BLOCK, 1),
                    &[&shared[..], &[sums.into()], &sizes].concat(),
                )?;
                let into = [sums.into(), d(x).into(), begin(x).into()];
                on.launch(
                    "norm_backward_input",
                    grid,
                    (BLOCK, 1),
                    &[&shared[..], &into, &sizes].concat(),
                )?;
                let args = [
                    self.param(gamma).into(),
                    self.param(beta).into(),
                    modulation.map_or(Region::NONE, value).into(),
                    sums.into(),
                    self.gradient(gamma).into(),
                    self.gradient(beta).into(),
                    modulation.map_or(Region::NONE, d).into(),
                    modulation.is_some_and(&mut begin).into(),
                    n.into(),
                    chunks.into(),
                    c.into(),
                ];
                on.launch("norm_backward_params", (c.div_ceil(32), 1, 1), (32, 16), &args)
            }
            Op::Concat { a, b, .. } => {
                let (ca, cb) = (tensor(a).channels, tensor(b).channels);
                let args = [
                    dout.into(),
                    d(a).into(),
                    ca.into(),
                    begin(a).into(),
                    d(b).into(),
                    cb.into(),
                    begin(b).into(),
                    long(n * tensor(a).rows()),
                ];
                on.over(numbers(op.out()), "split", &args)
            }
            Op::Attention { q, k, v, heads, .. } => {
                let shape = self.heads(q, heads);
                let probabilities = self.kept[i].as_ref().map_or(Region::NONE, Buffer::region);
                let ds = self.scratch.scores.part(0, probabilities.bytes());
                on.product(&shape.gathered(probabilities, dout, d(v), begin(v)))?;
                on.product(&shape.scores(dout, value(v), ds))?;
                let rows = n * heads * shape.rows;
                let args = [
                    probabilities.into(),
                    ds.into(),
                    long(rows),
                    shape.rows.into(),
                    on.real(shape.scale()),
                ];
                on.launch("softmax_gradient", (rows.div_ceil(4), 1, 1), (128, 1), &args)?;
                on.product(&shape.mixed(ds, value(k), d(q), begin(q)))?;
                on.product(&shape.gathered(ds, value(q), d(k), begin(k)))
            }
            Op::Halve { x, out } => self.resample("doubled", dout, d(x), 0.25, begin(x), out),
            Op::Double { x, .. } => self.resample("halve", dout, d(x), 1.0, begin(x), x),
            Op::Add { a, b, .. } => {
                accumulate(a, begin(a))?;
                accumulate(b, begin(b))
            }
        }
    }
}

impl<T: Element> Cuda<T> {
    /// A product of two square matrices in this precision, to be called and waited for: what the
    /// device can do at best.
    ///
    /// # Errors
    /// A device without enough memory.
    pub fn square_product(&self, n: usize) -> Result<impl Fn() -> Result<()> + '_> {
        let on = &self.device;
        let buffers = (0..3)
            .map(|_| on.gpu.allocate(n * n * on.precision.bytes()))
            .collect::<Result<Vec<_>>>()?;
        // Zeros take less power, and so less time, than other numbers: 0x3F3F is 0.75 in bfloat16
        // and as the upper half of any other.
        buffers.iter().try_for_each(|b| on.gpu.fill(b.region(), 0x3F))?;
        Ok(move || {
            let [a, b, c] = [0, 1, 2].map(|i| buffers[i].region());
            let (size, batch_steps) = ((n, n, n), [(0, 0); 3]);
            let (a_steps, b_steps, batch) = ((n, 1), (1, n), (1, 1));
            on.product(&Product {
                a,
                a_steps,
                b,
                b_steps,
                c,
                c_row: n,
                size,
                batch,
                batch_steps,
                alpha: 1.0,
                keep: false,
            })?;
            on.gpu.synchronize()
        })
    }
}

/// Rows of an image that one block of a norm's kernels takes: 16,384 numbers, because a block costs
/// some rows of each thread beside its own, but less where the device would not be filled twice.
fn span(channels: usize, rows: usize, images: usize, multiprocessors: usize) -> usize {
    let rows_of = |numbers: usize| (numbers / channels).clamp(1, rows);
    let fills = |numbers: &usize| images * rows.div_ceil(rows_of(*numbers)) >= 2 * multiprocessors;
    rows_of([16_384, 8192].into_iter().find(fills).unwrap_or(4096))
}

/// An attention as products of matrices: rows of an image's head are `channels` apart, scores of a
/// head lie together.
#[derive(Clone, Copy)]
struct Heads {
    images: usize,
    rows: usize,
    channels: usize,
    heads: usize,
}

impl Heads {
    fn depth(&self) -> usize {
        self.channels / self.heads
    }

    fn scale(&self) -> f64 {
        1.0 / (self.depth() as f64).sqrt()
    }

    /// From one image, and from one head, to the next: in an array of rows, in one of scores.
    fn steps(&self) -> ((usize, usize), (usize, usize)) {
        let square = self.rows * self.rows;
        ((self.rows * self.channels, self.depth()), (self.heads * square, square))
    }

    /// `to[i, j] = sum_d a[i, d] b[j, d]`.
    fn scores(&self, a: Region, b: Region, to: Region) -> Product {
        let (rows, scores) = self.steps();
        Product {
            a,
            a_steps: (self.channels, 1),
            b,
            b_steps: (1, self.channels),
            c: to,
            c_row: self.rows,
            size: (self.rows, self.rows, self.depth()),
            batch: (self.images, self.heads),
            batch_steps: [rows, rows, scores],
            alpha: 1.0,
            keep: false,
        }
    }

    /// `to[i, d] = sum_j p[i, j] x[j, d]`.
    fn mixed(&self, p: Region, x: Region, to: Region, keep: bool) -> Product {
        let (rows, scores) = self.steps();
        Product {
            a: p,
            a_steps: (self.rows, 1),
            b: x,
            b_steps: (self.channels, 1),
            c: to,
            c_row: self.channels,
            size: (self.rows, self.depth(), self.rows),
            batch: (self.images, self.heads),
            batch_steps: [scores, rows, rows],
            alpha: 1.0,
            keep,
        }
    }

    /// `to[j, d] = sum_i p[i, j] x[i, d]`.
    fn gathered(&self, p: Region, x: Region, to: Region, keep: bool) -> Product {
        Product { a_steps: (1, self.rows), ..self.mixed(p, x, to, keep) }
    }
}
