//! The adaptive layer norm of the diffusion transformer.

use crate::claims::{Claim, Probe, Role, Trial};
use crate::math::larger;
use crate::math::scalar::Scalar;
use ndarray::{Array1, Array2};
use num_dual::Dual64;

pub(super) const CLAIMS: &[Claim] = &[Claim {
    id: "harvard/adaln-zero-identity",
    slide: "Diffusion Transformer (DiT)",
    statement: "A block with AdaLN-zero is the identity when it is initialised with shift, scale and gate of zero.",
    reading: "The scan puts an x behind the bracket of the MLP; it is read as MLP(LN(x) (1 + scale) + shift).",
    assumes: "A block with random weights in its MLP, the only weights that are not zero.",
    printed: "",
    formula: r"x \leftarrow x + \text{gate} \cdot \operatorname{MLP}\left(\operatorname{LN}(x) \odot (1 + \text{scale}) + \text{shift}\right)",
    finding: "The identity to the last bit, for any weights of the MLP, and so is a stack of blocks. The gate alone does it: with a gate of 1, shift and scale of zero leave a change. \
              The block is not dead: the gate has a gradient at once, the MLP, shift and scale once the gate has moved.",
    mutants: &["gate of 1 + g", "no skip connection", "gate on the skip as well"],
    check: identity,
}];

/// One block: LN, modulation, a two-layer MLP with SiLU, gate.
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

impl Block {
    fn random(t: &Trial, d: usize) -> Self {
        Self { first: t.normal_rows(4 * d, d), second: t.normal_rows(d, 4 * d) }
    }

    /// `modulation` is (shift, scale, gate).
    fn forward<S: Scalar>(&self, x: &[f64], modulation: [S; 3], form: Form) -> Vec<S> {
        let [shift, scale, gate] = modulation;
        let d = x.len() as f64;
        let mean = x.iter().sum::<f64>() / d;
        let std = (x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / d + 1e-6).sqrt();
        let modulated: Vec<S> = x.iter().map(|v| (scale + 1.0) * ((v - mean) / std) + shift).collect();
        let product = |m: &Array2<f64>, v: &[S]| -> Vec<S> {
            m.rows().into_iter().map(|row| row.iter().zip(v).fold(S::zero(), |sum, (w, v)| sum + *v * *w)).collect()
        };
        let hidden: Vec<S> = product(&self.first, &modulated).into_iter().map(|h| h / ((-h).exp() + 1.0)).collect();
        let gate = gate + form.gate_offset;
        let skip = |x: f64| {
            if form.gate_on_skip {
                gate * x
            } else if form.skip {
                S::from(x)
            } else {
                S::zero()
            }
        };
        product(&self.second, &hidden).into_iter().zip(x).map(|(out, x)| skip(*x) + gate * out).collect()
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
            let x = t.normals(6).to_vec();
            let out = (0..4).fold(x.clone(), |x, _| Block::random(t, 6).forward(&x, [0.0; 3], form));
            t.compare_all(&Array1::from(out), &Array1::from(x), 0.0);
        },
    );
    p.property(
        Role::Printed,
        "the gate alone: random shift and scale, gate of zero, against the input",
        64,
        "the same bits",
        |t| {
            let x = t.normals(6).to_vec();
            let out = Block::random(t, 6).forward(&x, [t.normal(), t.normal(), 0.0], form);
            t.compare_all(&Array1::from(out), &Array1::from(x), 0.0);
        },
    );
    p.property(
        Role::Printed,
        "gate of 1, shift and scale of zero: the block changes its input (1 if so)",
        32,
        "true or false",
        |t| {
            let x = t.normals(6).to_vec();
            let out = Block::random(t, 6).forward(&x, [0.0, 0.0, 1.0], form);
            let change = out.iter().zip(&x).map(|(o, x)| (o - x).abs()).fold(0.0, larger);
            t.compare(f64::from(change > 1e-6), 1.0, 0.0);
        },
    );
    p.property(
        Role::Printed,
        "gradient at the start by dual numbers: the gate's is not zero (1 if so), those of shift and scale are",
        32,
        "true or false, and exact zeros",
        |t| {
            let (x, block) = (t.normals(6).to_vec(), Block::random(t, 6));
            let gradient = |which: usize| {
                let mut modulation = [Dual64::from(0.0); 3];
                modulation[which] = modulation[which].derivative();
                block.forward(&x, modulation, form).iter().map(|o| o.eps.abs()).fold(0.0, larger)
            };
            t.compare(f64::from(gradient(2) > 1e-6), 1.0, 0.0);
            t.compare(gradient(0), 0.0, 0.0);
            t.compare(gradient(1), 0.0, 0.0);
        },
    );
}
