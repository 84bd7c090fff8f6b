//! The adaptive layer norm of the diffusion transformer.

use crate::{Claim, Probe, Role, Trial};
use ndarray::{Array1, Array2};
use tweedie_nn::op::norm::{self, Norm};
use tweedie_nn::op::pointwise;

pub(super) const CLAIMS: &[Claim] = &[Claim {
    id: "harvard/adaln-zero-identity",
    slide: "Diffusion Transformer (DiT)",
    statement: "A block with AdaLN-zero is the identity when it is initialised with shift, scale and gate of zero.",
    reading: "The scan puts an x behind the bracket of the MLP; it is read as MLP(LN(x) (1 + scale) + shift).",
    assumes: "A block of the network's own operations, normalisation with scale and shift, SiLU and sums, on one token of 6 channels, with random weights in its MLP, the only weights that are not zero; the attention block has the same form with attention in the MLP's place and is not built.",
    printed: "",
    formula: r"x \leftarrow x + \text{gate} \cdot \operatorname{MLP}\left(\operatorname{LN}(x) \odot (1 + \text{scale}) + \text{shift}\right)",
    finding: "The identity to the last bit, for any weights of the MLP, and so is a stack of blocks. The gate alone does it: with a gate of 1, shift and scale of zero leave a change. \
              The block is not dead: the gate has a gradient at once, shift and scale once the gate has moved.",
    mutants: &["gate of 1 + g", "no skip connection", "gate on the skip as well"],
    check: identity,
}];

/// One block of the network's own operations on one token: normalisation over its channels with
/// scale and shift, a two-layer MLP with SiLU, and the gated sum.
struct Block {
    first: Array2<f64>,
    second: Array2<f64>,
}

#[derive(Clone, Copy)]
struct Form {
    skip: bool,
    gate_offset: f64,
    gate_on_skip: bool,
}

/// What a block computed on the way.
struct Pass {
    stats: [f64; 2],
    hidden: Array1<f64>,
    mlp: Array1<f64>,
    out: Vec<f64>,
}

const WIDTH: usize = 6;
const LAYER: Norm = Norm { channels: WIDTH, groups: 1, eps: 1e-6, silu: false };

impl Block {
    fn random(t: &Trial) -> Self {
        Self { first: t.normal_rows(4 * WIDTH, WIDTH), second: t.normal_rows(WIDTH, 4 * WIDTH) }
    }

    /// The operation's modulation: scales, then shifts.
    fn modulation(shift: f64, scale: f64) -> Vec<f64> {
        [vec![scale; WIDTH], vec![shift; WIDTH]].concat()
    }

    fn forward(&self, x: &[f64], [shift, scale, gate]: [f64; 3], form: Form) -> Pass {
        let (mut stats, mut normed) = ([0.0; 2], vec![0.0; WIDTH]);
        let modulation = Self::modulation(shift, scale);
        norm::forward(LAYER, x, &[1.0; WIDTH], &[0.0; WIDTH], &modulation, &mut stats, &mut normed);
        let hidden = self.first.dot(&Array1::from(normed));
        let mut active = vec![0.0; hidden.len()];
        pointwise::silu(hidden.as_slice().expect("contiguous"), &mut active);
        let mlp = self.second.dot(&Array1::from(active));
        let gate = gate + form.gate_offset;
        let mut out = vec![0.0; WIDTH];
        if form.skip {
            pointwise::copy(if form.gate_on_skip { gate } else { 1.0 }, x, &mut out, false);
        }
        pointwise::copy(gate, mlp.as_slice().expect("contiguous"), &mut out, true);
        Pass { stats, hidden, mlp, out }
    }

