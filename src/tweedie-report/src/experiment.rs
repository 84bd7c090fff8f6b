//! What the experiments of the report compute, as plain numbers: no file, no clock, no drawing.

use ndarray::Array2;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use tweedie::choice::Choice;
use tweedie::diffusion::PathPoint;
use tweedie::error::{Error, Result, suggested};
use tweedie::input;

/// How much an experiment computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// As little as the checks allow: what the tests run.
    Least,
    /// Enough to see everything.
    Quick,
    /// Finer grids and more draws.
    Full,
}

impl Profile {
    /// What belongs to it.
    pub fn of<T>(self, quick: T, full: T) -> T {
        match self {
            // Its settings hold it where a quick run's effort stands.
            Profile::Least => quick,
            Profile::Quick => quick,
            Profile::Full => full,
        }
    }
}

impl Choice for Profile {
    /// What a user is offered.
    const CHOICES: &'static [Self] = &[Self::Quick, Self::Full];

    fn name(self) -> &'static str {
        match self {
            Profile::Least => "least",
            Profile::Quick => "quick",
            Profile::Full => "full",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Profile::Least => "As little as the checks allow",
            Profile::Quick => "Enough to see everything",
            Profile::Full => "Finer grids and more draws",
        }
    }
}

impl std::fmt::Display for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What an experiment is given.
pub struct Context<'a> {
    /// How much to compute.
    pub profile: Profile,
    /// Seed of every random draw.
    pub seed: u64,
    /// Told (steps done, steps in all, what comes next).
    pub progress: &'a (dyn Fn(usize, usize, &str) + Sync),
    /// Settings to compute with, in place of the chapter's own.
    pub settings: Option<&'a Text>,
    /// Folder in which trainings go on from where a stopped run left them; none, and they begin
    /// anew.
    pub trainings: Option<&'a Path>,
}

impl Context<'_> {
    /// Where the training of this name is kept.
    pub fn training(&self, name: &str) -> Option<PathBuf> {
        self.trainings.map(|folder| folder.join(name))
    }

    /// An experiment's settings: those given, else [`Embedded::current`], or what is least of them.
    ///
    /// # Errors
    /// As [`Embedded::parse`].
    pub fn settings<S: Embedded>(&self) -> Result<S> {
        let settings = S::of(self.settings)?;
        match self.profile {
            Profile::Least => Ok(settings.least()),
            _ => Ok(settings),
        }
    }
}

/// A text that somebody wrote, and the file that it is from.
#[derive(Clone, Debug)]
pub struct Text {
    /// The file's name, for messages.
    pub file: PathBuf,
    /// All that is in it.
    pub content: Cow<'static, str>,
}

impl Text {
    /// Reads a file.
    ///
    /// # Errors
    /// A file that is missing, too long for one that a person wrote, or no UTF-8.
    pub fn read(file: &Path) -> Result<Self> {
        let content = input::settings(file, "check the path and its permissions")?;
        Ok(Self { file: file.to_owned(), content: content.into() })
    }
}

/// A file of the folder `experiments/`, which is read from the checkout that the program was built
/// in: an edit takes effect without a compiler. Where there is no checkout, it is as it was then.
#[derive(Clone, Copy, Debug)]
pub struct Editable {
    /// Its name in the repository.
    pub name: &'static str,
    /// Where it lies in the checkout.
    pub path: &'static str,
    /// What was in it when the program was built.
    pub built: &'static str,
}

impl Editable {
    /// What is in it now.
    ///
    /// # Errors
    /// As [`Text::read`], of a file that is there.
    pub fn text(&self) -> Result<Text> {
        let path = Path::new(self.path);
        if path.exists() { Text::read(path) } else { Ok(self.built()) }
    }

    /// What was in it when the program was built.
    pub fn built(&self) -> Text {
        Text { file: self.name.into(), content: self.built.into() }
    }
}

/// An experiment's settings: a strict TOML file, `experiments/NAME/settings.toml`.
pub trait Embedded: Serialize + DeserializeOwned {
    /// That file.
    const SOURCE: Editable;

