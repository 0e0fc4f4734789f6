//! Containers by their ids, as the runtimes put them into the names of control groups.
//!
//! `docker/<id>` and `docker-<id>.scope` (Docker with cgroupfs and systemd), `cri-containerd-<id>.scope` and
//! `…:cri-containerd:<id>` (containerd), `crio-<id>.scope` (CRI-O), `libpod-<id>.scope` (podman), `nerdctl-<id>.scope`,
//! `kubepods/…/pod<uid>/<id>` (the kubelet with cgroupfs): an id is 64 hexadecimal digits everywhere.

use std::collections::BTreeMap;
use std::path::Path;

use super::find::{FindError, all_pids};
use super::group::{Group, Hierarchies, text_of};

const ID_DIGITS: usize = 64;
/// Ids shown where several fit.
const SHOWN: usize = 5;

/// The group of the container whose id begins so. kubectl's form (`containerd://<id>`) is understood, too.
///
/// # Errors
/// If it is no id, or there is none such, or more than one, or the group's folder is not visible here.
pub fn find(given: &str) -> Result<Group, FindError> {
    let prefix = given.split_once("://").map_or(given, |(_, id)| id).to_ascii_lowercase();
    let hex = |s: &str| s.bytes().all(|b| b.is_ascii_hexdigit());
    if prefix.is_empty() || prefix.len() > ID_DIGITS || !hex(&prefix) {
        return Err(FindError::NoContainerId { given: given.to_owned() });
    }
    let found = running(&prefix);
    let mut ids = found.keys();
    match (ids.next(), ids.next()) {
        (Some(_), None) => {}
        (None, _) => return Err(FindError::NoSuchContainer { id: prefix }),
        (Some(_), Some(_)) => {
            let shown: Vec<&str> = found.keys().take(SHOWN).map(String::as_str).collect();
            return Err(FindError::AmbiguousContainer { id: prefix, number: found.len(), shown: shown.join(", ") });
        }
    }
    let hierarchies = Hierarchies::read();
    let places = found.into_values().flatten();
    places
        .into_iter()
        .find_map(|(h, name)| hierarchies.of(h, Path::new(&name)))
        .ok_or(FindError::HiddenContainer { id: prefix })
}

/// By full id: in which hierarchies its group is, best first, and the group's name.
fn running(prefix: &str) -> BTreeMap<String, Vec<(u32, String)>> {
    let mut found: BTreeMap<String, Vec<(u32, String)>> = BTreeMap::new();
    for text in all_pids().into_iter().filter_map(text_of) {
        for line in Hierarchies::best_first(&text) {
            for (id, upto) in ids_in(line.name).filter(|(id, _)| id.starts_with(prefix)) {
                let places = found.entry(id.to_owned()).or_default();
                let place = (line.hierarchy, upto.to_owned());
                if !places.contains(&place) {
                    places.push(place);
                }
            }
        }
    }
    found
}

/// The ids in a group's name, each with the name up to it.
fn ids_in(name: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut end = 0;
    name.split('/').filter_map(move |part| {
        end += part.len() + 1;
        Some((id_in(part)?, name.get(..end - 1)?))
    })
}

fn id_in(part: &str) -> Option<&str> {
    let part = part.strip_suffix(".scope").unwrap_or(part);
    let (kind, id) = part.split_at_checked(part.len().checked_sub(ID_DIGITS)?)?;
    let is_id = id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    // The monitor of a container (`libpod-conmon-<id>`) is not in it.
    let in_it = kind.is_empty() || (kind.ends_with(['-', ':', '_']) && !kind.ends_with("conmon-"));
    (is_id && in_it).then_some(id)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_in_the_names_that_runtimes_give() {
        let id = "0123456789abcdef".repeat(4);
        for name in [
            format!("/docker/{id}"),
            format!("/system.slice/docker-{id}.scope"),
            format!("/kubepods/burstable/pod4ab2/{id}"),
            format!("/kubepods.slice/kubepods-pod4ab2.slice/cri-containerd-{id}.scope"),
            format!("/kubepods-besteffort-pod4ab2.slice:cri-containerd:{id}"),
            format!("/kubepods.slice/crio-{id}.scope"),
            format!("/machine.slice/libpod-{id}.scope"),
        ] {
            assert_eq!(ids_in(&name).collect::<Vec<_>>(), [(id.as_str(), name.as_str())], "{name}");
            let deeper = format!("{name}/init.scope");
            assert_eq!(ids_in(&deeper).next(), Some((id.as_str(), name.as_str())), "{deeper}");
        }
        let nested = format!("/docker/{id}/kubepods/pod1/{}", id.replace('0', "f"));
        assert_eq!(ids_in(&nested).count(), 2);
    }

    #[test]
    fn what_only_looks_like_an_id_is_none() {
        let id = "0123456789abcdef".repeat(4);
        for name in [
            "/".to_owned(),
            "/system.slice/ssh.service".to_owned(),
            format!("/machine.slice/libpod-conmon-{id}.scope"),
            format!("/docker/{}", &id[1..]),
            format!("/docker/{id}0"),
            format!("/docker/{}", id.to_uppercase()),
            format!("/x{id}"),
            "é".repeat(40),
        ] {
            assert_eq!(ids_in(&name).count(), 0, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_an_id_is_said_so_and_an_absent_one_is_absent() {
        for given in ["", "web-1", "docker://", &"a".repeat(65)] {
            assert!(matches!(find(given), Err(FindError::NoContainerId { .. })), "{given}");
        }
        let absent = "f0".repeat(32);
        assert!(matches!(find(&format!("containerd://{absent}")), Err(FindError::NoSuchContainer { .. })));
    }
}
