//! A network as a static list of operations, built once from its config and run by every executor.

use super::gather::Table;
use std::collections::HashMap;
use std::ops::Range;
use tweedie::error::{Error, Result};
use tweedie::room;

/// A value that flows between operations: `rows` of `channels` numbers for each image, channels
/// last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    pub name: String,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

impl Tensor {
    /// Pixels of one image.
    pub fn rows(&self) -> usize {
        self.height * self.width
    }

    /// Numbers of one image.
    pub fn size(&self) -> usize {
        self.rows() * self.channels
    }
}

/// Index of a [`Tensor`] in its program.
pub type TensorId = usize;

/// A trained array, under the name and with the shape of its checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    pub name: String,
    pub shape: Vec<usize>,
    /// Whether it is the weight of a dense operation: (out, in, height, width) or (out, in) in a
    /// checkpoint, and (height, width, in, out) in the vector of all parameters, where the kernels
    /// read and write rows of `out`.
    pub dense: bool,
    /// Where it lies in the flat vector of all parameters.
    pub at: Range<usize>,
}

/// Index of a [`Param`] in its program.
pub type ParamId = usize;

/// One operation. Each is described, with its gradient, in the module of its name under
/// [`op`](super::op).
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Sines and cosines of the time, `out` (1, channels).
    Sinusoid { flip: bool, shift: f64, out: TensorId },
    /// Sines and cosines of `2 pi w log t`.
    Fourier { weight: ParamId, flip: bool, out: TensorId },
    /// A row of a table for each image: by the time (`by_class` false) or by the label.
    Lookup { weight: ParamId, by_class: bool, out: TensorId },
    /// `x sigmoid(x)`.
    Silu { x: TensorId, out: TensorId },
    /// A convolution or linear layer: gathered rows times a matrix, plus bias, a bias of each image
    /// and a skip, times `scale`.
    Dense {
        table: usize,
        x: TensorId,
        weight: ParamId,
        bias: Option<ParamId>,
        image_bias: Option<TensorId>,
        skip: Option<TensorId>,
        scale: f64,
        out: TensorId,
    },
    /// Group normalisation, `(1 + scale) . + shift` where `modulation` (1, 2 channels) is given,
    /// SiLU where `silu`.
    Norm {
        x: TensorId,
        gamma: ParamId,
        beta: ParamId,
        groups: usize,
        eps: f64,
        modulation: Option<TensorId>,
        silu: bool,
        out: TensorId,
    },
    /// Channels of `a`, then of `b`.
    Concat { a: TensorId, b: TensorId, out: TensorId },
    /// `softmax(q k^T / sqrt(channels / heads)) v`, head by head.
    Attention { q: TensorId, k: TensorId, v: TensorId, heads: usize, out: TensorId },
    /// Each pixel the average of four.
    Halve { x: TensorId, out: TensorId },
    /// Each pixel four times.
    Double { x: TensorId, out: TensorId },
    /// `a + b`.
    Add { a: TensorId, b: TensorId, out: TensorId },
}

impl Op {
    /// The tensor that it writes.
    pub fn out(&self) -> TensorId {
        match *self {
            Self::Sinusoid { out, .. }
            | Self::Fourier { out, .. }
            | Self::Lookup { out, .. }
            | Self::Silu { out, .. }
            | Self::Dense { out, .. }
            | Self::Norm { out, .. }
            | Self::Concat { out, .. }
            | Self::Attention { out, .. }
            | Self::Halve { out, .. }
            | Self::Double { out, .. }
            | Self::Add { out, .. } => out,
        }
    }

