//! From a config to the list of operations, with the names of diffusers' checkpoint.

use super::config::{
    ClassEmbedding, MOST_PIXELS, Resampling, TimeEmbedding, TimeScaleShift, UNetConfig,
};
use super::program::{Op, Program, TableKind, TensorId};
use tweedie::error::{Error, Result};
use tweedie::room;

/// The program of a U-Net on images of `height` x `width`.
///
/// # Errors
/// Channels that the groups or heads do not divide, a size that the levels can't halve and double
/// back.
///
/// # Source
/// `diffusers.UNet2DModel.forward`, version 0.42.1.
pub fn unet(config: &UNetConfig, height: usize, width: usize) -> Result<Program> {
    let levels = config.block_out_channels.len();
    let halvings = levels - 1;
    if height == 0
        || width == 0
        || !height.is_multiple_of(1 << halvings)
        || !width.is_multiple_of(1 << halvings)
    {
        return Err(Error::domain(
            "image size",
            format!("{height} x {width}"),
            format!("multiples of {}, for {levels} levels", 1 << halvings),
            "pad or crop the images",
        ));
    }
    if room::product("image size", &[height, width])? > MOST_PIXELS {
        let (got, allowed) =
            (format!("{height} x {width}"), format!("at most {MOST_PIXELS} pixels"));
        return Err(Error::domain("image size", got, allowed, "make the images smaller"));
    }
    let mut b = Builder { config, p: Program::default(), time: None };
    b.p.center_input = config.center_input_sample;
    let c0 = config.block_out_channels[0];
    b.p.input = b.p.tensor("sample", height, width, config.in_channels);
    b.time()?;

    let mut h = b.conv("conv_in", b.p.input, c0, Geometry::Same)?;
    let mut skips = vec![h];
    for (i, kind) in config.down_block_types.iter().enumerate() {
        let (name, channels, last) =
            (format!("down_blocks.{i}"), config.block_out_channels[i], i + 1 == levels);
        for j in 0..config.layers_per_block {
            h = b.resnet(&format!("{name}.resnets.{j}"), h, channels, None, 1.0)?;
            if kind == "AttnDownBlock2D" {
                h = b.attention(
                    &format!("{name}.attentions.{j}"),
                    h,
                    Some(config.norm_num_groups),
                    1.0,
                )?;
            }
            skips.push(h);
        }
        if !last {
            let name = format!("{name}.downsamplers.0");
            // As diffusers has it: blocks without attention know convolutions alone.
            h = match config.downsample_type {
                Resampling::Resnet if kind == "AttnDownBlock2D" => {
                    b.resnet(&name, h, channels, Some(Resample::Halve), 1.0)?
                }
                _ => b.conv(&format!("{name}.conv"), h, channels, Geometry::Halving)?,
            };
            skips.push(h);
        }
    }

    if config.mid_block_type.is_some() {
        let (channels, scale) =
            (config.block_out_channels[levels - 1], config.mid_block_scale_factor);
        h = b.resnet("mid_block.resnets.0", h, channels, None, scale)?;
        if config.add_attention {
            // As diffusers has it: under scale_shift the middle attention has a norm only where its
            // groups are named.
            let groups = config.attn_norm_num_groups.or(match config.resnet_time_scale_shift {
                TimeScaleShift::Default => Some(config.norm_num_groups),
                TimeScaleShift::ScaleShift => None,
            });
            h = b.attention("mid_block.attentions.0", h, groups, scale)?;
        }
        h = b.resnet("mid_block.resnets.1", h, channels, None, scale)?;
    }

    for (i, kind) in config.up_block_types.iter().enumerate() {
        let (name, channels, last) =
            (format!("up_blocks.{i}"), config.block_out_channels[levels - 1 - i], i + 1 == levels);
        for j in 0..=config.layers_per_block {
            let skip = skips.pop().expect("one skip for each layer of the way down");
            h = b.concat(&format!("{name}.resnets.{j}.concat"), h, skip);
            h = b.resnet(&format!("{name}.resnets.{j}"), h, channels, None, 1.0)?;
            if kind == "AttnUpBlock2D" {
                h = b.attention(
                    &format!("{name}.attentions.{j}"),
                    h,
                    Some(config.norm_num_groups),
                    1.0,
                )?;
            }
        }
        if !last {
            let name = format!("{name}.upsamplers.0");
            h = match config.upsample_type {
                Resampling::Resnet if kind == "AttnUpBlock2D" => {
                    b.resnet(&name, h, channels, Some(Resample::Double), 1.0)?
                }
                _ => b.conv(&format!("{name}.conv"), h, channels, Geometry::Doubling)?,
            };
        }
    }

    h = b.norm("conv_norm_out", h, config.norm_num_groups, None, true)?;
    b.p.output = b.conv("conv_out", h, config.out_channels, Geometry::Same)?;
    b.p.divide_by_time = config.time_embedding_type == TimeEmbedding::Fourier;
    // The least that anything with it takes: its parameters in f32.
    room::holds(
        "the network's parameters",
        4.0 * b.p.param_count() as f64,
        "make the network smaller",
    )?;
    Ok(b.p)
}

