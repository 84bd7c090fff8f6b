//! Drawings: line plots and grids of small pictures, drawn once by plotters into SVG and PNG.
//!
//! A drawing has a logical width of [`WIDTH`] units, and text sizes in those units, so that at the
//! page's width and at a telephone's the text can be read. plotters snaps coordinates to whole
//! pixels: every unit is drawn as several pixels.

use super::style::{CARD, Colour, GRID, INK, MUTED, SERIES};
use base64::Engine;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::Once;
use tweedie::error::{Error, Result, acts};
use tweedie::math::{larger, smaller};
use tweedie::number::cell;

/// Logical width of every drawing.
pub const WIDTH: f64 = 720.0;
/// Pixels of a unit in SVG coordinates (scale-free: it only sets how finely a line is snapped).
const SVG_UNIT: f64 = 4.0;
/// Pixels of a unit while a PNG is drawn; it is then halved, which smooths it.
const PNG_UNIT: f64 = 4.0;
/// The same of a film.
const FILM_UNIT: f64 = 2.0;

const TEXT: f64 = 24.0;
const TICK: f64 = 22.0;
const ROW: f64 = 20.0;

/// One picture of a figure, with the numbers it shows.
#[derive(Clone, Debug)]
pub enum Drawing {
    /// Curves and points on two axes.
    Plot(Plot),
    /// Small pictures in rows and columns.
    Pictures(Pictures),
    /// Such pictures, changing.
    Film(Film),
}

/// How numbers become positions on an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Equal steps are equal differences.
    Linear,
    /// Equal steps are equal ratios; numbers <= 0 are left out.
    Log,
}

/// An axis: what it says, what its column is called, and what it spans.
#[derive(Clone, Debug)]
pub struct Axis {
    /// Column name in CSV and JSON.
    pub name: String,
    /// Text at the axis.
    pub label: String,
    /// Linear or logarithmic.
    pub scale: Scale,
    /// Ends, first end left or at the bottom (so a descending axis has `lo > hi`); `None` takes
    /// them from the series.
    pub range: Option<(f64, f64)>,
}

impl Axis {
    /// A linear axis that fits its data.
    pub fn linear(name: &str, label: &str) -> Self {
        Self { name: name.into(), label: label.into(), scale: Scale::Linear, range: None }
    }
    /// A logarithmic axis that fits its data.
    pub fn log(name: &str, label: &str) -> Self {
        Self { scale: Scale::Log, ..Self::linear(name, label) }
    }
    /// The same axis between two ends.
    pub fn over(self, lo: f64, hi: f64) -> Self {
        Self { range: Some((lo, hi)), ..self }
    }
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A solid line.
    Line,
    /// A dashed line.
    Dashed,
    /// Discs.
    Points,
    /// Discs joined by a thin line.
    Linked,
}

/// A curve or a set of points.
#[derive(Clone, Debug)]
pub struct Series {
    /// Name in the legend and in the data files; one that starts with `_` is left out of the
    /// legend.
    pub label: String,
    /// (x, y); what is not finite, or not positive on a logarithmic axis, is left out.
    pub points: Vec<(f64, f64)>,
    /// How it is drawn.
    pub mark: Mark,
    /// Its colour.
    pub colour: Colour,
}

impl Series {
    /// A series of paired slices.
    pub fn new(
        label: impl ToString,
        x: impl IntoIterator<Item = f64>,
        y: impl IntoIterator<Item = f64>,
        mark: Mark,
        colour: Colour,
    ) -> Self {
        Self { label: label.to_string(), points: x.into_iter().zip(y).collect(), mark, colour }
    }
    /// A solid line in the palette's k-th colour.
    pub fn line(
        label: impl ToString,
        x: impl IntoIterator<Item = f64>,
        y: impl IntoIterator<Item = f64>,
        k: usize,
    ) -> Self {
        Self::new(label, x, y, Mark::Line, SERIES[k % SERIES.len()])
    }
}

/// Curves and points on two axes.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Shown above the plot when a figure has several.
    pub title: String,
    /// Horizontal axis.
    pub x: Axis,
    /// Vertical axis.
    pub y: Axis,
    /// What is drawn, later ones on top.
    pub series: Vec<Series>,
    /// Words beside a point (x, y), to its right.
    notes: Vec<(f64, f64, String)>,
    /// Least distance of the frame from the upper edge, 0 for none: see [`Drawing::align`].
    top: f64,
}

/// How a picture's values become colours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tone {
    /// -1 is paper, +1 is ink, values beyond are cut.
    Ink,
    /// -1 is black, +1 is white, as photographs are stored; three planes are red, green and blue.
    Light,
    /// Blue, white, red about zero, scaled by the picture's own largest absolute value.
    Diverging,
}

/// One small picture.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Row-major values.
    pub values: Vec<f64>,
    /// Text below it, may be empty.
    pub note: String,
}

/// Rows of small pictures under shared column headings.
#[derive(Clone, Debug)]
pub struct Pictures {
    /// Shown above when a figure has several.
    pub title: String,
    /// What the headings of the columns are, e.g. `σ =`.
    pub heading: String,
    /// Heading of each column, may be empty.
    pub columns: Vec<String>,
    /// Text above each row, and its pictures.
    pub rows: Vec<(String, Vec<Picture>)>,
    /// Width and height of a picture in its own pixels.
    pub shape: (usize, usize),
    /// How values become colours.
    pub tone: Tone,
}

/// Pictures that change: frames of one layout, shown one after the other for ever. The last one
/// stays for a while, and is what is seen where nothing moves: in print, and by who asks the system
/// for less motion. It stands still under the pointer.
#[derive(Clone, Debug)]
pub struct Film {
    /// At least one.
    pub frames: Vec<Pictures>,
}

impl Film {
    /// Milliseconds of a frame, and how many of them the last one stays.
    const FRAME: usize = 160;
    const STAYS: usize = 14;

    /// Turns of a frame in one round.
    fn turns(&self) -> usize {
        self.frames.len() - 1 + Self::STAYS
    }

    /// The rules by which each frame is seen in its turn: the same for all films of as many frames,
    /// because a page may hold several.
    fn style(&self) -> String {
        let turns = self.turns();
        let (name, round) = (format!("film{turns}"), turns * Self::FRAME);
        let share = |n: usize| 100.0 * n as f64 / turns as f64;
        format!(
            "@keyframes {name}{{0%{{opacity:1}}{:.4}%,100%{{opacity:0}}}}@keyframes {name}-last{{0%{{opacity:1}}{:.4}%,100%{{opacity:0}}}}\
             .{name}{{animation:{name} {round}ms step-end infinite}}.{name}:last-child{{animation-name:{name}-last}}\
             svg:hover>.{name}{{animation-play-state:paused}}\
             @media print,(prefers-reduced-motion:reduce){{.{name}{{animation:none;opacity:0}}.{name}:last-child{{opacity:1}}}}",
            share(1),
            share(Self::STAYS)
        )
    }

