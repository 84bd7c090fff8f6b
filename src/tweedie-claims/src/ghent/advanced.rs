//! Few-step students, flow matching and rectified flow.

use crate::{Claim, Probe, Role, Trial};
use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2, array};
use std::f64::consts::FRAC_PI_2;
use tweedie::diffusion::level::Level;
use tweedie::diffusion::path::Path;
use tweedie::diffusion::{Denoiser, PathPoint};
use tweedie::error::Result;
use tweedie::exact::consistency::{consistency_map, consistency_solve};
use tweedie::exact::distance::w2_squared;
use tweedie::exact::flow::{gaussian_velocity, monge_map};
use tweedie::exact::gains::psi;
use tweedie::exact::pf_ode::{pf_ode_map, pf_ode_solve};
use tweedie::exact::reflow::{reflow_coupling, reflowed_velocity, straightness, straightness_on};
use tweedie::exact::student::{ddim_gain, ddim_law, distillation_target, distilled_denoiser_gain};
use tweedie::law::gaussian::wiener_gain;
use tweedie::law::mixture::Mixture;
use tweedie::law::{Gaussian, Law};
use tweedie::math::larger;
use tweedie::math::quadrature::IntervalRule;
use tweedie::sample::ancestral::Ddim;
use tweedie::sample::noise_source::Silence;
use tweedie::sample::sample;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "ghent/progressive-distillation",
        slide: "Other Improvement Techniques",
        statement: "A student can mimic a T-step teacher in T/2 steps.",
        reading: "",
        assumes: "A deterministic teacher (DDIM), as the method has it, and a student that fits its target exactly.",
        printed: "",
        formula: r"\tilde{x} = \frac{\sigma_t\, x_{t''} - \sigma_{t''}\, x_t}{\alpha_{t''}\, \sigma_t - \sigma_{t''}\, \alpha_t}, \qquad \alpha_{t''} \tilde{x} + \sigma_{t''} \frac{x_t - \alpha_t \tilde{x}}{\sigma_t} = x_{t''}",
        finding: "One DDIM step with this target as its x0 lands where two teacher steps end, for mixtures as for Gaussians, so halving can be repeated down to a single step. \
                  The student has the teacher's law to rounding, and so the teacher's error against the data too; its target is not the denoiser E[x0|x_t], but goes to the exact flow's as the teacher's steps grow.",
        mutants: &[
            "target of one teacher step",
            "denoiser for the target",
            "noise levels swapped in the target",
        ],
        check: distillation,
    },
    Claim {
        id: "ghent/consistency",
        slide: "Other Improvement Techniques",
        statement: "Consistency models generate in one step.",
        reading: "",
        assumes: "The exact consistency map, from a state to the clean end of its probability-flow trajectory.",
        printed: "",
        formula: r"f(x_t, t) = f(x_s, s)\ \text{along a trajectory}, \qquad f(x, 0) = x, \qquad x_T \sim p_T \Rightarrow f(x_T, T) \sim p_{\text{data}}",
        finding: "The exact map gives the same point from everywhere on a trajectory, is the identity at clean data, and turns pure noise into the data law in one evaluation. \
                  One step of a denoiser does not: for Gaussian data its variance falls short by the factor alpha^2 lambda / (alpha^2 lambda + sigma^2), to 0 at pure noise.",
        mutants: &[
            "denoiser for the map",
            "one DDIM step to a small noise level",
            "boundary condition at noise 0.05",
        ],
        check: consistency,
    },
    Claim {
        id: "ghent/flow-matching-optimal-transport",
        slide: "Other Improvement Techniques",
        statement: "Flow matching is an alternative to diffusion with optimal transport.",
        reading: "",
        assumes: "The path x_t = (1 - t) x0 + t eps with independent x0 and eps.",
        printed: "",
        formula: r"W_2\left(q(x_s|x_0), q(x_t|x_0)\right) = |t-s|\, W_2\left(\delta_{x_0}, N(0,I)\right), \qquad \int_0^1 \mathbb{E}\lVert v_t(x_t)\rVert^2 dt = W_2^2 + \left(2-\tfrac{\pi}{2}\right) \sum_k \sqrt{\lambda_k}",
        finding: "True of the conditional paths: given x0 the laws move at constant speed along the transport geodesic from noise to the point, which variance-preserving diffusion does not. The marginal flow that is learned and sampled is \
                  not optimal: for Gaussian data its energy exceeds the squared Wasserstein distance by (2 - pi/2) sqrt(lambda) a mode. \
                  Its map from noise to data is the optimal one for Gaussian data, but on every path alike, and for a mixture of two tilted Gaussians its Jacobian is asymmetric, by 16% of its size at a point, as no optimal map's is.",
        mutants: &["variance-preserving path", "variance interpolated", "time squared"],
        check: optimal_transport,
    },
    Claim {
        id: "ghent/rectified-flow-straight",
        slide: "Other Improvement Techniques",
        statement: "Rectified flow straightens the paths from noise to data.",
        reading: "",
        assumes: "Gaussian data, exact velocities; straightness is the mean squared distance of the velocity from its trajectory's chord.",
        printed: "",
        formula: r"S = \int_0^1 \mathbb{E}\lVert (x_1 - x_0) - v_t(x_t) \rVert^2 dt: \qquad S_1 = \left(2-\tfrac{\pi}{2}\right)\sum_k \sqrt{\lambda_k}, \qquad S_2 = 0",
        finding: "True once the flow has been fitted again to its own pairs of noise and data (one reflow): for Gaussian data the paths are then exactly straight and one Euler step is exact. \
                  The first flow, fitted to independent pairs, is bent by (2 - pi/2) sqrt(lambda) in each mode, and one Euler step from noise gives the mean of the data.",
        mutants: &["fresh noise in the reflow", "time reversed", "spread divided by the variance"],
        check: straight,
    },
];

