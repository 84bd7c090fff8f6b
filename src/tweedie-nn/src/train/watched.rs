//! A whole training that is looked at on the way, and goes on where it was stopped.

use super::{Data, Settings, Trainer, checkpoint};
use crate::checkpoint::{WEIGHTS, read};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tweedie::error::{Error, Result};
use tweedie_device::Place;
use tweedie_files::{self as file, lock::Lock};

/// File beside the checkpoints, sealed, that says which they are and what is in them.
const KEPT: &str = "kept";

/// Parts of a training after each of which it is kept, besides the steps that are looked at.
const PARTS: u64 = 16;

/// What a stopped training goes on from.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    /// Loss of every step that the newest checkpoint has behind it.
    losses: Vec<f64>,
    /// Checkpoints by their steps, each with its fingerprint.
    checkpoints: BTreeMap<u64, [u8; 32]>,
}

/// Trains by a recipe, and shows `look` the weights after each of some steps, 0 being those that it
/// begins with. The second part is the loss of every step.
///
/// Where there is a folder for it, the weights of these steps are kept there, and the training
/// itself every now and then: a run that was stopped goes on from the last of them, with the same
/// numbers. What is not to the bit as it was kept is not used, and the folder's checkpoints begin
/// anew.
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
    let lock = folder.and_then(|folder| {
        std::fs::create_dir_all(folder).ok().and_then(|()| Lock::take(folder).ok())
    });
    let folder = folder.filter(|_| lock.is_some());
    // A checkpoint that can't be used is one that was never written.
    let found = folder.and_then(|folder| resumed(folder, recipe, stops).ok().flatten());
    let Run { mut trainer, mut kept, earlier } = match found {
        Some(run) => run,
        None => {
            // What is left there would be in the way of what is kept now.
            let _ = folder.map(std::fs::remove_dir_all);
            Run {
                trainer: Trainer::new(recipe.clone(), Data::load(recipe)?)?,
                kept: Kept::default(),
                earlier: vec![],
            }
        }
    };
    for (step, weights) in &earlier {
        look(*step, &trainer, weights)?;
    }
    let (begun, part) = (trainer.steps_done(), recipe.steps.div_ceil(PARTS));
    loop {
        let step = trainer.steps_done();
        let stop = stops.contains(&step);
        if stop && earlier.last().is_none_or(|e| e.0 < step) {
            look(step, &trainer, trainer.params())?;
        }
        if let Some(folder) = folder.filter(|_| {
            !kept.checkpoints.contains_key(&step) && (stop || step > 0 && step.is_multiple_of(part))
        }) {
            // Keeping is a convenience: a full disk is told by what has to be written.
            let _ = keep(&mut trainer, &mut kept, stops, folder);
        }
        if step >= recipe.steps {
            return Ok((trainer, kept.losses));
        }
        if (step - begun).is_multiple_of(16) {
            told(step);
        }
        kept.losses.push(trainer.step()?.loss);
    }
}

fn keep(trainer: &mut Trainer<f32>, kept: &mut Kept, stops: &[u64], folder: &Path) -> Result<()> {
    let saved = checkpoint::save(trainer, folder, usize::MAX)?;
    let print =
        file::fingerprint(&saved).map_err(|e| Error::file(&saved, e, "make it readable"))?;
    // Between two steps that are looked at the newest is enough.
    let passing: Vec<u64> =
        kept.checkpoints.keys().copied().filter(|step| !stops.contains(step)).collect();
    kept.checkpoints.retain(|step, _| !passing.contains(step));
    kept.checkpoints.insert(trainer.steps_done(), print);
    let text =
        serde_json::to_vec(kept).map_err(|e| Error::file(folder, e, "report this as a bug"))?;
    file::write(&folder.join(KEPT), &file::sealed(&text))?;
    // Only now: a run that is killed before goes on from the one before.
    passing.iter().for_each(|step| drop(std::fs::remove_dir_all(place(folder, *step))));
    Ok(())
}

fn place(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("step-{step}"))
}

/// Steps and the weights after them.
type Weights = Vec<(u64, Vec<f32>)>;

/// A training on its way.
struct Run {
    trainer: Trainer<f32>,
    kept: Kept,
    /// Of the stops behind it.
    earlier: Weights,
}