/// What a 3 x 3 convolution does to the size.
#[derive(Clone, Copy)]
enum Geometry {
    Same,
    Halving,
    Doubling,
}

/// What a residual block does to the size before its first convolution.
#[derive(Clone, Copy)]
enum Resample {
    Halve,
    Double,
}

struct Builder<'a> {
    config: &'a UNetConfig,
    p: Program,
    /// SiLU of the time embedding, which every residual block projects.
    time: Option<TensorId>,
}

impl Builder<'_> {
    fn linear(
        &mut self,
        name: &str,
        x: TensorId,
        channels: usize,
        skip: Option<TensorId>,
        scale: f64,
    ) -> TensorId {
        let from = self.p.tensors[x].clone();
        let table = self.p.table(TableKind::Identity { rows: from.rows() });
        let weight = self.p.dense_param(format!("{name}.weight"), &[channels, from.channels]);
        let bias = Some(self.p.param(format!("{name}.bias"), &[channels]));
        let out = self.p.tensor(name, from.height, from.width, channels);
        self.p.ops.push(Op::Dense { table, x, weight, bias, image_bias: None, skip, scale, out });
        out
    }

    fn conv(
        &mut self,
        name: &str,
        x: TensorId,
        channels: usize,
        geometry: Geometry,
    ) -> Result<TensorId> {
        self.conv_onto(name, x, channels, geometry, None, None, 1.0)
    }

    #[allow(clippy::too_many_arguments)]
    fn conv_onto(
        &mut self,
        name: &str,
        x: TensorId,
        channels: usize,
        geometry: Geometry,
        image_bias: Option<TensorId>,
        skip: Option<TensorId>,
        scale: f64,
    ) -> Result<TensorId> {
        let from = self.p.tensors[x].clone();
        let size = (from.height, from.width);
        let (kind, (height, width)) = match geometry {
            Geometry::Same => {
                (TableKind::Convolution { size, kernel: 3, stride: 1, before: 1, after: 1 }, size)
            }
            // Padding 0 means a row and a column of zeros behind the image alone.
            Geometry::Halving => (
                TableKind::Convolution {
                    size,
                    kernel: 3,
                    stride: 2,
                    before: self.config.downsample_padding,
                    after: 1,
                },
                (size.0 / 2, size.1 / 2),
            ),
            Geometry::Doubling => (TableKind::Upsampling { size }, (2 * size.0, 2 * size.1)),
        };
        let table = self.p.table(kind);
        let weight = self.p.dense_param(format!("{name}.weight"), &[channels, from.channels, 3, 3]);
        let bias = Some(self.p.param(format!("{name}.bias"), &[channels]));
        let out = self.p.tensor(name, height, width, channels);
        self.p.ops.push(Op::Dense { table, x, weight, bias, image_bias, skip, scale, out });
        Ok(out)
    }

    fn norm(
        &mut self,
        name: &str,
        x: TensorId,
        groups: usize,
        modulation: Option<TensorId>,
        silu: bool,
    ) -> Result<TensorId> {
        let from = self.p.tensors[x].clone();
        if !from.channels.is_multiple_of(groups) {
            return Err(Error::domain(
                format!("{name}: groups of {} channels", from.channels),
                groups,
                "a divisor of the channels",
                "change norm_num_groups or block_out_channels",
            ));
        }
        let gamma = self.p.param(format!("{name}.weight"), &[from.channels]);
        let beta = self.p.param(format!("{name}.bias"), &[from.channels]);
        let out = self.p.tensor(name, from.height, from.width, from.channels);
        self.p.ops.push(Op::Norm {
            x,
            gamma,
            beta,
            groups,
            eps: self.config.norm_eps,
            modulation,
            silu,
            out,
        });
        Ok(out)
    }

    fn concat(&mut self, name: &str, a: TensorId, b: TensorId) -> TensorId {
        let (x, y) = (self.p.tensors[a].clone(), self.p.tensors[b].clone());
        let out = self.p.tensor(name, x.height, x.width, x.channels + y.channels);
        self.p.ops.push(Op::Concat { a, b, out });
        out
    }

    fn silu(&mut self, name: &str, x: TensorId) -> TensorId {
        let from = self.p.tensors[x].clone();
        let out = self.p.tensor(name, from.height, from.width, from.channels);
        self.p.ops.push(Op::Silu { x, out });
        out
    }

    fn add(&mut self, name: &str, a: TensorId, b: TensorId) -> TensorId {
        let from = self.p.tensors[a].clone();
        let out = self.p.tensor(name, from.height, from.width, from.channels);
        self.p.ops.push(Op::Add { a, b, out });
        out
    }

    fn resample(&mut self, name: &str, x: TensorId, by: Resample) -> TensorId {
        let from = self.p.tensors[x].clone();
        match by {
            Resample::Halve => {
                let out = self.p.tensor(name, from.height / 2, from.width / 2, from.channels);
                self.p.ops.push(Op::Halve { x, out });
                out
            }
            Resample::Double => {
                let out = self.p.tensor(name, from.height * 2, from.width * 2, from.channels);
                self.p.ops.push(Op::Double { x, out });
                out
            }
        }
    }

    /// The embedding of the time, and of the class, up to the SiLU that every block applies to it.
    fn time(&mut self) -> Result<()> {
        let config = self.config;
        let c0 = config.block_out_channels[0];
        let dim = config.time_embedding_dim.unwrap_or(4 * c0);
        let sinusoid = |b: &mut Self, name: &str| {
            let out = b.p.tensor(name, 1, 1, c0);
            b.p.ops.push(Op::Sinusoid {
                flip: config.flip_sin_to_cos,
                shift: config.freq_shift,
                out,
            });
            out
        };
        let proj = match config.time_embedding_type {
            TimeEmbedding::Positional => sinusoid(self, "time_proj"),
            TimeEmbedding::Fourier => {
                let weight = self.p.param("time_proj.weight", &[c0]);
                let out = self.p.tensor("time_proj", 1, 1, 2 * c0);
                // As diffusers has it: `flip_sin_to_cos` is for the positional embedding alone.
                self.p.ops.push(Op::Fourier { weight, flip: false, out });
                out
            }
            TimeEmbedding::Learned => {
                let weight = self
                    .p
                    .param("time_proj.weight", &[config.num_train_timesteps.unwrap_or(0), c0]);
                let out = self.p.tensor("time_proj", 1, 1, c0);
                self.p.ops.push(Op::Lookup { weight, by_class: false, out });
                out
            }
        };
        let mut time = self.embedding("time_embedding", proj, dim);
        let class = match (config.class_embed_type, config.num_class_embeds) {
            (None, None) => None,
            (None, Some(classes)) => {
                let weight = self.p.param("class_embedding.weight", &[classes, dim]);
                let out = self.p.tensor("class_embedding", 1, 1, dim);
                self.p.ops.push(Op::Lookup { weight, by_class: true, out });
                Some(out)
            }
            (Some(kind @ (ClassEmbedding::Timestep | ClassEmbedding::Identity)), _) => {
                // Both embed something else than classes: a number like the time, or a vector that
                // is an embedding already.
                return Err(Error::domain(
                    "U-Net config `class_embed_type`",
                    format!("{kind:?}").to_lowercase(),
                    "null",
                    "classes of images have a table, num_class_embeds long",
                ));
            }
        };
        if let Some(class) = class {
            time = self.add("time_and_class_embedding", time, class);
        }
        self.time = Some(self.silu("time_embedding.silu", time));
        Ok(())
    }

    /// Linear, SiLU, linear.
    fn embedding(&mut self, name: &str, x: TensorId, dim: usize) -> TensorId {
        let h = self.linear(&format!("{name}.linear_1"), x, dim, None, 1.0);
        let h = self.silu(&format!("{name}.act"), h);
        self.linear(&format!("{name}.linear_2"), h, dim, None, 1.0)
    }

    /// `(shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + time)))) / scale`.
    fn resnet(
        &mut self,
        name: &str,
        x: TensorId,
        channels: usize,
        resample: Option<Resample>,
        scale: f64,
    ) -> Result<TensorId> {
        let (config, from) = (self.config, self.p.tensors[x].channels);
        let groups = config.norm_num_groups;
        let mut skip = x;
        let mut h = self.norm(&format!("{name}.norm1"), x, groups, None, true)?;
        if let Some(by) = resample {
            skip = self.resample(&format!("{name}.skip"), skip, by);
            h = self.resample(&format!("{name}.resample"), h, by);
        }
        let time = self.time.expect("the embedding comes first");
        let (conv1, proj) = (format!("{name}.conv1"), format!("{name}.time_emb_proj"));
        // The parameters stand in the order of the module's attributes; the projection is computed
        // before its use.
        h = match config.resnet_time_scale_shift {
            TimeScaleShift::Default => {
                let time = self.linear(&proj, time, channels, None, 1.0);
                let h =
                    self.conv_onto(&conv1, h, channels, Geometry::Same, Some(time), None, 1.0)?;
                self.norm(&format!("{name}.norm2"), h, groups, None, true)?
            }
            TimeScaleShift::ScaleShift => {
                let time = self.linear(&proj, time, 2 * channels, None, 1.0);
                let h = self.conv(&conv1, h, channels, Geometry::Same)?;
                self.norm(&format!("{name}.norm2"), h, groups, Some(time), true)?
            }
        };
        if from != channels {
            skip = self.pointwise(&format!("{name}.conv_shortcut"), skip, channels);
        }
        self.conv_onto(
            &format!("{name}.conv2"),
            h,
            channels,
            Geometry::Same,
            None,
            Some(skip),
            1.0 / scale,
        )
    }

    /// A 1 x 1 convolution: a linear layer with a convolution's weight.
    fn pointwise(&mut self, name: &str, x: TensorId, channels: usize) -> TensorId {
        let out = self.linear(name, x, channels, None, 1.0);
        let weight = self.p.params.len() - 2;
        self.p.params[weight].shape.extend([1, 1]);
        out
    }

    /// `(x + to_out(attention(norm(x)))) / scale`.
    fn attention(
        &mut self,
        name: &str,
        x: TensorId,
        groups: Option<usize>,
        scale: f64,
    ) -> Result<TensorId> {
        let channels = self.p.tensors[x].channels;
        let head = self.config.attention_head_dim.unwrap_or(channels);
        if !channels.is_multiple_of(head) {
            return Err(Error::domain(
                format!("{name}: heads of {channels} channels"),
                head,
                "a divisor of the channels",
                "change attention_head_dim or block_out_channels",
            ));
        }
        let h = match groups {
            Some(groups) => self.norm(&format!("{name}.group_norm"), x, groups, None, false)?,
            None => x,
        };
        let [q, k, v] = ["to_q", "to_k", "to_v"]
            .map(|part| self.linear(&format!("{name}.{part}"), h, channels, None, 1.0));
        let from = self.p.tensors[x].clone();
        let out = self.p.tensor(format!("{name}.heads"), from.height, from.width, channels);
        self.p.ops.push(Op::Attention { q, k, v, heads: channels / head, out });
        Ok(self.linear(&format!("{name}.to_out.0"), out, channels, Some(x), 1.0 / scale))
    }
}
