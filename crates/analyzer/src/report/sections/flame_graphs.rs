//! Flame graphs, each as a still picture with tooltips and as a table; the files beside the page can be zoomed.

use askama::Template;

use super::{Context, Section};
use crate::model::FlameGraph;
use crate::report::escape::Html;
use crate::report::render::flame;
use crate::report::{Error, format, summary};

pub(super) const SECTION: Section = Section { id: "flame-graphs", title: "Flame graphs", render };

/// Rows of the table beside a picture.
const ROWS: usize = 25;

#[derive(Template)]
#[template(path = "sections/flame_graphs.html")]
struct View {
    graphs: Vec<GraphView>,
}

struct GraphView {
    anchor: String,
    title: String,
    unit: String,
    total: String,
    picture: Option<PictureView>,
    /// Pictures were given up to keep the page under its limit.
    left_out: bool,
    file: String,
    rows: Vec<(Html, String, String)>,
    more: usize,
}

struct PictureView {
    /// A document for a frame of its own: pictures of inferno share their ids and styles otherwise.
    document: String,
    height: usize,
    pruned: Option<String>,
    file: String,
}

fn render(context: &Context<'_>) -> Result<Html, Error> {
    let graphs = context.analysis.facts.flame_graphs.iter().map(|g| graph(g, context.flame_frames)).collect();
    Ok(Html::from_markup(View { graphs }.render()?))
}

fn graph(g: &FlameGraph, frames: usize) -> GraphView {
    GraphView {
        anchor: summary::svg_file(g).replace(".svg", ""),
        title: g.title.clone(),
        unit: g.unit.clone(),
        total: format::quantity(g.total as f64, &g.unit),
        picture: flame::draw(g, frames, false).map(|p| PictureView {
            document: document(&p.svg),
            height: p.height,
            pruned: p.pruned,
            file: summary::svg_file(g),
        }),
        left_out: frames == 0 && summary::has_weight(g),
        file: summary::svg_file(g),
        rows: g.top.iter().take(ROWS).map(|(name, weight)| row(g, name, *weight)).collect(),
        more: g.top.len().saturating_sub(ROWS),
    }
}

fn row(g: &FlameGraph, name: &str, weight: u64) -> (Html, String, String) {
    let value = if g.unit == "bytes" { format::bytes(weight) } else { format::count(weight) };
    (Html::name_with_title(format::short_function(name), name), value, format::share_of((weight, g.total)))
}

/// The picture with the controls hidden that would need a script.
fn document(svg: &str) -> String {
    format!(
        "<!doctype html><meta charset=\"utf-8\"><style>body{{margin:0}}svg{{display:block}}body>svg{{width:100%;height:auto}}\
         #search,#unzoom,#details,#matched{{display:none}}</style>{svg}"
    )
}
