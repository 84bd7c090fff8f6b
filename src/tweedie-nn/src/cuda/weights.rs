//! Parameters and their gradients on a device: where each lies, and the way there and back.
//!
//! Dense weights come first, each (out, height, width, in) as cuDNN reads a filter channels last,
//! and on an address that tensor cores can read; their gradients are in the storage type.
//! Everything else follows in the program's order, in the arithmetic type. What lies between two
//! parameters is zero, and so is its gradient: it stays so.

use crate::element::Element;
use crate::program::{Param, ParamId, Program};

/// Where every parameter lies on the device, counted in numbers.
pub struct Layout {
    /// By parameter.
    places: Vec<usize>,
    /// Numbers in all dense weights, with those between them.
    pub dense: usize,
    /// Numbers in all.
    pub len: usize,
}

/// A parameter begins at a multiple of so many numbers: of 16 bytes in each format.
const ALIGNED: usize = 8;

impl Layout {
    pub fn new(program: &Program) -> Self {
        let mut places = vec![0; program.params.len()];
        let mut at = 0;
        let mut put = |dense: bool| {
            for (place, param) in
                places.iter_mut().zip(&program.params).filter(|(_, p)| p.dense == dense)
            {
                *place = at;
                at = (at + param.at.len()).next_multiple_of(ALIGNED);
            }
            at
        };
        let dense = put(true);
        let len = put(false);
        Self { places, dense, len }
    }

    /// Where a parameter begins.
    pub fn place(&self, param: ParamId) -> usize {
        self.places[param]
    }

    /// From the program's order to the device's.
    pub fn scatter<T: Element>(&self, program: &Program, from: &[T], to: &mut [T]) {
        for (param, &place) in program.params.iter().zip(&self.places) {
            let (from, to) = (&from[param.at.clone()], &mut to[place..place + param.at.len()]);
            turned(param, |there, here| to[here] = from[there]);
        }
    }

    /// From the device's order to the program's.
    pub fn gather<T: Element>(&self, program: &Program, from: &[T], to: &mut [T]) {
        for (param, &place) in program.params.iter().zip(&self.places) {
            let (from, to) = (&from[place..place + param.at.len()], &mut to[param.at.clone()]);
            turned(param, |there, here| to[there] = from[here]);
        }
    }
}

/// Calls `pair` with each place in the program's order of one parameter, and that on the device.
fn turned(param: &Param, mut pair: impl FnMut(usize, usize)) {
    if !param.dense {
        return (0..param.at.len()).for_each(|i| pair(i, i));
    }
    // (taps, in, out) there, (out, taps, in) here.
    let (out, channels) = (param.shape[0], param.shape[1]);
    let taps = param.at.len() / (out * channels);
    for tap in 0..taps {
        for i in 0..channels {
            for o in 0..out {
                pair((tap * channels + i) * out + o, (o * taps + tap) * channels + i);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let mut program = Program::default();
        program.param("norm.weight", &[3]);
        program.dense_param("conv.weight", &[2, 3, 3, 3]);
        program.param("conv.bias", &[2]);
        let layout = Layout::new(&program);
        assert_eq!((layout.dense, layout.len), (56, 72));
        assert_eq!([0, 1, 2].map(|p| layout.place(p)), [56, 0, 64]);
        let params: Vec<f64> = (0..59).map(f64::from).collect();
        let (mut there, mut back) = (vec![0.0; 72], vec![f64::NAN; 59]);
        layout.scatter(&program, &params, &mut there);
        // Tap 4, input channel 2, output channel 1.
        assert_eq!(there[(9 + 4) * 3 + 2], params[3 + (4 * 3 + 2) * 2 + 1]);
        layout.gather(&program, &there, &mut back);
        assert_eq!(back, params);
    }
}
