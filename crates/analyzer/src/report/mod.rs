//! The report: what the person on call sees. HTML for reading, Markdown for the ticket, JSON for programs,
//! SVG flame graphs beside them, and a summary for the terminal.
//!
//! Everything shown comes from [`Analysis`]; the same analysis gives the same bytes. A new section of the page is
//! one file in `sections/` with its template and one line in [`sections::SECTIONS`].

mod error;
mod escape;
// The same words for numbers in findings and on the page.
use crate::units as format;
mod render;
mod resident;
mod sections;
mod summary;
mod write;

pub use error::Error;
pub use render::{json::render_json, markdown::render_markdown, terminal::terminal};

use std::path::{Path, PathBuf};

use crate::model::Analysis;

/// Settings of a report.
#[derive(Debug, Clone)]
pub struct ReportOptions {
    /// Largest size of report.html in bytes. Flame graphs lose their lightest frames until the page fits, and the
    /// page says how much that is.
    pub max_html_bytes: usize,
}

impl Default for ReportOptions {
    fn default() -> Self {
        Self { max_html_bytes: 8 << 20 }
    }
}

/// Writes report.html, report.md, report.json and one SVG per flame graph into a folder, which is created if it is
/// not there; returns the files in that order.
///
/// All files are complete before the first one gets its final name; older ones of the same name are replaced.
///
/// # Errors
/// If the folder or a file cannot be written; files under final names are then the old ones or complete.
pub fn write(analysis: &Analysis, dir: &Path, options: &ReportOptions) -> Result<Vec<PathBuf>, Error> {
    let mut files = vec![
        ("report.html".to_owned(), render::html::page(analysis, options)?),
        ("report.md".to_owned(), render_markdown(analysis)),
        ("report.json".to_owned(), render_json(analysis)?),
    ];
    for graph in &analysis.facts.flame_graphs {
        if let Some(picture) = render::flame::draw(graph, render::flame::FILE_FRAMES, true) {
            files.push((summary::svg_file(graph), picture.svg));
        }
    }
    write::all(dir, &files)
}

/// The page with default options: one self-contained document without scripts that loads nothing.
///
/// # Errors
/// If a template fails, which only happens when memory runs out while formatting.
pub fn render_html(analysis: &Analysis) -> Result<String, Error> {
    render::html::page(analysis, &ReportOptions::default())
}
