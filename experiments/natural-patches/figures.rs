//! The chapter on patches of photographs, made from the numbers of
//! [`crate::natural_patches::numbers`].

use crate::natural_patches::numbers::{Numbers, compute};
use tweedie::error::Result;
use tweedie::math::{larger, smaller};
use tweedie_report::chapter::{
    along, command, f, figure, images, p, percent, picture, plot, section, states, thousands,
};
use tweedie_report::drawing::{Axis, Drawing, Mark, Picture, Pictures, Plot, Series, Tone, plain};
use tweedie_report::experiment::Context;
use tweedie_report::page::{Block, Chapter, Section, Table};
use tweedie_report::style::{BLUE, INK, MUTED, ORANGE, PURPLE, SERIES, SKY, VERMILION};

/// Computes the experiment and describes it.
pub fn run(context: &Context) -> Result<Chapter> {
    Ok(chapter(&compute(context)?, command("natural-patches", context)))
}

fn chapter(n: &Numbers, command: String) -> Chapter {
    Chapter {
        name: "natural-patches".into(),
        title: "Photographs, a few pixels at a time".into(),
        lead: "Why does a diffusion model paint the coarse before the fine, why do noise levels go in equal ratios, and why does a network that has learnt its training set by heart make a bad \
               denoiser? Five photographs are enough to see it. Their patches have few things in common, but one is a law of nearly all photographs: power falls about with the square of the spatial \
               frequency. From that one fact follow the order in which a sampler paints, the number of pixels that a denoiser must read, and how far a formula with no network in it foretells \
               what a sampler does."
            .into(),
        command,
        sections: vec![spectrum(n), denoising(n), emergence(n), teleportation(n), fields(n)],
    }
}

/// Rows of square pictures.
fn pictures(
    title: &str,
    side: usize,
    heading: &str,
    columns: Vec<String>,
    rows: Vec<(String, Vec<Picture>)>,
    tone: Tone,
) -> Drawing {
    Drawing::Pictures(Pictures {
        title: title.into(),
        heading: heading.into(),
        columns,
        rows,
        shape: (side, side),
        tone,
    })
}

/// First k at which a running share reaches a level.
fn reaches(shares: &[f64], level: f64) -> usize {
    shares.iter().position(|s| *s >= level).map_or(shares.len(), |k| k + 1)
}

/// Pixels a side of a small copy of a photograph.
const THUMBNAIL: usize = 48;

