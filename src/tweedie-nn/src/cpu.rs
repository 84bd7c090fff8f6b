//! The executor on the CPU, in f32 to be fast or in f64 to be exact.

use super::element::Element;
use super::gather::{self, Epilogue, Table};
use super::op::{attention, embedding, norm, pointwise};
use super::program::{Op, ParamId, Pass, Plan, Program, TensorId};
use std::mem::take;
use tweedie::error::Result;

/// A program with the memory that it needs for a batch of a fixed size: nothing is allocated for a
/// tensor while it runs.
pub struct Cpu<T> {
    program: Program,
    batch: usize,
    /// Tables read backwards; none where there is no way back.
    transposed: Vec<Table>,
    values: Memory<T>,
    gradients: Memory<T>,
    /// By operation: statistics of a norm, logarithms of an attention's sums.
    kept: Vec<Vec<T>>,
    /// By operation: a dense layer's matrices, packed.
    forward_weights: Vec<Vec<T>>,
    /// One dense layer's transposed matrices, packed when its gradient is computed: a pass forward
    /// alone has no use for them.
    backward_weights: Vec<T>,
    /// All parameters but those of the dense layers, whose places are never touched and so take no
    /// memory.
    params: Vec<T>,
    times: Vec<f64>,
    labels: Vec<usize>,
}

/// The tensors of one pass.
struct Memory<T> {
    plan: Plan,
    slots: Vec<Vec<T>>,
    /// By tensor: numbers of a batch.
    lens: Vec<usize>,
}

impl<T: Element> Memory<T> {
    fn new(program: &Program, pass: Pass, batch: usize) -> Self {
        let plan = program.plan(pass);
        let slots = plan.sizes.iter().map(|n| vec![T::zero(); batch * n]).collect();
        Self { slots, plan, lens: program.tensors.iter().map(|t| batch * t.size()).collect() }
    }

    fn get(&self, t: TensorId) -> &[T] {
        &self.slots[self.plan.slots[t]][..self.lens[t]]
    }

    fn get_mut(&mut self, t: TensorId) -> &mut [T] {
        &mut self.slots[self.plan.slots[t]][..self.lens[t]]
    }

    /// Takes a tensor out while others are in use; nothing is allocated.
    fn take(&mut self, t: TensorId) -> Vec<T> {
        take(&mut self.slots[self.plan.slots[t]])
    }

    fn put_back(&mut self, t: TensorId, x: Vec<T>) {
        self.slots[self.plan.slots[t]] = x;
    }
}

impl<T: Element> Cpu<T> {
    /// Memory for `batch` images, with a way back.
    pub fn new(program: Program, batch: usize) -> Self {
        let transposed = program.tables.iter().map(Table::transposed).collect();
        let gradients = Memory::new(&program, Pass::Backward, batch);
        Self { transposed, gradients, ..Self::with_values(program, batch, Pass::Recorded) }
    }

    /// Memory for `batch` images forward alone: a fraction of what the way back takes.
    pub fn forward_only(program: Program, batch: usize) -> Self {
        Self::with_values(program, batch, Pass::Forward)
    }

    fn with_values(program: Program, batch: usize, pass: Pass) -> Self {
        let kept = program
            .ops
            .iter()
            .map(|op| match *op {
                Op::Norm { groups, .. } => vec![T::zero(); batch * groups * 2],
                Op::Attention { q, heads, .. } => {
                    vec![T::zero(); batch * heads * program.tensors[q].rows()]
                }
                _ => vec![],
            })
            .collect();
        let forward_weights = program
            .ops
            .iter()
            .map(|op| match *op {
                Op::Dense { table, x, out, .. } => {
                    let (a, b) = (program.tensors[x].channels, program.tensors[out].channels);
                    vec![T::zero(); gather::packed_len(&program.tables[table], a, b)]
                }
                _ => vec![],
            })
            .collect();
        Self {
            transposed: vec![],
            values: Memory::new(&program, pass, batch),
            gradients: Memory {
                plan: Plan { slots: vec![], sizes: vec![] },
                slots: vec![],
                lens: vec![],
            },
            kept,
            forward_weights,
            backward_weights: vec![],
            params: vec![T::zero(); program.param_count()],
            times: vec![0.0; batch],
            labels: vec![0; batch],
            batch,
            program,
        }
    }

