//! Text from the target is hostile: comm, paths and symbols can hold markup, quotes, newlines, terminal
//! escapes, direction overrides and be megabytes long. Every format escapes with the functions of this file.

use std::borrow::Cow;
use std::fmt;

/// Longest name shown in a table or heading; the middle is cut out of longer ones.
pub(crate) const NAME_CHARS: usize = 96;
/// Longest name anywhere, in a tooltip as well.
pub(crate) const TITLE_CHARS: usize = 400;
/// Longest sentence from the analysis.
const SENTENCE_CHARS: usize = 1_000;
/// Longest query or other preformatted text.
const BLOCK_CHARS: usize = 8_000;

/// Markup that is safe to put into the page: made here or by the chart code, never by a template's `safe` filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Html(String);

impl fmt::Display for Html {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl askama::filters::HtmlSafe for Html {}

impl Html {
    /// Takes markup whose variable parts were escaped by the caller.
    pub(crate) fn from_markup(markup: String) -> Self {
        Self(markup)
    }

    /// A sentence; what stands between two backticks becomes code.
    pub(crate) fn rich(text: &str) -> Self {
        let text = shorten(text, SENTENCE_CHARS);
        let mut out = String::with_capacity(text.len() + 32);
        for part in parts(&text) {
            match part {
                Part::Text(t) => push_html(&mut out, &shorten_words(t)),
                Part::Code(c) => {
                    out.push_str("<code>");
                    push_html(&mut out, &shorten(c, NAME_CHARS));
                    out.push_str("</code>");
                }
            }
        }
        Self(out)
    }

    /// A clause as a sentence of its own: with a capital, unless it begins with a name, and with a full stop.
    pub(crate) fn sentence(text: &str) -> Self {
        Self::rich(&as_sentence(text))
    }

    /// A name as code, cut in the middle if it is long; the tooltip has more of it.
    pub(crate) fn name(name: &str) -> Self {
        Self::name_with_title(name, name)
    }

    /// A short name as code whose tooltip is another, longer text.
    pub(crate) fn name_with_title(name: &str, title: &str) -> Self {
        let shown = shorten(name, NAME_CHARS);
        let mut out = String::from("<code");
        if shown != title {
            out.push_str(" title=\"");
            push_html(&mut out, &shorten(title, TITLE_CHARS));
            out.push('"');
        }
        out.push('>');
        push_html(&mut out, &shown);
        out.push_str("</code>");
        Self(out)
    }

    /// Plain text.
    pub(crate) fn text(text: &str) -> Self {
        Self(html(&shorten_words(&shorten(text, SENTENCE_CHARS))))
    }

