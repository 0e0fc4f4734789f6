//! What goes to the terminal: plain text, control characters of hostile names made visible.

use std::io::{self, Write as _};

use crate::exit::{Code, Failure};

/// Makes control characters visible, so that a comm or a path cannot steer the terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let hidden =
                (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            if hidden { c.escape_unicode().collect::<Vec<_>>() } else { vec![c] }
        })
        .collect()
}

/// Prints to standard output. A closed pipe (`mtrace … | head`) is not an error, a full disk is.
pub(crate) fn out(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Code::Input, format!("failed to write to standard output: {e}")))
        }
        _ => Ok(()),
    }
}

/// Prints to standard error.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "mtrace: {}", clean(text));
}

/// Prints why a command failed.
pub(crate) fn error(failure: &Failure) {
    let _ = writeln!(io::stderr().lock(), "mtrace: error: {}", clean(&failure.message));
}

#[cfg(test)]
mod tests {
    #[test]
    fn control_characters_become_visible() {
        assert_eq!(super::clean("a\u{1b}[31mb\u{202e}c\nd"), "a\\u{1b}[31mb\\u{202e}c\nd");
    }
}