    /// The program that it runs.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The value of a tensor after [`Cpu::forward`], (batch, rows, channels). With
    /// [`Cpu::forward_only`] the output alone still stands.
    pub fn value(&self, tensor: TensorId) -> &[T] {
        self.values.get(tensor)
    }

    /// The gradient by the input after [`Cpu::backward`], (batch, rows, channels).
    pub fn input_gradient(&self) -> &[T] {
        self.gradients.get(self.program.input)
    }

    /// Takes the parameters, all in one vector in the program's order.
    pub fn load(&mut self, params: &[T]) {
        assert_eq!(params.len(), self.program.param_count(), "parameters");
        for param in self.program.params.iter().filter(|p| !p.dense) {
            self.params[param.at.clone()].copy_from_slice(&params[param.at.clone()]);
        }
        for (i, op) in self.program.ops.iter().enumerate() {
            let Op::Dense { table, x, weight, out, .. } = *op else { continue };
            let (a, b) = (self.program.tensors[x].channels, self.program.tensors[out].channels);
            let w = &params[self.program.params[weight].at.clone()];
            gather::pack(&self.program.tables[table], &mut self.forward_weights[i], a, b, w);
        }
    }

    fn param(&self, id: ParamId) -> &[T] {
        &self.params[self.program.params[id].at.clone()]
    }

    /// The network's output for a batch, (batch, rows, channels).
    ///
    /// # Shapes
    /// `x` (batch, rows, channels), channels last; `times` and `labels` (batch), labels empty for a
    /// network without classes.
    ///
    /// # Errors
    /// A time that is not finite, or that the embedding has no place for; a label that is missing
    /// or beyond the table.
    pub fn forward(&mut self, x: &[T], times: &[f64], labels: &[usize]) -> Result<&[T]> {
        self.forward_observed(x, times, labels, &mut |_| {})
    }

    /// [`Cpu::forward`], calling `after` with the index of each operation when it is done: to time
    /// it, or to look at its output.
    ///
    /// # Errors
    /// As [`Cpu::forward`].
    pub fn forward_observed(
        &mut self,
        x: &[T],
        times: &[f64],
        labels: &[usize],
        after: &mut dyn FnMut(usize),
    ) -> Result<&[T]> {
        assert_eq!(times.len(), self.batch, "times");
        self.program.validate(self.batch, times, labels)?;
        self.times.copy_from_slice(times);
        self.labels.clear();
        self.labels.extend_from_slice(labels);
        let input = self.values.get_mut(self.program.input);
        assert_eq!(x.len(), input.len(), "input");
        input.copy_from_slice(x);
        if self.program.center_input {
            input.iter_mut().for_each(|x| *x = *x + *x - T::one());
        }
        for i in 0..self.program.ops.len() {
            self.forward_op(i);
            after(i);
        }
        if self.program.divide_by_time {
            divide_by_time(self.values.get_mut(self.program.output), times);
        }
        Ok(self.values.get(self.program.output))
    }

    /// One operation alone: its output on these values of its inputs. What another executor's
    /// operation is held to.
    ///
    /// # Shapes
    /// `inputs` in the order of [`Op::inputs`], each (batch, rows, channels).
    ///
    /// # Errors
    /// As [`Cpu::forward`].
    pub fn alone(
        &mut self,
        i: usize,
        inputs: &[Vec<T>],
        times: &[f64],
        labels: &[usize],
    ) -> Result<Vec<T>> {
        self.program.validate(self.batch, times, labels)?;
        self.times.copy_from_slice(times);
        self.labels = labels.to_vec();
        let op = self.program.ops[i].clone();
        for (t, x) in op.inputs().into_iter().zip(inputs) {
            self.values.get_mut(t).copy_from_slice(x);
        }
        self.forward_op(i);
        Ok(self.values.get(op.out()).to_vec())
    }

