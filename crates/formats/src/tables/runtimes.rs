use crate::{name_enum, table};

name_enum! {
    /// Which runtime.
    pub enum RuntimeKind {
        /// Go.
        Go = "go",
        /// HotSpot.
        Jvm = "jvm",
    }
}

name_enum! {
    /// What became of looking for a setting.
    pub enum SettingState {
        /// It is there; `value` has it.
        Set = "set",
        /// It was looked for and is not there: the runtime uses its default.
        NotSet = "not_set",
        /// It could not be read: not known.
        Unreadable = "unreadable",
    }
}

table! {
    /// Settings of the language runtimes of the targets, one row each.
    ///
    /// Of a process's environment exactly the variables named here are read (`GOGC`, `GOMEMLIMIT`, `GODEBUG`), never
    /// the rest. What a Go program sets by itself later is in `go_memory` (`set_gc_percent`, `set_memory_limit`) if it
    /// did so during the recording, and not known otherwise.
    pub struct RuntimeSetting("runtimes") {
        /// When it was read.
        ts: i64 = Delta,
        /// Process (thread group).
        pid: u32 = Dictionary,
        /// Which runtime.
        kind: RuntimeKind = Dictionary,
        /// Version: Go's from the binary ("go1.25.4"), the JVM's from the file `release` of its installation; null if not known.
        version: Option<String> = Dictionary,
        /// `GOGC`, `GOMEMLIMIT`, `GODEBUG` of the environment at the program's start; `libjvm`: path of the JVM's library.
        key: String = Dictionary,
        /// Whether it is there.
        state: SettingState = Dictionary,
        /// As it stands there; null unless `state` is `set`.
        value: Option<String> = Dictionary,
    }
}
