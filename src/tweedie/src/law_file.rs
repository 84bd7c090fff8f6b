//! `LAW.json`: the law of the data, written by hand or by a program.

use crate::error::{Error, Result};
use crate::input;
use crate::law::{Gaussian, Law, empirical::Empirical, mixture::Mixture};
use crate::npy;
use crate::room;
use crate::sample::shortcut::Known;
use ndarray::{Array2, Ix2};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// A law as a file gave it. A Gaussian is kept apart, because it alone has closed forms everywhere;
/// a mixture, because it has classes.
pub enum LawFile {
    Gaussian(Gaussian),
    Mixture(Mixture),
    Empirical(Empirical),
}

impl LawFile {
    /// Dimension d of the data.
    pub fn dim(&self) -> usize {
        self.law().dim()
    }

    /// The law itself.
    pub fn law(&self) -> &dyn Law {
        match self {
            LawFile::Gaussian(law) => law,
            LawFile::Mixture(law) => law,
            LawFile::Empirical(law) => law,
        }
    }

    /// The law alone.
    pub fn into_law(self) -> Box<dyn Law + Send> {
        match self {
            LawFile::Gaussian(law) => Box::new(law),
            LawFile::Mixture(law) => Box::new(law),
            LawFile::Empirical(law) => Box::new(law),
        }
    }

    /// The law as samplers and checks know it.
    pub fn known(&self) -> Known<'_> {
        match self {
            LawFile::Gaussian(law) => Known::Gaussian(law),
            other => Known::Any(other.law()),
        }
    }
}

/// The text of the file, nothing checked but names and types.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
enum Text {
    Gaussian {
        mean: Vec<f64>,
        cov: Option<Vec<Vec<f64>>>,
        variances: Option<Vec<f64>>,
    },
    Mixture {
        weights: Vec<f64>,
        means: Vec<Vec<f64>>,
        covs: Option<Vec<Vec<Vec<f64>>>>,
        variances: Option<Vec<Vec<f64>>>,
    },
    Empirical {
        data: PathBuf,
    },
}

/// Reads a law.
///
/// # Errors
/// A file that is missing, not JSON, has other fields than its kind allows, or does not describe a
/// law.
pub fn read(path: &Path) -> Result<LawFile> {
    let text = input::text(path, "check the path and its permissions")?;
    let text: Text = serde_json::from_str(&text)
        .map_err(|e| Error::file(path, format!("is not a law: {e}"), SHAPES))?;
    // The laws' own messages name the field; the file they came from is added here.
    build(path, text).map_err(|e| match e {
        Error::File { .. } => e,
        other => Error::file(path, format!("is not a law: {other}"), SHAPES),
    })
}

const SHAPES: &str =
    "write for example {\"kind\": \"gaussian\", \"mean\": [0, 1], \"variances\": [4, 0.25]}";

fn build(path: &Path, text: Text) -> Result<LawFile> {
    Ok(match text {
        Text::Gaussian { mean, cov, variances } => {
            LawFile::Gaussian(gaussian("gaussian", mean, cov, variances)?)
        }
        Text::Mixture { weights, means, covs, variances } => {
            let k = means.len();
            let covs = spread("covs", covs, k)?;
            let variances = spread("variances", variances, k)?;
            let parts = means.into_iter().zip(covs).zip(variances).enumerate();
            let components = parts.map(|(i, ((mean, cov), variances))| {
                gaussian(&format!("component {i}"), mean, cov, variances)
            });
            LawFile::Mixture(Mixture::new(weights.into(), components.collect::<Result<_>>()?)?)
        }
        Text::Empirical { data } => {
            // Relative to the law, so that the two can be moved together.
            let file = path.parent().unwrap_or(Path::new("")).join(data);
            let points = npy::read(&file)?;
            let shape = points.shape().to_vec();
            let points = points.into_dimensionality::<Ix2>().map_err(|_| {
                Error::file(
                    &file,
                    format!("shape {shape:?}, wanted (n, d), one point a row"),
                    "reshape the array",
                )
            })?;
            if points.is_empty() {
                return Err(Error::file(
                    &file,
                    format!("shape {shape:?}, wanted (n, d) with both at least 1"),
                    "pass an array of points",
                ));
            }
            LawFile::Empirical(Empirical::new(points)?)
        }
    })
}