    /// Gradients of `dout . out` by shift, scale and gate.
    fn gradients(
        &self,
        x: &[f64],
        modulation: [f64; 3],
        form: Form,
        dout: &Array1<f64>,
    ) -> [f64; 3] {
        let [shift, scale, gate] = modulation;
        let pass = self.forward(x, modulation, form);
        let skipped = if form.gate_on_skip { dout.dot(&Array1::from(x.to_vec())) } else { 0.0 };
        let (by_gate, by_mlp) = (dout.dot(&pass.mlp) + skipped, dout * (gate + form.gate_offset));
        let back = self.second.t().dot(&by_mlp);
        let mut by_hidden = vec![0.0; back.len()];
        pointwise::silu_backward(
            pass.hidden.as_slice().expect("contiguous"),
            &back.to_vec(),
            &mut by_hidden,
            false,
        );
        let mut by_normed = self.first.t().dot(&Array1::from(by_hidden)).to_vec();
        let mut by_modulation = vec![0.0; 2 * WIDTH];
        norm::backward(
            LAYER,
            x,
            &[1.0; WIDTH],
            &[0.0; WIDTH],
            &Self::modulation(shift, scale),
            &pass.stats,
            &mut by_normed,
            (&mut [0.0; WIDTH], false),
            &mut [0.0; WIDTH],
            &mut [0.0; WIDTH],
            (&mut by_modulation, false),
        );
        [by_modulation[WIDTH..].iter().sum(), by_modulation[..WIDTH].iter().sum(), by_gate]
    }
}

fn identity(p: &mut Probe) {
    let form = Form {
        skip: !p.mutant("no skip connection"),
        gate_offset: if p.mutant("gate of 1 + g") { 1.0 } else { 0.0 },
        gate_on_skip: p.mutant("gate on the skip as well"),
    };
    p.property(
        Role::Printed,
        "four blocks of random weights with shift, scale and gate of zero, against their input",
        64,
        "the same bits",
        |t| {
            let x = t.normals(WIDTH).to_vec();
            let out =
                (0..4).fold(x.clone(), |x, _| Block::random(t).forward(&x, [0.0; 3], form).out);
            t.compare_all(&out, &x, 0.0);
        },
    );
    p.property(
        Role::Printed,
        "the gate alone: random shift and scale, gate of zero, against the input",
        64,
        "the same bits",
        |t| {
            let x = t.normals(WIDTH).to_vec();
            let out = Block::random(t).forward(&x, [t.normal(), t.normal(), 0.0], form).out;
            t.compare_all(&out, &x, 0.0);
        },
    );
    p.property(
        Role::Printed,
        "gate of 1, shift and scale of zero: the block changes its input (1 if so)",
        32,
        "true or false",
        |t| {
            let x = t.normals(WIDTH).to_vec();
            let out = Block::random(t).forward(&x, [0.0, 0.0, 1.0], form).out;
            t.compare(f64::from(out.iter().zip(&x).any(|(o, x)| (o - x).abs() > 1e-6)), 1.0, 0.0);
        },
    );
    p.property(
        Role::Printed,
        "gradients at the start: the gate's is not zero (1 if so), those of shift and scale are",
        32,
        "true or false, and exact zeros",
        |t| {
            let (x, block, dout) = (t.normals(WIDTH).to_vec(), Block::random(t), t.normals(WIDTH));
            let [shift, scale, gate] = block.gradients(&x, [0.0; 3], form, &dout);
            t.compare(f64::from(gate.abs() > 1e-9), 1.0, 0.0);
            t.compare(shift, 0.0, 0.0);
            t.compare(scale, 0.0, 0.0);
        },
    );
    p.property(
        Role::Printed,
        "gradients once the gate has moved: those of shift and scale are not zero (1 if so), and are those of differences",
        32,
        "1e-6 of differences with h = 1e-5",
        |t| {
            let (x, block, dout) = (t.normals(WIDTH).to_vec(), Block::random(t), t.normals(WIDTH));
            let at = [0.1 * t.normal(), 0.1 * t.normal(), t.uniform(0.3, 1.0)];
            let got = block.gradients(&x, at, form, &dout);
            let value = |at: [f64; 3]| dout.dot(&Array1::from(block.forward(&x, at, form).out));
            for (i, got) in got.into_iter().enumerate() {
                let moved = |h: f64| {
                    let mut at = at;
                    at[i] += h;
                    value(at)
                };
                let size = 1.0 + got.abs() + block.first.dot(&block.first.t()).diag().sum();
                t.compare(got, (moved(1e-5) - moved(-1e-5)) / 2e-5, 1e-6 * size);
                t.compare(f64::from(got.abs() > 1e-9), 1.0, 0.0);
            }
        },
    );
}
