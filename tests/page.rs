//! The report in a real browser: nothing said on the console, nothing broken, nothing to scroll
//! sideways, every figure with its words.
//!
//! Looks at a site that is there already: `TWEEDIE_SITE=reports cargo test --release --test main
//! page:: -- --ignored` (`just page`). So does the test that the committed gallery is what the
//! report shows.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use tweedie::math::larger;

/// A Chromium under one of its names.
fn browser() -> &'static str {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    names
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok())
        .expect("Chromium")
}

/// What a page says of itself, seen in a frame of each width.
const LOOK: &str = r#"
const widths = WIDTHS, seen = [];
function look(width) {
  const frame = document.createElement('iframe');
  frame.style = `width:${width}px;height:900px;border:0`;
  frame.onload = () => {
    const page = frame.contentDocument, all = query => [...page.querySelectorAll(query)];
    const named = e => (e.id || e.closest('[id]')?.id || e.tagName) + '';
    const words = e => (e?.textContent ?? '').trim();
    // What stands out to the right, unless it scrolls within itself.
    const scrolls = e => e && (/(auto|scroll|hidden)/.test(frame.contentWindow.getComputedStyle(e).overflowX) || scrolls(e.parentElement));
    const wide = all('body *').filter(e => e.getBoundingClientRect().right > width + 1 && !scrolls(e.parentElement));
    seen.push({
      width,
      scroll: page.documentElement.scrollWidth,
      wide: wide.slice(0, 5).map(e => `${e.tagName} in ${named(e)}`),
      figures: all('figure').length,
      drawings: all('figure svg[role=img], figure img').length,
      silent: all('figure svg, figure img').filter(e => !(e.getAttribute('aria-label') || e.alt || e.closest('[aria-hidden=true]') || e.parentElement.closest('svg'))).map(named),
      uncaptioned: all('figure').filter(f => !words(f.querySelector('figcaption'))).map(named),
      broken: all('img').filter(i => !(i.complete && i.naturalWidth)).map(i => i.src),
      unlabelled: all('a, button').filter(e => !words(e) && !e.getAttribute('aria-label')).map(named),
      formulas: all('math').length,
      headings: all('h1').length,
      twice: all('[id]').map(e => e.id).filter((id, i, ids) => ids.indexOf(id) < i),
      links: [...new Set(all('a[href]').map(a => a.getAttribute('href')))],
      ids: all('[id]').map(e => e.id),
    });
    frame.remove();
    if (widths.length) look(widths.shift());
    else document.body.textContent = JSON.stringify(seen);
  };
  frame.src = PAGE;
  document.body.append(frame);
}
look(widths.shift());
"#;

/// A page at several widths, and what the browser said on its console.
fn look(browser: &str, page: &Path, widths: &[u32]) -> (Vec<Value>, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let target = serde_json::to_string(&format!("file://{}", page.display())).unwrap();
    let script = LOOK.replace("WIDTHS", &format!("{widths:?}")).replace("PAGE", &target);
    let wrapper = dir.path().join("look.html");
    std::fs::write(
        &wrapper,
        format!("<!doctype html><meta charset=utf-8><body><script>{script}</script>"),
    )
    .unwrap();
    let out = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-sync",
        ])
        .args([
            "--allow-file-access-from-files",
            "--enable-logging=stderr",
            "--window-size=1400,1000",
            "--virtual-time-budget=60000",
        ])
        .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
        .arg("--dump-dom")
        .arg(format!("file://{}", wrapper.display()))
        .output()
        .unwrap();
    let (dom, said) = (
        String::from_utf8_lossy(&out.stdout).into_owned(),
        String::from_utf8_lossy(&out.stderr).into_owned(),
    );
    let from = dom.find("<body>").map_or(0, |at| at + 6);
    let json = dom[from..]
        .split("</body>")
        .next()
        .unwrap()
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&");
    let seen: Vec<Value> = serde_json::from_str(&json)
        .unwrap_or_else(|e| panic!("{}: {e}\n{json:.400}\n{said}", page.display()));
    (seen, said.lines().filter(|line| line.contains("CONSOLE")).map(String::from).collect())
}

fn list(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect()
}

/// Each kind of flaw that the other test looks for.
const FLAWED: &str = r##"<!doctype html><meta charset=utf-8><title>x</title><body style="margin:0"><h1 id=a>One</h1>
<figure id=f><svg role=img width=9 height=9></svg></figure><figure id=g><img src=missing.png><figcaption> </figcaption></figure>
<a id=a href="#nowhere"></a><div id=w style="width:500px">wide</div><script>nothing.here()</script>"##;

