//! A whole training that is looked at on the way, and goes on where it was stopped.

use super::{Data, Settings, Trainer, checkpoint};
use crate::device::Place;
use crate::error::{Error, Result};
use crate::file::{self, lock::Lock};
use crate::nn::checkpoint::{WEIGHTS, read};
use std::path::Path;

/// File beside the checkpoints with the loss of every step that they have behind them.
const LOSSES: &str = "losses.json";

/// Trains by a recipe, and shows `look` the weights after each of some steps, 0 being those that it begins with. The second part is the
/// loss of every step.
///
/// Where there is a folder for it, the weights of these steps are kept there: a run that was stopped goes on from the last of them, with the same
/// numbers.
///
/// # Errors
/// A recipe that is refused, a loss that is not finite, whatever `look` refuses.
pub fn watched(
    recipe: &Settings,
    stops: &[u64],
    folder: Option<&Path>,
    told: &dyn Fn(u64),
    mut look: impl FnMut(u64, &Trainer<f32>, &[f32]) -> Result<()>,
) -> Result<(Trainer<f32>, Vec<f64>)> {
    // Where another process is at the same training, this one keeps nothing.
    let lock = folder.and_then(|folder| std::fs::create_dir_all(folder).ok().and_then(|()| Lock::take(folder).ok()));
    let folder = folder.filter(|_| lock.is_some());
    // A checkpoint that can't be used is one that was never written.
    let kept = folder.and_then(|folder| resumed(folder, recipe, stops).ok().flatten());
    let Run { mut trainer, mut losses, earlier } = match kept {
        Some(kept) => kept,
        None => Run { trainer: Trainer::new(recipe.clone(), Data::load(recipe)?)?, losses: vec![], earlier: vec![] },
    };
    for (step, weights) in &earlier {
        look(*step, &trainer, weights)?;
    }
    let begun = trainer.steps_done();
    loop {
        let step = trainer.steps_done();
        if stops.contains(&step) && earlier.last().is_none_or(|e| e.0 < step) {
            look(step, &trainer, trainer.params())?;
            if let Some(folder) = folder {
                // Keeping is a convenience: a full disk is told by what has to be written.
                let _ = keep(&mut trainer, &losses, folder);
            }
        }
        if step >= recipe.steps {
            return Ok((trainer, losses));
        }
        if (step - begun).is_multiple_of(16) {
            told(step);
        }
        losses.push(trainer.step()?.loss);
    }
}

fn keep(trainer: &mut Trainer<f32>, losses: &[f64], folder: &Path) -> Result<()> {
    let text = serde_json::to_vec(losses).map_err(|e| Error::file(folder, e, "report this as a bug"))?;
    checkpoint::save(trainer, folder, usize::MAX)?;
    file::write(&folder.join(LOSSES), &text)
}

/// Steps and the weights after them.
type Weights = Vec<(u64, Vec<f32>)>;

/// A training on its way.
struct Run {
    trainer: Trainer<f32>,
    losses: Vec<f64>,
    /// Of the stops behind it.
    earlier: Weights,
}

/// From the newest checkpoint of a folder.
fn resumed(folder: &Path, recipe: &Settings, stops: &[u64]) -> Result<Option<Run>> {
    let Some(newest) = checkpoint::latest(folder)? else { return Ok(None) };
    let trainer = checkpoint::resume::<f32>(&newest, recipe.clone(), Data::load(recipe)?, &Place::Cpu)?;
    let path = folder.join(LOSSES);
    let foreign = |e: &dyn std::fmt::Display| Error::file(&path, e, "remove its folder");
    let bytes = std::fs::read(&path).map_err(|e| foreign(&e))?;
    let mut losses: Vec<f64> = serde_json::from_slice(&bytes).map_err(|e| foreign(&e))?;
    let done = trainer.steps_done() as usize;
    if losses.len() < done {
        return Err(foreign(&format!("{} losses of {done} steps", losses.len())));
    }
    losses.truncate(done);
    let weights = |step: u64| read(&folder.join(format!("step-{step}")).join("unet").join(WEIGHTS), trainer.program());
    let behind = stops.iter().filter(|step| **step <= trainer.steps_done());
    let mut earlier = behind.map(|step| Ok((*step, weights(*step)?))).collect::<Result<Weights>>()?;
    earlier.sort_by_key(|e| e.0);
    earlier.dedup_by_key(|e| e.0);
    Ok(Some(Run { trainer, losses, earlier }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    const RECIPE: &str = include_str!("../../experiments/train-digits-small.toml");

    /// What a training showed, its losses and the weights that it ended with.
    fn run(folder: Option<&Path>, until: u64) -> (Weights, Vec<f64>, Vec<f32>) {
        let mut recipe = Settings::parse(RECIPE).unwrap();
        (recipe.steps, recipe.batch) = (6, 4);
        let seen = RefCell::new(vec![]);
        let look = |step: u64, _: &Trainer<f32>, weights: &[f32]| {
            if step > until {
                return Err(Error::domain("run", "stopped", "", ""));
            }
            seen.borrow_mut().push((step, weights.to_vec()));
            Ok(())
        };
        let done = watched(&recipe, &[0, 2, 5, 6], folder, &|_| {}, look);
        let (trainer, losses) = match done {
            Ok((trainer, losses)) => (trainer.best_params().to_vec(), losses),
            Err(_) => (vec![], vec![]),
        };
        (seen.into_inner(), losses, trainer)
    }

    #[test]
    fn a_stopped_training_goes_on_to_the_bit() {
        let whole = run(None, 6);
        assert_eq!((whole.0.iter().map(|s| s.0).collect::<Vec<_>>(), whole.1.len()), (vec![0, 2, 5, 6], 6));
        let dir = tempfile::tempdir().unwrap();
        let stopped = run(Some(dir.path()), 2);
        assert!(stopped.0.len() == 2 && stopped.1.is_empty());
        assert!(dir.path().join("step-2").is_dir());
        let resumed = run(Some(dir.path()), 6);
        assert!(whole == resumed);
        // Of a finished training nothing is done again, and a damaged one is begun anew.
        assert!(whole == run(Some(dir.path()), 6));
        std::fs::write(dir.path().join(LOSSES), "[").unwrap();
        assert!(whole == run(Some(dir.path()), 6));
    }
}