/// From the newest checkpoint of a folder; none where there is none that is whole, or where one
/// before it is not.
fn resumed(folder: &Path, recipe: &Settings, stops: &[u64]) -> Result<Option<Run>> {
    let Some(kept) = std::fs::read(folder.join(KEPT))
        .ok()
        .and_then(|b| serde_json::from_slice::<Kept>(file::opened(&b)?).ok())
    else {
        return Ok(None);
    };
    let whole = |(step, print): (&u64, &[u8; 32])| {
        file::fingerprint(&place(folder, *step)).is_ok_and(|found| found == *print)
    };
    let Some(newest) =
        kept.checkpoints.keys().next_back().copied().filter(|_| kept.checkpoints.iter().all(whole))
    else {
        return Ok(None);
    };
    // Saved, but not yet written down, when an earlier run was killed: it is saved again.
    checkpoint::back_to(folder, newest)?;
    let trainer = checkpoint::resume::<f32>(
        &place(folder, newest),
        recipe.clone(),
        Data::load(recipe)?,
        &Place::Cpu,
    )?;
    if kept.losses.len() as u64 != newest || trainer.steps_done() != newest {
        return Ok(None);
    }
    let weights =
        |step: u64| read(&place(folder, step).join("unet").join(WEIGHTS), trainer.program());
    let behind = stops.iter().filter(|step| **step <= newest);
    let mut earlier =
        behind.map(|step| Ok((*step, weights(*step)?))).collect::<Result<Weights>>()?;
    earlier.sort_by_key(|e| e.0);
    earlier.dedup_by_key(|e| e.0);
    Ok(Some(Run { trainer, kept, earlier }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    const RECIPE: &str = include_str!("../../../../experiments/recipes/train-digits-small.toml");

    const STOPS: [u64; 4] = [0, 2, 5, 6];

    fn recipe() -> Settings {
        let mut recipe = Settings::parse(RECIPE).unwrap();
        (recipe.steps, recipe.batch) = (6, 4);
        recipe
    }

    /// What a training showed, its losses and the weights that it ended with.
    fn run(folder: Option<&Path>, until: u64) -> (Weights, Vec<f64>, Vec<f32>) {
        let recipe = recipe();
        let seen = RefCell::new(vec![]);
        let look = |step: u64, _: &Trainer<f32>, weights: &[f32]| {
            if step > until {
                return Err(Error::domain("run", "stopped", "", ""));
            }
            seen.borrow_mut().push((step, weights.to_vec()));
            Ok(())
        };
        let done = watched(&recipe, &STOPS, folder, &|_| {}, look);
        let (trainer, losses) = match done {
            Ok((trainer, losses)) => (trainer.best_params().to_vec(), losses),
            Err(_) => (vec![], vec![]),
        };
        (seen.into_inner(), losses, trainer)
    }

    #[test]
    fn a_stopped_training_goes_on_to_the_bit() {
        let whole = run(None, 6);
        assert_eq!(
            (whole.0.iter().map(|s| s.0).collect::<Vec<_>>(), whole.1.len()),
            (vec![0, 2, 5, 6], 6)
        );
        let dir = tempfile::tempdir().unwrap();
        let stopped = run(Some(dir.path()), 2);
        assert!(stopped.0.len() == 2 && stopped.1.is_empty());
        assert!(dir.path().join("step-2").is_dir());
        let resumed = run(Some(dir.path()), 6);
        assert!(whole == resumed);
        // Of a finished training nothing is done again.
        assert!(whole == run(Some(dir.path()), 6));
    }

    #[test]
    fn a_training_is_kept_between_the_steps_that_are_looked_at() {
        let whole = run(None, 6);
        let dir = tempfile::tempdir().unwrap();
        // Stopped when step 5 is looked at, after step 4 was kept.
        run(Some(dir.path()), 4);
        let steps = |folder: &Path| {
            let of = |k: &u64| place(folder, *k).is_dir();
            (0..=6).filter(of).collect::<Vec<u64>>()
        };
        assert_eq!(steps(dir.path()), [0, 2, 4]);
        // Saved by a run that was killed before it wrote that down.
        std::fs::create_dir_all(place(dir.path(), 5).join("unet")).unwrap();
        std::fs::write(dir.path().join("latest"), "step-5").unwrap();
        assert!(whole == run(Some(dir.path()), 6));
        assert_eq!(steps(dir.path()), [0, 2, 5, 6]);
    }

    #[test]
    fn a_kept_training_is_used_to_the_bit_or_not_at_all() {
        let whole = run(None, 6);
        let dir = tempfile::tempdir().unwrap();
        run(Some(dir.path()), 6);
        // A bit of each file in turn, of several places in it.
        for name in [
            "kept",
            "step-2/unet/diffusion_pytorch_model.safetensors",
            "step-6/training/second.safetensors",
            "step-6/training/state.json",
        ] {
            for part in 0..4 {
                let path = dir.path().join(name);
                let mut bytes = std::fs::read(&path).unwrap();
                let at = (bytes.len() - 1) * part / 3;
                bytes[at] ^= 1 << (2 * part);
                std::fs::write(&path, bytes).unwrap();
                assert!(resumed(dir.path(), &recipe(), &STOPS).unwrap().is_none(), "{name} {part}");
                assert!(whole == run(Some(dir.path()), 6), "{name} {part}");
                assert!(resumed(dir.path(), &recipe(), &STOPS).unwrap().is_some(), "{name} {part}");
            }
        }
        std::fs::remove_file(dir.path().join("kept")).unwrap();
        assert!(whole == run(Some(dir.path()), 6));
    }
}