/// DDIM along a grid.
fn ddim(model: &dyn Denoiser, x: &Array2<f64>, grid: &[PathPoint]) -> Array2<f64> {
    sample(&Ddim { eta: 0.0 }, model, grid, x.clone(), &mut Silence).expect("a falling grid").x
}

/// A network that has learned these outputs for these states.
struct Learned(Array2<f64>);

impl Denoiser for Learned {
    fn dim(&self) -> usize {
        self.0.ncols()
    }

    fn denoise(
        &self,
        _: ArrayView2<f64>,
        _: &PathPoint,
        mut out: ArrayViewMut2<f64>,
    ) -> Result<()> {
        out.assign(&self.0);
        Ok(())
    }
}

/// A falling sequence of times from near noise to `last`.
fn times(t: &Trial, steps: usize, last: f64) -> Vec<f64> {
    let mut inner: Vec<f64> = (0..steps - 1).map(|_| t.uniform(last + 0.02, 0.95)).collect();
    inner.sort_by(|a, b| b.total_cmp(a));
    [&[0.97], inner.as_slice(), &[last]].concat()
}

fn distillation(p: &mut Probe) {
    let (single, posterior_mean, swapped) = (
        p.mutant("target of one teacher step"),
        p.mutant("denoiser for the target"),
        p.mutant("noise levels swapped in the target"),
    );
    p.property(
        Role::Printed,
        "mixture: one student step with the target, against two DDIM steps of the teacher",
        64,
        "1e-12 of the states over the distance of the two noise levels, by which the target is divided",
        |t| {
            let (law, path) = (t.mixture(2, 2), t.path());
            let points: Vec<PathPoint> = times(t, 2, 0.05).iter().map(|&t| path.still_at(t).expect("on the path")).collect();
            let [from, middle, to] = [points[0], points[1], points[2]];
            let x = t.normal_rows(4, 2) * from.alpha.hypot(from.sigma);
            let halfway = ddim(&law, &x, &[from, middle]);
            let end = ddim(&law, &halfway, &[middle, to]);
            let target = match (single, posterior_mean, swapped) {
                (true, ..) => distillation_target(x.view(), halfway.view(), from, middle),
                (_, true, _) => law.denoised(x.view(), &from),
                (.., true) => distillation_target(end.view(), x.view(), from, to),
                _ => distillation_target(x.view(), end.view(), from, to),
            };
            let got = ddim(&Learned(target.expect("two noise levels")), &x, &[from, to]);
            let size = x.iter().chain(&end).map(|v| v.abs()).fold(1.0, larger);
            let weight = (to.alpha * from.sigma - to.sigma * from.alpha) / from.sigma;
            t.compare_all(&got, &end, 1e-12 * size / weight.min(1.0));
        },
    );
    p.property(
        Role::Printed,
        "Gaussian: law of the student that was halved from 8 steps to 1, against that of the 8-step teacher (log variance of each mode)",
        48,
        "1e-11: 8 gains and 3 halvings, each divided by a distance of noise levels",
        |t| {
            let path = t.path();
            let points: Vec<PathPoint> = times(t, 8, 0.05).iter().map(|&t| path.still_at(t).expect("on the path")).collect();
            let levels: Vec<Level> = points.iter().map(Level::from).collect();
            let lambda = t.log_uniform(1e-2, 10.0);
            // Gains of the teacher's steps; each halving turns two of them into one step of a
            // student's denoiser.
            let step = |denoiser: f64, a: Level, b: Level| b.alpha * denoiser + b.sigma * (1.0 - a.alpha * denoiser) / a.sigma;
            let mut gains: Vec<f64> = levels.windows(2).map(|w| ddim_gain(lambda, w[0], w[1])).collect();
            let mut stride = 1;
            while gains.len() > 1 {
                stride *= 2;
                gains = gains
                    .chunks(2)
                    .enumerate()
                    .map(|(k, pair)| {
                        let (a, b) = (levels[k * stride], levels[(k + 1) * stride]);
                        let denoiser = if posterior_mean {
                            wiener_gain(lambda, a.alpha, a.sigma)
                        } else if single {
                            distilled_denoiser_gain(pair[0], a, levels[k * stride + stride / 2])
                        } else if swapped {
                            distilled_denoiser_gain(pair[0] * pair[1], b, a)
                        } else {
                            distilled_denoiser_gain(pair[0] * pair[1], a, b)
                        };
                        step(denoiser, a, b)
                    })
                    .collect();
            }
            let one = |var: f64| Gaussian::diagonal(array![0.0], array![var]).expect("a law");
            let teacher = ddim_law(&one(lambda), &one(1.0), &points).expect("one space");
            t.compare((gains[0] * gains[0]).ln(), teacher.variances()[0].ln(), 1e-11 / (1.0 - levels[8].sigma * levels[0].alpha / (levels[0].sigma * levels[8].alpha)).max(1e-3));
        },
    );
    // From pure noise one gain is the product of all: as the teacher's steps grow it goes to the
    // exact flow's.
    let error = |steps: usize| {
        let level = |k: usize| {
            let angle = FRAC_PI_2 * (1.0 - k as f64 / steps as f64);
            Level { alpha: angle.cos(), sigma: angle.sin() }
        };
        let gain: f64 = (0..steps).map(|k| ddim_gain(0.25, level(k), level(k + 1))).product();
        (gain / psi(0.25, level(0), level(steps))).ln().abs()
    };
    p.number(
        Role::Printed,
        "variance 1/4: error of the log gain of the teacher in 256 steps over that in 512",
        error(256) / error(512),
        2.0,
        0.02,
        "first order in the step, with a remainder of one part in a hundred",
    );
}

