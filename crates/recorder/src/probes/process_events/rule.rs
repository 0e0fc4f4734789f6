//! The rule by which the kernel side makes processes targets, as it wants it: `struct mt_rule` and the map of groups.

/// `MT_RULE_NAME`, `MT_RULE_PATH`.
const NAME: usize = 64;
const PATH: usize = 256;

/// Which processes become targets by themselves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum KernelRule {
    /// None: only those that user space adds, and their children.
    #[default]
    Nobody,
    /// Of this name; the first 15 bytes count.
    Comm(Vec<u8>),
    /// Whose executable has this inode (0: unknown) and file name, or was executed by this path.
    Exe { inode: u64, name: Vec<u8>, path: Vec<u8> },
    /// In one of these groups, or below: number of the hierarchy, number of the group in it.
    Groups(Vec<(u32, u64)>),
    /// All.
    All,
}

impl KernelRule {
    /// `struct mt_rule`. Moves within `hierarchy` are recorded.
    pub(crate) fn to_bytes(&self, hierarchy: u32) -> Vec<u8> {
        let kind: u32 = match self {
            Self::Nobody => 0,
            Self::Comm(_) => 1,
            Self::Exe { .. } => 2,
            Self::Groups(_) => 3,
            Self::All => 4,
        };
        let comm: &[u8] = if let Self::Comm(name) = self { name } else { &[] };
        let (inode, name, path): (u64, &[u8], &[u8]) = match self {
            Self::Exe { inode, name, path } => (*inode, name, path),
            _ => (0, &[], &[]),
        };
        let mut b = Vec::with_capacity(16 + 16 + NAME + PATH);
        b.extend(kind.to_ne_bytes());
        b.extend(hierarchy.to_ne_bytes());
        text(&mut b, comm, 16);
        b.extend(inode.to_ne_bytes());
        text(&mut b, name, NAME);
        // A path that does not fit would match another one that begins alike.
        text(&mut b, if path.len() < PATH { path } else { &[] }, PATH);
        b
    }

    /// Keys of the map of groups.
    pub(crate) fn group_keys(&self) -> Vec<Vec<u8>> {
        let Self::Groups(groups) = self else { return Vec::new() };
        let key = |(hierarchy, id): &(u32, u64)| {
            let mut b = id.to_ne_bytes().to_vec();
            b.extend(hierarchy.to_ne_bytes());
            b.extend(0u32.to_ne_bytes());
            b
        };
        groups.iter().map(key).collect()
    }
}

/// A string in a field of so many bytes, cut off and with a NUL, as the kernel side compares it.
fn text(b: &mut Vec<u8>, s: &[u8], bytes: usize) {
    let end = b.len() + bytes;
    b.extend(&s[..s.len().min(bytes - 1)]);
    b.resize(end, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_has_the_layout_of_wire_h() {
        let b = KernelRule::Comm(b"a-name-longer-than-15".to_vec()).to_bytes(9);
        assert_eq!(b.len(), 352);
        assert_eq!(
            (&b[..4], &b[4..8], &b[8..24]),
            (&1u32.to_ne_bytes()[..], &9u32.to_ne_bytes()[..], &b"a-name-longer-t\0"[..])
        );
        let exe = KernelRule::Exe { inode: 5, name: b"x".to_vec(), path: b"/a/x".to_vec() };
        let b = exe.to_bytes(0);
        assert_eq!(
            (b[0], &b[24..32], &b[32..34], &b[96..101]),
            (2, &5u64.to_ne_bytes()[..], &b"x\0"[..], &b"/a/x\0"[..])
        );
        let long = KernelRule::Exe { inode: 5, name: vec![b'n'; 300], path: vec![b'p'; 256] };
        let b = long.to_bytes(0);
        assert_eq!((b.len(), b[94], b[95], b[96]), (352, b'n', 0, 0));
        let groups = KernelRule::Groups(vec![(4, 77)]);
        assert_eq!((groups.to_bytes(0)[0], groups.group_keys().len(), groups.group_keys()[0][8]), (3, 1, 4));
    }
}
