//! Flame graphs by inferno: as files with its interaction, and cut down to still pictures inside the page.

use std::collections::BTreeMap;

use inferno::flamegraph::color::{BackgroundColor, BasicPalette, Color, Palette};
use inferno::flamegraph::{self, Options};

use crate::model::FlameGraph;
use crate::report::escape::{shorten, visible};
use crate::report::format;

/// Frames of one picture in the page.
pub(crate) const PAGE_FRAMES: usize = 1_500;
/// Frames of one SVG file.
pub(crate) const FILE_FRAMES: usize = 20_000;
/// Deeper frames are charged to their caller: nobody can read them, and every depth adds height.
const MAX_DEPTH: usize = 128;
/// Longest name of a frame.
const FRAME_CHARS: usize = 160;
/// Width of the pictures in px.
const WIDTH: usize = 1200;
/// One part of so many is half a pixel of a picture: less cannot be seen, and without a zoom only adds height.
const HALF_PIXEL: u64 = 2 * WIDTH as u64;

/// Plain background of the pictures in the page.
const PAPER: BackgroundColor = BackgroundColor::Flat(Color { r: 250, g: 250, b: 250 });

/// A flame graph as a picture.
#[derive(Debug, Clone)]
pub(crate) struct Picture {
    /// The SVG document.
    pub svg: String,
    /// Height in px at a width of 1200.
    pub height: usize,
    /// What was cut, in plain words; null if nothing was.
    pub pruned: Option<String>,
}

/// Draws a flame graph with at most `max_frames` frames; null if there is nothing to draw.
///
/// Interactive ones carry inferno's script (for a file of its own); the others hold no script at all.
pub(crate) fn draw(graph: &FlameGraph, max_frames: usize, interactive: bool) -> Option<Picture> {
    if max_frames == 0 {
        return None;
    }
    let stacks = Stacks::new(&graph.folded)?.prune(max_frames, if interactive { 0 } else { HALF_PIXEL });
    let pruned = stacks.pruned_sentence(&graph.unit);
    let mut options = Options::default();
    options.title = format!("{}: {} {}", visible(&graph.title), format::count(stacks.total), visible(&graph.unit));
    options.count_name = visible(&graph.unit).into_owned();
    options.colors = palette(&graph.unit);
    options.deterministic = true;
    options.notes = "drawn by inferno (https://github.com/jonhoo/inferno), CDDL-1.0".to_owned();
    options.no_javascript = !interactive;
    // A fixed width lets inferno cut the names to their frames, so that no script is needed for it.
    options.image_width = (!interactive).then_some(WIDTH);
    options.min_width = 0.0;
    if !interactive {
        options.bgcolors = Some(PAPER);
        // The page has the title above the picture.
        options.title = String::new();
    } else {
        options.subtitle.clone_from(&pruned);
    }
    // As a "chart" inferno keeps our order, which is by frame; its own sorts by text and so splits `f` around `f.func1`.
    options.flame_chart = true;
    let lines = stacks.lines();
    let mut svg = Vec::new();
    flamegraph::from_lines(&mut options, lines.iter().rev().map(String::as_str), &mut svg).ok()?;
    let svg = String::from_utf8(svg).ok()?;
    let height = attribute(&svg, "height")?;
    let svg = if interactive { svg } else { still(&svg) };
    Some(Picture { svg, height, pruned })
}

fn palette(unit: &str) -> Palette {
    Palette::Basic(if unit == "bytes" { BasicPalette::Mem } else { BasicPalette::Hot })
}

/// Value of a numeric attribute of the root element.
fn attribute(svg: &str, name: &str) -> Option<usize> {
    let root = &svg[svg.find("<svg")?..];
    let start = root.find(&format!(" {name}=\""))? + name.len() + 3;
    root[start..].split('"').next()?.parse().ok()
}

