//! Names as in the source.

use std::borrow::Cow;

/// A C++ or Rust name as in the source; every other one as it is.
///
/// Only what is mangled for sure: to a C++ demangler every C function with a short name is a type (`f` is `float`).
pub(super) fn demangle(name: &str) -> Cow<'_, str> {
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        return Cow::Owned(format!("{rust:#}"));
    }
    if !name.starts_with("_Z") {
        return Cow::Borrowed(name);
    }
    let cpp = cpp_demangle::Symbol::new(name).ok().and_then(|symbol| symbol.demangle().ok());
    cpp.map_or(Cow::Borrowed(name), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::demangle;

    #[test]
    fn only_mangled_names_change() {
        for (mangled, name) in [
            ("_ZN5cache4fillEi", "cache::fill(int)"),
            ("_ZN4core3fmt5write17h0123456789abcdefE", "core::fmt::write"),
            ("_RNvC6_123foo3bar", "123foo::bar"),
            ("f", "f"),
            ("main", "main"),
            ("runtime.(*mheap).grow", "runtime.(*mheap).grow"),
            ("_Z", "_Z"),
        ] {
            assert_eq!(demangle(mangled), name);
        }
    }
}
