//! Which of text and image asks in cross-attention.

use super::attention::by_network;
use crate::{Claim, Probe, Role, Trial};

use ndarray::Array2;

pub(super) const CLAIMS: &[Claim] = &[Claim {
    id: "ghent/cross-attention-text-query",
    slide: "Attention Mechanism",
    statement: "Cross-attention for text conditioning takes its queries from the text, and its keys and values from the image.",
    reading: "",
    assumes: "The layer's output takes the image's place in the network: it has a row for each position of the image, and moves with the positions. As many positions as words, so that both ways round can be computed.",
    printed: r"\text{Attention}(Q_{\text{text}}, K_{\text{image}}, V_{\text{image}})",
    formula: r"\text{Attention}(Q_{\text{image}}, K_{\text{text}}, V_{\text{text}})",
    finding: "A row of the output belongs to a row of Q, and the order of the rows of K and V is lost. So the image has to ask: with the text's queries the output has a row a word, and stays the \
              same however the image's positions are shuffled. The slide has the two exchanged.",
    mutants: &["keys shuffled alone", "self-attention of the text", "values from the image"],
    check: text_query,
}];

/// Rows in another order, one that leaves none in its place.
fn shuffled(x: &Array2<f64>) -> Array2<f64> {
    let n = x.nrows();
    Array2::from_shape_fn(x.dim(), |(i, j)| x[[(i + 1) % n, j]])
}

fn text_query(p: &mut Probe) {
    let (keys, own, values) = (
        p.mutant("keys shuffled alone"),
        p.mutant("self-attention of the text"),
        p.mutant("values from the image"),
    );
    let drawn = |t: &Trial| {
        let (n, d) = (t.int(3, 40), t.int(2, 8));
        [t.normal_rows(n, d), t.normal_rows(n, d)]
    };
    let why = "the same sums in another order";
    let image_asks = move |image: &Array2<f64>, text: &Array2<f64>, v: &Array2<f64>| match () {
        _ if own => by_network(text, text, v),
        _ if values => by_network(image, text, image),
        _ => by_network(image, text, v),
    };
    p.property(
        Role::Printed,
        "the text asks: the output at shuffled positions of the image, against the shuffled output",
        32,
        why,
        move |t| {
            let [image, text] = drawn(t);
            let moved = shuffled(&image);
            t.compare_all(
                &by_network(&text, &moved, &moved),
                &shuffled(&by_network(&text, &image, &image)),
                1e-12,
            );
        },
    );
    p.property(Role::Corrected, "the image asks: the same", 32, why, move |t| {
        let [image, text] = drawn(t);
        t.compare_all(
            &image_asks(&shuffled(&image), &text, &text),
            &shuffled(&image_asks(&image, &text, &text)),
            1e-12,
        );
    });
    p.property(
        Role::Corrected,
        "the image asks: the output for the words in another order, against the output",
        32,
        why,
        move |t| {
            let [image, text] = drawn(t);
            let moved = shuffled(&text);
            t.compare_all(
                &image_asks(&image, &moved, if keys { &text } else { &moved }),
                &image_asks(&image, &text, &text),
                1e-12,
            );
        },
    );
}