    /// All frames on top of each other, the last one uppermost, each seen in its turn by CSS alone.
    fn svg(&self) -> Result<String> {
        let frames = self
            .frames
            .iter()
            .map(|f| Drawing::Pictures(f.clone()).svg())
            .collect::<Result<Vec<_>>>()?;
        let parts = |svg: &str| {
            let inside =
                svg.find("<svg").and_then(|i| svg[i..].find('>').map(|j| i + j + 1)).unwrap_or(0);
            (
                svg[..inside].to_owned(),
                svg[inside..].trim_end().trim_end_matches("</svg>").to_owned(),
            )
        };
        let (turns, last) = (self.turns(), self.frames.len() - 1);
        let (name, round) = (format!("film{turns}"), turns * Self::FRAME);
        let mut out = parts(&frames[0]).0;
        let _ = write!(out, "<style>{}</style>", self.style());
        for (k, frame) in frames.iter().enumerate() {
            // A negative delay: as if the round had begun long ago.
            let delay = k as i64 * Self::FRAME as i64 - round as i64;
            let hidden = if k < last { " aria-hidden=\"true\"" } else { "" };
            let _ = write!(
                out,
                "<g class=\"{name}\" style=\"animation-delay:{delay}ms\"{hidden}>{}</g>",
                parts(frame).1
            );
        }
        Ok(out + "</svg>\n")
    }

    /// As an animated PNG.
    fn png(&self) -> Result<Vec<u8>> {
        let frames = self
            .frames
            .iter()
            .map(|f| Drawing::Pictures(f.clone()).bitmap(FILM_UNIT))
            .collect::<Result<Vec<_>>>()?;
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, frames[0].width(), frames[0].height());
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_animated(frames.len() as u32, 0).map_err(drawing_failed)?;
        let mut writer = encoder.write_header().map_err(drawing_failed)?;
        for (k, frame) in frames.iter().enumerate() {
            let turns = if k + 1 == frames.len() { Self::STAYS } else { 1 };
            writer.set_frame_delay((turns * Self::FRAME) as u16, 1000).map_err(drawing_failed)?;
            writer.write_image_data(frame.as_raw()).map_err(drawing_failed)?;
        }
        writer.finish().map_err(drawing_failed)?;
        Ok(bytes)
    }
}

impl Drawing {
    /// As an SVG document.
    pub fn svg(&self) -> Result<String> {
        if let Drawing::Film(film) = self {
            return film.svg();
        }
        let layout = self.layout();
        let size = ((WIDTH * SVG_UNIT) as u32, (layout.height * SVG_UNIT) as u32);
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
            self.draw(&Pen { area: &area, unit: SVG_UNIT }, &layout, false)
                .map_err(drawing_failed)?;
            area.present().map_err(drawing_failed)?;
        }
        // plotters breaks lines inside text elements, which some viewers show as spaces.
        let mut svg = svg.replace(">\n", ">").replace("\n</text>", "</text>");
        if let Drawing::Pictures(p) = self {
            // Right after the background, so that frames are drawn over them.
            let after = svg
                .find("<rect")
                .and_then(|i| svg[i..].find("/>").map(|j| i + j + 2))
                .unwrap_or(svg.len());
            svg.insert_str(after, &p.svg_images()?);
        }
        Ok(svg)
    }

    /// The content of the style element in its SVG, where it has one.
    pub fn style(&self) -> Option<String> {
        if let Drawing::Film(film) = self { Some(film.style()) } else { None }
    }

    /// As a PNG file, in the light colours; a film as an animated one.
    pub fn png(&self) -> Result<Vec<u8>> {
        match self {
            Drawing::Film(film) => film.png(),
            _ => encode_png(&self.bitmap(PNG_UNIT)?.into()),
        }
    }

    /// Its pixels, half of `unit` to a unit of length.
    fn bitmap(&self, unit: f64) -> Result<image::RgbImage> {
        let layout = self.layout();
        let (w, h) = ((WIDTH * unit) as u32, (layout.height * unit) as u32);
        let mut pixels = vec![255; (w * h * 3) as usize];
        {
            let area = BitMapBackend::with_buffer(&mut pixels, (w, h)).into_drawing_area();
            self.draw(&Pen { area: &area, unit }, &layout, true).map_err(drawing_failed)?;
            area.present().map_err(drawing_failed)?;
        }
        let fine = image::RgbImage::from_raw(w, h, pixels)
            .ok_or_else(|| drawing_failed("buffer of the wrong size"))?;
        Ok(image::imageops::resize(&fine, w / 2, h / 2, image::imageops::FilterType::Triangle))
    }

    /// Its numbers as CSV, 17 significant digits.
    pub fn csv(&self) -> Result<String> {
        let mut out = csv::Writer::from_writer(Vec::new());
        let mut write = |record: Vec<String>| out.write_record(&record).map_err(drawing_failed);
        match self {
            Drawing::Plot(p) => {
                write(vec!["series".into(), cell(&p.x.name), cell(&p.y.name)])?;
                for s in &p.series {
                    for (x, y) in &s.points {
                        write(vec![cell(s.name()), number(x), number(y)])?;
                    }
                }
            }
            Drawing::Pictures(p) => {
                write(p.csv_head())?;
                p.csv_rows().try_for_each(&mut write)?;
            }
            Drawing::Film(film) => {
                let head = film.frames.first().map(Pictures::csv_head).unwrap_or_default();
                write(std::iter::once("frame".to_string()).chain(head).collect())?;
                for (k, frame) in film.frames.iter().enumerate() {
                    frame.csv_rows().try_for_each(|row| {
                        write(std::iter::once(k.to_string()).chain(row).collect())
                    })?;
                }
            }
        }
        String::from_utf8(out.into_inner().map_err(drawing_failed)?).map_err(drawing_failed)
    }

    /// Its numbers as JSON.
    pub fn json(&self) -> Value {
        match self {
            Drawing::Plot(p) => json!({
                "title": p.title,
                "x": {"name": p.x.name, "label": p.x.label},
                "y": {"name": p.y.name, "label": p.y.label},
                "series": p.series.iter().map(|s| json!({
                    "label": s.name(),
                    "x": s.points.iter().map(|p| p.0).collect::<Vec<_>>(),
                    "y": s.points.iter().map(|p| p.1).collect::<Vec<_>>(),
                })).collect::<Vec<_>>(),
            }),
            Drawing::Pictures(p) => p.json(),
            Drawing::Film(film) => {
                json!({"frames": film.frames.iter().map(Pictures::json).collect::<Vec<_>>()})
            }
        }
    }

    /// Puts the frames of all plots at the same height, however many rows their legends take.
    pub fn align(drawings: &mut [Drawing]) {
        let top = drawings.iter().map(|d| d.layout().frame.1).fold(0.0, larger);
        for d in drawings {
            if let Drawing::Plot(p) = d {
                p.top = top;
            }
        }
    }

    /// Whether it wants a row of the page to itself.
    pub fn is_wide(&self) -> bool {
        match self {
            Drawing::Plot(_) => false,
            Drawing::Pictures(p) => p.columns_count() > 6,
            Drawing::Film(_) => true,
        }
    }

    fn layout(&self) -> Layout {
        fonts();
        match self {
            Drawing::Plot(p) => p.layout(),
            Drawing::Pictures(p) => p.layout(),
            Drawing::Film(film) => film.frames.first().map(Pictures::layout).unwrap_or_default(),
        }
    }

    fn draw<DB: DrawingBackend>(
        &self,
        pen: &Pen<'_, DB>,
        layout: &Layout,
        raster: bool,
    ) -> Drawn<DB> {
        pen.area.fill(&CARD.rgb())?;
        match self {
            Drawing::Plot(p) => p.draw(pen, layout),
            Drawing::Pictures(p) => p.draw(pen, raster),
            // A film is drawn frame by frame.
            Drawing::Film(_) => Ok(()),
        }
    }
}