    /// The tensors that it reads.
    pub fn inputs(&self) -> Vec<TensorId> {
        match *self {
            Self::Sinusoid { .. } | Self::Fourier { .. } | Self::Lookup { .. } => vec![],
            Self::Silu { x, .. } | Self::Halve { x, .. } | Self::Double { x, .. } => vec![x],
            Self::Dense { x, image_bias, skip, .. } => {
                [Some(x), image_bias, skip].into_iter().flatten().collect()
            }
            Self::Norm { x, modulation, .. } => {
                [Some(x), modulation].into_iter().flatten().collect()
            }
            Self::Concat { a, b, .. } | Self::Add { a, b, .. } => vec![a, b],
            Self::Attention { q, k, v, .. } => vec![q, k, v],
        }
    }

    /// Its name.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Sinusoid { .. } => "sinusoid",
            Self::Fourier { .. } => "fourier",
            Self::Lookup { .. } => "lookup",
            Self::Silu { .. } => "silu",
            Self::Dense { .. } => "dense",
            Self::Norm { .. } => "norm",
            Self::Concat { .. } => "concat",
            Self::Attention { .. } => "attention",
            Self::Halve { .. } => "halve",
            Self::Double { .. } => "double",
            Self::Add { .. } => "add",
        }
    }

    /// The parameters that it reads.
    pub fn params(&self) -> Vec<ParamId> {
        match *self {
            Self::Fourier { weight, .. } | Self::Lookup { weight, .. } => vec![weight],
            Self::Dense { weight, bias, .. } => {
                [Some(weight), bias].into_iter().flatten().collect()
            }
            Self::Norm { gamma, beta, .. } => vec![gamma, beta],
            _ => vec![],
        }
    }
}

/// Operations in order, with everything that they refer to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    pub tensors: Vec<Tensor>,
    pub params: Vec<Param>,
    pub tables: Vec<Table>,
    pub ops: Vec<Op>,
    /// The image that goes in, channels last.
    pub input: TensorId,
    /// What the network says of it.
    pub output: TensorId,
    /// `2 x - 1` before anything else.
    pub center_input: bool,
    /// The output is divided by the time.
    pub divide_by_time: bool,
    /// What each table is made of.
    pub kinds: Vec<TableKind>,
}

/// What a table is made of, so that layers of one geometry share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    Identity { rows: usize },
    Convolution { size: (usize, usize), kernel: usize, stride: usize, before: usize, after: usize },
    Upsampling { size: (usize, usize) },
}

/// Which tensors a pass has to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Forward alone: a value is kept until its last use.
    Forward,
    /// Forward with a way back: every value is kept.
    Recorded,
    /// The way back: a gradient is kept from the first operation that adds to it to the one whose
    /// output it belongs to.
    Backward,
}

/// Where the tensors of a pass lie in memory: those whose lives do not meet share a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// By tensor.
    pub slots: Vec<usize>,
    /// Numbers of one image in each slot.
    pub sizes: Vec<usize>,
}

impl Plan {
    /// Numbers of one image in all slots.
    pub fn len(&self) -> usize {
        self.sizes.iter().sum()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.sizes.is_empty()
    }

    /// Puts a tensor that has no slot yet into the smallest free one that is large enough, else
    /// into the largest, which grows.
    fn place(&mut self, t: TensorId, size: usize, free: &mut Vec<usize>) {
        if self.slots[t] != usize::MAX {
            return;
        }
        let best = (0..free.len()).min_by_key(|&i| match self.sizes[free[i]] {
            there if there >= size => (0, there - size),
            there => (1, size - there),
        });
        let slot = best.map_or(self.sizes.len(), |i| free.swap_remove(i));
        if slot == self.sizes.len() {
            self.sizes.push(0);
        }
        self.sizes[slot] = self.sizes[slot].max(size);
        self.slots[t] = slot;
    }
}

