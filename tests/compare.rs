//! `tweedie report --compare`: equal folders are equal, what was changed is found and named, what
//! is damaged is said.

use half::f16;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tweedie::math::larger;

fn tweedie(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tweedie")).args(args).current_dir(dir).output().unwrap()
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to)
        } else {
            fs::write(to, fs::read(entry.path()).unwrap()).unwrap()
        }
    }
}

/// Compares a and b in a folder; the exit code, and what was found.
fn compare(dir: &Path, more: &[&str]) -> (i32, Value) {
    let out = tweedie(dir, &[&["report", "--compare", "a", "b", "--json", "-"], more].concat());
    let code = out.status.code().unwrap();
    assert!(code != 2, "{}", said(&out));
    (code, serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", said(&out))))
}

/// One line, exit code 2, these words, and no page.
#[track_caller]
fn refused(dir: &Path, args: &[&str], words: &[&str]) {
    let out = tweedie(dir, &[&["report", "--compare"], args].concat());
    let text = said(&out);
    assert_eq!((out.status.code(), text.lines().count()), (Some(2), 1), "{args:?}: {text}");
    for word in words {
        assert!(text.contains(word), "{args:?}: no `{word}` in {text}");
    }
    assert!(!dir.join("reports/comparison").exists(), "{args:?}");
}

/// A report of two chapters, small, as a folder has it.
fn report(folder: &Path) {
    let put = |name: &str, value: Value| {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{value:#}")).unwrap();
    };
    let settings = json!({"levels": 3, "seconds_of_old": 1});
    let of =
        |name: &str, seconds: f64| json!({"name": name, "seconds": seconds, "settings": settings});
    put(
        "manifest.json",
        json!({"tweedie": "0.1.0", "profile": "quick", "seed": 0, "threads": 2, "seconds": 3.5, "experiments": [of("one", 1.25), of("two", 2.25)]}),
    );
    let axis = |name: &str| json!({"name": name, "label": format!("the {name}")});
    let series = |label: &str, by: f64| {
        let y: Vec<f64> = (0..9).map(|k| by * (1.0 + k as f64).powi(3)).collect();
        json!({"label": label, "x": (1..10).collect::<Vec<_>>(), "y": y})
    };
    put(
        "one/risk.json",
        json!({"title": "$5 <b>", "x": axis("sigma"), "y": axis("risk"), "series": [series("A & <i>B</i>", 1.0), series("flat", 1e-17)]}),
    );
    let picture = |by: f64| json!({"note": "", "values": (0..4).map(|k| by * k as f64 / 4.0).collect::<Vec<_>>()});
    put(
        "two/digits.json",
        json!({"title": "", "width": 2, "height": 2, "columns": [], "rows": [{"label": "r", "pictures": [picture(1.0), picture(-1.0)]}]}),
    );
    let check = |what: &str, got: f64| json!({"what": what, "got": got, "want": 0.0, "tol": 1.0, "ok": true});
    put("one/checks.json", json!([check("first", 0.25), check("second", 0.5)]));
    put("two/checks.json", json!([check("third", 1e-17)]));
}

fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

fn two_reports() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    report(&dir.path().join("a"));
    report(&dir.path().join("b"));
    dir
}

/// The (name, agreement) of all series that are not equal to the bit.
fn differing(found: &Value) -> Vec<(String, String)> {
    let series =
        found["found"]["series"].as_array().unwrap().iter().filter(|s| s["agreement"] != "equal");
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    series
        .map(|s| {
            (
                format!("{}/{} {}", text(&s["chapter"]), text(&s["document"]), text(&s["name"])),
                text(&s["agreement"]),
            )
        })
        .collect()
}

#[test]
fn equal_reports_are_equal_and_clocks_do_not_count() {
    let dir = two_reports();
    edit(&dir.path().join("b/manifest.json"), |m| {
        (m["seconds"], m["threads"], m["experiments"][0]["seconds"]) =
            (json!(99), json!(64), json!(98));
    });
    let (code, found) = compare(dir.path(), &["--tolerance", "0"]);
    assert_eq!((code, &found["within_tolerance"], differing(&found).len()), (0, &json!(true), 0));
    assert_eq!(found["found"]["summary"]["settings"], json!([]));
    let page = fs::read_to_string(dir.path().join("reports/comparison/index.html")).unwrap();
    assert!(page.contains("Two reports with the same numbers") && !page.contains("<b>"));
    // A word to people says the same.
    let out = tweedie(dir.path(), &["report", "--compare", "a", "b", "--out", "page"]);
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(
        out.status.success() && text.starts_with("page/index.html: ") && text.lines().count() == 1,
        "{text}"
    );
}

#[test]
fn what_was_changed_is_found_named_and_drawn() {
    let dir = two_reports();
    let b = dir.path().join("b");
    // A thousandth, rounding of a curve and of nothing, a pixel, a setting, a verdict.
    edit(&b.join("one/risk.json"), |f| {
        f["series"][0]["y"][4] = json!(125.125);
        f["series"][1]["y"][0] = json!(3e-17);
    });
    edit(&b.join("two/digits.json"), |f| {
        f["rows"][0]["pictures"][1]["values"][2] = json!(-0.5 - 1e-13)
    });
    edit(&b.join("manifest.json"), |m| m["experiments"][1]["settings"]["levels"] = json!(4));
    edit(&b.join("one/checks.json"), |c| (c[1]["got"], c[1]["ok"]) = (json!(1.5), json!(false)));
    let (code, found) = compare(dir.path(), &[]);
    assert_eq!(code, 1);
    let named = |name: &str, agreement: &str| (name.to_owned(), agreement.to_owned());
    assert_eq!(
        differing(&found),
        [
            named("one/risk series · A & <i>B</i> · y", "beyond"),
            named("one/risk series · flat · y", "within"),
            named("two/digits rows · r · pictures · 2 · values", "within"),
        ]
    );
    let worst = &found["found"]["series"]
        .as_array()
        .unwrap()
        .iter()
        .find(|s| s["agreement"] == "beyond")
        .unwrap()["found"]["numbers"];
    assert_eq!(
        (&worst["at"], &worst["a"], &worst["b"], &worst["differing"]),
        (&json!(4), &json!(125.0), &json!(125.125), &json!(1))
    );
    // 0.125 of the curve's largest, 729.
    assert!((worst["off"].as_f64().unwrap() - 0.125 / 729.0).abs() <= 1e-18);
    let settings = &found["found"]["summary"]["settings"];
    assert_eq!(
        settings,
        &json!([{"name": "experiments · two · settings · levels", "a": "3", "b": "4"}])
    );
    let beyond: Vec<&str> =
        found["beyond"].as_array().unwrap().iter().map(|b| b.as_str().unwrap()).collect();
    assert_eq!(beyond.len(), 2);
    assert!(
        beyond[0].starts_with("largest difference")
            && beyond[1].starts_with("checks that hold in one report only: 1"),
        "{beyond:?}"
    );
    let site = dir.path().join("reports/comparison");
    let page = fs::read_to_string(site.join("index.html")).unwrap();
    for words in [
        "where they differ",
        "A &amp; &lt;i&gt;B&lt;/i&gt;",
        "verdict changed",
        "<code>one/risk</code>",
    ] {
        assert!(page.contains(words), "{words}");
    }
    for name in [
        "series.json",
        "settings.json",
        "overlay-1-a.svg",
        "overlay-1-b.json",
        "overlay-2-a.png",
        "checks.json",
    ] {
        assert!(site.join("reports").join(name).is_file(), "{name}");
    }
    // The same is within a tolerance that allows it, but for the verdict; and beyond none, with it.
    assert_eq!(
        compare(dir.path(), &["--tolerance", "1e-3"]).1["beyond"].as_array().unwrap().len(),
        1
    );
    assert_eq!(compare(dir.path(), &["two"]).0, 0);
    assert_eq!(compare(dir.path(), &["two", "--tolerance", "0"]).0, 1);
}

#[test]
fn what_is_missing_or_damaged_is_beyond_and_named() {
    let dir = two_reports();
    let b = dir.path().join("b");
    edit(&b.join("manifest.json"), |m| drop(m["experiments"].as_array_mut().unwrap().remove(1)));
    edit(&b.join("one/risk.json"), |f| {
        (f["series"][0]["y"][2], f["series"][1]["y"]) = (Value::Null, json!([1]))
    });
    edit(&b.join("one/checks.json"), |c| drop(c.as_array_mut().unwrap().remove(0)));
    let (code, found) = compare(dir.path(), &[]);
    assert_eq!((code, &found["found"]["summary"]["only_a"]), (1, &json!(["two"])));
    let series = differing(&found);
    assert_eq!(
        series.iter().map(|s| s.1.as_str()).collect::<Vec<_>>(),
        ["beyond"; 2],
        "{series:?}"
    );
    assert_eq!(found["beyond"].as_array().unwrap().len(), 4, "{}", found["beyond"]);
    // A figure cut short, a figure gone, a folder gone.
    fs::write(b.join("one/risk.json"), "{\"series\": [").unwrap();
    let (code, found) = compare(dir.path(), &["one"]);
    assert_eq!(
        (code, differing(&found)),
        (1, vec![("one/risk the whole document".into(), "beyond".into())])
    );
    fs::remove_file(b.join("one/risk.json")).unwrap();
    assert_eq!(compare(dir.path(), &["one"]).0, 1);
    fs::remove_dir_all(b.join("one")).unwrap();
    assert_eq!(compare(dir.path(), &["one"]).0, 1);
}

#[test]
fn what_cannot_be_compared_is_refused_in_a_line() {
    let dir = two_reports();
    let here = dir.path();
    let model = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .join("tests/golden/unet/pipelines/ddim_eps");
    let model = model.to_str().unwrap();
    refused(here, &["a", "nowhere"], &["nowhere", "does not exist"]);
    refused(here, &["a", "a/manifest.json"], &["is no folder"]);
    refused(
        here,
        &["a", "a/one"],
        &["neither a report nor a training run nor a model", "manifest.json"],
    );
    refused(
        here,
        &["a", model],
        &["--compare", "a report", "a model", "two reports, two models or two training runs"],
    );
    refused(here, &["a", "b", "--json", "nowhere/found.json"], &["nowhere", "found.json"]);
    refused(here, &["a", "b", "three"], &["got three", "allowed: one, two"]);
    refused(here, &[model, model, "one"], &["a model has no chapters"]);
    refused(here, &["a", "b", "--tolerance", "-1"], &["--tolerance", "got -1", "0 or more"]);
    refused(here, &["a", "b", "--out", "b"], &["--out", "a folder that is not compared"]);
    refused(here, &["a"], &["--compare"]);
    fs::write(here.join("b/manifest.json"), "{}").unwrap();
    refused(here, &["a", "b"], &["manifest.json", "names no experiments"]);
    fs::write(here.join("b/manifest.json"), "{\"exp").unwrap();
    refused(here, &["a", "b"], &["manifest.json", "is no JSON"]);
}

/// What a hostile folder may say in the place of any text.
const HOSTILE: [&str; 6] = [
    "\"><script>alert(1)</script>",
    "../../../../victim/package",
    "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202e}\r\nerror: nothing",
    "=cmd|' /C calc'!A0$\\frac{1}$",
    "{{ 7*7 }}{% raw %}' onload='x",
    "/etc/passwd\0",
];

/// Every text of a document replaced, names of objects too.
fn all_texts(value: &Value, by: &str) -> Value {
    // What makes a document one of ours stays.
    const OURS: [&str; 20] = [
        "experiments",
        "name",
        "settings",
        "title",
        "x",
        "y",
        "label",
        "series",
        "width",
        "height",
        "columns",
        "rows",
        "pictures",
        "note",
        "values",
        "what",
        "got",
        "want",
        "tol",
        "ok",
    ];
    match value {
        Value::String(_) => json!(by),
        Value::Array(list) => list.iter().map(|v| all_texts(v, by)).collect(),
        Value::Object(map) => {
            let named = |key: &String| {
                if OURS.contains(&key.as_str()) { key.clone() } else { format!("{by}{key}") }
            };
            map.iter()
                .map(|(key, v)| (named(key), all_texts(v, by)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        }
        other => other.clone(),
    }
}

/// Every file below a folder, with its content, but for those below `out`.
fn tree(folder: &Path, out: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found = vec![];
    for path in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).filter(|path| path != out)
    {
        if path.is_dir() && !path.is_symlink() {
            found.extend(tree(&path, out))
        } else {
            found.push((path.clone(), fs::read(&path).unwrap()))
        }
    }
    found.sort();
    found
}

/// What no terminal should be sent.
fn acts(text: &str) -> bool {
    text.contains(|c: char| c.is_control() && c != '\n' && c != '\t' || c == '\u{202e}')
}

#[test]
fn a_hostile_report_is_shown_as_text_and_writes_nowhere_else() {
    for by in HOSTILE {
        let outer = tempfile::tempdir().unwrap();
        let here = outer.path().join("deep/down/here");
        fs::create_dir_all(outer.path().join("victim")).unwrap();
        fs::write(outer.path().join("victim/package.json"), "{}").unwrap();
        report(&here.join("a"));
        report(&here.join("b"));
        // Something differs in every document, so that all of it is shown.
        edit(&here.join("b/one/risk.json"), |f| {
            (f["series"][0]["y"][4], f["series"][1]["y"][0]) = (json!(1), json!([1, 2]))
        });
        edit(&here.join("b/two/digits.json"), |f| {
            f["rows"][0]["pictures"][1]["values"][2] = json!(-0.75)
        });
        edit(&here.join("b/one/checks.json"), |c| {
            (c[1]["got"], c[1]["ok"]) = (json!(1.5), json!(false))
        });
        edit(&here.join("b/manifest.json"), |m| {
            m["experiments"][1]["settings"]["levels"] = json!("other")
        });
        for document in [
            "one/risk.json",
            "one/checks.json",
            "two/digits.json",
            "two/checks.json",
            "manifest.json",
        ] {
            for side in ["a", "b"] {
                edit(&here.join(side).join(document), |value| {
                    let names = value.get("experiments").cloned();
                    *value = all_texts(value, by);
                    for k in 0..names.as_ref().map_or(0, |n| n.as_array().unwrap().len()) {
                        value["experiments"][k]["name"] =
                            names.as_ref().unwrap()[k]["name"].clone();
                    }
                });
            }
        }
        // A file may be called anything without a slash.
        let called = by.replace(['/', '\0'], "");
        for side in ["a", "b"] {
            fs::rename(
                here.join(side).join("two/digits.json"),
                here.join(side).join("two").join(format!("{called}.json")),
            )
            .unwrap();
        }
        let out = here.join("page");
        let before = tree(outer.path(), &out);
        let done = tweedie(&here, &["report", "--compare", "a", "b", "--out", "page"]);
        assert_eq!(done.status.code(), Some(1), "{by:?}: {}", said(&done));
        let told = String::from_utf8(done.stdout).unwrap();
        assert!(!acts(&told), "{by:?}: {told:?}");
        assert!(before == tree(outer.path(), &out), "{by:?}");
        let page = fs::read_to_string(out.join("index.html")).unwrap();
        assert!(!page.contains("<script") && !acts(&page), "{by:?}");
        // Nothing of it is typeset, but for the formulas that the page has of its own.
        assert_eq!(page.matches("<math").count(), page.matches("</math>").count());
        assert!(!page.contains("<mfrac><mn>1</mn>"), "{by:?}");
        let mut files: Vec<String> = fs::read_dir(out.join("reports"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        assert!(
            files
                .iter()
                .all(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c))),
            "{files:?}"
        );
        assert!(files.contains(&"overlay-1-a.csv".to_string()), "{files:?}");
        for name in files.iter().filter(|name| name.ends_with(".svg") || name.ends_with(".csv")) {
            let text = fs::read_to_string(out.join("reports").join(name)).unwrap();
            assert!(!text.contains("<script") || name.ends_with(".csv"), "{by:?}: {name}");
            assert!(
                !name.ends_with(".csv")
                    || text
                        .split(['\n', ','])
                        .all(|cell| !cell.trim_start_matches('"').starts_with('=')),
                "{name}: {text}"
            );
        }

        // Names of chapters are names of folders: anything else is refused.
        edit(&here.join("b/manifest.json"), |m| m["experiments"][0]["name"] = json!(by));
        edit(&here.join("a/manifest.json"), |m| m["experiments"][0]["name"] = json!(by));
        let before = tree(outer.path(), &out);
        let done = tweedie(&here, &["report", "--compare", "a", "b", "--out", "other"]);
        assert_eq!(
            (done.status.code(), said(&done).lines().count()),
            (Some(2), 1),
            "{by:?}: {}",
            said(&done)
        );
        assert!(
            said(&done).contains("names an experiment") && !acts(&said(&done)),
            "{}",
            said(&done)
        );
        assert!(before == tree(outer.path(), &out) && !here.join("other").exists(), "{by:?}");
    }
}

#[test]
#[cfg(unix)]
fn a_report_is_read_within_its_folder() {
    let dir = two_reports();
    let b = dir.path().join("b");
    // A chapter and a document that are elsewhere.
    fs::rename(b.join("two"), dir.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), b.join("two")).unwrap();
    fs::rename(b.join("one/risk.json"), dir.path().join("risk.json")).unwrap();
    std::os::unix::fs::symlink("../../risk.json", b.join("one/risk.json")).unwrap();
    let (code, found) = compare(dir.path(), &[]);
    assert_eq!(code, 1);
    let named = |name: &str| (name.to_owned(), "beyond".to_owned());
    assert_eq!(
        differing(&found),
        [
            named("one/risk the whole document"),
            named("two/checks the whole document"),
            named("two/digits the whole document")
        ]
    );
    assert!(found["found"]["series"].to_string().contains("leads out of b"), "{found}");
    // A link within it is as good as a file.
    fs::remove_file(b.join("one/risk.json")).unwrap();
    fs::rename(dir.path().join("risk.json"), b.join("one/kept.txt")).unwrap();
    std::os::unix::fs::symlink("kept.txt", b.join("one/risk.json")).unwrap();
    assert_eq!(compare(dir.path(), &["one"]).0, 0);
    fs::rename(b.join("manifest.json"), dir.path().join("m.json")).unwrap();
    std::os::unix::fs::symlink("../m.json", b.join("manifest.json")).unwrap();
    fs::remove_dir_all(dir.path().join("reports")).unwrap();
    refused(dir.path(), &["a", "b"], &["manifest.json", "leads out of b"]);
}

#[test]
fn numbers_of_any_size_are_drawn() {
    for y in [
        vec![0.0, 5e-324],
        vec![1.0, 1e300],
        vec![-1.7e308, 1.7e308],
        vec![5e-324, 1.7e308],
        vec![1e300; 2],
        vec![0.0, 0.0],
    ] {
        let dir = two_reports();
        edit(&dir.path().join("b/one/risk.json"), |f| {
            (f["series"][0]["y"], f["series"][0]["x"]) =
                (json!([&y[..], &y[..]].concat()), json!([&y[..], &y[..]].concat()));
        });
        edit(&dir.path().join("a/one/risk.json"), |f| {
            (f["series"][0]["y"], f["series"][0]["x"]) =
                (json!([&y[..], &[2.0, 3.0]].concat()), json!([&y[..], &[2.0, 3.0]].concat()));
        });
        // A strip of pixels, and a shape beyond all bounds.
        edit(&dir.path().join("a/two/digits.json"), |f| {
            (f["width"], f["height"]) = (json!(1), json!(4))
        });
        edit(&dir.path().join("b/two/digits.json"), |f| f["width"] = json!(u64::MAX));
        assert_eq!(compare(dir.path(), &[]).0, 1, "{y:?}");
        let page = dir.path().join("reports/comparison/index.html");
        assert!(page.metadata().unwrap().len() < 2 << 20, "{y:?}");
    }
}

#[test]
fn a_run_of_anyone_is_shown_as_text() {
    for by in HOSTILE {
        let dir = tempfile::tempdir().unwrap();
        for side in ["a", "b"] {
            let put = |name: &str, lines: [Value; 2]| {
                fs::write(
                    dir.path().join(side).join(name),
                    lines.map(|l| format!("{l}\n")).concat(),
                )
                .unwrap();
            };
            fs::create_dir_all(dir.path().join(side)).unwrap();
            put(
                "metrics.jsonl",
                [json!({"step": 1, "loss": 1e300}), json!({"step": 2, "loss": 5e-324, by: by})],
            );
            let level = |sigma: f64| json!({"step": 2, "set": by, "edm_sigma": sigma, "network": 1e300, "network_stderr": 0.1, "exact": 0.2});
            put("validation.jsonl", [level(0.5), level(2.0)]);
        }
        let done = tweedie(dir.path(), &["report", "--compare", "a", "b"]);
        assert_eq!(done.status.code(), Some(0), "{by:?}: {}", said(&done));
        let page = fs::read_to_string(dir.path().join("reports/comparison/index.html")).unwrap();
        assert!(
            page.contains("of the set “")
                && !page.contains("<script")
                && !page.contains("<mfrac>")
                && !acts(&page),
            "{by:?}"
        );
    }
}

/// Two copies of a small model, the second with one number of its weights moved by a factor.
fn two_models(name: &str, factor: f32) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let golden = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .join("tests/golden/unet/pipelines")
        .join(name);
    for side in ["a", "b"] {
        copy(&golden, &dir.path().join(side));
    }
    let path = dir.path().join("b/unet/diffusion_pytorch_model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    // The header's length, the header, the numbers; one in their midst.
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let tensors: Value = serde_json::from_slice(&bytes[8..header]).unwrap();
    let offset = tensors["conv_in.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    let at = header + offset..header + offset + 2;
    let moved =
        f16::from_f32(f16::from_le_bytes(bytes[at.clone()].try_into().unwrap()).to_f32() * factor);
    bytes[at].copy_from_slice(&moved.to_le_bytes());
    fs::write(path, bytes).unwrap();
    dir
}

fn of_models(found: &Value) -> (f64, f64, usize) {
    let number = |v: &Value| v.as_f64().unwrap_or(f64::NAN);
    let levels = found["found"]["said"]["levels"].as_array().unwrap();
    let apart = levels.iter().map(|l| number(&l["apart"])).fold(0.0, larger);
    let ends = found["found"]["said"]["samples"]["apart"].as_array().unwrap();
    let tensors = found["found"]["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|t| t["differing"] != 0)
        .count();
    (apart, number(ends.last().unwrap()), tensors)
}

#[test]
fn a_model_is_itself_and_one_weight_is_noticed() {
    let dir = two_models("ddim_eps", 1.0);
    let (code, found) = compare(dir.path(), &["--tolerance", "0"]);
    assert_eq!((code, of_models(&found)), (0, (0.0, 0.0, 0)), "{}", found["beyond"]);

    let dir = two_models("ddim_eps", 1.5);
    let (code, found) = compare(dir.path(), &[]);
    let (apart, ends, tensors) = of_models(&found);
    assert!(code == 1 && apart > 1e-5 && ends > 0.0 && tensors == 1, "{apart} {ends} {tensors}");
    let moved =
        found["found"]["tensors"].as_array().unwrap().iter().find(|t| t["differing"] != 0).unwrap();
    assert_eq!((&moved["name"], &moved["differing"]), (&json!("conv_in.weight"), &json!(1)));
    let site = dir.path().join("reports/comparison");
    let page = fs::read_to_string(site.join("index.html")).unwrap();
    assert!(page.contains("Two models, and where they differ") && page.contains("conv_in.weight"));
    for name in
        ["tensors.json", "levels.json", "samples.json", "apart.svg", "nearer-b.svg", "samples.png"]
    {
        assert!(site.join("models").join(name).is_file(), "{name}");
    }

    // A table of times knows its own steps alone.
    let table = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .join("tests/golden/unet/variants/learned");
    copy(&table, &dir.path().join("table"));
    let out = tweedie(dir.path(), &["report", "--compare", "table", "table"]);
    assert!(
        out.status.success() && String::from_utf8_lossy(&out.stdout).contains("equal to the bit"),
        "{}",
        said(&out)
    );

    // One weight moved by its format's last place is less than rounding all of them to bf16 would
    // do, and more than rounding them to f32.
    let dir = two_models("ddim_eps", 1.0 + f16::EPSILON.to_f32());
    let (code, found) = compare(dir.path(), &["--tolerance", "1"]);
    assert_eq!((code, of_models(&found).2), (0, 1), "{}", found["beyond"]);
    for level in found["found"]["said"]["levels"].as_array().unwrap() {
        let [f32, bf16] = [0, 1].map(|k| level["yardsticks"][k].as_f64().unwrap());
        let apart = level["apart"].as_f64().unwrap();
        assert!(f32 < apart && apart < bf16, "{level}");
    }
}

#[test]
fn other_predictions_of_one_network_are_another_model() {
    let dir = tempfile::tempdir().unwrap();
    let golden = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .join("tests/golden/unet/pipelines/ddim_eps");
    copy(&golden, &dir.path().join("a"));
    copy(&golden, &dir.path().join("b"));
    edit(&dir.path().join("b/scheduler/scheduler_config.json"), |c| {
        c["prediction_type"] = json!("v_prediction")
    });
    let (code, found) = compare(dir.path(), &[]);
    let (apart, _, tensors) = of_models(&found);
    assert!(code == 1 && apart > 1e-2 && tensors == 0, "{apart} {tensors}");
    assert!(found["found"]["settings"].to_string().contains("prediction"));

    // Without its scheduler a network is what the other one's says.
    fs::remove_dir_all(dir.path().join("b/scheduler")).unwrap();
    let (code, found) = compare(dir.path(), &[]);
    assert_eq!((code, of_models(&found)), (0, (0.0, 0.0, 0)));
    // Weights that end early.
    let path = dir.path().join("b/unet/diffusion_pytorch_model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 8]).unwrap();
    fs::remove_dir_all(dir.path().join("reports")).unwrap();
    refused(
        dir.path(),
        &["a", "b"],
        &["diffusion_pytorch_model.safetensors", "not a complete safetensors file"],
    );
}

const RECIPE: &str = r#"
seed = 3
steps = 8
batch = 6
[data]
random_field = { size = [8, 8], slope = 2.0, var = 0.25 }
[network]
in_channels = 1
out_channels = 1
block_out_channels = [4, 4]
down_block_types = ["DownBlock2D", "DownBlock2D"]
up_block_types = ["UpBlock2D", "UpBlock2D"]
layers_per_block = 1
norm_num_groups = 2
add_attention = false
[path]
kind = "cosine"
[objective]
prediction = "v"
[ema]
power = [0.1]
[validation]
every = 4
levels = 2
images = 4
[samples]
count = 1
steps = 2
"#;

#[test]
fn a_training_is_itself_and_another_rate_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let train = |out: &str, recipe: &str| {
        fs::write(dir.path().join("recipe.toml"), recipe).unwrap();
        let done = tweedie(dir.path(), &["train", "recipe.toml", "--out", out]);
        assert!(done.status.success(), "{}", said(&done));
    };
    train("a", RECIPE);
    train("b", RECIPE);
    let (code, found) = compare(dir.path(), &["--tolerance", "0"]);
    assert_eq!(code, 0, "{}", found["beyond"]);
    let run = &found["found"]["run"];
    assert_eq!(
        (&run["common"], &run["parted"], &run["recipe"]),
        (&json!(8), &Value::Null, &json!([]))
    );
    // The data are those of the recipe, whose exact denoiser is known.
    assert_eq!(found["found"]["models"]["said"]["exact"], true);

    fs::remove_dir_all(dir.path().join("b")).unwrap();
    train("b", &format!("{RECIPE}[optimiser]\nlearning_rate = 2e-3\n"));
    let (code, found) = compare(dir.path(), &[]);
    let run = &found["found"]["run"];
    // The first loss is that of the same weights on the same draws.
    assert_eq!((code, &run["parted"]), (1, &json!(2)));
    assert!(run["recipe"].to_string().contains("learning_rate"));
    let page = fs::read_to_string(dir.path().join("reports/comparison/index.html")).unwrap();
    assert!(
        page.contains("Two trainings")
            && page.contains("Their losses part at step 2")
            && page.contains("Two models")
    );

    // Half a line at the end of a log is left out, and its step missed.
    let log = dir.path().join("b/metrics.jsonl");
    let text = fs::read_to_string(&log).unwrap();
    fs::write(&log, &text[..text.len() - 20]).unwrap();
    let (code, found) = compare(dir.path(), &[]);
    assert_eq!((code, &found["found"]["run"]["steps"]), (1, &json!([8, 7])));
    // A run that never came to a checkpoint has its losses alone.
    fs::remove_dir_all(dir.path().join("b/checkpoints")).unwrap();
    let (code, found) = compare(dir.path(), &[]);
    assert_eq!((code, found["found"].get("models")), (1, None));
}
