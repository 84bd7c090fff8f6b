//! Convolutions and linear layers on a device: by cuDNN, by cuBLAS, or by our own implicit
//! products.

use super::{BLOCK, On};
use crate::program::{Op, Program, TableKind};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use tweedie::error::Result;
use tweedie_device::blas::Product;
use tweedie_device::dnn::{Convolution, Shape};
use tweedie_device::gpu::{Arg, Region};
use tweedie_device::linear::Linear;

/// What a dense operation adds to its product.
#[derive(Clone, Copy)]
pub struct Epilogue {
    pub bias: Region,
    /// The same in the storage type.
    pub stored_bias: Region,
    pub image_bias: Region,
    pub skip: Region,
    pub scale: f64,
}

/// A dense operation of one shape.
pub struct Dense {
    images: usize,
    /// Of the input.
    height: usize,
    width: usize,
    /// Of the output.
    out_height: usize,
    out_width: usize,
    /// Channels in and out.
    channels: (usize, usize),
    kernel: usize,
    stride: usize,
    /// Rows and columns of zeros.
    before: usize,
    after: usize,
    /// Whether the image is doubled first.
    doubled: bool,
    /// cuDNN's convolution of the image as [`Dense::enlarged`] makes it.
    library: Option<Convolution>,
    /// Whether cuDNN has found, when it came to it, that it has nothing for this shape.
    refused: AtomicBool,
    /// cuBLASLt's layer, where nothing comes behind it that it has no words for.
    linear: Option<Linear>,
}

impl Dense {
    pub fn new(on: &On, program: &Program, op: &Op, images: usize) -> Self {
        let Op::Dense { table, x, out, bias, image_bias, scale, .. } = *op else {
            unreachable!("called for dense operations")
        };
        let (from, to) = (&program.tensors[x], &program.tensors[out]);
        let mut dense = Self {
            images,
            height: from.height,
            width: from.width,
            out_height: to.height,
            out_width: to.width,
            channels: (from.channels, to.channels),
            kernel: 1,
            stride: 1,
            before: 0,
            after: 0,
            doubled: false,
            library: None,
            refused: AtomicBool::new(false),
            linear: None,
        };
        match program.kinds[table] {
            TableKind::Identity { .. } => {}
            TableKind::Convolution { kernel, stride, before, after, .. } => {
                (dense.kernel, dense.stride, dense.before, dense.after) =
                    (kernel, stride, before, after);
            }
            TableKind::Upsampling { .. } => {
                (dense.kernel, dense.before, dense.after, dense.doubled) = (3, 1, 1, true)
            }
        }
        if dense.kernel > 1 && on.libraries {
            let (height, width) = dense.enlarged_size();
            let padding = if dense.padded() { 0 } else { dense.before };
            let (kernel, stride) = (dense.kernel, dense.stride);
            let shape =
                Shape { images, height, width, channels: dense.channels, kernel, stride, padding };
            dense.library =
                on.gpu.dnn().and_then(|dnn| dnn.convolution(&on.gpu, &shape, on.precision));
        }
        if dense.kernel == 1 && on.libraries && image_bias.is_none() && scale == 1.0 {
            let (from, to) = dense.channels;
            dense.linear =
                Linear::new(&on.gpu, dense.pixels(), from, to, bias.is_some(), on.precision);
        }
        dense
    }

    /// Whether it goes to cuDNN or cuBLAS.
    fn by_library(&self, on: &On) -> bool {
        if self.kernel > 1 {
            self.convolution().is_some()
        } else {
            self.linear.is_some() || on.libraries && on.gpu.blas().is_some()
        }
    }

    /// cuDNN's convolution, while it serves.
    fn convolution(&self) -> Option<&Convolution> {
        self.library.as_ref().filter(|_| !self.refused.load(Relaxed))
    }

    /// Zeros that cuDNN has no words for: more behind the image than before it.
    fn padded(&self) -> bool {
        self.before != self.after
    }

    /// Height and width of the image that cuDNN is given.
    fn enlarged_size(&self) -> (usize, usize) {
        let size = |n: usize| match self.doubled {
            true => 2 * n,
            false if self.padded() => n + self.before + self.after,
            false => n,
        };
        (size(self.height), size(self.width))
    }

    /// Numbers of the image that cuDNN is given, where it is not the input itself.
    pub fn scratch(&self) -> usize {
        let (height, width) = self.enlarged_size();
        let own = self.library.is_none() || (height, width) == (self.height, self.width);
        if own { 0 } else { self.images * height * width * self.channels.0 }
    }

