//! Weights of exponential and linear multistep methods: moments of a kernel over a step, spread
//! over interpolation nodes.

/// `psi_k(h) = sum_{n >= k} (-1)^(n-k) h^n / n!`: the integral of
/// `e^{-(h - tau)} tau^(k-1) / (k-1)!` over [0, h].
///
/// `psi_1 = 1 - e^-h`, `psi_2 = h - psi_1`, `psi_3 = h^2/2 - psi_2`. With `-h` it serves the kernel
/// `e^{h - tau}`, up to the sign `(-1)^k`. Below |h| = 1 the series is summed: at h = 1e-5 the
/// difference `h^2/2 - psi_2` has lost every digit.
pub fn psi(k: usize, h: f64) -> f64 {
    if h.abs() < 1.0 {
        let mut term = (1..=k).fold(1.0, |t, n| t * h / n as f64);
        let mut sum = 0.0;
        for n in k + 1.. {
            sum += term;
            term *= -h / n as f64;
            if term.abs() <= 1e-18 * sum.abs() {
                return sum;
            }
        }
    }
    let mut power = 1.0;
    let mut value = -(-h).exp_m1();
    for n in 1..k {
        power *= h / n as f64;
        value = power - value;
    }
    value
}

/// Moments `psi_1, ..., psi_n` of a step that integrates `x0_hat`.
pub fn signal_moments(h: f64, n: usize) -> Vec<f64> {
    (1..=n).map(|k| psi(k, h)).collect()
}

/// Moments of a step that integrates `eps_hat`: the integrals of `e^-tau tau^(k-1) / (k-1)!` over
/// [0, h], for `k = 1..=n`.
///
/// # Formula
/// `m_k = m_{k-1} - e^-h h^(k-1) / (k-1)!`; below h = 1, where that cancels,
/// `(-1)^k e^-h psi_k(-h)`.
pub fn noise_moments(h: f64, n: usize) -> Vec<f64> {
    if h < 1.0 {
        return (1..=n)
            .map(|k| if k % 2 == 0 { psi(k, -h) } else { -psi(k, -h) } * (-h).exp())
            .collect();
    }
    let (mut power, mut moments) = ((-h).exp(), vec![-(-h).exp_m1()]);
    for k in 1..n {
        power *= h / k as f64;
        moments.push(moments[k - 1] - power);
    }
    moments
}

/// Weights `w_j` with `sum_j w_j f(node_j) = integral of kernel f` for every polynomial f of degree
/// below the number of nodes.
///
/// # Formula
/// `sum_j w_j node_j^i = i! moments[i]`, solved by the coefficients of the Lagrange polynomials;
/// `moments[i]` is the kernel's integral of `tau^i / i!`. An infinite node (a step out of pure
/// noise) gets no weight.
pub fn interpolation_weights(nodes: &[f64], moments: &[f64]) -> Vec<f64> {
    let finite: Vec<f64> = nodes.iter().copied().filter(|t| t.is_finite()).collect();
    nodes
        .iter()
        .map(|&node| {
            if !node.is_finite() {
                return 0.0;
            }
            // Coefficients of prod (tau - other) / (node - other), lowest first.
            let mut poly = vec![1.0];
            for &other in finite.iter().filter(|&&other| other != node) {
                let mut next = vec![0.0; poly.len() + 1];
                for (i, c) in poly.iter().enumerate() {
                    next[i + 1] += c / (node - other);
                    next[i] -= other * c / (node - other);
                }
                poly = next;
            }
            let mut factorial = 1.0;
            let integral = |(i, (c, m)): (usize, (&f64, &f64))| {
                factorial *= i.max(1) as f64;
                c * factorial * m
            };
            poly.iter().zip(moments).enumerate().map(integral).sum()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::quadrature::IntervalRule;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn psi_is_its_integral(k in 1usize..5, e in -6.0..1.5f64, negative: bool) {
            let h = 10f64.powf(e) * if negative { -1.0 } else { 1.0 };
            let factorial: f64 = (1..k).map(|n| n as f64).product();
            let want = IntervalRule::new(30).unwrap().composite(0.0, h, 20, |t| (t - h).exp() * t.powi(k as i32 - 1) / factorial);
            // The recurrence from |h| = 1 cancels at most two digits for each order.
            prop_assert!((psi(k, h) - want).abs() <= 1e-12 * want.abs(), "{} {want}", psi(k, h));
        }

        #[test]
        fn weights_integrate_polynomials(h in 0.01..3.0f64, gaps in prop::collection::vec(0.2..2.0f64, 1..4), c in prop::array::uniform4(-1.0..1.0f64)) {
            let mut nodes = vec![0.0];
            gaps.iter().for_each(|g| nodes.push(nodes[nodes.len() - 1] - g * h));
            let n = nodes.len();
            let f = |t: f64| (0..n).map(|i| c[i] * t.powi(i as i32)).sum::<f64>();
            let rule = IntervalRule::new(30).unwrap();
            let sum = |moments: Vec<f64>| interpolation_weights(&nodes, &moments).iter().zip(&nodes).map(|(w, t)| w * f(*t)).sum::<f64>();
            let bound = |w: f64| 1e-11 * (1.0 + w.abs());
            let want = rule.composite(0.0, h, 8, |t| (t - h).exp() * f(t));
            prop_assert!((sum(signal_moments(h, n)) - want).abs() <= bound(want));
            let want = rule.composite(0.0, h, 8, |t| (-t).exp() * f(t));
            prop_assert!((sum(noise_moments(h, n)) - want).abs() <= bound(want));
        }
    }

    #[test]
    fn a_node_at_infinity_is_no_node() {
        let moments = signal_moments(0.5, 2);
        assert_eq!(
            interpolation_weights(&[0.0, f64::NEG_INFINITY], &moments),
            vec![moments[0], 0.0]
        );
    }
}
