#![doc = include_str!("README.md")]

/// A file of this folder, as it is in the checkout now and as it was when the program was built.
macro_rules! source {
    ($name:literal) => {
        tweedie_report::experiment::Editable {
            name: concat!("experiments/", $name),
            path: concat!(env!("CARGO_MANIFEST_DIR"), "/", $name),
            built: include_str!(concat!(env!("OUT_DIR"), "/", $name)),
        }
    };
}

use std::path::Path;
use tweedie_report::Experiment;
use tweedie_report::chapter::settings;

#[path = "digits-theory"]
pub mod digits_theory {
    pub mod figures;
    pub mod numbers;
}

#[path = "schedules"]
pub mod schedules {
    pub mod figures;
    pub mod numbers;
}

#[path = "elbo"]
pub mod elbo {
    pub mod figures;
    pub mod numbers;
}

#[path = "preconditioning"]
pub mod preconditioning {
    pub mod figures;
    pub mod numbers;
}

#[path = "natural-patches"]
pub mod natural_patches {
    pub mod figures;
    pub mod numbers;
}

#[path = "langevin"]
pub mod langevin {
    pub mod figures;
    pub mod numbers;
}

#[path = "samplers"]
pub mod samplers {
    pub mod figures;
    pub mod numbers;
}

#[path = "flow-matching"]
pub mod flow_matching {
    pub mod figures;
    pub mod numbers;
}

#[path = "guidance"]
pub mod guidance {
    pub mod figures;
    pub mod numbers;
}

#[path = "latent"]
pub mod latent {
    pub mod figures;
    pub mod numbers;
}

#[path = "digits-unet"]
pub mod digits_unet {
    pub mod figures;
    pub mod numbers;
}

#[path = "equivalence"]
pub mod equivalence {
    pub mod figures;
    pub mod numbers;
}

#[path = "grf"]
pub mod grf {
    pub mod figures;
    pub mod numbers;
}

#[path = "claims"]
pub mod claims {
    pub mod figures;
    pub mod numbers;
}

#[path = "gpu"]
pub mod gpu {
    pub mod figures;
}

/// Every experiment, in the order of the page.
pub const EXPERIMENTS: &[Experiment] = &[
    Experiment {
        name: "digits-theory",
        about: "the exact diffusion of 1,797 handwritten digits: spectrum, trajectories, emergence, Wiener against empirical, ELBO",
        seconds: [9.0, 36.0],
        shown_again: nothing,
        settings: settings::<digits_theory::numbers::Settings>,
        run: digits_theory::figures::run,
    },
    Experiment {
        name: "schedules",
        about: "noise levels and time, terminal SNR and brightness, single steps, grids, resolution, learned schedules",
        seconds: [1.0, 4.0],
        shown_again: nothing,
        settings: settings::<schedules::numbers::Settings>,
        run: schedules::figures::run,
    },
    Experiment {
        name: "elbo",
        about: "the variational bound line by line, against steps and schedules, in bits, and three likelihoods of one network",
        seconds: [3.0, 12.0],
        shown_again: nothing,
        settings: settings::<elbo::numbers::Settings>,
        run: elbo::figures::run,
    },
    Experiment {
        name: "preconditioning",
        about: "EDM's scalings, targets and what can be known of them, errors on their way to x0, weights, times, averages of weights",
        seconds: [5.0, 20.0],
        shown_again: nothing,
        settings: preconditioning::figures::settings,
        run: preconditioning::figures::run,
    },
    Experiment {
        name: "natural-patches",
        about: "five photographs: spectra near 1/f^2, the Wiener filter against recall, coarse before fine, teleportation, receptive fields",
        seconds: [13.0, 52.0],
        shown_again: nothing,
        settings: settings::<natural_patches::numbers::Settings>,
        run: natural_patches::figures::run,
    },
    Experiment {
        name: "langevin",
        about: "Langevin dynamics, the score, annealing, the family of reverse SDEs, predictor and corrector, on known laws",
        seconds: [12.0, 48.0],
        shown_again: nothing,
        settings: settings::<langevin::numbers::Settings>,
        run: langevin::figures::run,
    },
    Experiment {
        name: "samplers",
        about: "what few steps cost, exactly: DDPM, DDIM, DPM-Solver, Heun, students; measured orders; work against precision",
        seconds: [15.0, 60.0],
        shown_again: nothing,
        settings: settings::<samplers::numbers::Settings>,
        run: samplers::figures::run,
    },
    Experiment {
        name: "flow-matching",
        about: "straight lines and bent flows: one flow on every path, what crossing and bending cost, reflow, where Euler's steps go",
        seconds: [2.0, 8.0],
        shown_again: nothing,
        settings: settings::<flow_matching::numbers::Settings>,
        run: flow_matching::figures::run,
    },
    Experiment {
        name: "guidance",
        about: "what guidance samples: the produced law against the tilted one, a lost mode, digits at growing scales, where it works",
        seconds: [7.0, 28.0],
        shown_again: nothing,
        settings: settings::<guidance::numbers::Settings>,
        run: guidance::figures::run,
    },
    Experiment {
        name: "latent",
        about: "linear VAEs and principal components: bound and gap, collapse, what compression and sampler each lose, what a latent saves",
        seconds: [6.0, 24.0],
        shown_again: nothing,
        settings: settings::<latent::numbers::Settings>,
        run: latent::figures::run,
    },
    Experiment {
        name: "digits-unet",
        about: "a U-Net trained on the digits: its samples, its loss, trajectories and receptive fields beside the exact ones",
        seconds: [73.0, 405.0],
        shown_again: nothing,
        settings: digits_unet::figures::settings,
        run: digits_unet::figures::run,
    },
    Experiment {
        name: "equivalence",
        about: "x0-, eps-, v- and velocity-objectives: one minimiser, one path, and where a bottleneck or training parts them",
        seconds: [67.0, 660.0],
        shown_again: nothing,
        settings: settings::<equivalence::numbers::Settings>,
        run: equivalence::figures::run,
    },
    Experiment {
        name: "grf",
        about: "a U-Net trained on Gaussian random fields: its excess risk and its samples' spectrum, against the exact law",
        seconds: [46.0, 670.0],
        shown_again: nothing,
        settings: settings::<grf::numbers::Settings>,
        run: grf::figures::run,
    },
    Experiment {
        name: "claims",
        about: "the statements of five lecture decks, each with the verdict that its check computes, slips and corrections first",
        seconds: [5.0, 20.0],
        shown_again: nothing,
        settings: settings::<claims::numbers::Settings>,
        run: claims::figures::run,
    },
    Experiment {
        name: "gpu",
        about: "what the last run on a GPU found: every kernel and the networks against f64, throughput beside PyTorch",
        seconds: [1.0, 4.0],
        shown_again: gpu::figures::shown_again,
        settings: gpu::figures::settings,
        run: gpu::figures::run,
    },
];

/// Of a chapter whose folder no other command writes to.
fn nothing(_: &Path) -> &'static [&'static str] {
    &[]
}

#[cfg(test)]
mod tests;
