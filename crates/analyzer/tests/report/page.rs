//! report.html, taken apart: which elements and attributes it is made of.

use std::collections::BTreeSet;

use mtrace_analyzer::report;

/// Elements that the templates and charts use. Anything else came from a name.
const ELEMENTS: &str = "html head meta title style body a svg defs pattern rect circle line path text g header p b code span \
    nav ul li main section h2 h3 h4 div dl dt dd article details summary table caption thead tbody tr th td figure figcaption \
    ol pre iframe footer";
/// Elements that have no end tag.
const VOID: [&str; 1] = ["meta"];

/// A start tag.
pub(crate) struct Tag {
    pub(crate) name: String,
    pub(crate) attributes: Vec<(String, String)>,
}

/// Takes a document of our own apart; panics where it is not well-formed. Self-closing tags are complete elements.
pub(crate) fn tags(document: &str) -> Vec<Tag> {
    let mut tags = Vec::new();
    let mut open: Vec<String> = Vec::new();
    let mut rest = document;
    while let Some(start) = rest.find('<') {
        rest = &rest[start + 1..];
        if let Some(after) = rest.strip_prefix('!') {
            rest = after;
        } else if let Some(after) = rest.strip_prefix('/') {
            let end = after.find('>').expect("an end tag ends");
            assert_eq!(open.pop().as_deref(), Some(&after[..end]), "end tag without its start before {:.80}", after);
            rest = &after[end..];
        } else {
            let (tag, closed, after) = start_tag(rest);
            rest = after;
            if tag.name == "style" {
                // The content of a style element is no markup.
                rest = &rest[rest.find("</style>").expect("style ends")..];
            }
            if !closed && !VOID.contains(&tag.name.as_str()) {
                open.push(tag.name.clone());
            }
            tags.push(tag);
        }
    }
    assert!(open.is_empty(), "never closed: {open:?}");
    tags
}

fn start_tag(text: &str) -> (Tag, bool, &str) {
    let end = text.find(|c: char| c == '>' || c == '/' || c.is_whitespace()).expect("a tag has an end");
    let mut tag = Tag { name: text[..end].to_owned(), attributes: Vec::new() };
    let mut rest = text[end..].trim_start();
    loop {
        if let Some(after) = rest.strip_prefix("/>") {
            return (tag, true, after);
        }
        if let Some(after) = rest.strip_prefix('>') {
            return (tag, false, after);
        }
        let end = rest.find(|c: char| c == '=' || c == '>' || c.is_whitespace()).expect("an attribute has an end");
        let name = rest[..end].to_owned();
        assert!(!name.is_empty() && !name.contains(['"', '\'', '<']), "attribute {name:?} in <{}>", tag.name);
        rest = &rest[end..];
        let mut value = String::new();
        if let Some(after) = rest.strip_prefix("=\"") {
            let end = after.find('"').expect("a quoted value ends");
            value = after[..end].to_owned();
            rest = &after[end + 1..];
        }
        tag.attributes.push((name, value));
        rest = rest.trim_start();
    }
}

fn unescape(s: &str) -> String {
    [
        ("&lt;", "<"),
        ("&#60;", "<"),
        ("&gt;", ">"),
        ("&#62;", ">"),
        ("&quot;", "\""),
        ("&#34;", "\""),
        ("&#39;", "'"),
        ("&#38;", "&"),
        ("&amp;", "&"),
    ]
    .iter()
    .fold(s.to_owned(), |s, (from, to)| s.replace(from, to))
}

#[test]
fn a_page_is_made_of_our_elements_only_and_loads_nothing() {
    let allowed: BTreeSet<&str> = ELEMENTS.split_whitespace().collect();
    for (name, analysis) in super::all() {
        let page = report::render_html(&analysis).unwrap();
        for tag in tags(&page) {
            assert!(allowed.contains(tag.name.as_str()), "{name}: <{}>", tag.name);
            for (attribute, value) in &tag.attributes {
                assert!(!attribute.starts_with("on"), "{name}: <{} {attribute}>", tag.name);
                assert!(
                    !["src", "action", "xlink:href", "background"].contains(&attribute.as_str()),
                    "{name}: {attribute}"
                );
                if attribute == "href" {
                    let local = value.starts_with('#')
                        || ["report.json", "report.md"].contains(&value.as_str())
                        || value.ends_with(".svg");
                    assert!(local && !value.contains([':', '/']), "{name}: href {value}");
                }
                if attribute == "srcdoc" {
                    frame(name, &unescape(value));
                }
            }
        }
        assert!(page.chars().all(|c| c == '\n' || (!c.is_control() && c != '\u{202e}')), "{name}: control characters");
    }
}

