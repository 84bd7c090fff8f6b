//! The weights that a run begins with.

use crate::program::{Op, ParamId, Program};
use tweedie::math::noise::Noise;

/// PyTorch's initial weights, as diffusers leaves them, in the order of the program's parameters.
///
/// Matrices and their biases are uniform within `1 / sqrt(inputs)`, norms begin as the identity,
/// tables of rows are standard normal, Fourier frequencies normal of deviation 16. With
/// `zero_output` the last convolution is 0, so that the first output of the network is 0: the best
/// guess there is of a target whose mean is 0.
///
/// # Source
/// `torch.nn.Conv2d`, `torch.nn.Linear` (He et al., 2015, with `a = sqrt(5)`),
/// `torch.nn.Embedding`; zeros as in Ho et al., 2020.
pub fn initial(program: &Program, noise: &Noise, zero_output: bool) -> Vec<f64> {
    let mut params = vec![0.0; program.param_count()];
    let mut fill = |id: ParamId, value: &dyn Fn(u64) -> f64| {
        params[program.params[id].at.clone()]
            .iter_mut()
            .enumerate()
            .for_each(|(i, w)| *w = value(i as u64));
    };
    for op in &program.ops {
        match *op {
            Op::Dense { weight, bias, out, .. } => {
                let inputs = program.params[weight].shape[1..].iter().product::<usize>() as f64;
                let within =
                    if zero_output && out == program.output { 0.0 } else { inputs.sqrt().recip() };
                for id in [Some(weight), bias].into_iter().flatten() {
                    fill(id, &|i| within * (2.0 * noise.uniform(id as u64, i) - 1.0));
                }
            }
            Op::Norm { gamma, .. } => fill(gamma, &|_| 1.0),
            Op::Lookup { weight, .. } => fill(weight, &|i| noise.normal(weight as u64, i)),
            Op::Fourier { weight, .. } => fill(weight, &|i| 16.0 * noise.normal(weight as u64, i)),
            _ => {}
        }
    }
    params
}