/// Largest deviation of a law.
const LARGEST: f64 = 1e70;

/// A Gaussian from exactly one of `cov` and `variances`.
fn gaussian(
    what: &str,
    mean: Vec<f64>,
    cov: Option<Vec<Vec<f64>>>,
    variances: Option<Vec<f64>>,
) -> Result<Gaussian> {
    // Deviations are squared, and squares squared again: these must be numbers too.
    let squares = variances.iter().flatten().chain(cov.iter().flatten().flatten());
    let far = mean
        .iter()
        .map(|v| ("mean", *v, LARGEST))
        .chain(squares.map(|v| ("covariance", *v, LARGEST * LARGEST)));
    if let Some((name, v, most)) = far.into_iter().find(|(_, v, most)| v.abs() > *most) {
        return Err(Error::domain(
            format!("{name} of {what}"),
            format!("{v:e}"),
            format!("at most {most:e}"),
            "rescale the data",
        ));
    }
    if mean.is_empty() {
        return Err(Error::domain(
            format!("mean of {what}"),
            "no numbers",
            "at least one, the dimension of the data",
            "give a mean",
        ));
    }
    let d = mean.len() as f64;
    room::holds(
        format!("the covariance of {what} and its modes"),
        24.0 * d * d,
        "give fewer dimensions",
    )?;
    match (cov, variances) {
        (Some(cov), None) => Gaussian::new(mean.into(), matrix(cov)?.view()),
        (None, Some(variances)) => Gaussian::diagonal(mean.into(), variances.into()),
        (both, _) => {
            let got = if both.is_some() { "both" } else { "neither" };
            Err(Error::domain(
                format!("covariance of {what}"),
                got,
                "either a full one or variances",
                "give one of the two",
            ))
        }
    }
}

/// One entry for each of the k components, or k times none.
fn spread<T: Clone>(name: &str, values: Option<Vec<T>>, k: usize) -> Result<Vec<Option<T>>> {
    match values {
        None => Ok(vec![None; k]),
        Some(v) if v.len() == k => Ok(v.into_iter().map(Some).collect()),
        Some(v) => Err(Error::shape(
            name,
            &[v.len()],
            format!("({k},), one a mean"),
            "give one for each component",
        )),
    }
}