fn consistency(p: &mut Probe) {
    let (denoiser, short, boundary) = (
        p.mutant("denoiser for the map"),
        p.mutant("one DDIM step to a small noise level"),
        p.mutant("boundary condition at noise 0.05"),
    );
    let map =
        move |law: &Gaussian, x: &Array2<f64>, at: &PathPoint| match (denoiser, short, boundary) {
            (true, ..) => law.denoised(x.view(), at).expect("an exact law"),
            (_, true, _) if at.sigma > 0.0 => ddim(law, x, &[*at, PathPoint::still(1.0, 1e-3)]),
            (.., true) => {
                pf_ode_map(law, x.view(), at, PathPoint::still(1.0, 0.05)).expect("a level")
            }
            _ => consistency_map(law, x.view(), at).expect("a level"),
        };
    p.property(
        Role::Printed,
        "Gaussian: the map at two points of one trajectory",
        64,
        "1e-12 of the states: gains of up to 1e3 and their inverses",
        |t| {
            let (law, path) = (t.gaussian(3), t.path());
            let at = |time: f64| path.still_at(time).expect("on the path");
            let (late, early) = (at(t.uniform(0.5, 0.95)), at(t.uniform(0.05, 0.5)));
            let x = t.normal_rows(4, 3) * late.alpha.hypot(late.sigma);
            let moved = pf_ode_map(&law, x.view(), late, early).expect("a level");
            let size = x.iter().chain(&moved).map(|v| v.abs()).fold(1.0, larger);
            t.compare_all(&map(&law, &x, &late), &map(&law, &moved, &early), 1e-12 * size);
        },
    );
    p.property(
        Role::Printed,
        "Gaussian: the identity at clean data",
        32,
        "1e-14 of the states",
        |t| {
            let law = t.gaussian(3);
            let x = t.normal_rows(2, 3) * 3.0;
            t.compare_all(&map(&law, &x, &PathPoint::CLEAN), &x, 1e-13);
        },
    );
    p.property(
        Role::Printed,
        "Gaussian: covariance of what one evaluation makes of the marginal at a random level, against the data's",
        64,
        "1e-12 of the largest variance, 10",
        |t| {
            let law = t.gaussian(3);
            let at = t.point();
            let zero = map(&law, &(&law.mean() * at.alpha).insert_axis(ndarray::Axis(0)), &at);
            // The images of the marginal's principal deviations are columns whose outer products
            // add up to the covariance.
            let mut cov = Array2::<f64>::zeros((3, 3));
            for (u, lambda) in law.modes().columns().into_iter().zip(law.variances()) {
                let std = (at.alpha * at.alpha * lambda + at.sigma * at.sigma).sqrt();
                let image = map(&law, &(&law.mean() * at.alpha + &u * std).insert_axis(ndarray::Axis(0)), &at) - &zero;
                cov += &image.t().dot(&image);
            }
            t.compare_all(&cov, &law.cov(), 1e-11);
            t.compare_all(zero.row(0), law.mean(), 1e-11);
        },
    );
    p.property(
        Role::Printed,
        "mixture: the map at two points of one integrated trajectory",
        3,
        "1e-9: errors of 1e-13 a step, stretched by the flow between two modes",
        |t| {
            let law = t.mixture(1, 2);
            let points = [PathPoint::still(0.2, 0.98), PathPoint::still(0.8, 0.6)];
            let x = t.normal_rows(2, 1);
            let moved = pf_ode_solve(&law, x.view(), &points).expect("a trajectory").swap_remove(1);
            let end = |x: &Array2<f64>, at: &PathPoint| {
                if denoiser {
                    law.denoised(x.view(), at).expect("an exact law")
                } else {
                    consistency_solve(&law, x.view(), at).expect("a trajectory")
                }
            };
            t.compare_all(&end(&x, &points[0]), &end(&moved, &points[1]), 1e-9);
        },
    );
}