impl Program {
    /// The memory of a pass: operation by operation, each new tensor takes the free slot that fits
    /// it best.
    pub fn plan(&self, pass: Pass) -> Plan {
        let n = self.tensors.len();
        if pass == Pass::Recorded {
            return Plan {
                slots: (0..n).collect(),
                sizes: self.tensors.iter().map(Tensor::size).collect(),
            };
        }
        // The input of a pass comes before its first operation, what it is run for outlives the
        // last.
        let (source, result) = if pass == Pass::Forward {
            (self.input, self.output)
        } else {
            (self.output, self.input)
        };
        let steps: Vec<(Vec<TensorId>, Vec<TensorId>)> = match pass {
            Pass::Backward => {
                self.ops.iter().rev().map(|op| (vec![op.out()], op.inputs())).collect()
            }
            _ => self.ops.iter().map(|op| (op.inputs(), vec![op.out()])).collect(),
        };
        let mut last = vec![0; n];
        for (i, (read, written)) in steps.iter().enumerate() {
            read.iter().chain(written).for_each(|&t| last[t] = i);
        }
        last[result] = steps.len();
        let mut plan = Plan { slots: vec![usize::MAX; n], sizes: vec![] };
        let mut free: Vec<usize> = vec![];
        plan.place(source, self.tensors[source].size(), &mut free);
        for (i, (read, written)) in steps.iter().enumerate() {
            for &t in written {
                plan.place(t, self.tensors[t].size(), &mut free);
            }
            let mut ended: Vec<TensorId> =
                read.iter().chain(written).copied().filter(|&t| last[t] == i).collect();
            ended.sort_unstable();
            ended.dedup();
            free.extend(ended.into_iter().map(|t| plan.slots[t]));
        }
        plan
    }

    /// Refuses what has no room on the CPU: the tensors of these passes for `batch` images, and
    /// `copies` of the parameters besides those that every executor keeps, packed both ways;
    /// numbers of `bytes` each.
    ///
    /// # Errors
    /// More than there is, with both numbers.
    pub fn fits(&self, batch: usize, passes: &[Pass], copies: usize, bytes: usize) -> Result<()> {
        let tensors: f64 = passes.iter().map(|&pass| self.plan(pass).len() as f64).sum();
        let params = (2 + copies) as f64 * self.param_count() as f64;
        let what = format!("the network with {} parameters on {batch} images", self.param_count());
        room::holds(
            what,
            bytes as f64 * (batch as f64 * tensors + params),
            "make the batch, the images or the network smaller",
        )
    }

    /// A new tensor.
    pub fn tensor(
        &mut self,
        name: impl ToString,
        height: usize,
        width: usize,
        channels: usize,
    ) -> TensorId {
        self.tensors.push(Tensor { name: name.to_string(), height, width, channels });
        self.tensors.len() - 1
    }

    /// A new trained array.
    pub fn param(&mut self, name: impl ToString, shape: &[usize]) -> ParamId {
        let start = self.param_count();
        let at = start..start + shape.iter().product::<usize>();
        self.params.push(Param { name: name.to_string(), shape: shape.to_vec(), at, dense: false });
        self.params.len() - 1
    }

    /// The weight of a dense operation, (out, in, ...).
    pub fn dense_param(&mut self, name: impl ToString, shape: &[usize]) -> ParamId {
        let id = self.param(name, shape);
        self.params[id].dense = true;
        id
    }

    /// The table of a kind, made once.
    pub fn table(&mut self, kind: TableKind) -> usize {
        if let Some(at) = self.kinds.iter().position(|k| *k == kind) {
            return at;
        }
        self.tables.push(match kind {
            TableKind::Identity { rows } => Table::identity(rows),
            TableKind::Convolution { size, kernel, stride, before, after } => {
                Table::convolution(size, kernel, stride, before, after)
            }
            TableKind::Upsampling { size } => Table::upsampling(size),
        });
        self.kinds.push(kind);
        self.tables.len() - 1
    }