    /// Preformatted text that keeps its line breaks.
    pub(crate) fn block(text: &str) -> Self {
        let text = shorten(text, BLOCK_CHARS);
        Self(text.lines().map(html).collect::<Vec<_>>().join("\n"))
    }
}

/// Makes a sentence of a clause.
pub(crate) fn as_sentence(clause: &str) -> String {
    let clause = clause.trim();
    let first = clause.split(' ').next().unwrap_or_default();
    let is_word = first.chars().all(|c| c.is_lowercase() || matches!(c, ',' | '-' | '–'));
    let mut chars = clause.chars();
    let mut out: String = match chars.next() {
        Some(c) if is_word => c.to_uppercase().chain(chars).collect(),
        _ => clause.to_owned(),
    };
    if !out.is_empty() && !out.ends_with(['.', '!', '?', '…']) {
        out.push('.');
    }
    out
}

/// A piece of a sentence.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// Words.
    Text(&'a str),
    /// A name between backticks.
    Code(&'a str),
}

/// Splits a sentence at its backticks. A backtick without a partner stays text.
pub(crate) fn parts(sentence: &str) -> Vec<Part<'_>> {
    let mut out = Vec::new();
    let mut rest = sentence;
    while let Some((text, code, tail)) = next_code(rest) {
        if !text.is_empty() {
            out.push(Part::Text(text));
        }
        if !code.is_empty() {
            out.push(Part::Code(code));
        }
        rest = tail;
    }
    if !rest.is_empty() {
        out.push(Part::Text(rest));
    }
    out
}

fn next_code(s: &str) -> Option<(&str, &str, &str)> {
    let (text, after) = s.split_once('`')?;
    let (code, tail) = after.split_once('`')?;
    Some((text, code, tail))
}

/// True for characters that change how other text is shown, or that are not shown at all.
pub(crate) fn is_treacherous(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn push_visible(out: &mut String, c: char) {
    match c {
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        c => out.extend(c.escape_unicode()),
    }
}

/// Replaces control, direction and invisible characters by what they are: `\n`, `\u{202e}`.
pub(crate) fn visible(s: &str) -> Cow<'_, str> {
    if !s.chars().any(is_treacherous) {
        return Cow::Borrowed(s);
    }
    let mut out = String::with_capacity(s.len() + 16);
    for c in s.chars() {
        if is_treacherous(c) { push_visible(&mut out, c) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// The last line of defence over a whole document: like [`visible`], but line breaks stay.
pub(crate) fn scrub(document: String) -> String {
    if !document.chars().any(|c| c != '\n' && is_treacherous(c)) {
        return document;
    }
    document.split('\n').map(visible).collect::<Vec<_>>().join("\n")
}

/// Cuts the middle out of a long text: the ends of a name tell the most.
pub(crate) fn shorten(s: &str, max_chars: usize) -> Cow<'_, str> {
    // A text of few bytes has few characters; of a long one only the ends are looked at.
    if s.len() <= max_chars || s.chars().nth(max_chars).is_none() {
        return Cow::Borrowed(s);
    }
    let head: String = s.chars().take(max_chars / 2).collect();
    let mut tail: Vec<char> = s.chars().rev().take(max_chars - max_chars / 2 - 1).collect();
    tail.reverse();
    Cow::Owned(head + "…" + &tail.into_iter().collect::<String>())
}

/// A sentence whose endless words lost their middle: a name can stand in it without a mark.
pub(crate) fn shorten_words(s: &str) -> Cow<'_, str> {
    if s.split(' ').all(|w| w.len() <= NAME_CHARS) {
        return Cow::Borrowed(s);
    }
    Cow::Owned(s.split(' ').map(|w| shorten(w, NAME_CHARS)).collect::<Vec<_>>().join(" "))
}

/// Text for HTML and SVG, in elements and in quoted attributes.
pub(crate) fn html(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 16);
    push_html(&mut out, s);
    out
}

fn push_html(out: &mut String, s: &str) {
    for c in visible(s).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
}

/// Text for Markdown: no markup, mention, link or reference comes out of it.
pub(crate) fn markdown(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 16);
    let shown = visible(s);
    let mut previous = ' ';
    for (i, c) in shown.char_indices() {
        match c {
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '~' | '&' | '$' | '!' => {
                out.push('\\');
                out.push(c);
            }
            // Renderers link mentions, references and addresses in plain text, where a backslash does not
            // stop them: a word joiner does, and is not seen.
            '@' | '#' => out.extend([c, '\u{2060}']),
            ':' if shown[i..].starts_with("://") => out.extend([c, '\u{2060}']),
            '.' if previous.eq_ignore_ascii_case(&'w') => out.extend([c, '\u{2060}']),
            c => out.push(c),
        }
        previous = c;
    }
    out
}

/// A sentence for Markdown: names between backticks become code spans.
pub(crate) fn markdown_rich(s: &str) -> String {
    let s = shorten(s, SENTENCE_CHARS);
    parts(&s)
        .into_iter()
        .map(|part| match part {
            Part::Text(t) => markdown(&shorten_words(t)),
            Part::Code(c) => markdown_code(c),
        })
        .collect()
}