#[test]
#[ignore = "wants Chromium"]
fn a_flawed_page_is_noticed() {
    let browser = browser();
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("flawed.html");
    std::fs::write(&page, FLAWED).unwrap();
    let (seen, said) = look(browser, &page, &[390]);
    assert!(said.iter().any(|line| line.contains("nothing is not defined")), "{said:?}");
    let at = &seen[0];
    assert!(at["scroll"].as_u64() > Some(390) && list(&at["wide"]) == ["DIV in w"], "{at}");
    assert_eq!((list(&at["silent"]), list(&at["uncaptioned"])), (vec!["f", "g"], vec!["f", "g"]));
    assert_eq!(
        (list(&at["broken"]).len(), list(&at["unlabelled"]), list(&at["twice"])),
        (1, vec!["a"], vec!["a"])
    );
    assert_eq!(list(&at["links"]), ["#nowhere"]);
}

/// The folder that `TWEEDIE_SITE` names.
fn site() -> PathBuf {
    let site = PathBuf::from(
        std::env::var_os("TWEEDIE_SITE").expect("TWEEDIE_SITE names the folder of a report"),
    );
    site.canonicalize().expect("a folder")
}

/// Every number in a JSON value, in order.
fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Number(n) => n.as_f64().into_iter().collect(),
        Value::Array(a) => a.iter().flat_map(numbers).collect(),
        Value::Object(o) => o.values().flat_map(numbers).collect(),
        _ => Vec::new(),
    }
}

/// Its numbers are those that the program computes today, up to rounding that differs between
/// machines. Pictures of trained networks come without numbers: training multiplies such
/// differences.
#[test]
#[ignore = "wants a whole report: TWEEDIE_SITE"]
fn the_gallery_is_what_the_report_shows() {
    let (site, gallery) =
        (site(), Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join("reports/gallery"));
    let within = |folder: &Path| {
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>()
    };
    let (mut compared, mut bytes) = (0, 0);
    for file in within(&gallery).iter().flat_map(|chapter| within(chapter)) {
        bytes += file.metadata().unwrap().len();
        let today = site.join(file.strip_prefix(&gallery).unwrap());
        assert!(
            today.is_file(),
            "{} is of no figure of the report: run `just gallery`",
            file.display()
        );
        if file.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let read = |p: &Path| {
            numbers(&serde_json::from_str(&std::fs::read_to_string(p).unwrap()).unwrap())
        };
        let (old, new) = (read(&file), read(&today));
        assert_eq!(old.len(), new.len(), "{}: run `just gallery`", file.display());
        let off =
            old.iter().zip(&new).map(|(a, b)| (a - b).abs() / (1e-3 + a.abs())).fold(0.0, larger);
        assert!(off <= 1e-6, "{} is stale by {off:e}: run `just gallery`", file.display());
        compared += 1;
    }
    assert!(compared >= 6 && bytes <= 3 << 20, "{compared} files compared, {bytes} bytes in all");
}

#[test]
#[ignore = "wants Chromium and a report: TWEEDIE_SITE"]
fn every_page_opens_in_a_browser_without_a_flaw() {
    let site = site();
    let browser = browser();
    let pages: Vec<PathBuf> = ["index.html", "claims/index.html"]
        .map(|page| site.join(page))
        .into_iter()
        .filter(|p| p.is_file())
        .collect();
    assert!(!pages.is_empty(), "{} holds no report", site.display());
    for page in pages {
        let (seen, said) = look(browser, &page, &[1280, 390]);
        assert_eq!(said, [""; 0], "{}", page.display());
        assert_eq!(seen.len(), 2);
        for at in seen {
            let place = format!("{} at {} pixels", page.display(), at["width"]);
            assert!(
                at["scroll"].as_u64() <= at["width"].as_u64(),
                "{place} is {} wide: {}",
                at["scroll"],
                at["wide"]
            );
            for flaw in ["silent", "uncaptioned", "broken", "unlabelled", "twice"] {
                assert_eq!(list(&at[flaw]), [""; 0], "{place}: {flaw}");
            }
            assert!(at["drawings"].as_u64() >= at["figures"].as_u64(), "{place}");
            assert_eq!(at["headings"].as_u64().unwrap().min(1), 1, "{place}");
            let ids = list(&at["ids"]);
            for link in list(&at["links"]).into_iter().filter(|link| !link.contains("://")) {
                let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
                assert!(
                    file.is_empty() || page.parent().unwrap().join(file).exists(),
                    "{place}: {link} leads nowhere"
                );
                assert!(
                    !file.is_empty() || anchor.is_empty() || ids.contains(&anchor),
                    "{place}: {link} leads nowhere"
                );
            }
        }
    }
}
