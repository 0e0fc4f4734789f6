//! report.json: the whole analysis, versioned by `report_version`.

use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

use crate::model::Analysis;
use crate::report::Error;
use crate::report::escape::is_treacherous;

/// The analysis as indented JSON. Only printable characters are written as they are: the rest, which a terminal or
/// an editor might obey, is written as `\uXXXX`.
///
/// # Errors
/// If a value has no JSON form, which the model's types do not allow.
pub fn render_json(analysis: &Analysis) -> Result<String, Error> {
    let mut out = Vec::new();
    analysis.serialize(&mut Serializer::with_formatter(&mut out, PrettyFormatter::with_indent(b" ")))?;
    let text = String::from_utf8_lossy(&out);
    let mut document = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        // serde_json has escaped all control characters inside of strings that JSON asks for; a line break is layout.
        if c == '\n' || !is_treacherous(c) {
            document.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                document.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    document.push('\n');
    Ok(document)
}
