//! A network as a static list of operations, built once from its config and run by every executor.

use super::gather::Table;
use std::collections::HashMap;
use std::ops::Range;

/// A value that flows between operations: `rows` of `channels` numbers for each image, channels last.
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
    /// Whether it is the weight of a dense operation: (out, in, height, width) or (out, in) in a checkpoint, and (height, width, in, out)
    /// in the vector of all parameters, where the kernels read and write rows of `out`.
    pub dense: bool,
    /// Where it lies in the flat vector of all parameters.
    pub at: Range<usize>,
}

/// Index of a [`Param`] in its program.
pub type ParamId = usize;

/// One operation. Each is described, with its gradient, in the module of its name under [`op`](super::op).
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
    /// A convolution or linear layer: gathered rows times a matrix, plus bias, a bias of each image and a skip, times `scale`.
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
    /// Group normalisation, `(1 + scale) . + shift` where `modulation` (1, 2 channels) is given, SiLU where `silu`.
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
            Self::Dense { x, image_bias, skip, .. } => [Some(x), image_bias, skip].into_iter().flatten().collect(),
            Self::Norm { x, modulation, .. } => [Some(x), modulation].into_iter().flatten().collect(),
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
            Self::Dense { weight, bias, .. } => [Some(weight), bias].into_iter().flatten().collect(),
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
    tables_by_kind: HashMap<TableKind, usize>,
}

/// What a table is made of, so that layers of one geometry share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TableKind {
    Identity { rows: usize },
    Convolution { size: (usize, usize), kernel: usize, stride: usize, before: usize, after: usize },
    Upsampling { size: (usize, usize) },
}

impl Program {
    /// A new tensor.
    pub fn tensor(&mut self, name: impl ToString, height: usize, width: usize, channels: usize) -> TensorId {
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
        if let Some(&at) = self.tables_by_kind.get(&kind) {
            return at;
        }
        self.tables.push(match kind {
            TableKind::Identity { rows } => Table::identity(rows),
            TableKind::Convolution { size, kernel, stride, before, after } => {
                Table::convolution(size, kernel, stride, before, after)
            }
            TableKind::Upsampling { size } => Table::upsampling(size),
        });
        self.tables_by_kind.insert(kind, self.tables.len() - 1);
        self.tables.len() - 1
    }

    /// Numbers in all parameters together.
    pub fn param_count(&self) -> usize {
        self.params.last().map_or(0, |p| p.at.end)
    }

    /// Multiplications and additions of one operation on one image, forward.
    pub fn flops(&self, op: &Op) -> usize {
        let len = |t: TensorId| self.tensors[t].size();
        match *op {
            Op::Dense { table, x, out, .. } => {
                2 * self.tables[table].pairs() * self.tensors[x].channels * self.tensors[out].channels
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

    /// Numbers that one operation reads and writes on one image, forward, its parameters not counted.
    pub fn traffic(&self, op: &Op) -> usize {
        op.inputs().into_iter().chain([op.out()]).map(|t| self.tensors[t].size()).sum()
    }
}
