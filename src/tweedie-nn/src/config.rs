//! The configuration of a U-Net: diffusers' `UNet2DModel`, read from its `config.json`.

use serde::{Deserialize, Serialize};
use std::path::Path;
use tweedie::error::{Error, Result, nearest};
use tweedie::input;

/// How the time enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeEmbedding {
    /// Sines and cosines of t at frequencies from 1 down to 1/10,000.
    Positional,
    /// Sines and cosines of `2 pi w log t` with random fixed frequencies w; the output is divided
    /// by t.
    Fourier,
    /// A table with a row for each of `num_train_timesteps`.
    Learned,
}

/// How a residual block uses the time embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimeScaleShift {
    /// Added between the two convolutions.
    #[serde(rename = "default")]
    Default,
    /// `norm2(h) (1 + scale) + shift`.
    #[serde(rename = "scale_shift")]
    ScaleShift,
}

/// How the resolution changes between levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resampling {
    /// A convolution of stride 2, or of the doubled image.
    Conv,
    /// A residual block around an average of four, or around a doubling.
    Resnet,
}

/// What class labels are embedded by; without a type and with `num_class_embeds`, by a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassEmbedding {
    /// Like the time, by an embedding of its own.
    Timestep,
    /// The labels are embeddings already.
    Identity,
}

/// One side or both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Size {
    Square(usize),
    Sides(usize, usize),
}

impl From<(usize, usize)> for Size {
    fn from((height, width): (usize, usize)) -> Self {
        if height == width { Self::Square(height) } else { Self::Sides(height, width) }
    }
}

/// Pixels of an image at most, 2048 x 2048: the networks that work on pixels end at 1024 x 1024.
pub const MOST_PIXELS: usize = 1 << 22;
/// Channels of a layer at most.
const MOST_CHANNELS: usize = 1 << 16;

/// The keys of diffusers' `UNet2DModel`, with its defaults.
///
/// # Source
/// `diffusers.UNet2DModel.__init__`, version 0.42.1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UNetConfig {
    #[serde(rename = "_class_name")]
    pub class_name: String,
    pub sample_size: Option<Size>,
    pub in_channels: usize,
    pub out_channels: usize,
    pub center_input_sample: bool,
    pub time_embedding_type: TimeEmbedding,
    pub time_embedding_dim: Option<usize>,
    pub freq_shift: f64,
    pub flip_sin_to_cos: bool,
    pub down_block_types: Vec<String>,
    pub mid_block_type: Option<String>,
    pub up_block_types: Vec<String>,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: usize,
    pub mid_block_scale_factor: f64,
    pub downsample_padding: usize,
    pub downsample_type: Resampling,
    pub upsample_type: Resampling,
    pub dropout: f64,
    pub act_fn: String,
    pub attention_head_dim: Option<usize>,
    pub norm_num_groups: usize,
    pub attn_norm_num_groups: Option<usize>,
    pub norm_eps: f64,
    pub resnet_time_scale_shift: TimeScaleShift,
    pub add_attention: bool,
    pub class_embed_type: Option<ClassEmbedding>,
    pub num_class_embeds: Option<usize>,
    pub num_train_timesteps: Option<usize>,
}

impl Default for UNetConfig {
    fn default() -> Self {
        let names = |names: [&str; 4]| names.map(String::from).to_vec();
        Self {
            class_name: "UNet2DModel".into(),
            sample_size: None,
            in_channels: 3,
            out_channels: 3,
            center_input_sample: false,
            time_embedding_type: TimeEmbedding::Positional,
            time_embedding_dim: None,
            freq_shift: 0.0,
            flip_sin_to_cos: true,
            down_block_types: names([
                "DownBlock2D",
                "AttnDownBlock2D",
                "AttnDownBlock2D",
                "AttnDownBlock2D",
            ]),
            mid_block_type: Some("UNetMidBlock2D".into()),
            up_block_types: names(["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"]),
            block_out_channels: vec![224, 448, 672, 896],
            layers_per_block: 2,
            mid_block_scale_factor: 1.0,
            downsample_padding: 1,
            downsample_type: Resampling::Conv,
            upsample_type: Resampling::Conv,
            dropout: 0.0,
            act_fn: "silu".into(),
            attention_head_dim: Some(8),
            norm_num_groups: 32,
            attn_norm_num_groups: None,
            norm_eps: 1e-5,
            resnet_time_scale_shift: TimeScaleShift::Default,
            add_attention: true,
            class_embed_type: None,
            num_class_embeds: None,
            num_train_timesteps: None,
        }
    }
}

