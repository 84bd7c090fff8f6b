//! A mixture in the plane: lines that cross, a flow that bends, and what a reflow makes of it.

use super::{Effort, Gap, PlaneSettings, energy};
use ndarray::{Array1, Array2, Axis, s};
use serde::{Deserialize, Serialize};
use tweedie::diffusion::{Path, PathPoint};
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::exact::distance::w2_squared;
use tweedie::exact::flow::marginal_velocity;
use tweedie::exact::pf_ode::pf_ode_solve;
use tweedie::exact::reflow::{
    crossing, reflow_coupling, reflowed_velocity, straightness, transport_costs,
};
use tweedie::law::mixture::Mixture;
use tweedie::law::{Gaussian, Law};
use tweedie::math::noise::Noise;
use tweedie::math::quadrature::IntervalRule;
use tweedie::math::{larger, smaller};
use tweedie::sample::flow::FmEuler;
use tweedie::sample::noise_source::{Silence, standard_start};
use tweedie::sample::trajectory;

/// `E|eps - x0|^2` of independent pairs, taken apart.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Costs {
    /// Of independent noise and data.
    pub independent: f64,
    /// What is lost where lines cross: `int E Var(eps - x0 | x_t) dt`, the least flow-matching
    /// loss.
    pub crossing: f64,
    /// What is lost where the flow bends: its straightness.
    pub bending: f64,
    /// `E|z - Phi(z)|^2` of the pairs that the flow makes.
    pub flow: f64,
    /// The same after swaps of two ends each, as long as a swap makes it less.
    pub swapped: f64,
    /// A lower bound of the optimal transport: `W2^2` of the Gaussians of the same moments.
    pub bound: f64,
}

/// The numbers of the plane.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Plane {
    /// Independent pairs: noise and data, each (n, 2).
    pub pairs: [Array2<f64>; 2],
    /// Trajectories of the same noise under the flow, each (points, 2).
    pub paths: Vec<Array2<f64>>,
    /// Steps, and Euler's polygons of the same noise.
    pub euler: Vec<(usize, Vec<Array2<f64>>)>,
    /// Distances of Euler's ends from the flow's.
    pub gaps: Vec<Gap>,
    /// The mixture's costs.
    pub mixture: Costs,
    /// Those of the digits' Gaussian, in closed form.
    pub digits: Costs,
    /// Largest `|J01 - J10|` over the size of the flow's Jacobian: 0 for an optimal transport.
    pub antisymmetry: f64,
    /// Least real eigenvalue of the Jacobian: positive if the lines of the flow's pairs do not
    /// cross.
    pub least_eigenvalue: f64,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

