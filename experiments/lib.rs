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

use tweedie_report::Experiment;

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
    pub mod checks;
    pub mod figures;
    pub mod numbers;
}

/// Every experiment, in the order of the page.
pub const EXPERIMENTS: &[Experiment] = &[
    Experiment::of::<digits_theory::figures::DigitsTheory>(),
    Experiment::of::<schedules::figures::Schedules>(),
    Experiment::of::<elbo::figures::Elbo>(),
    Experiment::of::<preconditioning::figures::Preconditioning>(),
    Experiment::of::<natural_patches::figures::NaturalPatches>(),
    Experiment::of::<langevin::figures::Langevin>(),
    Experiment::of::<samplers::figures::Samplers>(),
    Experiment::of::<flow_matching::figures::FlowMatching>(),
    Experiment::of::<guidance::figures::Guidance>(),
    Experiment::of::<latent::figures::Latent>(),
    Experiment::of::<digits_unet::figures::DigitsUnet>(),
    Experiment::of::<equivalence::figures::Equivalence>(),
    Experiment::of::<grf::figures::Grf>(),
    Experiment::of::<claims::figures::Claims>(),
    Experiment::of::<gpu::figures::Gpu>(),
];

#[cfg(test)]
mod tests;