    fn weights(&self) -> usize {
        self.kernel * self.kernel * self.channels.0 * self.channels.1
    }

    /// Tiles of the weights, columns and rows, of which our own kernel gives each a block.
    fn weight_tiles(&self) -> (usize, usize) {
        ((self.kernel * self.kernel * self.channels.0).div_ceil(64), self.channels.1.div_ceil(64))
    }

    /// Parts into which our own kernel cuts the sum over all pixels, so that a weight of few tiles
    /// does not leave the device idle.
    fn parts(&self, on: &On) -> usize {
        let (columns, rows) = self.weight_tiles();
        (2 * on.gpu.multiprocessors / (columns * rows)).clamp(1, self.out_pixels().div_ceil(1024))
    }

    /// Numbers of partial sums of the gradient by the weights.
    pub fn partial_sums(&self, on: &On) -> usize {
        // Also where cuDNN does it, which may yet refuse.
        if self.kernel == 1 && self.by_library(on) || self.parts(on) == 1 {
            0
        } else {
            self.parts(on) * self.weights()
        }
    }

    /// Bytes that cuDNN works in.
    pub fn workspace(&self) -> usize {
        self.library.as_ref().map_or(0, Convolution::workspace)
    }

    fn pixels(&self) -> usize {
        self.images * self.height * self.width
    }

    fn out_pixels(&self) -> usize {
        self.images * self.out_height * self.out_width
    }

    /// `struct Conv` of the kernels.
    fn geometry(&self) -> Arg {
        let numbers = [
            self.images,
            self.height,
            self.width,
            self.channels.0,
            self.out_height,
            self.out_width,
            self.channels.1,
            self.kernel,
            self.stride,
            self.before,
            self.doubled.into(),
        ];
        Arg::Ints(numbers.map(|x| i32::try_from(x).expect("sizes fit in 31 bits")))
    }

    /// The image that cuDNN is given: the input itself, doubled, or with zeros around it.
    fn enlarged(&self, on: &On, x: Region, images: Region) -> Result<Region> {
        let n = self.scratch();
        if n == 0 {
            return Ok(x);
        }
        let to = images.part(0, n * on.precision.bytes());
        let [images, height, width, channels] =
            [self.images, self.height, self.width, self.channels.0].map(Arg::from);
        if self.doubled {
            let args =
                [x.into(), to.into(), on.real(1.0), 0.into(), images, height, width, channels];
            on.over(n, "doubled", &args)?;
        } else {
            let args = [
                x.into(),
                to.into(),
                images,
                height,
                width,
                channels,
                self.before.into(),
                self.after.into(),
            ];
            on.over(n, "pad", &args)?;
        }
        Ok(to)
    }

    /// Queues `y = (x * w + bias + image_bias + skip) scale`. `scratch` is room for images and for
    /// cuDNN.
    pub fn forward(
        &self,
        on: &On,
        x: Region,
        w: Region,
        epilogue: Epilogue,
        y: Region,
        scratch: (Region, Region),
    ) -> Result<()> {
        let (from, to) = self.channels;
        if let Some(linear) = &self.linear {
            return linear.run(&on.gpu, x, w, epilogue.stored_bias, epilogue.skip, y);
        }
        match self.convolution() {
            Some(convolution) => {
                let large = self.enlarged(on, x, scratch.0)?;
                let dnn = on.gpu.dnn().expect("it made the convolution");
                if !dnn.forward(&on.gpu, convolution, large, w, y, scratch.1)? {
                    self.refused.store(true, Relaxed);
                    return self.forward(on, x, w, epilogue, y, scratch);
                }
            }
            None if self.by_library(on) => on.product(&Product {
                a: x,
                a_steps: (from, 1),
                b: w,
                b_steps: (1, from),
                c: y,
                c_row: to,
                size: (self.pixels(), to, from),
                batch: (1, 1),
                batch_steps: [(0, 0); 3],
                alpha: 1.0,
                keep: false,
            })?,
            None => {
                let args = [
                    x.into(),
                    w.into(),
                    epilogue.bias.into(),
                    epilogue.image_bias.into(),
                    epilogue.skip.into(),
                    on.real(epilogue.scale),
                    y.into(),
                    self.geometry(),
                ];
                let grid = (self.out_pixels().div_ceil(64), to.div_ceil(64), 1);
                return on.launch("dense_forward", grid, (BLOCK, 1), &args);
            }
        }
        let Epilogue { bias, image_bias, skip, scale, .. } = epilogue;
        if scale == 1.0 && [bias, image_bias, skip].iter().all(|r| r.bytes() == 0) {
            return Ok(());
        }
        let args = [
            y.into(),
            bias.into(),
            image_bias.into(),
            skip.into(),
            on.real(scale),
            Arg::Long(self.out_pixels() as i64),
            (self.out_height * self.out_width).into(),
            to.into(),
        ];
        on.over(self.out_pixels() * to, "dense_epilogue", &args)
    }