impl UNetConfig {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// A file that can't be read or is no JSON object; an unknown key, a value of the wrong type or
    /// one that is not supported, by its name.
    pub fn read(path: &Path) -> Result<Self> {
        let text = input::settings(path, "pass a diffusers UNet2DModel folder")?;
        Self::parse(&text).map_err(|e| {
            Error::file(path, e, "write the config with diffusers' UNet2DModel.save_config")
        })
    }

    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// As [`UNetConfig::read`], but for the file.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |problem: String| {
            Error::domain(
                "U-Net config",
                problem,
                "the keys of diffusers' UNet2DModel",
                "correct or remove the key",
            )
        };
        let refuse = |key: &str, got: String, allowed: &str| Err(unsupported(key, got, allowed));
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
        input::unique_keys(text.as_bytes()).map_err(|e| bad(e.to_string()))?;
        let object = value.as_object().ok_or_else(|| bad("no JSON object".into()))?;
        // First, because the keys of another network say nothing.
        if let Some(other) = object.get("_class_name").filter(|name| *name != "UNet2DModel") {
            return refuse("_class_name", other.to_string(), "UNet2DModel");
        }
        let known = serde_json::to_value(Self::default()).map_err(|e| bad(e.to_string()))?;
        for key in object.keys() {
            // Keys with an underscore are notes of the library that wrote the file.
            if known.get(key).is_none() && !key.starts_with('_') {
                let near = nearest(
                    key,
                    known.as_object().into_iter().flat_map(|k| k.keys()).map(String::as_str),
                );
                let near = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
                return Err(bad(format!("unknown key `{key}`{near}")));
            }
        }
        // One key at a time, so that a wrong value is reported with its name.
        let mut merged = known;
        for (key, value) in object {
            let Some(place) = merged.get_mut(key) else { continue };
            *place = value.clone();
            serde_json::from_value::<Self>(merged.clone())
                .map_err(|e| bad(format!("`{key}`: {value} ({e})")))?;
        }
        let config: Self = serde_json::from_value(merged).map_err(|e| bad(e.to_string()))?;
        config.validate()?;
        Ok(config)
    }

    /// Height and width of a sample, where the config tells.
    pub fn sample_shape(&self) -> Option<(usize, usize)> {
        self.sample_size.as_ref().map(|size| match *size {
            Size::Square(n) => (n, n),
            Size::Sides(h, w) => (h, w),
        })
    }

    fn validate(&self) -> Result<()> {
        let refuse = |key: &str, got: String, allowed: &str| Err(unsupported(key, got, allowed));
        if self.class_name != "UNet2DModel" {
            return refuse("_class_name", self.class_name.clone(), "UNet2DModel");
        }
        if !matches!(self.act_fn.as_str(), "silu" | "swish") {
            return refuse("act_fn", self.act_fn.clone(), "silu, swish");
        }
        if self.dropout != 0.0 {
            let mend = "a network that was trained with dropout is used with 0, which changes nothing but training";
            return Err(Error::domain("U-Net config `dropout`", self.dropout, "0", mend));
        }
        let levels = self.block_out_channels.len();
        for (key, types, allowed) in [
            ("down_block_types", &self.down_block_types, ["DownBlock2D", "AttnDownBlock2D"]),
            ("up_block_types", &self.up_block_types, ["UpBlock2D", "AttnUpBlock2D"]),
        ] {
            if types.len() != levels {
                return refuse(
                    key,
                    format!("{} blocks", types.len()),
                    &format!("{levels}, as many as block_out_channels"),
                );
            }
            if let Some(other) = types.iter().find(|t| !allowed.contains(&t.as_str())) {
                return refuse(key, other.clone(), &allowed.join(", "));
            }
        }
        if self.mid_block_type.as_deref().is_some_and(|t| t != "UNetMidBlock2D") {
            return refuse(
                "mid_block_type",
                format!("{:?}", self.mid_block_type),
                "UNetMidBlock2D, null",
            );
        }
        for (key, bad) in [
            ("block_out_channels", levels == 0 || self.block_out_channels.contains(&0)),
            ("in_channels", self.in_channels == 0),
            ("out_channels", self.out_channels == 0),
            ("layers_per_block", self.layers_per_block == 0),
            ("attention_head_dim", self.attention_head_dim == Some(0)),
            ("norm_num_groups", self.norm_num_groups == 0),
        ] {
            if bad {
                return refuse(key, "0 or nothing".into(), "1 or more");
            }
        }
        // Far above every network there is; below, products of four sizes still fit into an index.
        let (sides, channels) = (self.sample_shape(), &self.block_out_channels);
        for (key, got, most) in [
            ("sample_size", sides.map_or(0, |(h, w)| h.max(w)), MOST_PIXELS),
            ("in_channels", self.in_channels, MOST_CHANNELS),
            ("out_channels", self.out_channels, MOST_CHANNELS),
            ("block_out_channels", channels.iter().copied().max().unwrap_or(0), MOST_CHANNELS),
            ("block_out_channels (its length)", levels, 12),
            ("layers_per_block", self.layers_per_block, 64),
            ("time_embedding_dim", self.time_embedding_dim.unwrap_or(0), 4 * MOST_CHANNELS),
            ("attention_head_dim", self.attention_head_dim.unwrap_or(0), MOST_CHANNELS),
            ("num_class_embeds", self.num_class_embeds.unwrap_or(0), 1 << 20),
            ("num_train_timesteps", self.num_train_timesteps.unwrap_or(0), 1_000_000),
        ] {
            if got > most {
                return refuse(key, got.to_string(), &format!("at most {most}"));
            }
        }
        if let Some((h, w)) = sides.filter(|&(h, w)| h == 0 || w == 0 || h * w > MOST_PIXELS) {
            return refuse(
                "sample_size",
                format!("{h} x {w}"),
                &format!("1 to {MOST_PIXELS} pixels"),
            );
        }
        for (key, got) in [
            ("num_class_embeds", self.num_class_embeds),
            ("time_embedding_dim", self.time_embedding_dim),
            ("attn_norm_num_groups", self.attn_norm_num_groups),
        ] {
            if got == Some(0) {
                return refuse(key, "0".into(), "1 or more, or null");
            }
        }
        if !(self.norm_eps > 0.0 && self.norm_eps.is_finite()) {
            return refuse("norm_eps", self.norm_eps.to_string(), "a positive number");
        }
        if !(self.mid_block_scale_factor > 0.0 && self.mid_block_scale_factor.is_finite()) {
            return refuse(
                "mid_block_scale_factor",
                self.mid_block_scale_factor.to_string(),
                "a positive number",
            );
        }
        if self.downsample_padding > 1 {
            return refuse("downsample_padding", self.downsample_padding.to_string(), "0, 1");
        }
        if self.time_embedding_type == TimeEmbedding::Positional
            && self.freq_shift == (self.block_out_channels[0] / 2) as f64
        {
            let allowed = "not half of block_out_channels[0], where the frequencies are 0 / 0";
            return refuse("freq_shift", self.freq_shift.to_string(), allowed);
        }
        if self.time_embedding_type == TimeEmbedding::Learned && self.num_train_timesteps.is_none()
        {
            return refuse(
                "num_train_timesteps",
                "null".into(),
                "the table's length, with a learned time embedding",
            );
        }
        Ok(())
    }
}

fn unsupported(key: &str, got: String, allowed: &str) -> Error {
    let mend = "this option is not supported here: choose another or retrain";
    Error::domain(format!("U-Net config `{key}`"), got, allowed, mend)
}