    /// One operation as a program of its own: its tensors, its parameters, nothing else.
    pub fn alone(&self, i: usize) -> Self {
        let mut alone = Self::default();
        let (mut tensors, mut params) = (HashMap::new(), HashMap::new());
        let op = &self.ops[i];
        for t in op.inputs().into_iter().chain([op.out()]) {
            tensors.entry(t).or_insert_with(|| {
                let Tensor { name, height, width, channels } = &self.tensors[t];
                alone.tensor(name, *height, *width, *channels)
            });
        }
        for p in op.params() {
            let Param { name, shape, dense, .. } = &self.params[p];
            params.insert(
                p,
                if *dense { alone.dense_param(name, shape) } else { alone.param(name, shape) },
            );
        }
        let (of, param) = (|t: TensorId| tensors[&t], |p: ParamId| params[&p]);
        let op = match *op {
            Op::Sinusoid { flip, shift, out } => Op::Sinusoid { flip, shift, out: of(out) },
            Op::Fourier { weight, flip, out } => {
                Op::Fourier { weight: param(weight), flip, out: of(out) }
            }
            Op::Lookup { weight, by_class, out } => {
                Op::Lookup { weight: param(weight), by_class, out: of(out) }
            }
            Op::Silu { x, out } => Op::Silu { x: of(x), out: of(out) },
            Op::Dense { table, x, weight, bias, image_bias, skip, scale, out } => Op::Dense {
                table: alone.table(self.kinds[table]),
                x: of(x),
                weight: param(weight),
                bias: bias.map(param),
                image_bias: image_bias.map(of),
                skip: skip.map(of),
                scale,
                out: of(out),
            },
            Op::Norm { x, gamma, beta, groups, eps, modulation, silu, out } => Op::Norm {
                x: of(x),
                gamma: param(gamma),
                beta: param(beta),
                groups,
                eps,
                modulation: modulation.map(of),
                silu,
                out: of(out),
            },
            Op::Concat { a, b, out } => Op::Concat { a: of(a), b: of(b), out: of(out) },
            Op::Attention { q, k, v, heads, out } => {
                Op::Attention { q: of(q), k: of(k), v: of(v), heads, out: of(out) }
            }
            Op::Halve { x, out } => Op::Halve { x: of(x), out: of(out) },
            Op::Double { x, out } => Op::Double { x: of(x), out: of(out) },
            Op::Add { a, b, out } => Op::Add { a: of(a), b: of(b), out: of(out) },
        };
        alone.output = op.out();
        alone.input = op.inputs().first().copied().unwrap_or(alone.output);
        alone.ops.push(op);
        alone
    }

    /// Numbers in all parameters together.
    pub fn param_count(&self) -> usize {
        self.params.last().map_or(0, |p| p.at.end)
    }

    /// Whether the network is told a class.
    pub fn has_classes(&self) -> bool {
        self.ops.iter().any(|op| matches!(op, Op::Lookup { by_class: true, .. }))
    }

