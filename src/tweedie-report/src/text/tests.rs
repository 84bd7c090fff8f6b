use super::*;
use std::collections::BTreeMap;
use tweedie::evidence::Evidence;

fn parts() -> Parts {
    let mut parts = Parts::new(&BTreeMap::from([("steps", 10.0)]));
    parts.value("kept", BTreeMap::from([("linear", 0.1234), ("scaled-linear", 1.0)]));
    parts.value("best", "a < b $x$ *and* [c](d)");
    parts.value("counts", [1_000_000, -3]);
    parts.value("tiny", 1.25e-9);
    parts.figure("curve", vec![]);
    parts.table("ends", ["schedule", "SNR"], [vec!["linear".into(), "1".into()]]);
    parts.checks("all", vec![Evidence::new("one", 1.0, 1.0, 0.0)]);
    parts
}

fn made(text: &str) -> Result<Chapter> {
    let text = Text { file: "text.md".into(), content: text.to_owned().into() };
    chapter("name", "command".into(), &text, parts()).map(|(chapter, _)| chapter)
}

const WHOLE: &str = "# A *title*

The lead of [[ settings.steps ]] steps,
in two lines.

## First {#first}

A paragraph with $a < b$, `x$y` and [[ kept[\"scaled-linear\"] | percent ]].

$$
x =
  \\frac12
$$

```{figure} curve
A caption with $c$ and *stress*.

alt: What is
seen.
```

```{table} ends
All [[ counts[0] | thousands ]] of them.
```

- one of [[ counts[1] ]]
- $two$

```{checks} all
```
";

#[test]
fn a_text_becomes_a_chapter() {
    let chapter = made(WHOLE).unwrap();
    assert_eq!(chapter.title, "A title");
    assert_eq!(chapter.lead, "The lead of 10 steps, in two lines.");
    let [section] = &chapter.sections[..] else { panic!("{:?}", chapter.sections) };
    assert_eq!((section.id.as_str(), section.title.as_str()), ("first", "First"));
    let [text, formula, figure, table, list, checks] = &section.blocks[..] else {
        panic!("{:?}", section.blocks)
    };
    let Block::Text(text) = text else { panic!() };
    assert_eq!(text, "A paragraph with $a < b$, <code>x&#36;y</code> and 100 %.");
    let Block::Formula(formula) = formula else { panic!() };
    assert_eq!(formula, "x = \\frac12");
    let Block::Figure(figure) = figure else { panic!() };
    assert_eq!(figure.caption, "A caption with $c$ and <em>stress</em>.");
    assert_eq!(figure.alt, "What is seen.");
    let Block::Table(table) = table else { panic!() };
    assert_eq!((table.caption.as_str(), table.head.len()), ("All 1,000,000 of them.", 2));
    let Block::Markup(list) = list else { panic!() };
    assert!(list.contains("<li>one of −3</li>") && list.contains("<mi>t</mi>"), "{list}");
    assert!(matches!(checks, Block::Evidence(e) if e.len() == 1));
}

#[test]
fn what_is_inserted_is_neither_markup_nor_formula() {
    let text = WHOLE
        .replace("A paragraph", "[[ best ]]; [[ tiny | scientific(2) ]]; [[ tiny | fixed(3) ]]");
    let chapter = made(&text).unwrap();
    let Block::Text(text) = &chapter.sections[0].blocks[0] else { panic!() };
    let shown = text.replace("&#36;", "$").replace("&lt;", "<");
    assert!(
        shown.starts_with("a < b $x$ *and* [c](d); $1.3 \\cdot 10^{-9}$; 0.000 with"),
        "{text}"
    );
    // One formula of the value's two, two of the text.
    assert_eq!(text.matches('$').count(), 4, "{text}");
}

#[test]
fn statements_leave_the_ends_of_lines_that_hold_more() {
    let said = "[% if settings.steps > 5 %]Many.[% endif %]\nThen\n[% if counts %]\nmore,\n[% endif %]\nand [% if tiny %]\nless.\n[% endif %]\n";
    let chapter = made(&WHOLE.replace("A paragraph", &format!("{said}A paragraph"))).unwrap();
    let Block::Text(text) = &chapter.sections[0].blocks[0] else { panic!() };
    assert!(text.starts_with("Many. Then more, and less. A paragraph"), "{text}");
}

#[test]
fn a_name_is_given_once() {
    let text = Text { file: "text.md".into(), content: WHOLE.into() };
    let mut parts = parts();
    parts.value("best", 1);
    let said = chapter("name", String::new(), &text, parts).unwrap_err().to_string();
    assert!(said.contains("two values are called best"), "{said}");
}

/// What is wrong is said with the line or the section, and what to do about it.
#[test]
fn flawed_texts_are_refused() {
    for (from, to, said) in [
        ("settings.steps", "setings.steps", "line 3: no value is called setings.steps"),
        ("settings.steps", "setings.steps", "did you mean settings?"),
        ("settings.steps", "settings.step", "settings has steps"),
        ("[[ settings.steps ]]", "[[ kept ]]", "name one of its entries"),
        ("percent", "per_cent", "unknown"),
        ("[[ settings.steps ]]", "[[ settings.steps", "line 3"),
        ("{#first}", "", "\"First\" has no id"),
        ("{figure} curve", "{figure} curves", "did you mean curve?"),
        ("{figure}", "{picture}", "{picture} is no part"),
        ("alt: ", "", "has no description"),
        ("```{checks} all\n```", "", "has no place for the checks all"),
        ("# A *title*", "", "has no title"),
        ("## First {#first}", "", "begin a section"),
        ("## First", "### First", "use # for the title"),
        ("- one", "## Again {#first}\n\n- one", "a second section first"),
        ("\\frac12", "\\frac12$$\n\n$$\\frac{1}", "one"),
    ] {
        let text = WHOLE.replacen(from, to, 1);
        assert_ne!(text, WHOLE, "{from}");
        let page = |chapter: Chapter| {
            crate::page::html(
                &[chapter],
                &Default::default(),
                &crate::page::Colophon::new(crate::Profile::Quick, 0),
            )
        };
        if said == "one" {
            assert!(made(&text).and_then(page).is_err(), "{to}");
            continue;
        }
        let message = made(&text).unwrap_err().to_string();
        assert!(message.contains("text.md") && message.contains(said), "{to}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}