    /// Queues the gradient by the weights. `sums` is room for partial sums.
    pub fn weight_gradient(
        &self,
        on: &On,
        x: Region,
        dy: Region,
        dw: Region,
        sums: Region,
        scratch: (Region, Region),
    ) -> Result<()> {
        let (from, to) = self.channels;
        match self.convolution() {
            Some(convolution) => {
                let large = self.enlarged(on, x, scratch.0)?;
                let dnn = on.gpu.dnn().expect("it made the convolution");
                if !dnn.weight_gradient(&on.gpu, convolution, large, dy, dw, scratch.1)? {
                    self.refused.store(true, Relaxed);
                    return self.weight_gradient(on, x, dy, dw, sums, scratch);
                }
                Ok(())
            }
            None if self.by_library(on) => on.product(&Product {
                a: dy,
                a_steps: (1, to),
                b: x,
                b_steps: (from, 1),
                c: dw,
                c_row: from,
                size: (to, from, self.pixels()),
                batch: (1, 1),
                batch_steps: [(0, 0); 3],
                alpha: 1.0,
                keep: false,
            }),
            None => {
                let (tiles, parts) = (self.weight_tiles(), self.parts(on));
                if parts == 1 {
                    let args = [x.into(), dy.into(), dw.into(), self.geometry()];
                    return on.launch(
                        "dense_weight_gradient",
                        (tiles.0, tiles.1, 1),
                        (BLOCK, 1),
                        &args,
                    );
                }
                let args = [x.into(), dy.into(), sums.into(), self.geometry()];
                on.launch(
                    "dense_weight_gradient_parts",
                    (tiles.0, tiles.1, parts),
                    (BLOCK, 1),
                    &args,
                )?;
                let n = self.weights();
                on.over(
                    n,
                    "dense_weight_gradient_finish",
                    &[sums.into(), dw.into(), parts.into(), Arg::Long(n as i64)],
                )
            }
        }
    }

    /// Queues the gradient by the input, added to what is there where `keep`.
    pub fn input_gradient(
        &self,
        on: &On,
        dy: Region,
        w: Region,
        dx: Region,
        keep: bool,
        scratch: (Region, Region),
    ) -> Result<()> {
        let (from, to) = self.channels;
        match self.convolution() {
            Some(convolution) => {
                let dnn = on.gpu.dnn().expect("it made the convolution");
                let n = self.scratch();
                let (to, kept) = if n == 0 {
                    (dx, keep)
                } else {
                    (scratch.0.part(0, n * on.precision.bytes()), false)
                };
                if !dnn.input_gradient(&on.gpu, convolution, dy, w, to, kept, scratch.1)? {
                    self.refused.store(true, Relaxed);
                    return self.input_gradient(on, dy, w, dx, keep, scratch);
                }
                if n == 0 {
                    return Ok(());
                }
                let large = to;
                let [images, height, width, channels] =
                    [self.images, self.height, self.width, self.channels.0].map(Arg::from);
                let n = self.pixels() * from;
                if self.doubled {
                    let args = [
                        large.into(),
                        dx.into(),
                        on.real(1.0),
                        keep.into(),
                        images,
                        height,
                        width,
                        channels,
                    ];
                    on.over(n, "halve", &args)
                } else {
                    let (before, after) = (self.before.into(), self.after.into());
                    on.over(
                        n,
                        "crop",
                        &[
                            large.into(),
                            dx.into(),
                            keep.into(),
                            images,
                            height,
                            width,
                            channels,
                            before,
                            after,
                        ],
                    )
                }
            }
            None if self.by_library(on) => on.product(&Product {
                a: dy,
                a_steps: (to, 1),
                b: w,
                b_steps: (from, 1),
                c: dx,
                c_row: from,
                size: (self.pixels(), from, to),
                batch: (1, 1),
                batch_steps: [(0, 0); 3],
                alpha: 1.0,
                keep,
            }),
            None => {
                let grid = (self.pixels().div_ceil(64), from.div_ceil(64), 1);
                let args = [dy.into(), w.into(), dx.into(), keep.into(), self.geometry()];
                on.launch("dense_input_gradient", grid, (BLOCK, 1), &args)
            }
        }
    }
}
