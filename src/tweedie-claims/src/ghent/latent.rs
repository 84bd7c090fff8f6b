//! What latent diffusion saves, counted.

use crate::{Claim, Probe, Role};

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "ghent/latent-sizes",
        slide: "Latent Diffusion (Stable Diffusion)",
        statement: "A 512 x 512 x 3 image has 786,432 numbers and its 64 x 64 x 4 latent 16,384: about 3 MB against 65 KB a step in single precision, 150 MB against 3.2 MB over 50 steps, 48 times less.",
        reading: "",
        assumes: "Four bytes a number; the states alone, not the network's activations.",
        printed: "",
        formula: r"512 \cdot 512 \cdot 3 = 786{,}432, \qquad 64 \cdot 64 \cdot 4 = 16{,}384, \qquad \frac{786{,}432}{16{,}384} = 48",
        finding: "All numbers are right within the 5% that lie between a megabyte of 10^6 bytes and one of 2^20, as the slide's sign for approximately asks. To two digits the latent's total is \
                  3.3 MB of the one or 3.1 of the other; 3.2 is 50 times 65 KB cut off. \
                  The totals over 50 steps are those of a stored trajectory; a sampler keeps one state at a time, and its memory is mostly activations.",
        mutants: &["latent of 3 channels", "half precision", "one side compressed"],
        check: sizes,
    },
    Claim {
        id: "ghent/latent-speed-64x",
        slide: "Latent Diffusion (Stable Diffusion)",
        statement: "The same compression makes a step 64 times faster.",
        reading: "",
        assumes: "The same network on both grids, costs counted in multiplications; the autoencoder, which runs once, is left out.",
        printed: "",
        formula: r"\frac{\text{cost}(512 \times 512)}{\text{cost}(64 \times 64)} = 8^2 = 64 \quad \text{for a cost proportional to the number of positions}",
        finding: "True where cost is proportional to the number of positions, as in convolutions between layers of fixed width. It is not the ratio of the sizes, which is 48, \
                  nor that of self-attention over all positions, whose products between pairs become 4096 times fewer.",
        mutants: &["one side counted", "wider layers on the latent"],
        check: speed,
    },
];

fn sizes(p: &mut Probe) {
    let side = p.pick(64.0, "one side compressed", 512.0);
    let (pixels, latent) =
        (512.0 * 512.0 * 3.0, 64.0 * side * p.pick(4.0, "latent of 3 channels", 3.0));
    let bytes = p.pick(4.0, "half precision", 2.0);
    p.number(Role::Printed, "numbers in the image", pixels, 786_432.0, 0.0, "whole numbers");
    p.number(Role::Printed, "numbers in the latent", latent, 16_384.0, 0.0, "whole numbers");
    p.number(Role::Printed, "how many times fewer", pixels / latent, 48.0, 0.0, "whole numbers");
    for (what, got, want) in [
        ("bytes of an image", pixels * bytes, 3e6),
        ("bytes of a latent", latent * bytes, 65e3),
        ("bytes of 50 images", 50.0 * pixels * bytes, 150e6),
        ("bytes of 50 latents", 50.0 * latent * bytes, 3.2e6),
    ] {
        p.number(
            Role::Printed,
            what,
            got,
            want,
            0.05 * want,
            "5%: printed to one or two digits, and a MB is 10^6 or 2^20 bytes",
        );
    }
    for (what, unit) in [("10^6", 1e6), ("2^20", 1_048_576.0)] {
        let total = 50.0 * latent * bytes / unit;
        p.number(
            Role::Printed,
            format!("50 latents in MB of {what} bytes, printed with 5% to spare"),
            total,
            3.2,
            0.05 * 3.2,
            "5%",
        );
    }
}

/// Multiplications of a chain of 3 x 3 convolutions at `n` positions.
fn convolutions(n: f64, widths: &[f64]) -> f64 {
    widths.windows(2).map(|w| 9.0 * w[0] * w[1] * n).sum()
}

fn speed(p: &mut Probe) {
    let factor: f64 = p.pick(8.0 * 8.0, "one side counted", 8.0);
    let wider = p.pick(1.0, "wider layers on the latent", 4.0 / 3.0);
    p.property(
        Role::WithCondition,
        "convolutions of random widths: multiplications on 64 f^2 positions over those on 64^2, f = 8",
        64,
        "16 rounded products",
        |t| {
            let widths: Vec<f64> = (0..t.int(3, 8)).map(|_| (t.int(4, 40) * 16) as f64).collect();
            let latent: Vec<f64> = widths.iter().map(|w| w * wider).collect();
            t.compare(
                convolutions(64.0 * 64.0 * factor, &widths) / convolutions(64.0 * 64.0, &latent),
                64.0,
                16.0 * f64::EPSILON * 64.0,
            );
        },
    );
    let positions = 64.0f64.powi(2);
    p.number(
        Role::WithoutCondition,
        "numbers of the state, 3 channels against 4",
        factor * 3.0 / 4.0,
        64.0,
        1.0,
        "within one of the printed ratio",
    );
    let pairs = (factor * positions).powi(2) / positions.powi(2);
    p.number(
        Role::WithoutCondition,
        "self-attention over all positions: products between pairs",
        pairs,
        64.0,
        1.0,
        "within one of the printed ratio",
    );
}