impl Series {
    fn name(&self) -> &str {
        self.label.trim_start_matches('_')
    }
}

type Drawn<DB> = std::result::Result<(), DrawingAreaErrorKind<<DB as DrawingBackend>::ErrorType>>;

/// plotters with a unit: positions and sizes are logical, `unit` of them a pixel.
struct Pen<'a, DB: DrawingBackend> {
    area: &'a DrawingArea<DB, Shift>,
    unit: f64,
}

impl<DB: DrawingBackend> Pen<'_, DB> {
    fn px(&self, (x, y): (f64, f64)) -> (i32, i32) {
        ((x * self.unit).round() as i32, (y * self.unit).round() as i32)
    }

    fn line(&self, points: &[(f64, f64)], colour: Colour, width: f64) -> Drawn<DB> {
        let style = colour.rgb().stroke_width((width * self.unit).round().max(1.0) as u32);
        let mut px: Vec<_> = points.iter().map(|p| self.px(*p)).collect();
        px.dedup();
        self.area.draw(&PathElement::new(px, style))
    }

    /// plotters' SVG has no dashes, so a dashed line is several short ones.
    fn dashed(&self, points: &[(f64, f64)], colour: Colour, width: f64) -> Drawn<DB> {
        let (on, period) = (9.0, 15.0);
        let mut walked = 0.0;
        let mut dash: Vec<(f64, f64)> = points.first().copied().into_iter().collect();
        for pair in points.windows(2) {
            let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
            let length = (x1 - x0).hypot(y1 - y0);
            let mut at = 0.0;
            while at < length {
                let phase: f64 = walked % period;
                let step = (if phase < on { on - phase } else { period - phase })
                    .max(1e-9)
                    .min(length - at);
                at += step;
                walked += step;
                let q = (x0 + (x1 - x0) * at / length, y0 + (y1 - y0) * at / length);
                if phase < on {
                    dash.push(q);
                    if walked % period >= on && dash.len() > 1 {
                        self.line(&dash, colour, width)?;
                        dash.clear();
                    }
                } else {
                    dash = vec![q];
                }
            }
        }
        if dash.len() > 1 { self.line(&dash, colour, width) } else { Ok(()) }
    }

    fn disc(&self, at: (f64, f64), radius: f64, colour: Colour) -> Drawn<DB> {
        self.area.draw(&Circle::new(
            self.px(at),
            (radius * self.unit) as i32,
            colour.rgb().filled(),
        ))
    }

    fn rectangle(&self, a: (f64, f64), b: (f64, f64), style: ShapeStyle) -> Drawn<DB> {
        self.area.draw(&Rectangle::new([self.px(a), self.px(b)], style))
    }

    fn text(
        &self,
        text: &str,
        at: (f64, f64),
        size: f64,
        colour: Colour,
        h: HPos,
        v: VPos,
    ) -> Drawn<DB> {
        let rgb = colour.rgb();
        let style = TextStyle::from(("sans-serif", size * 1.24 * self.unit).into_font())
            .color(&rgb)
            .pos(Pos::new(h, v));
        // No control character is allowed in XML, not even as an entity.
        self.area.draw_text(
            &text.replace(
                |c| acts(c) || matches!(c, '\n' | '\t' | '\u{FFFE}' | '\u{FFFF}'),
                "\u{FFFD}",
            ),
            &style,
            self.px(at),
        )
    }
}

/// Where the parts of a drawing lie.
#[derive(Clone, Debug, Default)]
struct Layout {
    height: f64,
    /// Frame of the axes: left, top, right, bottom.
    frame: (f64, f64, f64, f64),
    /// Left end, row and series of each legend entry.
    legend: Vec<(f64, f64, usize)>,
    x: Option<Mapping>,
    y: Option<Mapping>,
}

/// An axis with its ends fixed.
#[derive(Clone, Debug)]
struct Mapping {
    scale: Scale,
    lo: f64,
    hi: f64,
    ticks: Vec<(f64, String)>,
}

