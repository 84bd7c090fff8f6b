//! Numbers, operations and memory of a step, in pixels and in a latent: counted on the program of a
//! network.

use super::Settings;
use serde::{Deserialize, Serialize};
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie_nn::config::UNetConfig;
use tweedie_nn::program::{Op, Pass};
use tweedie_nn::unet::unet;

/// A network's step at one size of image.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Counted {
    /// Side of the image.
    pub side: usize,
    /// Numbers in the state.
    pub state: usize,
    /// Operations of convolutions and linear maps on pixels.
    pub convolutions: usize,
    /// Operations between queries and keys, weights and values.
    pub attention: usize,
    /// Norms, activations, sums: a few for each number.
    pub pointwise: usize,
    /// Operations that do not depend on the image: the time's embedding.
    pub fixed: usize,
    /// Numbers in memory while a step runs.
    pub activations: usize,
    /// Weights.
    pub weights: usize,
}

impl Counted {
    /// All operations.
    pub fn operations(&self) -> usize {
        self.convolutions + self.attention + self.pointwise + self.fixed
    }

    fn new(network: &UNetConfig, side: usize) -> Result<Self> {
        let program = unet(network, side, side)?;
        let mut out = Self {
            side,
            state: program.tensors[program.input].size(),
            activations: program.plan(Pass::Forward).len(),
            weights: program.param_count(),
            ..Self::default()
        };
        for op in &program.ops {
            let to = match op {
                Op::Attention { .. } => &mut out.attention,
                _ if program.tensors[op.out()].rows() == 1 => &mut out.fixed,
                Op::Dense { .. } => &mut out.convolutions,
                _ => &mut out.pointwise,
            };
            *to += program.flops(op);
        }
        Ok(out)
    }
}

/// One network at several sizes, by where it attends.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Counts {
    /// Which levels attend; a step in pixels of the largest side, and one in the latent an eighth
    /// as wide.
    pub networks: Vec<(String, Counted, Counted)>,
    /// The second of these, attending on its two coarsest levels, at each side, in pixels.
    pub by_side: Vec<Counted>,
    /// For each cost of the decoder, in steps in pixels: number of steps, and how many times
    /// cheaper the whole run is.
    pub saved: Vec<(f64, Vec<(f64, f64)>)>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

/// Levels that attend, from the finest.
const WHERE: [(&str, [bool; 4]); 3] = [
    ("no attention", [false; 4]),
    ("attention on two levels", [false, false, true, true]),
    ("attention on all levels", [true; 4]),
];

impl Counts {
    pub(super) fn new(settings: &Settings) -> Result<Self> {
        let largest = settings.sides[settings.sides.len() - 1];
        let configured = |attends: [bool; 4], channels: usize| {
            let name = |attends: bool, way: &str| {
                format!("{}{way}Block2D", if attends { "Attn" } else { "" })
            };
            UNetConfig {
                in_channels: channels,
                out_channels: channels,
                down_block_types: attends.iter().map(|a| name(*a, "Down")).collect(),
                up_block_types: attends.iter().rev().map(|a| name(*a, "Up")).collect(),
                add_attention: attends[3],
                ..settings.network.clone()
            }
        };
        let networks = WHERE
            .iter()
            .map(|(name, attends)| {
                Ok((
                    name.to_string(),
                    Counted::new(&configured(*attends, 3), largest)?,
                    Counted::new(&configured(*attends, 4), largest / 8)?,
                ))
            })
            .collect::<Result<Vec<_>>>()?;
        let by_side = settings
            .sides
            .iter()
            .map(|side| Counted::new(&configured(WHERE[1].1, 3), *side))
            .collect::<Result<Vec<_>>>()?;
        let (pixels, latent) =
            (networks[1].1.operations() as f64, networks[1].2.operations() as f64);
        let steps = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000].map(f64::from);
        let saved = settings
            .decoder_shares
            .iter()
            .map(|share| {
                (
                    *share,
                    steps
                        .iter()
                        .map(|n| (*n, n * pixels / (n * latent + share * pixels)))
                        .collect(),
                )
            })
            .collect();

        let ratio = |of: fn(&Counted) -> usize, k: usize| {
            of(&networks[k].1) as f64 / of(&networks[k].2) as f64
        };
        let edge = networks[0].1.convolutions as f64 / networks[0].2.convolutions as f64;
        let evidence = vec![
            Evidence::new("numbers in the image / in the latent", ratio(|c| c.state, 0), 48.0, 0.0).because("a count"),
            Evidence::new("operations of attention in pixels / in the latent", ratio(|c| c.attention, 2), 4096.0, 0.0)
                .because("a count"),
            Evidence::new("operations of convolutions in pixels / in the latent", edge, 64.0, 4.0)
                .because("products with pixels beyond the border are not computed: on levels of 64 to 8 pixels up to 5 % of all"),
            Evidence::new("operations on the time in pixels / in the latent", ratio(|c| c.fixed, 1), 1.0, 0.0).because("a count"),
            Evidence::new(
                "numbers in memory during a step, without attention: in pixels / in the latent",
                ratio(|c| c.activations, 0),
                64.0,
                1.0,
            )
            .because("64 for inner layers; the images themselves have 3 channels against 4"),
        ];
        Ok(Self { networks, by_side, saved, evidence })
    }
}