/// Energy of flow matching's marginal flow for Gaussian data, the integral of E|v|^2 over time, by
/// the velocities of the denoiser: v is linear in the state, so that its values at the mean and one
/// deviation from it along each mode are enough.
fn energy(law: &Gaussian) -> f64 {
    let square = |v: &Array2<f64>| v.iter().map(|v| v * v).sum::<f64>();
    IntervalRule::new(16).expect("nodes").composite(0.0, 1.0, 40, |t| {
        let at = PathPoint::still(1.0 - t, t);
        let velocity =
            |x: Array2<f64>| (&x - &law.denoised(x.view(), &at).expect("an exact law")) / t;
        let mean = (&law.mean() * at.alpha).insert_axis(ndarray::Axis(0));
        let drift = velocity(mean.clone());
        let (modes, variances) = (law.modes(), law.variances());
        let along = (0..variances.len()).map(|k| {
            let std = (at.alpha * at.alpha * variances[k] + t * t).sqrt();
            square(&(velocity(&mean + &(&modes.column(k) * std)) - &drift))
        });
        square(&drift) + along.sum::<f64>()
    })
}

fn optimal_transport(p: &mut Probe) {
    let (preserving, variance, squared) = (
        p.mutant("variance-preserving path"),
        p.mutant("variance interpolated"),
        p.mutant("time squared"),
    );
    let path = move |t: f64| {
        if preserving {
            return Path::Cosine.still_at(t).expect("on the path");
        }
        let point =
            Path::FlowMatching.still_at(if squared { t * t } else { t }).expect("on the path");
        if variance { PathPoint::still(point.alpha, point.sigma.sqrt()) } else { point }
    };
    p.property(
        Role::WithCondition,
        "given x0: W2 between two times over |t - s|, against W2 between noise and the point x0",
        96,
        "1e-13 of it over |t - s|: a difference of the two times",
        |t| {
            let x0 = t.normals(3) * 2.0;
            let at = |time: f64| {
                let point = path(time);
                Gaussian::isotropic(&x0 * point.alpha, point.sigma * point.sigma).expect("a law")
            };
            let (s, u) = (t.uniform(0.0, 0.5), t.uniform(0.55, 1.0));
            let w2 = |a: &Gaussian, b: &Gaussian| w2_squared(a, b).expect("one space").sqrt();
            let whole = w2(
                &Gaussian::isotropic(x0.clone(), 0.0).expect("a point"),
                &Gaussian::isotropic(Array1::zeros(3), 1.0).expect("noise"),
            );
            t.compare(w2(&at(s), &at(u)) / (u - s), whole, 1e-13 * whole / (u - s));
        },
    );
    // The marginal flow's energy by quadrature: E|v|^2 of a mode is (d std / dt)^2, and
    // straightness is its excess over the squared chord.
    p.property(
        Role::WithoutCondition,
        "Gaussian data: energy of the marginal flow, against the squared W2 of noise and data",
        32,
        "1e-9 of it: quadrature",
        |t| {
            let law = t.gaussian(2);
            let w2 = w2_squared(&law, &Gaussian::isotropic(Array1::zeros(2), 1.0).expect("noise"))
                .expect("one space");
            t.compare(energy(&law), w2, 1e-9 * (1.0 + w2));
        },
    );
    p.property(
        Role::Printed,
        "Gaussian data: the energy against squared W2 and (2 - pi/2) sqrt(lambda) for each mode",
        32,
        "1e-9 of it: quadrature",
        |t| {
            let law = t.gaussian(2);
            let w2 = w2_squared(&law, &Gaussian::isotropic(Array1::zeros(2), 1.0).expect("noise"))
                .expect("one space");
            let bent: f64 = law.variances().iter().map(|l| (2.0 - FRAC_PI_2) * l.sqrt()).sum();
            t.compare(energy(&law), w2 + bent, 1e-9 * (1.0 + w2));
        },
    );
    let unit = Gaussian::isotropic(Array1::zeros(1), 1.0).expect("a law");
    p.number(
        Role::WithoutCondition,
        "data N(0, 1), already the noise's law: energy of the marginal flow, 2 - pi/2, where nothing need be moved",
        energy(&unit),
        0.0,
        1e-9,
        "quadrature",
    );
    p.property(
        Role::Printed,
        "Gaussian data: map of the marginal flow from noise, against the optimal map, on every path",
        48,
        "1e-11: two matrix roots of condition up to 1e3",
        |t| {
            let law = t.gaussian(3);
            let eps = t.normal_rows(3, 3);
            let noise = Gaussian::isotropic(Array1::zeros(3), 1.0).expect("noise");
            let map = reflow_coupling(&law, eps.view()).expect("one space");
            t.compare_all(&map, &monge_map(&noise, &law, eps.view()).expect("full rank"), 1e-11);
        },
    );
    // A map that is optimal is a gradient: its Jacobian is symmetric.
    let tilted = |angle: f64, mean: [f64; 2]| {
        let (sin, cos) = angle.sin_cos();
        Gaussian::from_modes(
            array![mean[0], mean[1]],
            array![1.0, 0.05],
            array![[cos, -sin], [sin, cos]],
        )
        .expect("a rotation")
    };
    let law =
        Mixture::new(array![0.5, 0.5], vec![tilted(0.3, [1.5, 0.0]), tilted(1.4, [-1.0, 1.0])])
            .expect("a mixture");
    let h = 1e-3;
    let x = array![[0.3 + h, -0.2], [0.3 - h, -0.2], [0.3, -0.2 + h], [0.3, -0.2 - h]];
    let ends = pf_ode_solve(&law, x.view(), &[PathPoint::NOISE, PathPoint::CLEAN])
        .expect("trajectories")
        .swap_remove(1);
    let slope = |i: usize, c: usize| (ends[[2 * i, c]] - ends[[2 * i + 1, c]]) / (2.0 * h);
    p.number(
        Role::WithoutCondition,
        "mixture of two tilted Gaussians: asymmetry of the Jacobian of the map from noise at (0.3, -0.2), over its size",
        (slope(0, 1) - slope(1, 0)) / slope(0, 0).hypot(slope(1, 1)).hypot(slope(0, 1).hypot(slope(1, 0))),
        0.0,
        1e-4,
        "central differences with h = 1e-3",
    );
}