fn matrix(rows: Vec<Vec<f64>>) -> Result<Array2<f64>> {
    let (n, m) = (rows.len(), rows.first().map_or(0, Vec::len));
    match rows.iter().find(|r| r.len() != m) {
        Some(row) => Err(Error::shape(
            "row of a covariance",
            &[row.len()],
            format!("({m},), the first row's length"),
            "make it rectangular",
        )),
        None => Ok(Array2::from_shape_vec((n, m), rows.concat()).expect("rectangular")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array1, array};

    fn law(text: &str) -> Result<LawFile> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("law.json");
        std::fs::write(&path, text).unwrap();
        let points = std::fs::File::create(dir.path().join("points.npy")).unwrap();
        ndarray_npy::WriteNpyExt::write_npy(&array![[0.0, 1.0], [2.0, 3.0], [4.0, -4.0]], points)
            .unwrap();
        read(&path)
    }

    fn moments(law: &LawFile) -> (Array1<f64>, Array2<f64>) {
        (law.law().mean(), law.law().cov())
    }

    #[test]
    fn a_law_has_a_dimension() {
        for text in [
            r#"{"kind":"gaussian","mean":[],"variances":[]}"#,
            r#"{"kind":"gaussian","mean":[],"cov":[]}"#,
            r#"{"kind":"mixture","weights":[1],"means":[[]],"variances":[[]]}"#,
        ] {
            let said = law(text).err().unwrap().to_string();
            assert!(said.contains("got no numbers, allowed: at least one"), "{said}");
        }
    }

    #[test]
    fn every_kind_is_read() {
        for text in [
            r#"{"kind":"gaussian","mean":[1,2],"cov":[[2,0],[0,3]]}"#,
            r#"{"kind":"gaussian","mean":[1,2],"variances":[2,3]}"#,
            r#"{"kind":"mixture","weights":[5],"means":[[1,2]],"variances":[[2,3]]}"#,
            r#"{"kind":"mixture","weights":[1,1],"means":[[1,2],[1,2]],"covs":[[[2,0],[0,3]],[[2,0],[0,3]]]}"#,
        ] {
            let (mean, cov) = moments(&law(text).unwrap());
            // Two products of unit vectors and a sum: a few rounding errors of the largest entry.
            assert!(
                (&mean - &array![1.0, 2.0])
                    .iter()
                    .chain((&cov - &array![[2.0, 0.0], [0.0, 3.0]]).iter())
                    .all(|e| e.abs() <= 8.0 * f64::EPSILON),
                "{text}: {mean} {cov}"
            );
        }
        // Read to the last bit: a parser without correct rounding makes 0.9999499987499374 of this.
        let LawFile::Gaussian(exact) =
            law(r#"{"kind":"gaussian","mean":[9.9994999874993751e-1],"variances":[1]}"#).unwrap()
        else {
            panic!()
        };
        assert_eq!(
            exact.mean()[0].to_bits(),
            "9.9994999874993751e-1".parse::<f64>().unwrap().to_bits()
        );
        let points = law(r#"{"kind":"empirical","data":"points.npy"}"#).unwrap();
        assert_eq!((points.dim(), moments(&points).0), (2, array![2.0, 0.0]));
    }

    #[test]
    fn bad_laws_are_refused_in_full() {
        for (text, want) in [
            ("", "EOF while parsing a value"),
            ("[1, 2", "invalid type: integer `1`, expected"),
            (r#"{"mean":[0],"variances":[1]}"#, "missing field `kind`"),
            (
                r#"{"kind":"gausian","mean":[0],"variances":[1]}"#,
                "unknown variant `gausian`, expected one of `gaussian`, `mixture`, `empirical`",
            ),
            (r#"{"kind":"gaussian","mean":[0],"variance":[1]}"#, "unknown field `variance`"),
            (
                r#"{"kind":"gaussian","mean":["x"],"variances":[1]}"#,
                "invalid type: string \"x\", expected f64",
            ),
            (r#"{"kind":"gaussian","mean":[0],"variances":[1e999]}"#, "number out of range"),
            (r#"{"kind":"gaussian","mean":[0],"variances":[-1]}"#, "got -1, allowed: >= 0"),
            (r#"{"kind":"gaussian","mean":[0, 0],"variances":[1]}"#, "variances: got shape [1]"),
            (
                r#"{"kind":"gaussian","mean":[0]}"#,
                "covariance of gaussian: got neither, allowed: either a full one or variances",
            ),
            (
                r#"{"kind":"gaussian","mean":[0],"variances":[1],"cov":[[1]]}"#,
                "covariance of gaussian: got both",
            ),
            (
                r#"{"kind":"gaussian","mean":[0,0],"cov":[[1,0],[0]]}"#,
                "row of a covariance: got shape [1], wanted (2,)",
            ),
            (r#"{"kind":"gaussian","mean":[0,0],"cov":[[1,2],[2,1]]}"#, "got -1"),
            (
                r#"{"kind":"mixture","weights":[1],"means":[[0]],"variances":[[1],[1]]}"#,
                "variances: got shape [2], wanted (1,), one a mean",
            ),
            (
                r#"{"kind":"mixture","weights":[1],"means":[[0],[1]],"variances":[[1],[1]]}"#,
                "got shape [1]",
            ),
            (
                r#"{"kind":"mixture","weights":[-1,2],"means":[[0],[1]],"variances":[[1],[1]]}"#,
                "got -1, allowed: >= 0, not all 0",
            ),
            (
                r#"{"kind":"mixture","weights":[1],"means":[[0]]}"#,
                "covariance of component 0: got neither",
            ),
            (r#"{"kind":"empirical","data":"none.npy"}"#, "none.npy: cannot be read"),
        ] {
            let Err(e) = law(text) else { panic!("accepted {text}") };
            let got = e.to_string();
            assert!(got.contains(want), "{text}\n{got}");
            assert!(
                got.contains("law.json: is not a law") || want.starts_with("none.npy"),
                "{got}"
            );
        }
    }
}