fn spectrum(n: &Numbers) -> Section {
    let (s, c) = (&n.spectra, &n.components);
    let thumbnails = n.photographs.iter().map(|photo| {
        let (_, h, w) = photo.pixels.dim();
        let side = h.min(w);
        let (top, left, across) = ((h - side) / 2, (w - side) / 2, THUMBNAIL);
        let at = |i: usize| {
            photo.pixels[[0, top + i / across * side / across, left + i % across * side / across]]
        };
        picture((0..across * across).map(at), photo.name)
    });
    let curves = s.photographs.iter().zip(SERIES).map(|((name, f, power, slope), colour)| {
        Series::new(format!("{name}, {slope:.1}"), along(f), along(power), Mark::Line, colour)
    });
    let reference = [0.012, 0.4];
    let mut series: Vec<Series> = curves.collect();
    series.push(Series::new(
        "1/f²",
        reference,
        reference.map(|f| 6.0 * s.scale / (f * f)),
        Mark::Dashed,
        MUTED,
    ));
    let slopes = s.photographs.iter().map(|p| p.3);
    let (least, most) =
        slopes.fold((f64::INFINITY, 0.0f64), |(l, m), v| (smaller(l, v), larger(m, v)));
    let index = || (1..=c.variances.len()).map(|k| k as f64);
    let components = c
        .leading
        .rows()
        .into_iter()
        .zip(&c.variances)
        .map(|(u, l)| picture(u.iter().copied(), plain(*l)));
    let grey: Vec<Picture> = components.collect();
    let colour: Vec<Picture> = c
        .colour
        .0
        .rows()
        .into_iter()
        .zip(&c.colour.1)
        .map(|(u, l)| {
            let largest = u.iter().map(|v| v.abs()).fold(0.0, larger);
            picture(u.iter().map(|v| v / largest), plain(*l))
        })
        .collect();
    let first_hue = c.colour.2.iter().position(|g| *g < 0.5);
    let rows = |of: &[Picture]| of.chunks(8).map(|r| (String::new(), r.to_vec())).collect();
    section(
        "spectrum",
        "What photographs have in common",
        vec![
            p(format!(
                "Here are the data: five photographs, each reduced to the mean of {0} × {0} pixels, values from −1 (black) to 1 (white). Ask each how strong its waves are: take squares of {1} pixels, expand them in cosines, and average the squared \
                 coefficients at each spatial frequency.",
                n.settings.shrink, n.settings.spectrum_side
            )),
            figure(
                "photographs",
                "The five photographs (their middle squares, coarsened).",
                "Five small grey pictures: a portrait of an astronaut, a man with a camera, a cat, a cup of coffee, a rocket at its launch.",
                vec![pictures(
                    "",
                    THUMBNAIL,
                    "",
                    vec![],
                    vec![(String::new(), thumbnails.collect())],
                    Tone::Light,
                )],
            ),
            f("\\mathbb E\\,|c_f|^2 \\approx \\frac{a}{|f|^{\\gamma}}, \\qquad \\gamma \\approx 2"),
            p(format!(
                "The pictures could hardly be more different; the slopes lie between {least:.1} and {most:.1}, that of their mean is {:.1} (large collections come nearer to 2). Mind what is counted: at $\\gamma = 2$ the power of one wave falls as $1/f^2$, its amplitude as $1/f$, and \
                 each octave holds the same variance, as it has the more waves the higher it lies: such a picture has no size of its own. White noise has the same power everywhere. So noise of any strength drowns all that is finer than some scale and leaves what is \
                 coarser: the noise level is a scale.",
                s.mean.2
            )),
            figure(
                "power",
                "Left: power of a wave against its frequency, with the fitted slope beside each name. Right: share of the variance of a patch in the first k principal components, and in the k best of JPEG's cosines, which know no data.",
                "Left: five falling curves on logarithmic axes, roughly parallel to a dashed line of slope two. Right: two curves that rise steeply from four fifths and lie almost on each other.",
                vec![
                    plot(
                        "Power",
                        Axis::log("frequency", "frequency f, cycles a pixel"),
                        Axis::log("power", "power of a wave"),
                        series,
                    ),
                    plot(
                        &format!("Patches of {0} × {0}", n.settings.patch),
                        Axis::log("k", "first k of 256"),
                        Axis::linear("share", "share of the variance"),
                        vec![
                            Series::new(
                                "principal components",
                                index(),
                                along(&c.shares[0]),
                                Mark::Line,
                                BLUE,
                            ),
                            Series::new(
                                "cosines",
                                index(),
                                along(&c.shares[1]),
                                Mark::Dashed,
                                VERMILION,
                            ),
                        ],
                    ),
                ],
            ),
            p(format!(
                "What follows needs the covariance of patches and its eigenvectors, here of {} windows of {1} × {1} pixels. They turn out to be waves, sorted by frequency: whatever has no preferred place has a covariance that waves diagonalise. \
                 {2} components hold 95 % of the variance; of JPEG's cosines, chosen in 1992 with no look at these pictures, it takes {3}.",
                thousands(c.count),
                n.settings.patch,
                reaches(&c.shares[0], 0.95),
                reaches(&c.shares[1], 0.95),
            )),
            figure(
                "components",
                "The leading principal components, the variance of each below it; each is scaled to its own largest value. Above: grey patches, red positive, blue negative. Below: patches in colour, drawn about middle grey.",
                "Above, two rows of eight pictures in red and blue: a constant, a horizontal and a vertical ramp, and then waves of more and more stripes and checks. Below, two rows of eight in colour: plain orange, plain blue, grey ramps and waves, a plain green, and ramps from orange to blue.",
                vec![
                    pictures("Grey", n.settings.patch, "", vec![], rows(&grey), Tone::Diverging),
                    pictures(
                        "Colour",
                        n.settings.colour_patch,
                        "",
                        vec![],
                        rows(&colour),
                        Tone::Light,
                    ),
                ],
            ),
            p(format!(
                "In colour one thing is new: hue is coarse. Of the variance of the patches' means {} is grey, of the detail within them {}. {} That is why image formats store brightness finely and hue at half the resolution, and part of why a latent of four channels can stand for \
                 sixty-four pixels in three colours.",
                percent(c.grey_share[0]),
                percent(c.grey_share[1]),
                match first_hue {
                    Some(k) => format!(
                        "The first component with a hue, number {}, is a plain colour against its opposite; waves of hue come later, and weaker than the same waves in grey.",
                        k + 1
                    ),
                    None => "No leading component has a hue.".into(),
                }
            )),
            Block::Evidence([&s.evidence[..], &c.evidence].concat()),
        ],
    )
}

