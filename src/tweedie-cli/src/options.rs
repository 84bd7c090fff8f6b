//! Schedules and paths as the command line names them.

use clap::ValueEnum;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use tweedie::choice::Choice;
use tweedie::diffusion::path::Path;
use tweedie::diffusion::schedule::Schedule;
use tweedie::error::{Error, Result};

/// Continuous noise paths.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum PathName {
    /// Variance preserving (--beta-min, --beta-max)
    Vp,
    /// Variance exploding (--sigma-min, --sigma-max)
    Ve,
    /// EDM: sigma = sigma_max t (--sigma-max)
    Edm,
    /// alpha = cos(pi t / 2)
    Cosine,
    /// Flow matching: alpha = 1 - t
    Fm,
}

/// Discrete schedules and continuous paths.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum ScheduleName {
    /// DDPM's: beta linear in t (--beta-start, --beta-end)
    Linear,
    /// Stable Diffusion's: sqrt(beta) linear in t (--beta-start, --beta-end)
    ScaledLinear,
    /// Squared cosine with capped betas; with --at, the continuous cosine path
    Cosine,
    /// Sigmoid betas (--beta-start, --beta-end)
    Sigmoid,
    /// Variance preserving path (--beta-min, --beta-max)
    Vp,
    /// Variance exploding path (--sigma-min, --sigma-max)
    Ve,
    /// EDM's path, sigma = sigma_max t (--sigma-max)
    Edm,
    /// Flow matching's path, alpha = 1 - t
    Fm,
}

impl ScheduleName {
    /// The continuous path of this name, if there is one.
    pub fn path(self) -> Option<PathName> {
        match self {
            Self::Vp => Some(PathName::Vp),
            Self::Ve => Some(PathName::Ve),
            Self::Edm => Some(PathName::Edm),
            Self::Cosine => Some(PathName::Cosine),
            Self::Fm => Some(PathName::Fm),
            Self::Linear | Self::ScaledLinear | Self::Sigmoid => None,
        }
    }
}

/// The parameters that schedules and paths have between them; each has its own default.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Parameters")]
pub struct Parameters {
    /// First beta [default: 1e-4, scaled-linear 8.5e-4]
    #[arg(long, value_name = "BETA", allow_negative_numbers = true)]
    beta_start: Option<f64>,
    /// Last beta [default: 0.02, scaled-linear 0.012]
    #[arg(long, value_name = "BETA", allow_negative_numbers = true)]
    beta_end: Option<f64>,
    /// Rate of vp at t = 0 [default: 0.1]
    #[arg(long, value_name = "BETA", allow_negative_numbers = true)]
    beta_min: Option<f64>,
    /// Rate of vp at t = 1 [default: 20]
    #[arg(long, value_name = "BETA", allow_negative_numbers = true)]
    beta_max: Option<f64>,
    /// Smallest noise of ve [default: 0.01]
    #[arg(long, value_name = "SIGMA", allow_negative_numbers = true)]
    sigma_min: Option<f64>,
    /// Largest noise of ve and edm [default: ve 50, edm 80]
    #[arg(long, value_name = "SIGMA", allow_negative_numbers = true)]
    sigma_max: Option<f64>,
}

impl Parameters {
    /// The path of this name with the parameters given, the rest at their defaults.
    ///
    /// # Errors
    /// A parameter that the path does not have, or that is out of its range.
    pub fn path(&self, name: PathName) -> Result<Path> {
        let path = match name {
            PathName::Vp => Path::Vp {
                beta_min: self.beta_min.unwrap_or(0.1),
                beta_max: self.beta_max.unwrap_or(20.0),
            },
            PathName::Ve => Path::Ve {
                sigma_min: self.sigma_min.unwrap_or(0.01),
                sigma_max: self.sigma_max.unwrap_or(50.0),
            },
            PathName::Edm => Path::Edm { sigma_max: self.sigma_max.unwrap_or(80.0) },
            PathName::Cosine => Path::Cosine,
            PathName::Fm => Path::FlowMatching,
        };
        let owned: &[&str] = match name {
            PathName::Vp => &["--beta-min", "--beta-max"],
            PathName::Ve => &["--sigma-min", "--sigma-max"],
            PathName::Edm => &["--sigma-max"],
            PathName::Cosine | PathName::Fm => &[],
        };
        self.only(&name, owned)?;
        path.validated()
    }

    /// The discrete schedule of this name with the parameters given, the rest at their defaults.
    ///
    /// # Errors
    /// A parameter that the schedule does not have; a name that is a continuous path's.
    pub fn schedule(&self, name: ScheduleName) -> Result<Schedule> {
        let betas = |start, end| (self.beta_start.unwrap_or(start), self.beta_end.unwrap_or(end));
        let (schedule, owned): (Schedule, &[&str]) = match name {
            ScheduleName::Linear => {
                let (beta_start, beta_end) = betas(1e-4, 0.02);
                (Schedule::Linear { beta_start, beta_end }, &["--beta-start", "--beta-end"])
            }
            ScheduleName::ScaledLinear => {
                let (beta_start, beta_end) = betas(0.00085, 0.012);
                (Schedule::ScaledLinear { beta_start, beta_end }, &["--beta-start", "--beta-end"])
            }
            ScheduleName::Sigmoid => {
                let (beta_start, beta_end) = betas(1e-4, 0.02);
                (Schedule::Sigmoid { beta_start, beta_end }, &["--beta-start", "--beta-end"])
            }
            ScheduleName::Cosine => (Schedule::COSINE, &[]),
            _ => {
                return Err(Error::domain(
                    "discrete schedule",
                    label(&name),
                    "linear, scaled-linear, cosine, sigmoid",
                    "choose one of them",
                ));
            }
        };
        self.only(&name, owned)?;
        Ok(schedule)
    }

    /// Refuses parameters that are given and would be ignored.
    fn only(&self, name: &impl ValueEnum, owned: &[&str]) -> Result<()> {
        let given = [
            ("--beta-start", self.beta_start),
            ("--beta-end", self.beta_end),
            ("--beta-min", self.beta_min),
            ("--beta-max", self.beta_max),
            ("--sigma-min", self.sigma_min),
            ("--sigma-max", self.sigma_max),
        ];
        match given.iter().find(|(flag, value)| value.is_some() && !owned.contains(flag)) {
            None => Ok(()),
            Some((flag, _)) => {
                let allowed = if owned.is_empty() { "none".to_owned() } else { owned.join(", ") };
                Err(Error::domain(
                    format!("parameters of '{}'", label(name)),
                    flag,
                    allowed,
                    "leave it out",
                ))
            }
        }
    }
}

/// One of the library's choices, offered and described as one of our own.
pub fn choice<T: Choice>() -> impl TypedValueParser<Value = T> {
    let values = T::CHOICES.iter().map(|c| PossibleValue::new(c.name()).help(c.about()));
    PossibleValuesParser::new(values).map(|name| T::named(&name).expect("it was among them"))
}

/// The word for a choice on the command line.
pub fn label(name: &impl ValueEnum) -> String {
    name.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
}