    /// The way back of the operation that [`Cpu::alone`] ran: gradients of its inputs; those of its
    /// parameters into `grads`.
    pub fn alone_back(&mut self, i: usize, dout: &[T], grads: &mut [T]) -> Vec<Vec<T>> {
        let op = self.program.ops[i].clone();
        self.gradients.get_mut(op.out()).copy_from_slice(dout);
        self.backward_op(i, &mut vec![false; self.program.tensors.len()], grads);
        op.inputs().into_iter().map(|t| self.gradients.get(t).to_vec()).collect()
    }

    fn forward_op(&mut self, i: usize) {
        let op = self.program.ops[i].clone();
        let mut taken = self.values.take(op.out());
        let out = &mut taken[..self.values.lens[op.out()]];
        let mut kept = take(&mut self.kept[i]);
        let p = &self.program;
        let channels = |t: TensorId| p.tensors[t].channels;
        let value = |t: TensorId| self.values.get(t);
        let optional = |t: Option<TensorId>| t.map_or(&[][..], value);
        match op {
            Op::Sinusoid { flip, shift, out: o } => {
                embedding::sinusoid(flip, shift, &self.times, channels(o), out)
            }
            Op::Fourier { weight, flip, .. } => {
                embedding::fourier(flip, self.param(weight), &self.times, out)
            }
            Op::Lookup { weight, by_class, out: o } => {
                embedding::lookup(self.param(weight), &self.rows_of(by_class), channels(o), out)
            }
            Op::Silu { x, .. } => pointwise::silu(value(x), out),
            Op::Dense { table, x, bias, image_bias, skip, scale, out: o, .. } => gather::rows(
                &p.tables[table],
                value(x),
                channels(x),
                &self.forward_weights[i],
                channels(o),
                Epilogue {
                    bias: bias.map_or(&[], |b| self.param(b)),
                    image_bias: optional(image_bias),
                    skip: optional(skip),
                    scale: T::of(scale),
                    keep: false,
                },
                out,
            ),
            Op::Norm { x, gamma, beta, groups, eps, modulation, silu, .. } => norm::forward(
                norm::Norm { channels: channels(x), groups, eps, silu },
                value(x),
                self.param(gamma),
                self.param(beta),
                optional(modulation),
                &mut kept,
                out,
            ),
            Op::Concat { a, b, .. } => {
                pointwise::concat(value(a), channels(a), value(b), channels(b), out)
            }
            Op::Attention { q, k, v, heads, .. } => attention::forward(
                attention::Attention { rows: p.tensors[q].rows(), channels: channels(q), heads },
                value(q),
                value(k),
                value(v),
                &mut kept,
                out,
            ),
            Op::Halve { x, out: o } => pointwise::halve(
                (p.tensors[o].height, p.tensors[o].width),
                channels(x),
                T::of(0.25),
                value(x),
                out,
                false,
            ),
            Op::Double { x, .. } => pointwise::double(
                (p.tensors[x].height, p.tensors[x].width),
                channels(x),
                T::one(),
                value(x),
                out,
                false,
            ),
            Op::Add { a, b, .. } => pointwise::add(value(a), value(b), out),
        }
        self.values.put_back(op.out(), taken);
        self.kept[i] = kept;
    }

    fn rows_of(&self, by_class: bool) -> Vec<usize> {
        if by_class {
            self.labels.clone()
        } else {
            self.times.iter().map(|&t| t as usize).collect()
        }
    }

    /// Gradients of a loss by all parameters, given its gradient by the output; that by the input
    /// is then [`Cpu::input_gradient`].
    ///
    /// # Shapes
    /// `dout` (batch, rows, channels); `grads` as the parameters, written.
    pub fn backward(&mut self, dout: &[T], grads: &mut [T]) {
        self.backward_observed(dout, grads, &mut |_| {});
    }