fn denoising(n: &Numbers) -> Section {
    let d = &n.denoising;
    let side = n.settings.picture_side;
    let sigma =
        || Axis::log("sigma", "noise level σ").over(d.sigmas[0], d.sigmas[d.sigmas.len() - 1]);
    let row = |which: usize| -> Vec<Picture> {
        d.pictures
            .iter()
            .map(|of| picture(of[which].0.iter().copied(), plain(of[which].1)))
            .collect()
    };
    let risk = |rows: Vec<(&str, &[f64], Mark, tweedie_report::style::Colour)>| {
        rows.into_iter()
            .map(|(label, of, mark, colour)| {
                Series::new(label, along(&d.sigmas), along(of), mark, colour)
            })
            .collect::<Vec<_>>()
    };
    let error = || Axis::log("mean_squared_error", "squared error a pixel").over(1e-4, 0.5);
    let wins = d.filter_wins();
    let (names, transfer) = &d.transfer;
    let table = names.iter().enumerate().map(|(i, name)| {
        let cells = transfer
            .row(i)
            .iter()
            .enumerate()
            .map(|(j, v)| if i == j { "0".into() } else { percent(*v) })
            .collect::<Vec<_>>();
        [vec![name.clone()], cells].concat()
    });
    let nearest = d.sigmas.iter().position(|s| *s >= n.settings.transfer_sigma).unwrap_or(0);
    let price = |source: usize| percent(d.wiener[source][nearest] / d.wiener[0][nearest] - 1.0);
    section(
        "denoising",
        "Knowing two moments, or knowing every patch",
        vec![
            p(format!(
                "Cut the photographs into {} patches of {2} × {2} pixels. A denoiser may know their mean and covariance, and nothing else: the Wiener filter. Or it may know every single one of them: the empirical denoiser, which weighs all patches by how well they \
                 explain what it sees, and is the exact minimum of the training loss on these patches, what a network of unlimited capacity would learn. Both have closed forms. {1} patches are noised and given to both.",
                thousands(d.sizes[0]),
                thousands(d.sizes[1]),
                n.settings.denoise_patch
            )),
            f(
                "D_W(x) = \\mu + \\Sigma\\,(\\Sigma+\\sigma^2 I)^{-1}(x-\\mu), \\qquad D_E(x) = \\sum_i w_i\\, y_i, \\quad w_i \\propto e^{-\\lVert x - y_i\\rVert^2/2\\sigma^2}",
            ),
            p(
                "First a picture. Neither denoiser has seen the cat: both know the four other photographs only. Each tile is denoised by itself. The filter blurs, more at more noise. The other one has nothing to offer but pieces of an astronaut, a camera, a cup and a rocket, \
                 and builds a cat out of them: a mosaic that does not get better as the noise goes away.",
            ),
            figure(
                "cat",
                "Part of a photograph that no law knows, noised (top), filtered by two moments of the other photographs (middle), and put together from their patches (bottom). Below each the squared error a pixel.",
                "Three rows of four pictures of a cat's eye: noise grows from left to right; the filtered ones get blurred and blocky; the recalled ones are mosaics of flat and striped tiles, of equal quality until the noise is high.",
                vec![pictures(
                    "",
                    side,
                    "noise level σ",
                    n.settings.picture_sigmas.iter().map(|s| plain(*s)).collect(),
                    vec![
                        ("noised".into(), row(0)),
                        ("Wiener filter".into(), row(1)),
                        ("empirical denoiser".into(), row(2)),
                    ],
                    Tone::Light,
                )],
            ),
            p(
                "How good a denoiser looks depends on what it is tried on, and there are three ways, not two: patches that the law was made from; other patches of the same photographs, which is what a random split of a data set holds out; other photographs. \
                 For the filter no sampling is needed. Its error on data of any law with mean $m$ and covariance $C$ is exactly",
            ),
            f(
                "\\mathbb E\\lVert D_W - x_0\\rVert^2 = \\operatorname{tr}(KCK) + \\lVert K(m-\\mu)\\rVert^2 + \\sigma^2 \\operatorname{tr}(J^2), \\qquad J = \\Sigma\\,(\\Sigma+\\sigma^2 I)^{-1}, \\quad K = I - J",
            ),
            figure(
                "risk",
                "Squared error a pixel of both denoisers, by what they know (the Wiener filter in closed form). Left: on known patches recall has no match. Right: on other photographs it has a floor, the distance to the nearest patch.",
                "Left: both curves rise with noise, the empirical one lies below, far below at low noise. Right: the filter's curve looks the same as before; the empirical ones are flat at low noise, at about two hundredths, and meet the filter's between noise 0.5 and 1.",
                vec![
                    plot(
                        "Patches that the law knows",
                        sigma(),
                        error(),
                        risk(vec![
                            ("Wiener filter", &d.wiener[0], Mark::Line, BLUE),
                            ("empirical", &d.empirical[0], Mark::Line, VERMILION),
                            (
                                "noise itself",
                                &d.sigmas.iter().map(|s| s * s).collect::<Vec<_>>(),
                                Mark::Dashed,
                                MUTED,
                            ),
                        ]),
                    ),
                    plot(
                        "Patches that it has not seen",
                        sigma(),
                        error(),
                        risk(vec![
                            ("Wiener, other photographs", &d.wiener[2], Mark::Line, BLUE),
                            ("empirical, same photographs", &d.empirical[1], Mark::Dashed, ORANGE),
                            (
                                "empirical, other photographs",
                                &d.empirical[2],
                                Mark::Line,
                                VERMILION,
                            ),
                            ("Wiener, known patches", &d.wiener[0], Mark::Points, MUTED),
                        ]),
                    ),
                ],
            ),
            p(format!(
                "The filter notices little: at $\\sigma = {}$ it pays {} for patches held out and {} for foreign photographs, since photographs together have much the same two moments as other photographs together (one photograph alone does not: see the table). Recall falls apart: with little noise its error is that of the nearest patch it has, {}, which no lower noise \
                 mends. On other photographs the filter, which has forgotten all but two moments, is the better denoiser at {} of the {} levels, {}. Where recall wins on what it has not seen, it knows something that the filter does not: edges. A network that generalises has to have both: \
                 the filter's independence of single patches, and edges. And a held-out score from a random split of patches flatters: at the lowest noise recall is {} off on other patches of the same photographs, and {} on other photographs.",
                plain(d.sigmas[nearest]),
                price(1),
                price(2),
                plain(d.nearest),
                wins.len(),
                d.sigmas.len(),
                if wins.len() == d.sigmas.len() {
                    "all of them".into()
                } else {
                    format!("among them all up to {}", plain(contiguous(&wins, &d.sigmas)))
                },
                plain(d.empirical[1][0]),
                plain(d.empirical[2][0]),
            )),
            Block::Table(Table {
                caption: format!(
                    "The filter of one photograph (row) on another (column) at $\\sigma = {}$: excess of its squared error over that of the column's own filter, exact.",
                    plain(n.settings.transfer_sigma)
                ),
                head: [
                    vec!["filter of".to_string()],
                    names.iter().map(|s| format!("on {s}")).collect(),
                ]
                .concat(),
                rows: table.collect(),
            }),
            Block::Evidence(d.evidence.clone()),
        ],
    )
}