impl Mapping {
    fn new(axis: &Axis, values: impl Iterator<Item = f64>) -> Self {
        let usable = |v: &f64| v.is_finite() && (axis.scale == Scale::Linear || *v > 0.0);
        let (lo, hi) = axis.range.unwrap_or_else(|| {
            let (lo, hi) =
                values.filter(usable).fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
                    (smaller(l, v), larger(h, v))
                });
            match (lo <= hi, axis.scale) {
                (false, _) => (1.0, 10.0),
                (true, Scale::Linear) => {
                    // Of two ends that may be farther apart than the largest number.
                    let margin = if hi > lo { 0.04 * hi - 0.04 * lo } else { 1.0 };
                    // An axis that starts at zero stays there.
                    (if lo == 0.0 { 0.0 } else { lo - margin }, hi + margin)
                }
                (true, Scale::Log) => {
                    let margin = (0.03 * (hi.ln() - lo.ln())).exp().max(1.05);
                    ((lo / margin).max(LEAST), hi * margin)
                }
            }
        });
        let (lo, hi) = (lo.clamp(f64::MIN, f64::MAX), hi.clamp(f64::MIN, f64::MAX));
        let (a, b) = (lo.min(hi), lo.max(hi));
        let ticks = match axis.scale {
            Scale::Linear => linear_ticks(a, b),
            Scale::Log => log_ticks(a, b),
        };
        Self { scale: axis.scale, lo, hi, ticks }
    }

    /// Position on the axis, 0 to 1 within its ends.
    fn at(&self, v: f64) -> Option<f64> {
        let u = match self.scale {
            Scale::Linear if (self.hi - self.lo).is_finite() => (v - self.lo) / (self.hi - self.lo),
            Scale::Linear => (v / 2.0 - self.lo / 2.0) / (self.hi / 2.0 - self.lo / 2.0),
            Scale::Log if v > 0.0 => (v.ln() - self.lo.ln()) / (self.hi.ln() - self.lo.ln()),
            Scale::Log => f64::NAN,
        };
        // What is farther away than this has no place on a drawing, nor has a line to it.
        (u.abs() <= 1e9).then_some(u)
    }
}

/// The least positive number.
const LEAST: f64 = f64::from_bits(1);

/// About five round numbers between two finite ends; the ends alone where they are too near to each
/// other for that.
fn linear_ticks(a: f64, b: f64) -> Vec<(f64, String)> {
    let raw = b / 5.0 - a / 5.0;
    let magnitude = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0]
        .map(|m| m * magnitude)
        .into_iter()
        .find(|s| *s >= raw * 0.999)
        .unwrap_or(raw);
    let largest = a.abs().max(b.abs());
    // Below this a step has no digits of its own.
    if !(step > largest * 1e-12 && step >= f64::MIN_POSITIVE && step.is_finite()) {
        let mut ends = vec![a, b];
        ends.dedup();
        return ends.into_iter().map(|v| (v, scientific(v, 3))).collect();
    }
    let digits = (0..12)
        .find(|d| (step * 10f64.powi(*d)).fract().abs() < 1e-6)
        .map(|digits| digits as usize);
    let first = (a / step - 1e-9).ceil() as i64;
    let last = (b / step + 1e-9).floor() as i64;
    let label = |v: f64| match digits {
        Some(digits) if largest < 1e9 => minus(&format!("{v:.digits$}")),
        _ => scientific(v, (largest / step).log10().ceil().max(0.0) as usize + 1),
    };
    (first..=last)
        .map(|k| k as f64 * step)
        .filter(|v| v.is_finite())
        .map(|v| (v, label(v)))
        .collect()
}

/// A number of so many digits before a power of ten.
fn scientific(v: f64, digits: usize) -> String {
    let text = format!("{v:.digits$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let mantissa = if mantissa.contains('.') {
        mantissa.trim_end_matches('0').trim_end_matches('.')
    } else {
        mantissa
    };
    if v == 0.0 {
        "0".into()
    } else {
        format!("{}·{}", minus(mantissa), power(exponent.parse().unwrap_or(0)))
    }
}

/// Powers of ten (every second or third where there are many); where there are fewer than three, 2s
/// and 5s as well. Both ends are positive and finite.
fn log_ticks(a: f64, b: f64) -> Vec<(f64, String)> {
    let (first, last) = ((a.log10() - 1e-9).ceil() as i32, (b.log10() + 1e-9).floor() as i32);
    let every = ((last - first) / 6 + 1).max(1);
    let multiples: &[f64] = if last - first < 2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    (first - 1..=last)
        .filter(|k| every == 1 || k.rem_euclid(every) == 0)
        // Read, not multiplied: powers below the least normal number are made from their
        // reciprocals, which are infinite.
        .flat_map(|k| {
            multiples
                .iter()
                .filter_map(move |m| Some((format!("{m}e{k}").parse::<f64>().ok()?, *m as i32, k)))
        })
        .filter(|(v, _, _)| v.is_finite() && *v >= a * (1.0 - 1e-9) && *v <= b * (1.0 + 1e-9))
        .map(|(v, m, k)| {
            (
                v,
                if (-2..=3).contains(&k) {
                    plain(v)
                } else if m == 1 {
                    power(k)
                } else {
                    format!("{m}·{}", power(k))
                },
            )
        })
        .collect()
}

/// A number with as few digits as three significant ones need, and a real minus sign.
pub fn plain(v: f64) -> String {
    if v == 0.0 {
        return "0".into();
    }
    let digits = (2 - v.abs().log10().floor() as i32).clamp(0, 12) as usize;
    let text = format!("{v:.digits$}");
    minus(if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text })
}

/// `10` to the power k in Unicode superscripts.
fn power(k: i32) -> String {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let raised = |c: char| c.to_digit(10).map_or('⁻', |d| DIGITS[d as usize]);
    format!("10{}", k.to_string().chars().map(raised).collect::<String>())
}

fn minus(text: &str) -> String {
    text.replace('-', "−")
}

/// Width of a text in units, by the embedded font (wider than most, so nothing is cut elsewhere).
fn text_width(text: &str, size: f64) -> f64 {
    ("sans-serif", size * 1.24)
        .into_font()
        .box_size(text)
        .map_or(size * 0.6 * text.chars().count() as f64, |(w, _)| w as f64)
}

impl Plot {
    /// A plot; a title is for figures of several.
    pub fn new(title: &str, x: Axis, y: Axis, series: Vec<Series>) -> Self {
        Self { title: title.into(), x, y, series, notes: Vec::new(), top: 0.0 }
    }

    /// The same plot with words to the right of the point (x, y).
    pub fn noted(mut self, x: f64, y: f64, words: impl ToString) -> Self {
        self.notes.push((x, y, words.to_string()));
        self
    }

