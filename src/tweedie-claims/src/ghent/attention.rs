//! The cost of self-attention, counted while it is computed.

use crate::{Claim, Probe, Role, Trial};
use ndarray::Array2;
use tweedie::math::larger;
use tweedie_nn::op;

pub(super) const CLAIMS: &[Claim] = &[Claim {
    id: "ghent/attention-quadratic",
    slide: "Attention Mechanism",
    statement: "Self-attention costs O(n^2) in the number n of positions.",
    reading: "",
    assumes: "One head of width d over n positions; multiplications are counted in a loop over the pairs that computes softmax(Q K^T / sqrt(d)) V from given Q, K, V, and gives what the network's own attention gives. Its forms that leave pairs out, or sum keys first, are not this function.",
    printed: "",
    formula: r"\underbrace{n^2 d}_{Q K^T} + \underbrace{n^2 d}_{A V} = 2 n^2 d, \qquad \text{projections: } 4 n d^2",
    finding: "Counted: 2 n^2 d multiplications and n^2 exponentials, so twice the side of an image costs 16 times as much. The projections to Q, K, V and back add 4 n d^2, which is linear in n \
              and the larger part up to n = 2d: at 16 x 16 positions with d = 512 it is 80% of the layer.",
    mutants: &[
        "attention along rows only",
        "attention to a window of fixed width",
        "one product with all keys at once",
    ],
    check: quadratic,
}];

/// What one layer was counted to cost.
#[derive(Default)]
struct Count {
    products: usize,
    exponentials: usize,
}

/// Self-attention of a grid of positions, each of which attends to those that `sees` allows, and
/// what it cost.
fn attention(
    q: &Array2<f64>,
    k: &Array2<f64>,
    v: &Array2<f64>,
    sees: impl Fn(usize, usize) -> bool,
) -> (Array2<f64>, Count) {
    let (n, d) = q.dim();
    let mut count = Count::default();
    let mut out = Array2::zeros((n, d));
    for i in 0..n {
        let seen: Vec<usize> = (0..n).filter(|&j| sees(i, j)).collect();
        let weights: Vec<f64> = seen
            .iter()
            .map(|&j| {
                count.products += d;
                count.exponentials += 1;
                (q.row(i).dot(&k.row(j)) / (d as f64).sqrt()).exp()
            })
            .collect();
        let total: f64 = weights.iter().sum();
        for (&j, w) in seen.iter().zip(&weights) {
            count.products += d;
            out.row_mut(i).scaled_add(w / total, &v.row(j));
        }
    }
    (out, count)
}

fn quadratic(p: &mut Probe) {
    let (rows, window, summed) = (
        p.mutant("attention along rows only"),
        p.mutant("attention to a window of fixed width"),
        p.mutant("one product with all keys at once"),
    );
    let cost = move |t: &Trial, side: usize, d: usize| {
        let n = side * side;
        let [q, k, v] = [(); 3].map(|()| t.normal_rows(n, d));
        let sees = |i: usize, j: usize| {
            if rows { i / side == j / side } else { !window || i.abs_diff(j) <= 4 }
        };
        let (_, mut count) = attention(&q, &k, &v, sees);
        if summed {
            // Linear attention: keys and values meet first, in a d x d matrix.
            count = Count { products: 2 * n * d * d, exponentials: 0 };
        }
        count
    };
    p.property(
        Role::Printed,
        "multiplications counted, against 2 n^2 d, and exponentials, against n^2",
        24,
        "whole numbers",
        |t| {
            let (side, d) = (t.int(3, 6), t.int(2, 8));
            let (n, count) = (side * side, cost(t, side, d));
            t.compare(count.products as f64, (2 * n * n * d) as f64, 0.0);
            t.compare(count.exponentials as f64, (n * n) as f64, 0.0);
        },
    );
    p.property(
        Role::Printed,
        "cost at twice the side, 4 times the positions, over the cost before",
        8,
        "whole numbers",
        |t| {
            let (side, d) = (t.int(2, 5), t.int(2, 6));
            let ratio = cost(t, 2 * side, d).products as f64 / cost(t, side, d).products as f64;
            t.compare(ratio, 16.0, 0.0);
        },
    );
    p.property(
        Role::Printed,
        "the counted layer, against the network's own operation",
        8,
        "n d roundings of sums of weights",
        |t| {
            let (n, d) = (t.int(3, 12), t.int(2, 6));
            let [q, k, v] = [(); 3].map(|()| t.normal_rows(n, d));
            let largest = v.iter().map(|v| v.abs()).fold(0.0, larger);
            let counted = attention(&q, &k, &v, |_, _| true).0;
            t.compare_all(
                &counted,
                &by_network(&q, &k, &v),
                64.0 * (n * d) as f64 * f64::EPSILON * largest,
            );
        },
    );
    p.property(
        Role::Printed,
        "pairs of query and key that the network's operation joins, against n^2",
        8,
        "a count",
        |t| {
            let (n, d) = (t.int(3, 12), t.int(2, 6));
            let [q, k, v] = [(); 3].map(|()| t.normal_rows(n, d));
            let before = by_network(&q, &k, &v);
            let joined: usize = (0..n)
                .map(|j| {
                    let mut moved = v.clone();
                    moved.row_mut(j).fill(1e3);
                    let after = by_network(&q, &k, &moved);
                    before.rows().into_iter().zip(after.rows()).filter(|(b, a)| b != a).count()
                })
                .sum();
            t.compare(joined as f64, (n * n) as f64, 0.0);
        },
    );
    let (n, d) = (256.0, 512.0);
    let (projections, pairs) = (4.0 * n * d * d, 2.0 * n * n * d);
    p.number(
        Role::Printed,
        "16 x 16 positions with d = 512: share of the projections in the layer's multiplications",
        projections / (projections + pairs),
        2.0 * d / (2.0 * d + n),
        1e-15,
        "rounding",
    );
}

/// One head of the network's own attention.
pub(super) fn by_network(q: &Array2<f64>, k: &Array2<f64>, v: &Array2<f64>) -> Array2<f64> {
    let (rows, channels) = q.dim();
    let (mut log_sums, mut out) = (vec![0.0; rows], Array2::zeros((rows, channels)));
    let [q, k, v] = [q, k, v].map(|x| x.as_slice().expect("contiguous"));
    let op = op::attention::Attention { rows, channels, heads: 1 };
    op::attention::forward(op, q, k, v, &mut log_sums, out.as_slice_mut().expect("contiguous"));
    out
}