impl Plane {
    pub(super) fn new(s: &PlaneSettings, effort: Effort, noise: &Noise) -> Result<Self> {
        let parts =
            s.means.iter().map(|m| Gaussian::isotropic(Array1::from(m.to_vec()), s.std * s.std));
        let law =
            Mixture::new(Array1::from(s.weights.clone()), parts.collect::<Result<Vec<_>>>()?)?;
        let z = standard_start(noise, effort.draws, 2);
        let few = z.slice(s![..s.trajectories, ..]);
        let pairs = [few.to_owned(), law.sample(s.trajectories, &noise.child(1))];
        let times = (0..=80)
            .map(|k| Path::FlowMatching.at(1.0 - f64::from(k) / 80.0))
            .collect::<Result<Vec<_>>>()?;
        let paths = by_row(&pf_ode_solve(&law, few, &times)?);
        let (mixture, ends, spread, evidence_of_sum) = costs(&law, s, &z)?;

        let (mut euler, mut gaps) = (Vec::new(), Vec::new());
        for &n in &s.steps {
            let (states, end) = trajectory(&FmEuler, &law, &even(n)?, z.clone(), &mut Silence)?;
            if s.euler.contains(&n) {
                let few: Vec<_> =
                    states.iter().map(|x| x.slice(s![..s.trajectories, ..]).to_owned()).collect();
                euler.push((n, by_row(&few)));
            }
            gaps.push(Gap::new(n, &law, &end.x, &ends));
        }

        let (antisymmetry, least_eigenvalue) = jacobians(&law, s)?;
        let data = Gaussian::from_data(tweedie_nn::data::load("digits")?.images.view())?;
        let (independent, flow) = transport_costs(&data);
        let standard = Gaussian::isotropic(Array1::zeros(data.dim()), 1.0)?;
        let digits = Costs {
            independent,
            crossing: crossing(&data),
            bending: straightness(&data),
            flow,
            swapped: flow,
            bound: w2_squared(&standard, &data)?,
        };
        // Of the Gaussian's own pairs no swap makes the cost less, for they are the optimal
        // transport's.
        let eps = standard_start(noise, 200, data.dim());
        let (_, swaps) = swapped(&eps, &reflow_coupling(&data, eps.view())?);

        // What differences and the integrator leave, seen where the flow is optimal transport: on
        // the mixture's own mean and covariance.
        let gaussian =
            Mixture::new(Array1::ones(1), vec![Gaussian::new(law.mean(), law.cov().view())?])?;
        let (floor, _) = jacobians(&gaussian, s)?;
        let parts = digits.crossing + digits.bending + digits.flow;
        let evidence = vec![
            evidence_of_sum,
            Evidence::new(
                "digits' Gaussian: crossing + bending + flow / cost of independent pairs",
                parts / independent,
                1.0,
                1e-12,
            )
            .because("sums of 64 numbers"),
            Evidence::new("digits' Gaussian: cost of the flow's pairs / W₂²", flow / digits.bound, 1.0, 1e-12)
                .because("sums of 64 numbers"),
            reflowed(&data, noise)?,
            Evidence::at_least(
                "the mixture's flow is no optimal transport: antisymmetry of its Jacobian, the largest",
                antisymmetry,
                100.0 * floor,
                0.0,
            )
            .because("a hundred times what the same differences find on a Gaussian, whose flow is"),
            Evidence::new("digits' Gaussian: swaps of two ends of 200 pairs that make the cost less", swaps as f64, 0.0, 0.0)
                .because("a count"),
            Evidence::at_most(
                "mixture: cost of the flow's pairs after swaps of two ends, over that before",
                mixture.swapped / mixture.flow,
                1.0,
                1e-12,
            )
            .because("only swaps that make it less are made; two sums, rounded"),
            Evidence::at_least(
                "mixture: cost after the swaps, against the W₂² of Gaussians of the same moments",
                mixture.swapped,
                mixture.bound,
                4.0 * spread,
            )
            .because("no coupling costs less; 4 standard errors"),
            Evidence::at_least(
                "lines of the flow's pairs do not cross: least real eigenvalue of its Jacobian on a lattice",
                least_eigenvalue,
                0.0,
                0.0,
            )
            .because("an eigenvalue below 0 takes two close starts past each other"),
            Evidence::at_most(
                "mixture: cost of the flow's pairs, against that of independent pairs",
                mixture.flow,
                mixture.independent,
                0.0,
            )
            .because("crossing and bending are what it saves, both positive"),
            halved(&gaps),
        ];
        Ok(Self {
            pairs,
            paths,
            euler,
            gaps,
            mixture,
            digits,
            antisymmetry,
            least_eigenvalue,
            evidence,
        })
    }
}

/// Evenly in time, from pure noise to data.
pub(super) fn even(n: usize) -> Result<Vec<PathPoint>> {
    (0..=n).map(|k| Path::FlowMatching.at(1.0 - k as f64 / n as f64)).collect()
}

/// Mean squared distance of pairs after swapping the ends of two of them as long as that makes it
/// less, and the number of swaps.
fn swapped(from: &Array2<f64>, to: &Array2<f64>) -> (f64, usize) {
    let n = from.nrows();
    let mut end: Vec<usize> = (0..n).collect();
    let mut swaps = 0;
    loop {
        let before = swaps;
        for i in 0..n {
            for j in 0..i {
                // The change by a swap is twice the product of the two differences; rounding is no
                // gain.
                let gain = (&from.row(i) - &from.row(j)).dot(&(&to.row(end[i]) - &to.row(end[j])));
                if gain < -1e-9 {
                    end.swap(i, j);
                    swaps += 1;
                }
            }
        }
        if swaps == before {
            break;
        }
    }
    (energy(&(from - &to.select(Axis(0), &end))) / n as f64, swaps)
}

/// Row i of every state, as one trajectory.
fn by_row(states: &[Array2<f64>]) -> Vec<Array2<f64>> {
    let of = |i: usize| Array2::from_shape_fn((states.len(), 2), |(k, j)| states[k][[i, j]]);
    (0..states[0].nrows()).map(of).collect()
}