    fn layout(&self) -> Layout {
        let values = |pick: fn(&(f64, f64)) -> f64| {
            self.series.iter().flat_map(move |s| s.points.iter().map(pick))
        };
        let (x, y) =
            (Mapping::new(&self.x, values(|p| p.0)), Mapping::new(&self.y, values(|p| p.1)));
        let mut top: f64 = 12.0;
        if !self.title.is_empty() {
            top += 38.0;
        }
        let (mut legend, mut left) = (Vec::new(), 12.0);
        let entries = self.series.iter().enumerate().filter(|(_, s)| !s.label.starts_with('_'));
        for (k, s) in entries {
            let width = 46.0 + text_width(&s.label, TEXT) + 26.0;
            if left + width - 26.0 > WIDTH - 8.0 && left > 12.0 {
                left = 12.0;
                top += 34.0;
            }
            legend.push((left, top + 14.0, k));
            left += width;
        }
        if legend.len() < 2 {
            legend.clear();
        } else {
            top += 38.0;
        }
        // The vertical axis is named above its upper end, where it can be read without tilting the
        // head.
        top = (top + 36.0).max(self.top - 8.0);
        let tick_width = y.ticks.iter().map(|t| text_width(&t.1, TICK)).fold(0.0, larger);
        let frame = (tick_width + 22.0, top + 8.0, WIDTH - 22.0, top + 8.0 + 380.0);
        Layout { height: frame.3 + 84.0, frame, legend, x: Some(x), y: Some(y) }
    }

    fn draw<DB: DrawingBackend>(&self, pen: &Pen<'_, DB>, layout: &Layout) -> Drawn<DB> {
        let (Some(x), Some(y)) = (&layout.x, &layout.y) else { return Ok(()) };
        let (l, t, r, b) = layout.frame;
        if !self.title.is_empty() {
            pen.text(&self.title, (12.0, 12.0), TEXT + 2.0, INK, HPos::Left, VPos::Top)?;
        }
        for (left, middle, k) in &layout.legend {
            let s = &self.series[*k];
            let (from, to) = ((*left, *middle), (left + 36.0, *middle));
            match s.mark {
                Mark::Line => pen.line(&[from, to], s.colour, 4.0)?,
                Mark::Dashed => pen.dashed(&[from, to], s.colour, 4.0)?,
                Mark::Points => pen.disc((left + 24.0, *middle), 6.0, s.colour)?,
                Mark::Linked => {
                    pen.line(&[from, to], s.colour, 2.0)?;
                    pen.disc((left + 18.0, *middle), 6.0, s.colour)?;
                }
            }
            pen.text(&s.label, (left + 46.0, *middle), TEXT, INK, HPos::Left, VPos::Center)?;
        }
        pen.text(&self.y.label, (12.0, t - 16.0), TEXT, MUTED, HPos::Left, VPos::Bottom)?;
        pen.text(&self.x.label, ((l + r) / 2.0, b + 46.0), TEXT, MUTED, HPos::Center, VPos::Top)?;
        let place = |u: f64, v: f64| (l + u * (r - l), b - v * (b - t));
        let mut clear = f64::NEG_INFINITY;
        let mut across: Vec<_> =
            x.ticks.iter().filter_map(|(v, text)| Some((x.at(*v)?, text))).collect();
        across.sort_by(|p, q| p.0.total_cmp(&q.0));
        for (u, text) in across {
            pen.line(&[place(u, 0.0), place(u, 1.0)], GRID, 1.0)?;
            // A label that would touch its neighbour is left out; its grid line stays.
            let (centre, half) = (place(u, 0.0).0, text_width(text, TICK) / 2.0);
            if centre - half > clear {
                pen.text(
                    text,
                    (centre.min(WIDTH - half - 4.0), b + 10.0),
                    TICK,
                    INK,
                    HPos::Center,
                    VPos::Top,
                )?;
                clear = centre + half + 8.0;
            }
        }
        for (v, text) in &y.ticks {
            let Some(v) = y.at(*v) else { continue };
            pen.line(&[place(0.0, v), place(1.0, v)], GRID, 1.0)?;
            pen.text(text, (l - 10.0, place(0.0, v).1), TICK, INK, HPos::Right, VPos::Center)?;
        }
        pen.line(&[(l, b), (r, b)], MUTED, 2.0)?;
        pen.line(&[(l, t), (l, b)], MUTED, 2.0)?;
        for s in &self.series {
            let mapped: Vec<_> = s.points.iter().map(|p| x.at(p.0).zip(y.at(p.1))).collect();
            if s.mark != Mark::Points {
                for run in clipped(&mapped) {
                    let run: Vec<_> = run.into_iter().map(|(u, v)| place(u, v)).collect();
                    match s.mark {
                        Mark::Dashed => pen.dashed(&run, s.colour, 3.5)?,
                        Mark::Linked => pen.line(&run, s.colour, 2.0)?,
                        _ => pen.line(&run, s.colour, 3.5)?,
                    }
                }
            }
            if matches!(s.mark, Mark::Points | Mark::Linked) {
                for (u, v) in mapped
                    .into_iter()
                    .flatten()
                    .filter(|(u, v)| (0.0..=1.0).contains(u) && (0.0..=1.0).contains(v))
                {
                    pen.disc(place(u, v), 6.0, s.colour)?;
                }
            }
        }
        for (a, b, words) in &self.notes {
            if let Some((u, v)) = x.at(*a).zip(y.at(*b)) {
                let (left, middle) = place(u, v);
                pen.text(words, (left + 8.0, middle), TICK, INK, HPos::Left, VPos::Center)?;
            }
        }
        Ok(())
    }
}

/// The parts of a polyline inside the unit square (Liang and Barsky), broken where a point is
/// missing.
fn clipped(points: &[Option<(f64, f64)>]) -> Vec<Vec<(f64, f64)>> {
    let mut runs: Vec<Vec<(f64, f64)>> = Vec::new();
    for pair in points.windows(2) {
        let (Some(p), Some(q)) = (pair[0], pair[1]) else { continue };
        let (dx, dy) = (q.0 - p.0, q.1 - p.1);
        let (mut enter, mut leave) = (0.0f64, 1.0f64);
        for (step, room) in [(-dx, p.0), (dx, 1.0 - p.0), (-dy, p.1), (dy, 1.0 - p.1)] {
            match step {
                0.0 if room < 0.0 => leave = -1.0,
                0.0 => {}
                s if s < 0.0 => enter = enter.max(room / s),
                s => leave = leave.min(room / s),
            }
        }
        if enter > leave {
            continue;
        }
        let (start, end) =
            ((p.0 + enter * dx, p.1 + enter * dy), (p.0 + leave * dx, p.1 + leave * dy));
        match runs.last_mut() {
            Some(run) if run.last() == Some(&start) => run.push(end),
            _ => runs.push(vec![start, end]),
        }
    }
    runs
}

/// 17 significant digits.
fn number(v: &f64) -> String {
    format!("{v:.16e}")
}

