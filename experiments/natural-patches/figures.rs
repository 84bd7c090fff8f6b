//! The chapter on patches of photographs, made from the numbers of
//! [`crate::natural_patches::numbers`].

use crate::natural_patches::numbers::{Numbers, Settings, compute};
use serde_json::Value;
use tweedie::error::Result;
use tweedie::math::{larger, smaller};
use tweedie_report::chapter::{
    Parts, Study, along, images, percent, picture, plot, settings, states,
};
use tweedie_report::drawing::{Axis, Drawing, Mark, Picture, Pictures, Plot, Series, Tone, plain};
use tweedie_report::experiment::{Context, Editable, Text};
use tweedie_report::style::{BLUE, INK, MUTED, ORANGE, PURPLE, SERIES, SKY, VERMILION};

/// The chapter.
pub struct NaturalPatches;

impl Study for NaturalPatches {
    const NAME: &'static str = "natural-patches";
    const ABOUT: &'static str = "five photographs: spectra near 1/f^2, the Wiener filter against recall, coarse before fine, teleportation, receptive fields";
    const SECONDS: [f64; 2] = [13.0, 52.0];
    const TEXT: Editable = source!("natural-patches/text.md");
    const CODE: &'static str = env!("CODE_OF_natural-patches");
    type Numbers = Numbers;

    fn settings(text: Option<&Text>) -> Result<Value> {
        settings::<Settings>(text)
    }

    fn compute(context: &Context) -> Result<Numbers> {
        compute(context)
    }

    fn parts(n: &Numbers) -> Result<Parts> {
        let mut parts = Parts::new(&n.settings);
        spectrum(n, &mut parts);
        denoising(n, &mut parts);
        emergence(n, &mut parts);
        teleportation(n, &mut parts);
        fields(n, &mut parts);
        Ok(parts)
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

fn spectrum(n: &Numbers, parts: &mut Parts) {
    let (s, c) = (&n.spectra, &n.components);
    let thumbnails = n.photographs.iter().map(|photo| {
        let (_, h, w) = photo.pixels.dim();
        let side = h.min(w);
        let (top, left, across) = ((h - side) / 2, (w - side) / 2, THUMBNAIL);
        let at = |i: usize| {
            photo.pixels[[0, top + i / across * side / across, left + i % across * side / across]]
        };
        picture((0..across * across).map(at), &photo.name)
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
    parts.figure(
        "photographs",
        vec![pictures(
            "",
            THUMBNAIL,
            "",
            vec![],
            vec![(String::new(), thumbnails.collect())],
            Tone::Light,
        )],
    );
    parts.figure(
        "power",
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
                    Series::new("cosines", index(), along(&c.shares[1]), Mark::Dashed, VERMILION),
                ],
            ),
        ],
    );
    parts.figure(
        "components",
        vec![
            pictures("Grey", n.settings.patch, "", vec![], rows(&grey), Tone::Diverging),
            pictures("Colour", n.settings.colour_patch, "", vec![], rows(&colour), Tone::Light),
        ],
    );
    parts.checks("spectrum", [&s.evidence[..], &c.evidence].concat());
    parts.value("least_slope", least);
    parts.value("largest_slope", most);
    parts.value("mean_slope", s.mean.2);
    parts.value("windows", c.count);
    parts.value("components_of_95_percent", reaches(&c.shares[0], 0.95));
    parts.value("cosines_of_95_percent", reaches(&c.shares[1], 0.95));
    parts.value("grey_share_of_means", c.grey_share[0]);
    parts.value("grey_share_of_detail", c.grey_share[1]);
    parts.value("first_hue", first_hue.map(|k| k + 1));
}

fn denoising(n: &Numbers, parts: &mut Parts) {
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
    let price = |source: usize| d.wiener[source][nearest] / d.wiener[0][nearest] - 1.0;
    parts.figure(
        "cat",
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
    );
    parts.figure(
        "risk",
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
                    ("empirical, other photographs", &d.empirical[2], Mark::Line, VERMILION),
                    ("Wiener, known patches", &d.wiener[0], Mark::Points, MUTED),
                ]),
            ),
        ],
    );
    parts.table(
        "denoising",
        [vec!["filter of".to_string()], names.iter().map(|s| format!("on {s}")).collect()].concat(),
        table,
    );
    parts.checks("denoising", d.evidence.clone());
    parts.value("known_patches", d.sizes[0]);
    parts.value("tried_patches", d.sizes[1]);
    parts.value("price_sigma", d.sigmas[nearest]);
    parts.value("price_held_out", price(1));
    parts.value("price_foreign", price(2));
    parts.value("nearest_patch_error", d.nearest);
    parts.value("levels_won", wins.len());
    parts.value("levels", d.sigmas.len());
    parts.value("won_up_to", contiguous(&wins, &d.sigmas));
    parts.value("recall_on_held_out", d.empirical[1][0]);
    parts.value("recall_on_foreign", d.empirical[2][0]);
}

/// The last of the levels that are the first ones of all.
fn contiguous(wins: &[f64], all: &[f64]) -> f64 {
    wins.iter().zip(all).take_while(|(a, b)| a == b).last().map_or(f64::NAN, |(a, _)| *a)
}

fn emergence(n: &Numbers, parts: &mut Parts) {
    let t = &n.trajectories;
    let sigmas = &n.settings.strip_sigmas;
    let [gx, gd, ex, ed] = &t.strip;
    let (mut f_, mut closed, mut measured) = (Vec::new(), Vec::new(), Vec::new());
    for (frequency, star, seen) in t.emergence.iter().skip(1) {
        f_.push(*frequency);
        closed.push(*star);
        measured.push(*seen);
    }
    parts.figure(
        "strip",
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
    );
    parts.figure(
        "emergence",
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
                Series::new("√(3 λ), Gaussian law", along(&f_), along(&closed), Mark::Points, BLUE),
                Series::new(
                    "1/f",
                    [0.03, 0.4],
                    [0.03f64, 0.4].map(|f| (3.0 * n.spectra.scale).sqrt() / f),
                    Mark::Dashed,
                    INK,
                ),
            ],
        )],
    );
    parts.value("tiles", t.count);
    parts.value("emergence_slope", t.emergence_slope);
}

fn teleportation(n: &Numbers, parts: &mut Parts) {
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
    parts.figure(
        "distance",
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
    );
    parts.table("teleportation", ["jump to", "error there", "calls left", "other ends"], rows);
    parts.checks("teleportation", t.evidence.clone());
    parts.value("foretold", explained);
    parts.value("ends_elsewhere", t.whole.1);
    parts.value("free_jump", t.free_jump());
    parts.value("fatal_jump", fatal);
    parts.value("trajectories", t.followed);
    parts.value("calls", t.whole.0);
}

fn fields(n: &Numbers, parts: &mut Parts) {
    let r = &n.fields;
    let mut columns: Vec<String> = n.settings.field_sigmas.iter().map(|s| plain(*s)).collect();
    columns.push("σ → ∞".into());
    let rows = r.rows.iter().map(|([row, column], fields)| {
        let pictures = fields.iter().map(|f| {
            picture(f.iter().copied(), plain(f.iter().map(|v| v.abs()).fold(0.0, larger)))
        });
        (format!("pixel in row {}, column {}", row + 1, column + 1), pictures.collect())
    });
    parts.figure(
        "fields",
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
                Axis::log("sigma", "noise level σ").over(r.sigmas[0], r.sigmas[r.sigmas.len() - 1]),
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
    );
    parts.checks("fields", r.evidence.clone());
}