/// The last of the levels that are the first ones of all.
fn contiguous(wins: &[f64], all: &[f64]) -> f64 {
    wins.iter().zip(all).take_while(|(a, b)| a == b).last().map_or(f64::NAN, |(a, _)| *a)
}

fn emergence(n: &Numbers) -> Section {
    let t = &n.trajectories;
    let sigmas = &n.settings.strip_sigmas;
    let [gx, gd, ex, ed] = &t.strip;
    let (mut f_, mut closed, mut measured) = (Vec::new(), Vec::new(), Vec::new());
    for (frequency, star, seen) in t.emergence.iter().skip(1) {
        f_.push(*frequency);
        closed.push(*star);
        measured.push(*seen);
    }
    section(
        "emergence",
        "Coarse before fine",
        vec![
            p(format!(
                "Follow an exact sampler from noise to a patch of {0} × {0} pixels, once under the Gaussian of the photographs' {1} tiles and once under their empirical law, from the same noise. In the denoiser's picture each component grows from nothing to its final size, and reaches half of \
                 it at a noise level of its own:",
                n.settings.patch,
                thousands(t.count)
            )),
            f(
                "\\frac{\\xi_k(\\sigma)}{\\xi_k(0)} = \\sqrt{\\frac{\\lambda_k}{\\lambda_k+\\sigma^2}}, \\qquad \\sigma_k^\\star = \\sqrt{3\\lambda_k} \\propto f_k^{-\\gamma/2}",
            ),
            figure(
                "strip",
                "Above: one draw of noise, taken to a patch by both laws (states divided by $\\sqrt{1+\\sigma^2}$ for display). Below: where it and others end.",
                "Four rows of ten small grey pictures over falling noise. The denoisers begin with a flat grey, get a gradient of brightness, then coarse blobs, and detail only at the end; the empirical one turns into a crisp patch of a photograph, the Gaussian one into a smooth texture. Below, two rows of eight ends: textures of the Gaussian, and pieces of photographs that resemble them in brightness.",
                vec![
                    pictures(
                        "From noise to a patch",
                        n.settings.patch,
                        "noise level σ",
                        sigmas.iter().map(|s| plain(*s)).collect(),
                        vec![
                            ("Gaussian law: state".into(), states(gx, sigmas)),
                            ("Gaussian law: denoiser".into(), images(gd)),
                            ("Empirical law: state".into(), states(ex, sigmas)),
                            ("Empirical law: denoiser".into(), images(ed)),
                        ],
                        Tone::Light,
                    ),
                    pictures(
                        "Ends of the same noise",
                        n.settings.patch,
                        "",
                        vec![],
                        vec![
                            ("Gaussian law".into(), images(&t.ends[0])),
                            ("Empirical law".into(), images(&t.ends[1])),
                        ],
                        Tone::Light,
                    ),
                ],
            ),
            p(format!(
                "The levels fall with the frequency (slope {:.2} here; 1 at $\\gamma = 2$): detail of half the size comes at half the noise, or a little less. Each octave of detail has its own stretch of noise levels, of equal ratio. That is why noise levels are spaced in equal ratios: equal steps \
                 of $\\ln\\sigma$ give every scale the same number of steps. And it says what a larger picture needs: its coarsest waves are longer and stronger, so that the first noise level has to rise at least in proportion to its side, or sampling starts where the outline should \
                 already be there.",
                t.emergence_slope
            )),
            figure(
                "emergence",
                "Noise level at which a component has half of its final size in the denoiser's picture, against its frequency: in closed form, and measured along trajectories of the empirical law.",
                "A band of dots falls from three at low frequency to a few hundredths at high ones, at first along a dashed line of slope minus one; the measured ones stay between one and three at all frequencies.",
                vec![plot(
                    "",
                    Axis::log("frequency", "frequency, cycles a pixel"),
                    Axis::log("emergence_sigma", "noise level σ* of half the size"),
                    vec![
                        Series::new(
                            "measured, empirical law",
                            along(&f_),
                            along(&measured),
                            Mark::Points,
                            SKY,
                        ),
                        Series::new(
                            "√(3 λ), Gaussian law",
                            along(&f_),
                            along(&closed),
                            Mark::Points,
                            BLUE,
                        ),
                        Series::new(
                            "1/f",
                            [0.03, 0.4],
                            [0.03f64, 0.4].map(|f| (3.0 * n.spectra.scale).sqrt() / f),
                            Mark::Dashed,
                            INK,
                        ),
                    ],
                )],
            ),
            p(
                "The empirical law keeps the order for the coarse components, and then all the fine ones come at once, early: its trajectory has settled on one patch, and with the patch it has all its detail, which it can't be in doubt about. A model that shows \
                 fine detail sooner than this line allows has memorised, or knows more than two moments.",
            ),
        ],
    )
}

