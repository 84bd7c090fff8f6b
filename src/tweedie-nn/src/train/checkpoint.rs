//! A run on disk: saved whole or not at all, resumed to the bit.
//!
//! A folder of checkpoints holds `step-N/`, one folder each, and `latest`, the name of the newest.
//! A checkpoint is a model's folder ([`pipeline`]), with the weights as they are:
//!
//! | in it | what |
//! |---|---|
//! | `unet/`, `tweedie.json`, ... | the weights |
//! | `ema-.../` | a model's folder for each average of the weights |
//! | `training/first.safetensors`, `second.safetensors` | AdamW's averages, under the parameters' names |
//! | `training/state.json` | steps done, the settings, importance sampling's averages |
//! | `training/SHA256SUMS` | the SHA-256 of all the other files, as `sha256sum -c` reads it |
//!
//! There is no state of generators or loaders: draws are a function of the seed and the step. A
//! checkpoint is written under another name, synced, and renamed; then `latest` is replaced; then
//! older ones go. Whenever a run is killed, `latest` names a whole checkpoint. A folder `step-N`
//! that is no checkpoint is never touched.

use super::ema::Profile;
use super::loader::Data;
use super::settings::Settings;
use super::times::{Importance, PARTS};
use super::trainer::Trainer;
use crate::checkpoint::{SUMS, WEIGHTS, read, to_bytes};
use crate::element::Element;
use crate::pipeline;
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use tweedie::error::{Error, Result};
use tweedie::input;
use tweedie_device::Place;
use tweedie_files::{self as file, sums};

/// The file that names the newest checkpoint.
pub const LATEST: &str = "latest";

/// `training/state.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    steps_done: u64,
    settings: Settings,
    /// Mean squares of the parts of importance sampling, null before the first loss of a part.
    importance: Option<Vec<Option<f64>>>,
}

fn refused<'a>(path: &'a Path, what: &'a str) -> impl Fn(std::io::Error) -> Error + 'a {
    move |e| {
        Error::file(
            path,
            format!("{what}: {e}"),
            "check that its folder exists, may be written and has room",
        )
    }
}

/// Saves a run into a folder of checkpoints, and keeps the newest `keep`. The result is the
/// checkpoint's folder.
///
/// # Errors
/// A folder that can't be written or has no room left, one in which something else has the
/// checkpoint's name; what it held before is then still there.
pub fn save<T: Element>(trainer: &mut Trainer<T>, folder: &Path, keep: usize) -> Result<PathBuf> {
    trainer.sync()?;
    let name = name(trainer.steps_done());
    let (whole, aside) = (folder.join(&name), file::aside(&folder.join(format!("{name}.tmp"))));
    std::fs::create_dir_all(folder).map_err(refused(folder, "cannot be made"))?;
    if latest(folder)?.as_deref() != Some(&whole) {
        if whole.exists() && !is_checkpoint(&whole) {
            return Err(Error::file(
                &whole,
                "is in the way of a checkpoint, and is none",
                "move it elsewhere",
            ));
        }
        clear(&aside)?;
        if let Err(e) = write(trainer, &aside) {
            // What is left is no use, and may be what fills the disk.
            let _ = clear(&aside);
            return Err(e);
        }
        // Renamed, but not yet named by `latest`, when an earlier run was killed.
        clear(&whole)?;
        std::fs::rename(&aside, &whole).map_err(refused(&whole, "cannot be written"))?;
        sync(folder);
        file::write(&folder.join(LATEST), name.as_bytes())?;
        sync(folder);
    }
    let mut others: Vec<(u64, PathBuf)> = checkpoints(folder)?;
    others.retain(|(step, _)| *step < trainer.steps_done());
    let gone = others.len().saturating_sub(keep.max(1) - 1);
    others.into_iter().take(gone).try_for_each(|(_, path)| clear(&path))?;
    // Of a run that was killed while it saved.
    file::sweep(folder);
    Ok(whole)
}

/// Makes a checkpoint the newest of its folder again: those of later steps go.
///
/// # Errors
/// A folder that can't be read or written.
pub(super) fn back_to(folder: &Path, step: u64) -> Result<()> {
    for (_, later) in checkpoints(folder)?.into_iter().filter(|(other, _)| *other > step) {
        clear(&later)?;
    }
    file::write(&folder.join(LATEST), name(step).as_bytes())
}