    /// [`Cpu::backward`], calling `after` with the index of each operation when its gradient is
    /// done.
    pub fn backward_observed(&mut self, dout: &[T], grads: &mut [T], after: &mut dyn FnMut(usize)) {
        assert_eq!(grads.len(), self.program.param_count(), "gradients");
        assert!(!self.gradients.slots.is_empty(), "an executor made by Cpu::new");
        let output = self.program.output;
        self.gradients.get_mut(output).copy_from_slice(dout);
        if self.program.divide_by_time {
            divide_by_time(self.gradients.get_mut(output), &self.times);
        }
        // Whether a tensor's gradient already holds something that the next one is added to.
        let mut begun = vec![false; self.program.tensors.len()];
        begun[output] = true;
        for i in (0..self.program.ops.len()).rev() {
            self.backward_op(i, &mut begun, grads);
            after(i);
        }
        if self.program.center_input {
            self.gradients.get_mut(self.program.input).iter_mut().for_each(|g| *g += *g);
        }
    }

    fn backward_op(&mut self, i: usize, begun: &mut [bool], grads: &mut [T]) {
        let op = self.program.ops[i].clone();
        let mut taken = self.gradients.take(op.out());
        let dout = &mut taken[..self.gradients.lens[op.out()]];
        let p = &self.program;
        let (params, values) = (&self.params, &self.values);
        let tensors = &p.tensors;
        let channels = |t: TensorId| tensors[t].channels;
        let value = |t: TensorId| values.get(t);
        let optional = |t: Option<TensorId>| t.map_or(&[][..], value);
        let range = |id: ParamId| p.params[id].at.clone();
        let gradients = &mut self.gradients;
        // A gradient to be written or added to, taken out of its place.
        let mut begin = |t: TensorId| std::mem::replace(&mut begun[t], true);
        match op {
            Op::Sinusoid { .. } => {}
            // Drawn once and never trained.
            Op::Fourier { weight, .. } => grads[range(weight)].fill(T::zero()),
            Op::Lookup { weight, by_class, out } => {
                let index = self.rows_of(by_class);
                embedding::lookup_backward(&index, channels(out), dout, &mut grads[range(weight)]);
            }
            Op::Silu { x, .. } => {
                pointwise::silu_backward(value(x), dout, gradients.get_mut(x), begin(x))
            }
            Op::Dense { table, x, weight, bias, image_bias, skip, scale, out } => {
                let (a, b) = (channels(x), channels(out));
                if scale != 1.0 {
                    let scale = T::of(scale);
                    dout.iter_mut().for_each(|d| *d *= scale);
                }
                if let Some(skip) = skip {
                    let keep = begin(skip);
                    pointwise::copy(T::one(), dout, gradients.get_mut(skip), keep);
                }
                if bias.is_some() || image_bias.is_some() {
                    let sums = column_sums(dout, tensors[out].rows(), b);
                    if let Some(t) = image_bias {
                        let keep = begin(t);
                        pointwise::copy(T::one(), &sums, gradients.get_mut(t), keep);
                    }
                    if let Some(bias) = bias {
                        let grad = &mut grads[range(bias)];
                        grad.fill(T::zero());
                        for sums in sums.chunks_exact(b) {
                            grad.iter_mut().zip(sums).for_each(|(g, s)| *g += *s);
                        }
                    }
                }
                gather::outer(&p.tables[table], value(x), a, dout, b, &mut grads[range(weight)]);
                let len = gather::packed_len(&self.transposed[table], b, a);
                if self.backward_weights.len() < len {
                    self.backward_weights.resize(len, T::zero());
                }
                let packed = &mut self.backward_weights[..len];
                gather::turn(&self.transposed[table], &self.forward_weights[i], b, a, packed);
                let keep = begin(x);
                gather::rows(
                    &self.transposed[table],
                    dout,
                    b,
                    packed,
                    a,
                    Epilogue::plain(keep),
                    gradients.get_mut(x),
                );
            }
            Op::Norm { x, gamma, beta, groups, eps, modulation, silu, .. } => {
                let c = channels(x);
                let mut dx = gradients.take(x);
                let mut dmodulation = modulation.map_or(vec![], |t| gradients.take(t));
                let (mut dgamma, mut dbeta) = (vec![T::zero(); c], vec![T::zero(); c]);
                norm::backward(
                    norm::Norm { channels: c, groups, eps, silu },
                    value(x),
                    &params[range(gamma)],
                    &params[range(beta)],
                    optional(modulation),
                    &self.kept[i],
                    dout,
                    (&mut dx, begin(x)),
                    &mut dgamma,
                    &mut dbeta,
                    (&mut dmodulation, modulation.is_some_and(&mut begin)),
                );
                grads[range(gamma)].copy_from_slice(&dgamma);
                grads[range(beta)].copy_from_slice(&dbeta);
                gradients.put_back(x, dx);
                if let Some(t) = modulation {
                    gradients.put_back(t, dmodulation);
                }
            }
            Op::Concat { a, b, .. } => {
                let (ca, cb) = (channels(a), channels(b));
                let keep = begin(a);
                pointwise::slice(dout, ca + cb, 0, gradients.get_mut(a), ca, keep);
                let keep = begin(b);
                pointwise::slice(dout, ca + cb, ca, gradients.get_mut(b), cb, keep);
            }
            Op::Attention { q, k, v, heads, out } => {
                let (mut dq, mut dk, mut dv) =
                    (gradients.take(q), gradients.take(k), gradients.take(v));
                attention::backward(
                    attention::Attention { rows: tensors[q].rows(), channels: channels(q), heads },
                    value(q),
                    value(k),
                    value(v),
                    value(out),
                    &self.kept[i],
                    dout,
                    (&mut dq, begin(q)),
                    (&mut dk, begin(k)),
                    (&mut dv, begin(v)),
                );
                [(q, dq), (k, dk), (v, dv)].into_iter().for_each(|(t, d)| gradients.put_back(t, d));
            }
            Op::Halve { x, out } => {
                let keep = begin(x);
                pointwise::double(
                    (tensors[out].height, tensors[out].width),
                    channels(x),
                    T::of(0.25),
                    dout,
                    gradients.get_mut(x),
                    keep,
                );
            }
            Op::Double { x, .. } => {
                let keep = begin(x);
                pointwise::halve(
                    (tensors[x].height, tensors[x].width),
                    channels(x),
                    T::one(),
                    dout,
                    gradients.get_mut(x),
                    keep,
                );
            }
            Op::Add { a, b, .. } => {
                for t in [a, b] {
                    let keep = begin(t);
                    pointwise::copy(T::one(), dout, gradients.get_mut(t), keep);
                }
            }
        }
        self.gradients.put_back(op.out(), taken);
    }
}

/// Each image over its time.
fn divide_by_time<T: Element>(x: &mut [T], times: &[f64]) {
    let size = x.len() / times.len();
    for (x, t) in x.chunks_exact_mut(size).zip(times) {
        let inverse = T::of(1.0 / t);
        x.iter_mut().for_each(|x| *x *= inverse);
    }
}

/// The sum over the rows of each image, (images, columns).
fn column_sums<T: Element>(x: &[T], rows: usize, columns: usize) -> Vec<T> {
    use rayon::prelude::*;
    let mut sums = vec![T::zero(); x.len() / rows];
    sums.par_chunks_exact_mut(columns).zip(x.par_chunks_exact(rows * columns)).for_each(
        |(sums, x)| {
            for x in x.chunks_exact(columns) {
                sums.iter_mut().zip(x).for_each(|(s, x)| *s += *x);
            }
        },
    );
    sums
}
