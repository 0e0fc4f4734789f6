//! SCHEMA.md, generated from the registry so that it cannot lie.

use std::fmt::Write as _;

use crate::capture::SCHEMA;
use crate::table::Encoding;
use crate::tables;

/// The text of SCHEMA.md.
pub fn schema_markdown() -> String {
    let mut out = format!(
        "# Capture tables\n\nGenerated from `crates/formats/src/tables/` (schema {SCHEMA}); do not edit: \
         `mtrace schema > SCHEMA.md`.\n\nA capture is a directory `NAME.mtrace/` with `manifest.json` and plain Parquet \
         segments `TABLE/NNNNNN.parquet`; DuckDB, pandas and polars open them without mtrace, for example\n\
         `SELECT kind, count(*) FROM 'NAME.mtrace/faults/*.parquet' GROUP BY 1`.\n\nThroughout: `ts` is \
         CLOCK_MONOTONIC in ns, `dur` is ns, every other unit is in the name. Null is \"not measured\" or \"does not \
         apply\"; zero is measured. Pids are those of the recorder's pid namespace. Rows are in the order in which \
         events ended, not sorted by `ts`.\n"
    );
    for table in tables::ALL {
        let _ = write!(
            out,
            "\n## {}\n\n{}\n| column | type | meaning |\n|---|---|---|\n",
            table.name,
            paragraphs(table.doc)
        );
        for c in (table.columns)() {
            let null = if c.nullable { ", nullable" } else { "" };
            let layout = match c.encoding {
                Encoding::Delta => ", delta",
                Encoding::Dictionary => ", dictionary",
                Encoding::Plain => "",
            };
            let doc = c.doc.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
            let _ = writeln!(out, "| `{}` | {}{null}{layout} | {doc} |", c.name, c.data_type);
        }
    }
    out
}

/// Joins the lines of a doc comment into paragraphs.
fn paragraphs(doc: &str) -> String {
    let mut out = String::new();
    for paragraph in doc.split("\n \n").flat_map(|p| p.split("\n\n")) {
        let text = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
        if !text.is_empty() {
            let _ = writeln!(out, "{text}\n");
        }
    }
    out
}