    /// What its values have to keep, and whether they do.
    fn rules(&self) -> Vec<(bool, &'static str)>;

    /// The same with as little effort, as that of a quick run, as leaves every check its meaning:
    /// for the tests.
    fn least(self) -> Self;

    /// The parts that have rules of their own, held to them.
    ///
    /// # Errors
    /// A rule of theirs that is broken.
    fn with_valid_parts(self) -> Result<Self> {
        Ok(self)
    }

    /// Reads the text of such a file.
    ///
    /// # Errors
    /// An unknown or missing key, a broken rule.
    fn parse(text: &Text) -> Result<Self> {
        let unlike = |problem: String| {
            let mend = format!("compare it with {} of the repository", Self::SOURCE.name);
            Error::file(&text.file, problem, mend)
        };
        let settings: Self = toml::from_str(&text.content).map_err(|e| unlike(suggested(e)))?;
        let settings = settings.with_valid_parts()?;
        match settings.rules().iter().find(|rule| !rule.0) {
            None => Ok(settings),
            Some((_, rule)) => Err(unlike((*rule).into())),
        }
    }

    /// The settings of this text, or of the chapter's own file.
    ///
    /// # Errors
    /// As [`Embedded::parse`].
    fn of(text: Option<&Text>) -> Result<Self> {
        text.map_or_else(|| Self::SOURCE.text().and_then(|text| Self::parse(&text)), Self::parse)
    }

    /// The settings of the chapter's own file.
    ///
    /// # Errors
    /// As [`Embedded::parse`].
    fn current() -> Result<Self> {
        Self::of(None)
    }
}

/// `n` noise levels in equal ratios, both ends included.
pub fn geometric(from: f64, to: f64, n: usize) -> Vec<f64> {
    (0..n).map(|k| from * (to / from).powf(k as f64 / (n - 1) as f64)).collect()
}

/// Point of the unscaled path: `alpha = 1`.
pub fn level(sigma: f64) -> PathPoint {
    PathPoint::still(1.0, sigma)
}

/// Where a curve over descending levels first reaches a value, by interpolation in ln sigma; NaN
/// where it does not.
pub fn crossing(sigmas: &[f64], values: &[f64], want: f64) -> f64 {
    let found = (1..sigmas.len()).find(|k| values[k - 1] < want && values[*k] >= want);
    found.map_or(f64::NAN, |k| {
        let u = (want - values[k - 1]) / (values[k] - values[k - 1]);
        sigmas[k - 1] * (sigmas[k] / sigmas[k - 1]).powf(u)
    })
}

/// Mean of some numbers, and its standard error.
pub fn mean_and_stderr(x: &[f64]) -> [f64; 2] {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    [mean, (x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n * (n - 1.0))).sqrt()]
}

/// The number farthest from 0, NaN being farther than any.
pub fn farthest(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().fold(0.0, |m: f64, v| if m.is_nan() || v.abs() <= m.abs() { m } else { v })
}

/// The smallest number; NaN where one is.
pub fn least(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().fold(f64::INFINITY, |m, v| if m.is_nan() || m <= v { m } else { v })
}

/// Mean of some numbers over its standard error: of differences of pairs, how sure their sign is.
pub fn in_errors(x: impl IntoIterator<Item = f64>) -> f64 {
    let [mean, stderr] = mean_and_stderr(&x.into_iter().collect::<Vec<f64>>());
    mean / stderr
}

/// Squared length of each row.
pub fn squares(x: &Array2<f64>) -> Vec<f64> {
    x.rows().into_iter().map(|r| r.dot(&r)).collect()
}

/// Sum of squares.
pub fn energy(x: &Array2<f64>) -> f64 {
    x.iter().map(|v| v * v).sum()
}

/// For the tests of chapters.
pub mod testing {
    use super::{Embedded, Text};

    /// A settings file is read as it stands, and refused with each of some (text, what it becomes,
    /// complaint).
    pub fn assert_strict<S: Embedded>(cases: &[(&str, &str, &str)]) {
        assert!(S::current().is_ok());
        let Text { file, content } = S::SOURCE.text().expect("the checkout's, or the program's");
        for (from, to, complaint) in cases {
            assert!(content.contains(from), "{from}");
            let edited = Text { file: file.clone(), content: content.replacen(from, to, 1).into() };
            let message = S::parse(&edited).err().expect("a refusal").to_string();
            assert!(message.contains(complaint), "{message}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::farthest;

    #[test]
    fn a_nan_is_farthest_wherever_it_stands() {
        assert_eq!(farthest([1.0, -3.0, 2.0]), -3.0);
        for place in 0..3 {
            let mut values = [1.0, -3.0, 2.0];
            values[place] = f64::NAN;
            assert!(farthest(values).is_nan(), "{place}");
        }
    }
}