/// Takes out what only works with a script, and the prologue that HTML does not know.
fn still(svg: &str) -> String {
    let body = &svg[svg.find("<svg").unwrap_or(0)..];
    let body = body.replacen(" onload=\"init(evt)\"", "", 1);
    match (body.find("<script"), body.find("</script>")) {
        (Some(a), Some(b)) if a < b => format!("{}{}", &body[..a], &body[b + "</script>".len()..]),
        _ => body,
    }
}

/// Weighted stacks as a tree.
struct Stacks<'a> {
    nodes: Vec<Node<'a>>,
    total: u64,
    /// Weight of stacks that lost frames.
    cut: u64,
    /// Frames lighter than this were cut.
    threshold: u64,
}

#[derive(Default)]
struct Node<'a> {
    children: BTreeMap<&'a str, usize>,
    /// Weight of stacks that end here.
    own: u64,
    /// Weight of this and everything above.
    total: u64,
}

impl<'a> Stacks<'a> {
    /// Null if there is no weight, or more than can be added up.
    fn new(folded: &'a [(String, u64)]) -> Option<Self> {
        let total: u128 = folded.iter().map(|(_, weight)| u128::from(*weight)).sum();
        let total = u64::try_from(total).ok().filter(|t| *t > 0 && *t < u64::MAX / 4)?;
        let mut tree = Self { nodes: vec![Node::default()], total, cut: 0, threshold: 0 };
        for (stack, weight) in folded.iter().filter(|(_, weight)| *weight > 0) {
            tree.add(stack, *weight);
        }
        Some(tree)
    }

    fn add(&mut self, stack: &'a str, weight: u64) {
        let mut at = 0;
        self.nodes[0].total += weight;
        for (depth, frame) in stack.split(';').enumerate() {
            if depth == MAX_DEPTH {
                self.cut += weight;
                break;
            }
            let next = self.nodes.len();
            at = *self.nodes[at].children.entry(frame).or_insert(next);
            if at == next {
                self.nodes.push(Node::default());
            }
            self.nodes[at].total += weight;
        }
        self.nodes[at].own += weight;
    }

    /// Charges the lightest frames to their callers until at most `max_frames` are left, and none that is less than
    /// one part of `parts` (if that is not 0).
    fn prune(mut self, max_frames: usize, parts: u64) -> Self {
        self.threshold = self.total.checked_div(parts).unwrap_or(0);
        if self.nodes.len() > max_frames + 1 {
            let mut totals: Vec<u64> = self.nodes.iter().map(|n| n.total).collect();
            totals.sort_unstable_by(|a, b| b.cmp(a));
            self.threshold = self.threshold.max(totals[max_frames] + 1);
        }
        self
    }

    fn pruned_sentence(&self, unit: &str) -> Option<String> {
        let cut = self.cut + self.weight_below_threshold();
        (cut > 0).then(|| {
            format!(
                "pruned {} of weight: deep or light frames (less than {} {}) are charged to their callers",
                format::share_of((cut, self.total)),
                format::count(self.threshold),
                visible(unit)
            )
        })
    }

    /// Weight under a kept node that belongs to children which are cut.
    fn weight_below_threshold(&self) -> u64 {
        let cut_children = |n: &Node<'_>| {
            n.children.values().map(|c| self.nodes[*c].total).filter(|t| *t < self.threshold).sum::<u64>()
        };
        self.nodes.iter().filter(|n| n.total >= self.threshold).map(cut_children).sum()
    }

    /// Folded lines, in the order of the frames' names at every depth.
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut pending = vec![(0_usize, String::new())];
        while let Some((at, path)) = pending.pop() {
            let node = &self.nodes[at];
            let kept = |c: &usize| self.nodes[*c].total >= self.threshold;
            let from_cut: u64 = node.children.values().filter(|c| !kept(c)).map(|c| self.nodes[*c].total).sum();
            let own = node.own + from_cut;
            if own > 0 {
                lines.push(format!("{} {own}", if path.is_empty() { "[all too light to show]" } else { &path }));
            }
            for (name, child) in node.children.iter().rev().filter(|(_, c)| kept(c)) {
                let separator = if path.is_empty() { "" } else { ";" };
                pending.push((*child, format!("{path}{separator}{}", frame_name(name))));
            }
        }
        lines
    }
}