    /// That times and labels are ones that the network can be told.
    ///
    /// # Errors
    /// A time that is not finite, or that the embedding has no place for; a label that is missing
    /// or beyond the table.
    pub fn validate(&self, batch: usize, times: &[f64], labels: &[usize]) -> Result<()> {
        let refuse = |what: &str, got: String, allowed: String| {
            Err(Error::domain(what, got, allowed, "pass the times that the network was trained on"))
        };
        if let Some(t) = times.iter().find(|t| !t.is_finite()) {
            return refuse("time", t.to_string(), "finite numbers".into());
        }
        for op in &self.ops {
            match *op {
                Op::Fourier { .. } => {
                    if let Some(t) = times.iter().find(|t| !(**t > 0.0)) {
                        return refuse(
                            "time of a Fourier embedding",
                            t.to_string(),
                            "positive numbers, whose logarithm is embedded".into(),
                        );
                    }
                }
                Op::Lookup { weight, by_class, .. } => {
                    let rows = self.params[weight].shape[0];
                    if by_class {
                        if labels.len() != batch || labels.iter().any(|&l| l >= rows) {
                            return refuse(
                                "class labels",
                                format!("{labels:?}"),
                                format!("{} labels from 0 to {}", batch, rows - 1),
                            );
                        }
                    } else if let Some(t) =
                        times.iter().find(|t| t.fract() != 0.0 || **t < 0.0 || **t >= rows as f64)
                    {
                        return refuse(
                            "time of a learned embedding",
                            t.to_string(),
                            format!("whole numbers from 0 to {}", rows - 1),
                        );
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Multiplications and additions of one operation on one image, forward.
    pub fn flops(&self, op: &Op) -> usize {
        let len = |t: TensorId| self.tensors[t].size();
        match *op {
            Op::Dense { table, x, out, .. } => {
                2 * self.tables[table].pairs()
                    * self.tensors[x].channels
                    * self.tensors[out].channels
            }
            Op::Attention { q, out, .. } => 4 * self.tensors[q].rows() * len(out),
            // A handful for each number, exponentials counted as one.
            Op::Norm { out, silu, .. } => len(out) * if silu { 10 } else { 7 },
            Op::Silu { out, .. } => 4 * len(out),
            Op::Add { out, .. } | Op::Halve { out, .. } => 4 * len(out),
            Op::Sinusoid { out, .. } | Op::Fourier { out, .. } => 3 * len(out),
            Op::Lookup { .. } | Op::Concat { .. } | Op::Double { .. } => 0,
        }
    }

    /// Numbers that one operation reads and writes on one image, forward, its parameters not
    /// counted.
    pub fn traffic(&self, op: &Op) -> usize {
        op.inputs().into_iter().chain([op.out()]).map(|t| self.tensors[t].size()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::UNetConfig;
    use crate::unet::unet;

    /// Runs the lives of all tensors through their slots: at each operation everything that it
    /// touches is where it was put.
    fn assert_sound(program: &Program, pass: Pass) {
        let plan = program.plan(pass);
        let mut holds: Vec<Option<TensorId>> = vec![None; plan.sizes.len()];
        let (source, result) = if pass == Pass::Backward {
            (program.output, program.input)
        } else {
            (program.input, program.output)
        };
        holds[plan.slots[source]] = Some(source);
        let mut begun = vec![false; program.tensors.len()];
        begun[source] = true;
        let ops: Vec<&Op> = if pass == Pass::Backward {
            program.ops.iter().rev().collect()
        } else {
            program.ops.iter().collect()
        };
        for op in ops {
            let (read, written) = match pass {
                Pass::Backward => (vec![op.out()], op.inputs()),
                _ => (op.inputs(), vec![op.out()]),
            };
            for t in written {
                let slot = plan.slots[t];
                assert!(plan.sizes[slot] >= program.tensors[t].size());
                if std::mem::replace(&mut begun[t], true) {
                    assert_eq!(holds[slot], Some(t), "{}", program.tensors[t].name);
                }
                holds[slot] = Some(t);
            }
            for t in read {
                assert_eq!(holds[plan.slots[t]], Some(t), "{}", program.tensors[t].name);
            }
        }
        assert_eq!(holds[plan.slots[result]], Some(result));
    }

    #[test]
    fn no_tensor_lies_on_another() {
        let config = r#"{"sample_size": 16, "in_channels": 2, "out_channels": 3, "layers_per_block": 2, "block_out_channels": [8, 16, 24],
            "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
            "attention_head_dim": 8, "norm_num_groups": 8, "num_class_embeds": 3}"#;
        let program = unet(&UNetConfig::parse(config).unwrap(), 16, 16).unwrap();
        for pass in [Pass::Forward, Pass::Recorded, Pass::Backward] {
            assert_sound(&program, pass);
        }
        let all = program.plan(Pass::Recorded).len();
        assert!(
            3 * program.plan(Pass::Forward).len() < all
                && 3 * program.plan(Pass::Backward).len() < all
        );
    }
}