fn teleportation(n: &Numbers) -> Section {
    let t = &n.trajectories;
    let at = |pick: fn(&crate::natural_patches::numbers::Jump) -> f64| {
        t.jumps.iter().map(pick).collect::<Vec<f64>>()
    };
    let jumps = at(|j| j.sigma);
    let falling = |name: &str, label: &str| {
        Axis::log(name, label).over(jumps[0] * 1.2, jumps[jumps.len() - 1] / 1.2)
    };
    let last = t.sigmas.len() - 1;
    let explained = 1.0 - t.state_distance[last].powi(2);
    let rows = t.jumps.iter().map(|j| {
        vec![plain(j.sigma), percent(j.landing), j.calls.to_string(), percent(j.elsewhere)]
    });
    let ends = [jumps[0] * 1.2, jumps[jumps.len() - 1] / 1.2];
    let fates = Plot::new(
        "After a jump",
        falling("jump_sigma", "level to which the run jumps"),
        Axis::linear("share", "share, relative error").over(0.0, 1.0),
        vec![
            Series::new(
                "ends at another patch",
                along(&jumps),
                at(|j| j.elsewhere),
                Mark::Linked,
                BLUE,
            ),
            Series::new("whole run, no jump", ends, [t.whole.1; 2], Mark::Dashed, MUTED),
            Series::new(
                "error of the jump",
                along(&jumps),
                at(|j| j.landing),
                Mark::Linked,
                VERMILION,
            ),
        ],
    );
    let fatal = t.jumps.iter().find(|j| j.elsewhere >= 0.25);
    section(
        "teleportation",
        "What a formula foretells, and the steps it saves",
        vec![
            p(
                "While the noise is high every law looks Gaussian, so the Gaussian's closed form carries a state from pure noise to a lower level without calling any denoiser. How far is it right? Both laws are followed exactly from shared noise; a distance of 1 is that of the \
                 patches from their mean.",
            ),
            figure(
                "distance",
                "Left: root mean square distance between the two laws' trajectories from shared noise. Right: runs that start with a jump, by the level to which they jump: relative error where they land, and the share whose end is another patch than that of the exact trajectory.",
                "Left: the denoisers' distance rises from nothing at high noise to a plateau below 1; the states' distance follows later. Right: the share of other ends is near 0 for jumps to high noise, rises between 10 and 2 and stays high, while the error of the jump itself is still small there.",
                vec![
                    plot(
                        "From shared noise",
                        Axis::log("sigma", "noise level σ").over(t.sigmas[0], t.sigmas[last]),
                        Axis::linear("relative_distance", "relative distance"),
                        vec![
                            Series::new(
                                "denoiser",
                                along(&t.sigmas),
                                along(&t.denoiser_distance),
                                Mark::Line,
                                VERMILION,
                            ),
                            Series::new(
                                "state",
                                along(&t.sigmas),
                                along(&t.state_distance),
                                Mark::Dashed,
                                BLUE,
                            ),
                        ],
                    ),
                    Drawing::Plot(fates),
                ],
            ),
            p(format!(
                "Of the final patch the Gaussian foretells {} of the variance, from the noise alone, with no network and no step; what it misses is all that makes a patch this patch. As a replacement for the first steps it is exact for all purposes: {} Further down the jump itself is still \
                 nearly right, but fates are decided there: {} That is not a worse patch, only another one: whoever compares a fast sampler with a slow one picture by picture measures this.",
                percent(explained),
                match t.free_jump() {
                    Some(j) => format!(
                        "of {} calls of {}, a jump to $\\sigma = {}$ leaves {}, and the run ends at no more other patches than without it ({} against {}).",
                        t.whole.0,
                        n.settings.sampler,
                        plain(j.sigma),
                        j.calls,
                        percent(j.elsewhere),
                        percent(t.whole.1)
                    ),
                    None => "here no jump of the table leaves all ends in place.".into(),
                },
                match fatal {
                    Some(j) => format!(
                        "after a jump to $\\sigma = {}$, {} off, {} of the runs end at another patch.",
                        plain(j.sigma),
                        percent(j.landing),
                        percent(j.elsewhere)
                    ),
                    None => "an error is kept.".into(),
                }
            )),
            Block::Table(Table {
                caption: format!(
                    "Jumps from $\\sigma = {}$, {} trajectories of the empirical law: relative error of the jump where it lands, calls of the denoiser left of {}, and the share of runs that end at another patch than the exact trajectory.",
                    plain(n.settings.strip_sigmas[0]),
                    t.followed,
                    t.whole.0
                ),
                head: ["jump to", "error there", "calls left", "other ends"]
                    .map(String::from)
                    .to_vec(),
                rows: rows.collect(),
            }),
            Block::Evidence(t.evidence.clone()),
        ],
    )
}

