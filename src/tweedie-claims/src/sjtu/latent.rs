//! Counting dimensions and operations: pixels against latents.

use crate::Claim;
use crate::Role::{Corrected, Printed, WithCondition, WithoutCondition};
use ndarray::Array3;

/// (channels, height, width).
type Shape = (usize, usize, usize);

const PIXELS: Shape = (3, 512, 512);
const LATENT: Shape = (4, 64, 64);

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "sjtu/pixel-dims-512",
        slide: "Latent Diffusion: Why Diffuse in Pixel Space at All?",
        statement: "Diffusion in the pixel space of 512 x 512 images has 786,432 dimensions.",
        reading: "The slide prints 512^2 = 786,432, without the factor 3 for the colours; it writes 512 x 512 x 3 one line \
        below.",
        assumes: "One dimension for each number of an image.",
        printed: "",
        formula: r"3 \cdot 512^2 = 786432, \quad 512^2 = 262144",
        finding: "It holds if the images have three colour channels: 512^2 alone is 262,144, a third of the number on the slide.",
        mutants: &["one channel", "pixels of a 256 x 256 image", "bytes of half-precision numbers"],
        check: |p| {
            let (c, h, w) = p.pick(PIXELS, "one channel", (1, 512, 512));
            let (h, w) = p.pick((h, w), "pixels of a 256 x 256 image", (256, 256));
            let bytes = p.pick(1, "bytes of half-precision numbers", 2);
            p.number(
                WithCondition,
                "Numbers in a colour image of 512 x 512 pixels",
                bytes as f64 * numbers((c, h, w)),
                786_432.0,
                0.0,
                "a count",
            );
            p.number(
                WithoutCondition,
                "Numbers in a grey image of 512 x 512 pixels, 512^2",
                numbers((1, 512, 512)),
                786_432.0,
                0.0,
                "a count",
            );
        },
    },
    Claim {
        id: "sjtu/latent-64x-fewer-dims",
        slide: "Latent Diffusion: Why Diffuse in Pixel Space at All?",
        statement: "Going from 512 x 512 x 3 pixels to a latent of 64 x 64 x 4 numbers makes 64 times fewer dimensions and a step \
        64 times cheaper.",
        reading: "",
        assumes: "Cost is counted in multiply-adds of a layer with the same width (number of inner channels) at either \
        resolution.",
        printed: r"\frac{512 \cdot 512 \cdot 3}{64 \cdot 64 \cdot 4} = 64",
        formula: r"\frac{512 \cdot 512 \cdot 3}{64 \cdot 64 \cdot 4} = 48, \quad \frac{512^2}{64^2} = 64",
        finding: "There are 48 times fewer dimensions, because the latent has 4 channels where the image has 3; 64 is the ratio of \
        spatial positions. The cost of a convolution between equally wide layers does fall by 64, that of full self-attention by \
        64^2 = 4096, and only the first and last layer see the numbers of channels.",
        mutants: &["channels left out", "sides for areas", "attention counted as linear"],
        check: |p| {
            let flat = p.mutant("channels left out");
            let side = p.mutant("sides for areas");
            let linear = p.mutant("attention counted as linear");
            let ratio = |of: &dyn Fn(Shape) -> f64| of(PIXELS) / of(LATENT);
            let positions =
                move |(_, h, w): Shape| if side { h as f64 } else { numbers((1, h, w)) };
            p.number(
                Printed,
                "Dimensions of the image over those of the latent",
                ratio(&numbers),
                64.0,
                0.0,
                "a count",
            );
            p.number(
                Corrected,
                "Dimensions of the image over those of the latent, against 48",
                ratio(&|s| if flat { positions(s) } else { numbers(s) }),
                48.0,
                0.0,
                "a count",
            );
            p.number(
                Corrected,
                "Spatial positions of the image over those of the latent",
                ratio(&positions),
                64.0,
                0.0,
                "a count",
            );
            p.number(
                Corrected,
                "Pairs of positions of the image over those of the latent",
                ratio(&|s| if linear { positions(s) } else { positions(s).powi(2) }),
                4096.0,
                0.0,
                "a count",
            );
            p.property(
                Corrected,
                "Multiply-adds of a layer at either resolution, for any widths and kernel sizes",
                64,
                "counts",
                |t| {
                    let (width_in, width_out, size) =
                        (t.int(1, 512) as f64, t.int(1, 512) as f64, t.int(1, 7) as f64);
                    let convolution =
                        |shape: Shape| positions(shape) * width_in * width_out * size * size;
                    // Queries times keys, then weights times values.
                    let attention = |shape: Shape| {
                        2.0 * width_in
                            * if linear { positions(shape) } else { positions(shape).powi(2) }
                    };
                    t.compare(ratio(&convolution), 64.0, 0.0);
                    t.compare(ratio(&attention), 4096.0, 0.0);
                },
            );
        },
    },
];

/// Numbers in an array of this shape.
fn numbers(shape: Shape) -> f64 {
    // Of nothing, so that no memory is taken.
    Array3::<()>::from_elem(shape, ()).len() as f64
}