fn straight(p: &mut Probe) {
    let (fresh, reversed, variance) = (
        p.mutant("fresh noise in the reflow"),
        p.mutant("time reversed"),
        p.mutant("spread divided by the variance"),
    );
    let law_of = |t: &Trial| t.gaussian(3);
    let velocity = move |law: &Gaussian, x: &Array2<f64>, t: f64| {
        let time = if reversed { 1.0 - t } else { t };
        if fresh {
            // Pairs drawn anew are independent: the first flow again.
            return gaussian_velocity(
                law,
                x.view(),
                &Path::FlowMatching.moving_at(time).expect("on the path"),
            )
            .expect("sigma > 0");
        }
        if variance {
            let squared = Gaussian::from_modes(
                law.mean().to_owned(),
                law.variances().mapv(|v| v * v),
                law.modes().to_owned(),
            )
            .expect("a law");
            return reflowed_velocity(&squared, x.view(), time).expect("inside (0, 1]");
        }
        reflowed_velocity(law, x.view(), time).expect("inside (0, 1]")
    };
    p.property(
        Role::WithCondition,
        "after one reflow: velocity on the line between a noise and its data point, against the chord",
        64,
        "1e-12 over the spread of a mode, 0.1 or more",
        |t| {
            let law = law_of(t);
            let eps = t.normal_rows(3, 3);
            let x0 = reflow_coupling(&law, eps.view()).expect("one space");
            let time = t.uniform(0.05, 1.0);
            let x = &x0 * (1.0 - time) + &eps * time;
            t.compare_all(&velocity(&law, &x, time), &(&eps - &x0), 1e-11);
        },
    );
    p.property(
        Role::WithCondition,
        "after one reflow: covariance of one Euler step from noise, against the data's",
        48,
        "1e-12 of the largest variance, 10",
        |t| {
            let law = law_of(t);
            let axes = Array2::<f64>::eye(3);
            let zero = Array2::zeros((1, 3)) - velocity(&law, &Array2::zeros((1, 3)), 1.0);
            // Images of the axes under x - v(x, 1), less that of the origin, are the rows of the
            // linear map.
            let rows = &axes - &velocity(&law, &axes, 1.0) - &zero;
            t.compare_all(&rows.t().dot(&rows), &law.cov(), 1e-11);
            t.compare_all(zero.row(0), law.mean(), 1e-11);
        },
    );
    p.property(
        Role::Printed,
        "before: straightness by quadrature along the trajectories, against (2 - pi/2) sum of sqrt(lambda)",
        24,
        "1e-9 of it: quadrature",
        |t| {
            let law = Gaussian::diagonal(Array1::zeros(2), Array1::from_shape_fn(2, |_| t.log_uniform(1e-2, 10.0))).expect("a law");
            let want = straightness(&law);
            t.compare(straightness_on(&law, |t| Path::FlowMatching.moving_at(t)).expect("on the path"), want, 1e-9 * want);
        },
    );
    let unit = Gaussian::isotropic(Array1::zeros(1), 1.0).expect("a law");
    p.number(
        Role::WithoutCondition,
        "before, data N(0, 1): straightness, which should be 0",
        straightness(&unit),
        0.0,
        1e-9,
        "quadrature",
    );
    let x = array![[1.0]];
    let first = gaussian_velocity(
        &unit,
        x.view(),
        &Path::FlowMatching.moving_at(1.0).expect("on the path"),
    )
    .expect("pure noise");
    p.number(
        Role::WithoutCondition,
        "before, data N(0, 1): one Euler step from eps = 1, whose data point is 1",
        1.0 - first[[0, 0]],
        1.0,
        1e-12,
        "rounding",
    );
}