fn fields(n: &Numbers) -> Section {
    let r = &n.fields;
    let mut columns: Vec<String> = n.settings.field_sigmas.iter().map(|s| plain(*s)).collect();
    columns.push("σ → ∞".into());
    let rows = r.rows.iter().map(|([row, column], fields)| {
        let pictures = fields.iter().map(|f| {
            picture(f.iter().copied(), plain(f.iter().map(|v| v.abs()).fold(0.0, larger)))
        });
        (format!("pixel in row {}, column {}", row + 1, column + 1), pictures.collect())
    });
    section(
        "fields",
        "How much of the picture a denoiser reads",
        vec![
            p(
                "A row of the Wiener filter's matrix says how one pixel is estimated from all noisy ones. Its shape comes from the covariance, its size from the noise.",
            ),
            f(
                "J = \\Sigma\\,(\\Sigma+\\sigma^2 I)^{-1}, \\qquad \\Sigma \\sim \\frac{a}{f^2} \\;\\Rightarrow\\; J \\sim \\frac{1}{1+\\sigma^2 f^2/a} \\;\\Rightarrow\\; J(r) \\propto K_0\\!\\left(\\frac{2\\pi\\sqrt a}{\\sigma}\\, r\\right)",
            ),
            p(
                "For the power law $a/f^2$ on an unbounded plane the filter is known: its radius grows in proportion to the noise. That is the receptive field that a network needs at each noise level: a few pixels at the end of sampling, the whole picture at its beginning. \
               A network whose field is small at all levels can't be right at high noise, whatever its width; one that reads everything wastes its effort at low noise.",
            ),
            figure(
                "fields",
                &format!(
                    "Above: rows of the filter of {0} × {0} patches for a pixel in the middle and one in the corner; red positive, blue negative, each scaled to its largest weight, printed below; last the covariance's row, the limit. Below: root mean square radius of the middle pixel's field, and of the fitted power law's.",
                    n.settings.field_patch
                ),
                "Above, two rows of seven pictures of 19 by 19 pixels: at low noise one red pixel, then a small red spot with a faint blue rim, growing to fill the picture as the noise rises. Below, a curve that rises with noise from below one pixel to about seven, where the patch ends; between noise 1 and 3 it stays near a dashed straight line of slope one.",
                vec![
                    pictures(
                        "Fields",
                        n.settings.field_patch,
                        "noise level σ",
                        columns,
                        rows.collect(),
                        Tone::Diverging,
                    ),
                    plot(
                        "Radius",
                        Axis::log("sigma", "noise level σ")
                            .over(r.sigmas[0], r.sigmas[r.sigmas.len() - 1]),
                        Axis::log("radius", "radius of the field, pixels"),
                        vec![
                            Series::new(
                                "filter of the patches",
                                along(&r.sigmas),
                                along(&r.radius),
                                Mark::Line,
                                PURPLE,
                            ),
                            Series::new(
                                "power law, unbounded",
                                along(&r.sigmas),
                                along(&r.power_law),
                                Mark::Dashed,
                                MUTED,
                            ),
                        ],
                    ),
                ],
            ),
            Block::Evidence(r.evidence.clone()),
        ],
    )
}
