//! Rotary tables with YaRN's context extension (Peng et al., 2023, arXiv 2309.00071).

use candle_core::Result;
use moesaic_kernels::ops::{MlaRotation, RopeLayout};
use moesaic_kernels::{Device, Tensor};

use super::RmsNorm;
use crate::{ModelError, fields::Fields};

/// YaRN's parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeScaling {
    /// How much longer than the original context.
    pub factor: f64,
    /// Context length before the extension.
    pub original_max_position_embeddings: usize,
    beta_fast: f64,
    beta_slow: f64,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    attention_factor: Option<f64>,
    truncate: bool,
}

impl RopeScaling {
    /// Reads either spelling: `rope_theta` with `rope_scaling`, or `rope_parameters`.
    /// Gives theta and the scaling, if any.
    pub fn from_config(config: &Fields) -> std::result::Result<(f64, Option<Self>), ModelError> {
        let parameters = config.object("rope_parameters")?;
        let inner = parameters.as_ref().map(|parameters| parameters.optional_number("rope_theta")).transpose()?;
        let theta = match inner.flatten() {
            Some(theta) => theta,
            None => config.number("rope_theta")?,
        };
        if theta <= 1.0 {
            return Err(ModelError::config(format!("`rope_theta` is {theta}, expected more than 1")));
        }
        let Some(scaling) = parameters.map_or_else(|| config.object("rope_scaling"), |found| Ok(Some(found)))? else {
            return Ok((theta, None));
        };
        let kind = scaling.optional_text("rope_type")?.or(scaling.optional_text("type")?).unwrap_or("default");
        match kind {
            "default" => Ok((theta, None)),
            "yarn" => Ok((theta, Some(Self::yarn(&scaling)?))),
            other => Err(ModelError::Unsupported(format!(
                "config.json: rope scaling `{other}` is not supported for this architecture"
            ))),
        }
    }

    fn yarn(fields: &Fields) -> std::result::Result<Self, ModelError> {
        let factor = fields.number("factor")?;
        if factor < 1.0 {
            return Err(ModelError::config(format!("`factor` of the rope scaling is {factor}, expected at least 1")));
        }
        Ok(Self {
            factor,
            original_max_position_embeddings: fields.dimension("original_max_position_embeddings")?,
            beta_fast: fields.optional_number("beta_fast")?.unwrap_or(32.0),
            beta_slow: fields.optional_number("beta_slow")?.unwrap_or(1.0),
            mscale: fields.optional_number("mscale")?,
            mscale_all_dim: fields.optional_number("mscale_all_dim")?,
            attention_factor: fields.optional_number("attention_factor")?,
            truncate: fields.optional_bool("truncate")?.unwrap_or(true),
        })
    }

    fn magnitude(&self, mscale: f64) -> f64 {
        if self.factor <= 1.0 { 1.0 } else { 0.1 * mscale * self.factor.ln() + 1.0 }
    }

    /// Multiplier of cos and sin.
    fn table_multiplier(&self) -> f64 {
        let given = |value: Option<f64>| value.filter(|value| *value != 0.0);
        match (self.attention_factor, given(self.mscale), given(self.mscale_all_dim)) {
            (Some(factor), _, _) => factor,
            (None, Some(mscale), Some(all)) => self.magnitude(mscale) / self.magnitude(all),
            _ => self.magnitude(1.0),
        }
    }

    /// Multiplier of DeepSeek's softmax scale, m².
    pub fn softmax_multiplier(&self) -> f64 {
        self.mscale_all_dim.filter(|value| *value != 0.0).map_or(1.0, |all| self.magnitude(all).powi(2))
    }

    /// Blend of interpolated and original frequencies per pair.
    fn inverse_frequencies(&self, theta: f64, dim: usize) -> Vec<f64> {
        let original = self.original_max_position_embeddings as f64;
        let correction = |rotations: f64| {
            dim as f64 * (original / (2.0 * std::f64::consts::PI * rotations)).ln() / (2.0 * theta.ln())
        };
        let (mut low, mut high) = (correction(self.beta_fast), correction(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.0), high.min(dim as f64 - 1.0));
        if low == high {
            high += 0.001;
        }
        (0..dim / 2)
            .map(|pair| {
                let frequency = theta.powf(-2.0 * pair as f64 / dim as f64);
                let ramp = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                frequency / self.factor * ramp + frequency * (1.0 - ramp)
            })
            .collect()
    }
}