/// A name as a code span whose fence is longer than any run of backticks in it; fit for table cells.
pub(crate) fn markdown_code(name: &str) -> String {
    let shown = visible(&shorten(name, NAME_CHARS)).into_owned();
    // In a table a pipe ends the cell, even inside a code span.
    let shown = shown.replace('|', "¦");
    let fence = "`".repeat(longest_run(&shown, '`') + 1);
    let pad = if shown.starts_with('`') || shown.ends_with('`') || shown.trim().is_empty() { " " } else { "" };
    format!("{fence}{pad}{shown}{pad}{fence}")
}

fn longest_run(s: &str, wanted: char) -> usize {
    let mut longest = 0;
    let mut run = 0;
    for c in s.chars() {
        run = if c == wanted { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    longest
}

/// Text for a terminal: one line, nothing that the terminal would obey.
pub(crate) fn terminal(s: &str) -> String {
    visible(&shorten_words(&shorten(s, SENTENCE_CHARS))).replace('`', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "<script>alert('1')</script>\u{1b}[2J\u{202e}\"|`a``b`\n# h @you www.x.y https://x.y";

    #[test]
    fn html_leaves_no_markup_and_no_control() {
        let out = html(HOSTILE);
        assert!(!out.contains(['<', '>', '"', '\'', '\u{1b}', '\u{202e}', '\n']), "{out}");
        assert!(out.contains("&lt;script&gt;") && out.contains("\\u{1b}") && out.contains("\\u{202e}"));
    }

    #[test]
    fn backticks_make_code_and_a_lone_one_does_not() {
        assert_eq!(Html::rich("in `a<b` now").to_string(), "in <code>a&lt;b</code> now");
        assert_eq!(Html::rich("a ` b").to_string(), "a ` b");
        assert_eq!(parts("``x`"), [Part::Text("x`")]);
    }

    #[test]
    fn clauses_become_sentences_and_names_stay_names() {
        assert_eq!(as_sentence("touch it first"), "Touch it first.");
        assert_eq!(as_sentence("main.fill touches it."), "main.fill touches it.");
        assert_eq!(as_sentence("`f` is slow"), "`f` is slow.");
        assert_eq!(as_sentence(""), "");
    }

    #[test]
    fn markdown_text_is_inert() {
        let out = markdown(HOSTILE);
        assert!(
            !out.contains('\n') && !out.contains("@you") && !out.contains("://") && !out.contains("www.x"),
            "{out}"
        );
        for (i, c) in out.char_indices() {
            if matches!(c, '<' | '>' | '`' | '|') {
                assert_eq!(&out[i - 1..i], "\\", "{out}");
            }
        }
    }

    #[test]
    fn the_fence_is_longer_than_what_it_holds() {
        assert_eq!(markdown_code("a"), "`a`");
        assert_eq!(markdown_code("a`b"), "``a`b``");
        assert_eq!(markdown_code("`a``b"), "``` `a``b ```");
        assert_eq!(markdown_code("a|b"), "`a¦b`");
    }

    #[test]
    fn long_names_lose_their_middle() {
        let long = "a".repeat(300) + "END";
        let shown = shorten(&long, 20);
        assert_eq!(shown.chars().count(), 20);
        assert!(shown.starts_with("aaa") && shown.ends_with("END") && shown.contains('…'));
        assert_eq!(shorten("äöü", 3), "äöü");
        let name = Html::name(&long).to_string();
        assert!(name.contains("title=") && name.len() < 600);
    }

    #[test]
    fn scrub_keeps_lines_and_shows_the_rest() {
        assert_eq!(scrub("a\nb\u{9b}c\r".to_owned()), "a\nb\\u{9b}c\\r");
    }

    #[test]
    fn a_terminal_gets_nothing_to_obey() {
        assert!(!terminal(HOSTILE).chars().any(char::is_control));
    }
}