impl Pictures {
    fn csv_head(&self) -> Vec<String> {
        // Colour has three planes.
        let first = self.rows.iter().find_map(|r| r.1.first());
        let pixels = first.map_or(self.shape.0 * self.shape.1, |p| p.values.len());
        let pixels = (0..pixels).map(|i| format!("p{i}"));
        ["row", "column"].map(String::from).into_iter().chain(pixels).collect()
    }

    fn csv_rows(&self) -> impl Iterator<Item = Vec<String>> {
        self.rows.iter().flat_map(move |(label, row)| {
            row.iter().enumerate().map(move |(k, picture)| {
                let column = self.columns.get(k).cloned().unwrap_or_else(|| k.to_string());
                [cell(label), cell(&column)]
                    .into_iter()
                    .chain(picture.values.iter().map(number))
                    .collect()
            })
        })
    }

    fn json(&self) -> Value {
        let picture = |q: &Picture| json!({"note": q.note, "values": q.values});
        let row = |(label, row): &(String, Vec<Picture>)| json!({"label": label, "pictures": row.iter().map(picture).collect::<Vec<_>>()});
        json!({
            "title": self.title,
            "heading": self.heading,
            "width": self.shape.0,
            "height": self.shape.1,
            "columns": self.columns,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }

    fn columns_count(&self) -> usize {
        self.rows.iter().map(|r| r.1.len()).max().unwrap_or(0).max(self.columns.len()).max(1)
    }

    /// Side of the step from picture to picture.
    fn pitch(&self) -> f64 {
        ((WIDTH - 16.0) / self.columns_count() as f64).min(150.0)
    }

    fn has_notes(&self) -> bool {
        self.rows.iter().any(|r| r.1.iter().any(|p| !p.note.is_empty()))
    }

    /// Size at which the widest heading or note still fits its picture.
    fn label_size(&self) -> f64 {
        let notes = self.rows.iter().flat_map(|r| r.1.iter().map(|p| &p.note));
        let widest = self
            .columns
            .iter()
            .chain(notes)
            .map(|t| text_width(t, 1.0e3) / 1.0e3)
            .fold(0.0, larger);
        TICK.min((self.pitch() - 4.0) / widest.max(1e-3))
    }

    /// Top of the headings, of the first row's label, and the step from row to row.
    fn rows_at(&self) -> (f64, f64, f64) {
        let head = if self.title.is_empty() { 8.0 } else { 50.0 };
        let first = head
            + if self.heading.is_empty() { 0.0 } else { 32.0 }
            + if self.columns.is_empty() { 0.0 } else { self.label_size() + 12.0 };
        let (w, h) = self.shape;
        let picture = (self.pitch() - 6.0) * h as f64 / w as f64;
        let label = if self.rows.iter().all(|r| r.0.is_empty()) { 0.0 } else { 36.0 };
        (
            head,
            first,
            label + picture + if self.has_notes() { self.label_size() + 18.0 } else { 12.0 },
        )
    }

    fn layout(&self) -> Layout {
        let (_, first, step) = self.rows_at();
        Layout { height: (first + step * self.rows.len() as f64 + 8.0).ceil(), ..Layout::default() }
    }

    /// Upper left corner and size of each picture.
    fn places(&self) -> impl Iterator<Item = ((f64, f64), (f64, f64), &Picture)> {
        let (_, first, step) = self.rows_at();
        let label = if self.rows.iter().all(|r| r.0.is_empty()) { 0.0 } else { 36.0 };
        let side = self.pitch() - 6.0;
        let tall = side * self.shape.1 as f64 / self.shape.0 as f64;
        self.rows.iter().enumerate().flat_map(move |(i, (_, row))| {
            row.iter().enumerate().map(move |(k, p)| {
                (
                    (8.0 + k as f64 * self.pitch() + 3.0, first + i as f64 * step + label),
                    (side, tall),
                    p,
                )
            })
        })
    }

    fn pixels(&self, picture: &Picture) -> Vec<[u8; 3]> {
        match self.tone {
            Tone::Ink => picture
                .values
                .iter()
                .map(|v| [(255.0 * (1.0 - (v + 1.0) / 2.0)).round().clamp(0.0, 255.0) as u8; 3])
                .collect(),
            Tone::Light => {
                let byte = |v: f64| (127.5 * (v + 1.0)).round().clamp(0.0, 255.0) as u8;
                let plane = self.shape.0 * self.shape.1;
                let at = |i: usize, channel: usize| {
                    byte(picture.values[(channel * plane + i) % picture.values.len()])
                };
                (0..plane).map(|i| [0, 1, 2].map(|channel| at(i, channel))).collect()
            }
            Tone::Diverging => {
                let largest = picture.values.iter().map(|v| v.abs()).fold(0.0, larger);
                // Ends of ColorBrewer's RdBu, which stay apart in every common colour blindness.
                let mix =
                    |end: [f64; 3], u: f64| end.map(|e| (255.0 + (e - 255.0) * u).round() as u8);
                let colour = |v: f64| {
                    if v < 0.0 { mix([5.0, 80.0, 160.0], -v) } else { mix([178.0, 24.0, 43.0], v) }
                };
                picture
                    .values
                    .iter()
                    .map(|v| colour(if largest > 0.0 { v / largest } else { 0.0 }))
                    .collect()
            }
        }
    }

    fn svg_images(&self) -> Result<String> {
        let mut out = String::from("<g style=\"image-rendering:pixelated\">");
        for ((x, y), (w, h), picture) in self.places() {
            let (pixels, (width, height)) =
                (self.pixels(picture), (self.shape.0 as u32, self.shape.1 as u32));
            // Greys take a third of the room; a film has thousands of pictures.
            let small: Option<image::DynamicImage> = match self.tone {
                Tone::Ink => image::GrayImage::from_raw(
                    width,
                    height,
                    pixels.into_iter().map(|p| p[0]).collect(),
                )
                .map(Into::into),
                _ => {
                    image::RgbImage::from_raw(width, height, pixels.into_iter().flatten().collect())
                        .map(Into::into)
                }
            };
            let small = small
                .ok_or_else(|| drawing_failed("a picture whose values do not fill its shape"))?;
            let data = base64::engine::general_purpose::STANDARD.encode(encode_png(&small)?);
            let [x, y, w, h] = [x, y, w, h].map(|v| v * SVG_UNIT);
            let _ = writeln!(
                out,
                "<image x=\"{x:.0}\" y=\"{y:.0}\" width=\"{w:.0}\" height=\"{h:.0}\" preserveAspectRatio=\"none\" href=\"data:image/png;base64,{data}\"/>"
            );
        }
        Ok(out + "</g>")
    }

    fn draw<DB: DrawingBackend>(&self, pen: &Pen<'_, DB>, raster: bool) -> Drawn<DB> {
        let (head, first, step) = self.rows_at();
        if !self.title.is_empty() {
            pen.text(&self.title, (12.0, 12.0), TEXT + 2.0, INK, HPos::Left, VPos::Top)?;
        }
        let size = self.label_size();
        if !self.heading.is_empty() {
            pen.text(&self.heading, (11.0, head), ROW, MUTED, HPos::Left, VPos::Top)?;
        }
        for (k, text) in self.columns.iter().enumerate() {
            let middle = 8.0 + (k as f64 + 0.5) * self.pitch();
            pen.text(
                text,
                (middle, first - 6.0 - size / 2.0),
                size,
                INK,
                HPos::Center,
                VPos::Center,
            )?;
        }
        for (i, (label, _)) in self.rows.iter().enumerate().filter(|(_, r)| !r.0.is_empty()) {
            pen.text(
                label,
                (11.0, first + i as f64 * step + 18.0),
                ROW,
                MUTED,
                HPos::Left,
                VPos::Center,
            )?;
        }
        let (pw, ph) = self.shape;
        for ((x, y), (w, h), picture) in self.places() {
            if raster {
                for (j, [r, g, b]) in self.pixels(picture).into_iter().enumerate() {
                    let (u, v) = ((j % pw) as f64 / pw as f64, (j / pw) as f64 / ph as f64);
                    let to = (x + w * (u + 1.0 / pw as f64), y + h * (v + 1.0 / ph as f64));
                    pen.rectangle((x + w * u, y + h * v), to, RGBColor(r, g, b).filled())?;
                }
            }
            pen.rectangle(
                (x, y),
                (x + w, y + h),
                GRID.rgb().stroke_width((2.0 * pen.unit) as u32),
            )?;
            if !picture.note.is_empty() {
                pen.text(
                    &picture.note,
                    (x + w / 2.0, y + h + 4.0 + size / 2.0),
                    size,
                    MUTED,
                    HPos::Center,
                    VPos::Center,
                )?;
            }
        }
        Ok(())
    }
}

fn encode_png(image: &image::DynamicImage) -> Result<Vec<u8>> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).map_err(drawing_failed)?;
    Ok(bytes.into_inner())
}