/// The checkpoints in a folder by their steps.
fn checkpoints(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let entries = match std::fs::read_dir(folder) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(vec![]);
        }
        entries => entries.map_err(refused(folder, "cannot be read"))?,
    };
    let numbered = |path: PathBuf| Some((step_of(path.file_name()?.to_str()?)?, path));
    let mut found: Vec<_> = entries
        .filter_map(|entry| numbered(entry.ok()?.path()))
        .filter(|(_, path)| is_checkpoint(path))
        .collect();
    found.sort();
    Ok(found)
}

/// Whether a folder is a checkpoint, whole or damaged, and no folder of someone's that has the name
/// of one.
fn is_checkpoint(folder: &Path) -> bool {
    folder.join("training/state.json").is_file()
}

/// The newest checkpoint of a folder that is whole, whatever `latest` says.
///
/// # Errors
/// A folder that can't be read; one with checkpoints of which none is whole.
pub fn newest_whole(folder: &Path) -> Result<Option<PathBuf>> {
    let found = checkpoints(folder)?;
    let mut damage = None;
    for (_, path) in found.into_iter().rev() {
        match whole(&path) {
            Ok(()) => return Ok(Some(path)),
            Err(e) => damage = damage.or(Some(e)),
        }
    }
    damage.map_or(Ok(None), Err)
}

/// Holds all files of a checkpoint to the sums that it was written with, if it has any.
fn whole(checkpoint: &Path) -> Result<()> {
    state(checkpoint)?;
    let sums = checkpoint.join(SUMS);
    if sums.is_file() { sums::verify(checkpoint, &sums, "") } else { Ok(()) }
}

fn name(step: u64) -> String {
    format!("step-{step}")
}

fn step_of(name: &str) -> Option<u64> {
    name.strip_prefix("step-")?.parse().ok().filter(|step| self::name(*step) == name)
}

fn clear(folder: &Path) -> Result<()> {
    file::remove_folder(folder).map_err(refused(folder, "cannot be removed"))
}

/// Asks the system to keep a folder's names through a loss of power; where it can't, a kill of the
/// process still does no harm.
fn sync(folder: &Path) {
    let _ = std::fs::File::open(folder).and_then(|f| f.sync_all());
}

fn write<T: Element>(trainer: &Trainer<T>, folder: &Path) -> Result<()> {
    let (config, setup, program) = (&trainer.settings.network, trainer.setup(), trainer.program());
    pipeline::write(folder, config, setup, program, &trainer.params)?;
    for ema in &trainer.emas {
        pipeline::write(&folder.join(ema.profile.name()), config, setup, program, &ema.params)?;
    }
    let training = folder.join("training");
    std::fs::create_dir_all(&training).map_err(refused(&training, "cannot be made"))?;
    for (name, average) in
        [("first", &trainer.averages.first), ("second", &trainer.averages.second)]
    {
        file::write(&training.join(format!("{name}.safetensors")), &to_bytes(average, program)?)?;
    }
    let state = State {
        steps_done: trainer.steps_done,
        settings: trainer.settings.clone(),
        importance: trainer
            .importance
            .as_ref()
            .map(|i| i.mean_square.iter().map(|x| x.is_finite().then_some(*x)).collect()),
    };
    let text = serde_json::to_string_pretty(&state)
        .map_err(|e| Error::file(folder, e, "report this as a bug"))?;
    file::write(&training.join("state.json"), text.as_bytes())?;
    let sums = sums::of(folder).map_err(refused(folder, "cannot be read"))?;
    file::write(&folder.join(SUMS), sums.as_bytes())
}

/// The newest checkpoint of a folder, if it has one.
///
/// # Errors
/// A `latest` that can't be read or names no checkpoint.
pub fn latest(folder: &Path) -> Result<Option<PathBuf>> {
    let pointer = folder.join(LATEST);
    match std::fs::read_to_string(&pointer) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(e) => {
            Err(Error::file(&pointer, format!("cannot be read: {e}"), "check its permissions"))
        }
        Ok(name) => match step_of(name.trim()) {
            Some(_) if folder.join(name.trim()).is_dir() => Ok(Some(folder.join(name.trim()))),
            _ => Err(Error::file(
                &pointer,
                format!("names `{}`, which is no checkpoint beside it", name.trim()),
                "write the name of one into it",
            )),
        },
    }
}

