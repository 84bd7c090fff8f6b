//! Samples of a network in training.

use super::loader::SAMPLES;
use super::trainer::Trainer;
use crate::denoiser::Network;
use crate::element::Element;
use ndarray::{Array2, Axis, s};
use tweedie::diffusion::{Denoiser, Path, PathPoint};
use tweedie::error::Result;
use tweedie::law::conditional::Guided;
use tweedie::math::noise::Noise;
use tweedie::sample::grid::{Grid, Spacing};
use tweedie::sample::noise_source::standard_start;
use tweedie::sample::registry::{Options, sampler};
use tweedie::sample::{Sampler, sample};

/// The settings' method and its points, known to exist.
///
/// # Errors
/// An unknown sampler; a grid that the path does not have, or where the network's output is no
/// denoiser.
pub fn plan<T: Element>(trainer: &Trainer<T>) -> Result<(Box<dyn Sampler>, Vec<PathPoint>)> {
    let settings = trainer.settings();
    let spacing = if matches!(settings.path, Path::Discrete(_)) {
        Spacing::Trailing
    } else {
        Spacing::Karras
    };
    let mut grid = Grid::new(spacing, settings.samples.steps);
    if let Some((low, high)) = settings.times.range {
        (grid.s_min, grid.s_max) = (low, high);
    }
    let points = grid.points(&settings.path)?;
    let network = trainer.network(trainer.params(), 1)?;
    let network = if network.classes() > 0 { network.with_label(0)? } else { network };
    network.defined(&points)?;
    Ok((sampler(&settings.samples.sampler, &Options::DEFAULT)?, points))
}

/// Samples of the network with these weights by the settings' method, always from the same noise,
/// shape (count, d); of a network with classes, as many of each as the count allows, in the order
/// of the classes.
///
/// # Errors
/// As [`plan`].
pub fn grid<T: Element>(trainer: &Trainer<T>, params: &[T]) -> Result<Array2<f64>> {
    let settings = trainer.settings();
    let (method, points) = plan(trainer)?;
    let network = trainer.network(params, settings.batch)?;
    let mut noise = Noise::new(settings.seed).child(SAMPLES);
    let at = points[0];
    let start = standard_start(&noise, settings.samples.count, network.dim());
    // Of data of deviation sigma_data, which at the top of a path matters little.
    let start = start * at.sigma.hypot(at.alpha * settings.objective.sigma_data);
    let mut drawn = |network: &Network<T>, guidance: f64, rows: Array2<f64>| {
        let unconditional = trainer
            .setup()
            .null_class
            .filter(|_| guidance != 1.0)
            .map(|null| network.with_label(null))
            .transpose()?;
        let guided =
            unconditional.as_ref().map(|none| Guided::new(network, none, guidance)).transpose()?;
        let model: &dyn Denoiser = guided.as_ref().map_or(network, |guided| guided);
        Ok(sample(&method, model, &points, rows, &mut noise)?.x)
    };
    let classes = network.classes();
    if classes == 0 {
        return drawn(&network, 1.0, start);
    }
    let n = start.nrows();
    let parts = (0..classes).map(|class| {
        let rows = start.slice(s![n * class / classes..n * (class + 1) / classes, ..]).to_owned();
        drawn(&network.with_label(class)?, settings.samples.guidance, rows)
    });
    let parts = parts.collect::<Result<Vec<_>>>()?;
    let views: Vec<_> = parts.iter().map(|x| x.view()).collect();
    Ok(ndarray::concatenate(Axis(0), &views).expect("rows of one length"))
}