/// Registers the embedded font once: plotters' text needs one, and none of the system's is asked
/// for.
fn fonts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular());
    });
}

fn drawing_failed(problem: impl ToString) -> Error {
    Error::domain(
        "drawing",
        problem.to_string(),
        "a figure that plotters can draw",
        "report this as a bug of the report",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::style::BLUE;

    fn labels(ticks: Vec<(f64, String)>) -> Vec<String> {
        ticks.into_iter().map(|t| t.1).collect()
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(labels(linear_ticks(0.0, 1.0)), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(linear_ticks(-3.1, 3.2)), ["−2", "0", "2"]);
        assert_eq!(labels(log_ticks(0.01, 30.0)), ["0.01", "0.1", "1", "10"]);
        assert_eq!(labels(log_ticks(1.0, 60.0)), ["1", "2", "5", "10", "20", "50"]);
        assert_eq!(labels(log_ticks(2e-12, 0.2)), ["10⁻¹⁰", "10⁻⁸", "10⁻⁶", "10⁻⁴", "0.01"]);
        assert_eq!(labels(log_ticks(3e5, 3e6)), ["5·10⁵", "10⁶", "2·10⁶"]);
    }

    #[test]
    fn ticks_of_any_finite_range_are_few_and_inside() {
        let mut ends = vec![
            0.0,
            LEAST,
            3.0 * LEAST,
            f64::MIN_POSITIVE,
            1e-300,
            1e-13,
            1.0,
            1.0 + f64::EPSILON,
            1e9,
            1e15,
            1e300,
            f64::MAX,
        ];
        ends.extend(ends.clone().iter().map(|v| -v));
        // Bits at random, of every exponent.
        let noise = tweedie::math::noise::Noise::new(1);
        ends.extend(
            (0..300).map(|k| noise.bits(0, k)).map(f64::from_bits).filter(|v| v.is_finite()),
        );
        for a in &ends {
            for b in &ends {
                let (a, b) = (a.min(*b), a.max(*b));
                for (scale, least) in [(Scale::Linear, f64::MIN), (Scale::Log, LEAST)] {
                    if a < least {
                        continue;
                    }
                    let axis = Axis { scale, ..Axis::linear("", "") };
                    let fitted = Mapping::new(
                        &axis,
                        [a, b, f64::NAN, f64::INFINITY, f64::NEG_INFINITY].into_iter(),
                    );
                    let given = Mapping::new(&axis.over(a, b), [].into_iter());
                    for mapping in [fitted, given] {
                        let Mapping { lo, hi, ticks, .. } = &mapping;
                        assert!(
                            lo.is_finite() && hi.is_finite() && lo <= hi,
                            "{a:e} {b:e}: {mapping:?}"
                        );
                        assert!(ticks.len() <= 9, "{a:e} {b:e}: {mapping:?}");
                        for (v, text) in ticks {
                            assert!(
                                v.is_finite() && text.chars().count() <= 20,
                                "{a:e} {b:e}: {mapping:?}"
                            );
                            let u = mapping.at(*v);
                            assert!(
                                lo == hi || u.is_some_and(|u| (-0.01..=1.01).contains(&u)),
                                "{a:e} {b:e} {v:e} {u:?}: {mapping:?}"
                            );
                        }
                        if lo < hi {
                            assert!(
                                (mapping.at(*lo), mapping.at(*hi)) == (Some(0.0), Some(1.0)),
                                "{mapping:?}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_plot_of_extreme_numbers_is_drawn() {
        let values = [0.0, LEAST, 1e-300, 1.0, 1e300, f64::MAX, -f64::MAX, f64::INFINITY, f64::NAN];
        for y in [&values[..2], &values[2..5], &values[..], &values[4..7]] {
            for axis in [Axis::linear as fn(&str, &str) -> Axis, Axis::log] {
                let lines = [Mark::Dashed, Mark::Linked]
                    .map(|mark| Series::new("s", values, y.to_vec(), mark, BLUE));
                let plot = Drawing::Plot(Plot::new(
                    "",
                    axis("a", "a"),
                    axis("b", "b").over(1.0, 2.0),
                    lines.to_vec(),
                ));
                assert!(plot.svg().unwrap().len() < 200_000);
                let plot =
                    Drawing::Plot(Plot::new("", axis("a", "a"), axis("b", "b"), lines.to_vec()));
                assert!(plot.svg().unwrap().len() < 200_000);
            }
        }
    }

    #[test]
    fn words_of_a_drawing_are_text_and_nothing_else() {
        let words = "\"><script>alert(1)</script>\u{1b}[2J\u{9b}\u{7}&#36;\n</svg>";
        let plot = Plot::new(
            words,
            Axis::linear(words, words),
            Axis::log(words, words),
            vec![
                Series::new(words, [1.0, 2.0], [1.0, 2.0], Mark::Line, BLUE),
                Series::new(words, [1.0, 2.0], [1.0, 2.0], Mark::Line, BLUE),
            ],
        );
        let picture = Picture { values: vec![0.0; 4], note: words.into() };
        let pictures = Pictures {
            title: words.into(),
            heading: words.into(),
            columns: vec![words.into()],
            rows: vec![(words.into(), vec![picture])],
            shape: (2, 2),
            tone: Tone::Ink,
        };
        let film = Film { frames: vec![pictures.clone(), pictures.clone()] };
        for drawing in [Drawing::Plot(plot), Drawing::Pictures(pictures), Drawing::Film(film)] {
            let svg = drawing.svg().unwrap();
            assert!(svg.contains("&lt;script&gt;") && !svg.contains("<script"), "{svg}");
            assert_eq!((svg.matches("<svg").count(), svg.matches("</svg>").count()), (1, 1));
            assert!(!svg.contains(|c: char| c.is_control() && c != '\n'));
        }
    }

    #[test]
    fn numbers_are_plain() {
        assert_eq!(
            [0.0, 1.0, -2.5, 0.02, 0.5772, 24221.0, 0.0000493].map(plain),
            ["0", "1", "−2.5", "0.02", "0.577", "24221", "0.0000493"]
        );
    }

    #[test]
    fn lines_are_cut_at_the_frame_and_broken_at_gaps() {
        assert_eq!(clipped(&[Some((-1.0, 0.5)), Some((2.0, 0.5))]), [[(0.0, 0.5), (1.0, 0.5)]]);
        assert_eq!(clipped(&[Some((0.0, 2.0)), Some((1.0, 3.0))]), Vec::<Vec<_>>::new());
        let gap = clipped(&[
            Some((0.1, 0.1)),
            Some((0.2, 0.2)),
            None,
            Some((0.3, 0.3)),
            Some((0.4, 0.4)),
        ]);
        assert_eq!(gap, [[(0.1, 0.1), (0.2, 0.2)], [(0.3, 0.3), (0.4, 0.4)]]);
    }

    #[test]
    fn csv_keeps_every_bit() {
        let (x, y) = ([1.0 / 3.0, 1e-300], [std::f64::consts::PI, -0.1]);
        let plot = Plot::new(
            "",
            Axis::linear("a", ""),
            Axis::log("b", ""),
            vec![Series::new("s, t", x, y, Mark::Linked, BLUE)],
        );
        let text = Drawing::Plot(plot).csv().unwrap();
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        assert_eq!(reader.headers().unwrap(), vec!["series", "a", "b"]);
        let rows: Vec<(String, f64, f64)> = reader.deserialize().map(|r| r.unwrap()).collect();
        assert_eq!(rows, [("s, t".to_string(), x[0], y[0]), ("s, t".to_string(), x[1], y[1])]);
    }

    #[test]
    fn a_plot_without_a_single_usable_point_is_still_drawn() {
        let empty = Series::new("s", [f64::NAN, -1.0], [1.0, 2.0], Mark::Dashed, BLUE);
        let plot =
            Drawing::Plot(Plot::new("", Axis::log("a", "a"), Axis::linear("b", "b"), vec![empty]));
        assert!(
            plot.svg().unwrap().starts_with("<svg") && plot.png().unwrap().starts_with(b"\x89PNG")
        );
    }

    #[test]
    fn a_film_shows_its_frames_in_turn() {
        let frame = |v: f64| Pictures {
            title: String::new(),
            heading: format!("frame {v}"),
            columns: vec![],
            rows: vec![("r".into(), vec![Picture { values: vec![v; 4], note: String::new() }])],
            shape: (2, 2),
            tone: Tone::Ink,
        };
        let film = Drawing::Film(Film { frames: [-1.0, 0.0, 1.0].map(frame).into() });
        let svg = film.svg().unwrap();
        assert_eq!(
            (
                svg.matches("<svg").count(),
                svg.matches("</svg>").count(),
                svg.matches("<g class=").count()
            ),
            (1, 1, 3)
        );
        // 3 frames, the last of them for 14 turns: a round of 16 turns of 160 ms.
        assert!(
            svg.contains("animation-delay:-2560ms")
                && svg.contains("animation-delay:-2240ms")
                && svg.contains("6.2500%")
        );
        assert!(svg.contains("prefers-reduced-motion"));

        let bytes = film.png().unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&bytes)).read_info().unwrap();
        assert_eq!(reader.info().animation_control().unwrap().num_frames, 3);
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let middles: Vec<u8> = (0..3)
            .map(|_| {
                let shown = reader.next_frame(&mut pixels).unwrap();
                pixels[shown.line_size * (shown.height as usize * 2 / 3) + 3 * 80]
            })
            .collect();
        assert_eq!(middles, [255, 128, 0]);

        let (csv, json) = (film.csv().unwrap(), film.json());
        assert!(csv.starts_with("frame,row,column,p0") && csv.lines().count() == 4);
        assert_eq!(json["frames"][2]["rows"][0]["pictures"][0]["values"][3], 1.0);
    }

    #[test]
    fn pictures_carry_their_pixels() {
        let picture = Picture { values: vec![-1.0, 1.0, 0.0, 5.0], note: String::new() };
        let p = Pictures {
            title: "".into(),
            heading: "".into(),
            columns: vec![],
            rows: vec![("r".into(), vec![picture])],
            shape: (2, 2),
            tone: Tone::Ink,
        };
        assert_eq!(p.pixels(&p.rows[0].1[0]), [[255; 3], [0; 3], [128; 3], [0; 3]]);
        let svg = Drawing::Pictures(p).svg().unwrap();
        assert_eq!(svg.matches("<image ").count(), 1);
        // Below the frames.
        assert!(svg.find("<image").unwrap() < svg.rfind("<rect").unwrap());
    }
}