/// A frame's name such that inferno reads it as one: it takes a number after a blank for a weight and `# ` for a comment.
fn frame_name(name: &str) -> String {
    let shown = visible(&shorten(name.trim(), FRAME_CHARS)).into_owned();
    if shown.is_empty() {
        return "[unknown]".to_owned();
    }
    let number_last = shown.rsplit(' ').next().is_some_and(|t| t.chars().all(|c| c.is_ascii_digit() || c == '.'));
    if number_last || shown.starts_with("# ") { shown.replace(' ', "\u{a0}") } else { shown }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn graph(folded: &[(&str, u64)]) -> FlameGraph {
        FlameGraph {
            id: "g".into(),
            title: "G".into(),
            unit: "faults".into(),
            folded: folded.iter().map(|(s, w)| ((*s).to_owned(), *w)).collect(),
            total: folded.iter().map(|(_, w)| w).sum(),
            top: Vec::new(),
        }
    }

    #[test]
    fn nothing_to_draw_is_no_picture() {
        assert!(draw(&graph(&[]), 10, false).is_none());
        assert!(draw(&graph(&[("a", 0)]), 10, false).is_none());
        assert!(draw(&graph(&[("a", u64::MAX), ("b", u64::MAX)]), 10, false).is_none());
    }

    #[test]
    fn a_frame_stays_whole_beside_a_name_that_sorts_into_it() {
        let svg = draw(&graph(&[("f", 1), ("f.func1", 2), ("f;x", 3)]), 10, false).unwrap().svg;
        assert!(svg.contains("f (4 faults, 66.67%)"), "{svg}");
    }

    #[test]
    fn hostile_names_keep_their_weight_and_make_no_markup() {
        let hostile = [("# a;b 12", 3), ("<script>x</script>;\u{202e}y\n", 4), (";  ;", 5), ("c 1 2", 6)];
        for interactive in [false, true] {
            let svg = draw(&graph(&hostile), 50, interactive).unwrap().svg;
            assert!(svg.contains("all (18 faults, 100%)"), "{svg}");
            assert!(!svg.contains("<script>x") && !svg.contains('\u{202e}'));
            assert_eq!(svg.contains("<script"), interactive);
            assert_eq!(svg.contains("onload"), interactive);
        }
    }

    #[test]
    fn pruning_keeps_the_weight_and_says_how_much_detail_went() {
        let many: Vec<(String, u64)> =
            (0..500).map(|i| (format!("root;leaf{i:03}"), if i < 3 { 1000 } else { 1 })).collect();
        let many: Vec<(&str, u64)> = many.iter().map(|(s, w)| (s.as_str(), *w)).collect();
        let picture = draw(&graph(&many), 10, false).unwrap();
        assert!(
            picture.pruned.unwrap().starts_with("pruned 14 % of weight: deep or light frames (less than 2 faults)")
        );
        assert!(picture.svg.contains("root (3,497 faults, 100.00%)"), "{}", picture.svg);
        assert!(picture.svg.contains("leaf002") && !picture.svg.contains("leaf003"));
        assert!(draw(&graph(&many), 1000, false).unwrap().pruned.is_none());
    }

    #[test]
    fn endless_recursion_is_cut() {
        let deep = vec!["f"; 5000].join(";");
        let picture = draw(&graph(&[(&deep, 1)]), FILE_FRAMES, false).unwrap();
        assert!(picture.height < 4000 && picture.pruned.is_some());
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        let g = graph(&[("a;b", 1), ("a;c", 2), ("d", 3)]);
        assert_eq!(draw(&g, 100, true).unwrap().svg, draw(&g, 100, true).unwrap().svg);
    }
}