/// The picture in a frame: no script, no handler, no link.
fn frame(name: &str, document: &str) {
    let document = document.replace("<!doctype html>", "");
    let comments =
        document.split("<!--").skip(1).filter_map(|c| c.split_once("-->")).map(|c| format!("<!--{}-->", c.0));
    let document = comments.fold(document.clone(), |d, c| d.replace(&c, ""));
    for tag in tags(&document) {
        assert!(
            !["script", "a", "foreignObject", "image", "use", "iframe"].contains(&tag.name.as_str()),
            "{name}: <{}> in a frame",
            tag.name
        );
        assert!(
            tag.attributes.iter().all(|(a, _)| !a.starts_with("on") && a != "href" && a != "xlink:href"),
            "{name}: <{}>",
            tag.name
        );
    }
}

#[test]
fn a_page_can_be_walked_through_without_seeing_it() {
    for (name, analysis) in super::all() {
        let page = report::render_html(&analysis).unwrap();
        let tags = tags(&page);
        let values = |wanted: &str| -> Vec<String> {
            tags.iter().flat_map(|t| &t.attributes).filter(|(a, _)| a == wanted).map(|(_, v)| v.clone()).collect()
        };
        let ids = values("id");
        let unique: BTreeSet<&String> = ids.iter().collect();
        assert_eq!(unique.len(), ids.len(), "{name}: an id is used twice: {ids:?}");
        for target in values("href")
            .iter()
            .filter_map(|h| h.strip_prefix('#'))
            .chain(values("aria-labelledby").iter().map(String::as_str))
        {
            assert!(ids.iter().any(|id| id == target), "{name}: nothing is called {target}");
        }
        for landmark in ["header", "nav", "main", "footer"] {
            assert_eq!(tags.iter().filter(|t| t.name == landmark).count(), 1, "{name}: {landmark}");
        }
        for tag in &tags {
            let has = |wanted: &str| tag.attributes.iter().any(|(a, v)| a == wanted && !v.is_empty());
            match tag.name.as_str() {
                "iframe" => assert!(has("title") && tag.attributes.iter().any(|a| a.0 == "sandbox"), "{name}"),
                "th" => assert!(has("scope"), "{name}: a heading of a table without scope"),
                _ => {}
            }
        }
        assert_eq!(
            page.matches("role=\"img\"").count(),
            page.matches("role=\"img\"><title>").count(),
            "{name}: a chart without a title"
        );
        let order: Vec<&str> = [
            "verdict",
            "ledger",
            "requests",
            "timeline",
            "findings",
            "flame-graphs",
            "resident-memory",
            "address-space",
            "gc",
            "runtimes",
            "faults",
            "trust",
        ]
        .to_vec();
        let sections: Vec<String> = tags
            .iter()
            .filter(|t| t.name == "section")
            .map(|t| t.attributes.iter().find(|a| a.0 == "id").unwrap().1.clone())
            .collect();
        assert_eq!(sections, order, "{name}");
    }
}

#[test]
fn the_policy_forbids_the_network_and_scripts() {
    let page = report::render_html(&super::fixtures::first_touch()).unwrap();
    let policy = page
        .find("Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:; ")
        .unwrap();
    assert!(policy < page.find("<title>").unwrap(), "the policy holds for what follows it only");
    assert!(!page.contains("<script") && !page.contains("<link"));
}

#[test]
fn the_page_says_what_the_person_on_call_needs() {
    let text = |a: &mtrace_analyzer::model::Analysis| unescape(&report::render_html(a).unwrap());
    let page = text(&super::fixtures::first_touch());
    for needed in [
        "Memory is the cause",
        "<code>cache.(*Store).Fill (store.go:88)</code>".replace("<code>", "").trim_end_matches("</code>"),
        "190–230 ms",
        "leaves 56–96 ms",
        "page faults 74 %",
        "Ruled out",
        "Not checked, so still possible",
        "✓ excluded",
        "? possible",
        "FROM 'faults/*.parquet'",
        "mapped by",
        "✓ exact",
        "✓ equal",
        "± 140 ns",
    ] {
        assert!(page.contains(needed), "{needed}");
    }
    let page = text(&super::fixtures::unexplained());
    for needed in [
        "Unexplained",
        "✗ differs",
        "✗ does not add up",
        "no: the recorder was killed",
        "GC was not measured",
        "vm.max_map_count",
        "ENOMEM",
        "pages given back",
    ] {
        assert!(page.contains(needed), "{needed}");
    }
    assert!(text(&super::fixtures::not_memory()).contains("◆"));
    assert!(text(&super::fixtures::churn()).contains("8.1"));
}