/// The model that a run's folder stands for: of its newest checkpoint the last average of the
/// weights, or the weights where there is none. None for a folder that is no run's.
///
/// # Errors
/// As [`latest`]; a checkpoint whose state can't be read.
pub fn newest_model(run: &Path) -> Result<Option<PathBuf>> {
    let Some(checkpoint) = latest(&run.join("checkpoints"))? else { return Ok(None) };
    let ema = state(&checkpoint)?.settings.ema;
    // In the order of the settings, the powers last.
    let constant = ema.constant.iter().map(|d| Profile::constant(*d));
    let last = constant.chain(ema.power.iter().map(|w| Profile::power(*w))).last().transpose()?;
    Ok(Some(last.map_or(checkpoint.clone(), |profile| checkpoint.join(profile.name()))))
}

fn state(checkpoint: &Path) -> Result<State> {
    let path = checkpoint.join("training/state.json");
    let bad = |problem: String| {
        Error::file(&path, problem, "resume from another checkpoint: write its name into `latest`")
    };
    let text =
        input::settings(&path, "resume from another checkpoint: write its name into `latest`")?;
    serde_json::from_str(&text).map_err(|e| bad(format!("is not a run's state: {e}")))
}

/// Goes on from a checkpoint on this device, as if the run had never stopped.
///
/// # Errors
/// A checkpoint that is damaged, or not to the bit what was written; settings other than those it
/// was made with, by the key (there may be more steps, and how often the run is saved, validated
/// and sampled may change).
pub fn resume<T: Element>(
    checkpoint: &Path,
    settings: Settings,
    data: Data,
    place: &Place,
) -> Result<Trainer<T>> {
    let training = checkpoint.join("training");
    let path = training.join("state.json");
    let bad = |problem: String| {
        Error::file(&path, problem, "resume from another checkpoint: write its name into `latest`")
    };
    whole(checkpoint)?;
    let state = state(checkpoint)?;
    if let Some(key) = settings.departs_from(&state.settings) {
        let allowed = if key == "steps" {
            format!("at least {}", state.settings.steps)
        } else {
            "what the run began with".into()
        };
        return Err(Error::domain(
            format!("`{key}` of a resumed run"),
            "another value than the checkpoint's",
            allowed,
            "restore it, or begin a new run in another --out",
        ));
    }
    let mut trainer = Trainer::<T>::placed(settings, data, place)?;
    if state.steps_done > trainer.settings.steps {
        return Err(bad(format!(
            "has {} steps done of {}",
            state.steps_done, trainer.settings.steps
        )));
    }
    let weights =
        |folder: PathBuf| read::<T>(&folder.join("unet").join(WEIGHTS), trainer.program());
    let average =
        |name: &str| read::<T>(&training.join(format!("{name}.safetensors")), trainer.program());
    let params = weights(checkpoint.to_owned())?;
    let emas = trainer
        .emas
        .iter()
        .map(|ema| weights(checkpoint.join(ema.profile.name())))
        .collect::<Result<Vec<_>>>()?;
    let (first, second) = (average("first")?, average("second")?);
    trainer.params = params;
    trainer.emas.iter_mut().zip(emas).for_each(|(ema, params)| ema.params = params);
    (trainer.averages.first, trainer.averages.second) = (first, second);
    trainer.averages.steps = u32::try_from(state.steps_done).map_err(|e| bad(e.to_string()))?;
    trainer.steps_done = state.steps_done;
    trainer.changed_here();
    if let (Some(importance), Some(saved)) = (&mut trainer.importance, state.importance) {
        let parts: Vec<f64> = saved.iter().map(|x| x.unwrap_or(f64::NAN)).collect();
        *importance = Importance {
            mean_square: parts
                .try_into()
                .map_err(|_| bad(format!("importance: wanted {PARTS} numbers")))?,
        };
    }
    Ok(trainer)
}