/// The costs, the ends of the flow, the standard error of its cost, and the check that the parts
/// make the whole.
fn costs(
    law: &Mixture,
    s: &PlaneSettings,
    z: &Array2<f64>,
) -> Result<(Costs, Array2<f64>, f64, Evidence)> {
    let rule = IntervalRule::new(s.nodes)?;
    let mut nodes: Vec<(f64, f64)> = rule.nodes().collect();
    nodes.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut points = vec![PathPoint::NOISE];
    points
        .extend(nodes.iter().map(|(t, _)| Path::FlowMatching.at(*t)).collect::<Result<Vec<_>>>()?);
    points.push(PathPoint::CLEAN);
    let states = pf_ode_solve(law, z.view(), &points)?;
    let ends = states[points.len() - 1].clone();
    let chord = z - &ends;
    let n = z.nrows() as f64;
    // Of each trajectory: its part of crossing, bending and flow.
    let mut parts = Array2::zeros((z.nrows(), 3));
    parts.column_mut(2).assign(&chord.map_axis(Axis(1), |r| r.dot(&r)));
    for ((t, weight), (at, x)) in nodes.iter().zip(points[1..].iter().zip(&states[1..])) {
        let bend = &chord - &marginal_velocity(law, x.view(), &at.moving()?)?;
        for (i, mut part) in parts.rows_mut().into_iter().enumerate() {
            // eps - x0 = (x_t - x0) / t, so its variance is that of x0 over t squared.
            part[0] += weight * law.posterior_cov(x.row(i), at)?.diag().sum() / (t * t);
            part[1] += weight * bend.row(i).dot(&bend.row(i));
        }
    }
    let mean = parts.mean_axis(Axis(0)).unwrap_or_default();
    let error = |of: &dyn Fn(ndarray::ArrayView1<f64>) -> f64| {
        let values: Vec<f64> = parts.rows().into_iter().map(of).collect();
        let centre = values.iter().sum::<f64>() / n;
        (values.iter().map(|v| (v - centre).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt()
    };
    let whole = law.mean();
    let independent = 2.0 + whole.dot(&whole) + law.cov().diag().sum();
    let gaussian = Gaussian::new(law.mean(), law.cov().view())?;
    let bound = w2_squared(&Gaussian::isotropic(Array1::zeros(2), 1.0)?, &gaussian)?;
    let costs = Costs {
        independent,
        crossing: mean[0],
        bending: mean[1],
        flow: mean[2],
        swapped: swapped(z, &ends).0,
        bound,
    };
    let evidence = Evidence::new(
        "mixture: crossing + bending + flow against the cost of independent pairs",
        mean.sum(),
        independent,
        4.0 * error(&|p| p.sum()),
    )
    .because("4 standard errors of the trajectories' mean");
    Ok((costs, ends, error(&|p| p[2]), evidence))
}

/// Largest antisymmetry and least real eigenvalue of the flow's Jacobian over a lattice of noise.
fn jacobians(law: &Mixture, s: &PlaneSettings) -> Result<(f64, f64)> {
    let (n, h) = (s.lattice, 1e-4);
    let at = |k: usize| s.reach * (2.0 * k as f64 / (n - 1) as f64 - 1.0);
    let centres =
        Array2::from_shape_fn((n * n, 2), |(i, j)| at(if j == 0 { i % n } else { i / n }));
    let mut around = Array2::zeros((4 * n * n, 2));
    for (k, step) in [[h, 0.0], [-h, 0.0], [0.0, h], [0.0, -h]].into_iter().enumerate() {
        around
            .slice_mut(s![k * n * n..(k + 1) * n * n, ..])
            .assign(&(&centres + &Array1::from(step.to_vec())));
    }
    let ends =
        pf_ode_solve(law, around.view(), &[PathPoint::NOISE, PathPoint::CLEAN])?.swap_remove(1);
    let (mut antisymmetry, mut least) = (0.0f64, f64::INFINITY);
    for i in 0..n * n {
        let column = |k: usize, j: usize| {
            (ends[[2 * k * n * n + i, j]] - ends[[(2 * k + 1) * n * n + i, j]]) / (2.0 * h)
        };
        let [[a, c], [b, d]] = [[column(0, 0), column(0, 1)], [column(1, 0), column(1, 1)]];
        let size = (a * a + b * b + c * c + d * d).sqrt();
        antisymmetry = larger(antisymmetry, (b - c).abs() / size);
        let discriminant = (0.5 * (a - d)).powi(2) + b * c;
        if discriminant >= 0.0 {
            least = smaller(least, 0.5 * (a + d) - discriminant.sqrt());
        }
    }
    Ok((antisymmetry, least))
}

/// One Euler step with the reflowed velocity, against the coupling that it was made from.
fn reflowed(law: &Gaussian, noise: &Noise) -> Result<Evidence> {
    let eps = standard_start(noise, 16, law.dim());
    let stepped = &eps - &reflowed_velocity(law, eps.view(), 1.0)?;
    let gap =
        (stepped - reflow_coupling(law, eps.view())?).iter().map(|v| v.abs()).fold(0.0, larger);
    let what =
        "digits' Gaussian: one Euler step after a reflow against the end of the flow, largest gap";
    Ok(Evidence::new(what, gap, 0.0, 1e-12).because("products with 64 modes"))
}

/// Euler's method is of first order.
fn halved(gaps: &[Gap]) -> Evidence {
    let at = |n: usize| gaps.iter().find(|e| e.steps == n).map_or(f64::NAN, |e| e.median);
    Evidence::new("Euler's median error of 64 steps over that of 32", at(64) / at(32), 0.5, 0.1)
        .because("first order, not yet quite in its limit")
}