/// Tables of cos and sin and the layout they are used with.
#[derive(Debug)]
pub struct Rotary {
    cos: Tensor, // (positions, dim / 2)
    sin: Tensor,
    layout: RopeLayout,
}

impl Rotary {
    /// Tables for positions `0 .. num_positions`.
    pub fn new(
        theta: f64,
        scaling: Option<&RopeScaling>,
        dim: usize,
        num_positions: usize,
        layout: RopeLayout,
        device: &Device,
    ) -> Result<Self> {
        let (frequencies, multiplier) = match scaling {
            Some(scaling) => (scaling.inverse_frequencies(theta, dim), scaling.table_multiplier()),
            None => ((0..dim / 2).map(|pair| theta.powf(-2.0 * pair as f64 / dim as f64)).collect(), 1.0),
        };
        // Angles are f32 products, as in the reference that the weights were trained with.
        let angles: Vec<f32> = (0..num_positions)
            .flat_map(|position| frequencies.iter().map(move |frequency| position as f32 * *frequency as f32))
            .collect();
        let table = |function: fn(f32) -> f32| {
            let values: Vec<f32> = angles.iter().map(|angle| function(*angle) * multiplier as f32).collect();
            device.keep(candle_core::Tensor::from_vec(values, (num_positions, dim / 2), &candle_core::Device::Cpu)?)
        };
        Ok(Self { cos: table(f32::cos)?, sin: table(f32::sin)?, layout })
    }

    /// What turns projections into queries and cache entries: the rotation to `positions (rows)`, the latents' `norm` and
    /// the cache slots `slots (rows)`.
    pub fn rotation<'a>(&'a self, norm: &'a RmsNorm, positions: &'a Tensor, slots: &'a Tensor) -> MlaRotation<'a> {
        let Self { cos, sin, layout } = self;
        MlaRotation { norm_weight: norm.weight(), eps: norm.eps(), cos, sin, layout: *layout, positions, slots }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deepseek(mscale: f64, beta_fast: f64, factor: f64) -> RopeScaling {
        RopeScaling {
            factor,
            original_max_position_embeddings: 4096,
            beta_fast,
            beta_slow: 1.0,
            mscale: Some(mscale),
            mscale_all_dim: Some(mscale),
            attention_factor: None,
            truncate: true,
        }
    }

    /// The published models' softmax scales (128 + 64 wide queries).
    #[test]
    fn softmax_scales_of_the_published_models() {
        let scale = |scaling: &RopeScaling| scaling.softmax_multiplier() / 192_f64.sqrt();
        assert!((scale(&deepseek(1.0, 32.0, 40.0)) - 0.135_233_8).abs() < 1e-7, "V3");
        assert!((scale(&deepseek(0.707, 32.0, 40.0)) - 0.114_721_4).abs() < 1e-7, "V2-Lite");
        assert!((scale(&deepseek(1.0, 1.0, 32.0)) - 0.130_860_8).abs() < 1e-7, "Kimi-K2");
        assert_eq!(deepseek(1.0, 32.0, 40.0).table_multiplier(), 1.0);
    }

    /// V3 blends between pairs 10 and 23, Kimi-K2 between 19 and 20.
    #[test]
    fn ramps_start_and_end_where_the_published_models_do() {
        for (scaling, theta, low, high) in
            [(deepseek(1.0, 32.0, 40.0), 1e4, 10, 23), (deepseek(1.0, 1.0, 32.0), 5e4, 19, 20)]
        {
            let frequencies = scaling.inverse_frequencies(theta, 64);
            let ratio = |pair: usize| frequencies[pair] * f64::powf(theta, pair as f64 / 32.0);
            assert!((ratio(low) - 1.0).abs() < 1e-12 && ratio(low + 1) < 1.0);
            assert!((ratio(high) * scaling.factor - 1.0).abs() < 1e-12);
            assert!(high == low + 1 || ratio(high - 1) * scaling.factor > 1.0 + 1e-9);
        }
    }
}
