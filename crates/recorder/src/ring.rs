//! The maps that all probes share: created here, handed to every object, so that one probe that fails to load takes
//! nothing with it.

use std::os::fd::AsFd as _;

use libbpf_rs::{MapCore as _, MapFlags, MapHandle, MapType, OpenObject};

use crate::error::{Error, kernel};

/// `struct mt_config` and `struct mt_target` of bpf/wire.h; `struct scratch` of bpf/mtrace.bpf.h.
const CONFIG_BYTES: u32 = 48;
const TARGET_BYTES: u32 = 24;
const SCRATCH_BYTES: u32 = 8 * 8 + 65 * 8 + (24 + 8 + 8 + 128 * 8) + (24 + 3 * 8 + 32 * 16);
/// `EPOCHS` of bpf/mtrace.bpf.h.
const EPOCHS: u32 = 4096;
/// Targets at a time, unless more are asked for.
pub(crate) const MAX_TARGETS: u32 = 8192;
/// Stacks that the kernel remembers as sent; the least used ones are sent again.
const MAX_STACKS: u32 = 64 * 1024;

/// `MT_TARGET_WAITS_FOR_EXEC`.
const WAITS_FOR_EXEC: u32 = 1;

/// What the kernel side reads its settings from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Config {
    pub(crate) off_cpu_min_ns: u64,
    /// Faults at least this slow are sent one by one.
    pub(crate) slow_fault_ns: u64,
    pub(crate) io_calls_per_process: u64,
    /// First image number for the kernel side; lower ones were given out here.
    pub(crate) next_image: u32,
}

impl Config {
    fn to_bytes(&self, ring_bytes: u32) -> Vec<u8> {
        let mut b = Vec::with_capacity(CONFIG_BYTES as usize);
        b.extend(self.off_cpu_min_ns.to_ne_bytes());
        b.extend(self.io_calls_per_process.to_ne_bytes());
        b.extend(u64::from(ring_bytes / 4).to_ne_bytes());
        // The service times of a batch are 32 bits wide.
        b.extend(self.slow_fault_ns.min(u64::from(u32::MAX)).to_ne_bytes());
        b.extend(std::process::id().to_ne_bytes());
        b.extend(self.next_image.to_ne_bytes());
        b.extend(crate::host::page_bytes().ilog2().to_ne_bytes());
        b.extend([0; 4]);
        b
    }
}

/// The shared maps.
#[derive(Debug)]
pub(crate) struct SharedMaps {
    pub(crate) ring: MapHandle,
    pub(crate) ring_bytes: u32,
    config: MapHandle,
    targets: MapHandle,
    seen_stacks: MapHandle,
    scratch: MapHandle,
    epochs: MapHandle,
}

impl SharedMaps {
    /// Creates them. The ring's size is rounded up to a power of two pages, at most 1 GiB.
    pub(crate) fn create(ring_bytes: usize, max_targets: u32) -> Result<Self, Error> {
        let page = crate::host::page_bytes() as usize;
        let ring_bytes = ring_bytes.clamp(page, 1 << 30).next_power_of_two() as u32;
        let make = |ty, name, key, value, entries| {
            let opts = libbpf_rs::libbpf_sys::bpf_map_create_opts {
                sz: size_of::<libbpf_rs::libbpf_sys::bpf_map_create_opts>() as _,
                ..Default::default()
            };
            MapHandle::create(ty, Some(name), key, value, entries, &opts).map_err(kernel("create a BPF map"))
        };
        Ok(Self {
            ring: make(MapType::RingBuf, "mtrace_ring", 0, 0, ring_bytes)?,
            ring_bytes,
            config: make(MapType::Array, "mtrace_config", 4, CONFIG_BYTES, 1)?,
            targets: make(MapType::Hash, "mtrace_targets", 4, TARGET_BYTES, max_targets)?,
            seen_stacks: make(MapType::LruHash, "mtrace_stacks", 8, 4, MAX_STACKS)?,
            scratch: make(MapType::PercpuArray, "mtrace_scratch", 4, SCRATCH_BYTES, 1)?,
            epochs: make(MapType::Array, "mtrace_epochs", 4, 4, EPOCHS)?,
        })
    }

    /// Puts the shared maps into an object instead of its own ones of the same name.
    pub(crate) fn share_with(&self, object: &mut OpenObject) -> libbpf_rs::Result<()> {
        for mut map in object.maps_mut() {
            let shared = match map.name().to_str() {
                Some("ring") => &self.ring,
                Some("config") => &self.config,
                Some("targets") => &self.targets,
                Some("seen_stacks") => &self.seen_stacks,
                Some("scratch") => &self.scratch,
                Some("epochs") => &self.epochs,
                _ => continue,
            };
            map.reuse_fd(shared.as_fd())?;
        }
        Ok(())
    }

    /// Writes the settings; before anything is attached.
    pub(crate) fn configure(&self, config: &Config) -> Result<(), Error> {
        self.config
            .update(&0u32.to_ne_bytes(), &config.to_bytes(self.ring_bytes), MapFlags::ANY)
            .map_err(kernel("write the probes' settings"))
    }

    /// Adds a process; with `waits_for_exec` nothing is recorded of it before its next exec.
    pub(crate) fn add_target(&self, pid: u32, image: u32, waits_for_exec: bool) -> Result<(), Error> {
        let value = target(image, waits_for_exec);
        self.targets.update(&pid.to_ne_bytes(), &value, MapFlags::ANY).map_err(kernel("add a target"))
    }

    /// Adds a process unless the kernel side did so meanwhile; false if it did, or there is no room.
    pub(crate) fn add_if_new(&self, pid: u32, image: u32) -> bool {
        self.targets.update(&pid.to_ne_bytes(), &target(image, false), MapFlags::NO_EXIST).is_ok()
    }

    /// Removes a process that ended. It may be gone already.
    pub(crate) fn remove_target(&self, pid: u32) {
        let _ = self.targets.delete(&pid.to_ne_bytes());
    }

    /// Makes the kernel side send a stack again when it comes again.
    pub(crate) fn forget_stack(&self, hash: u64) {
        // It may be forgotten already.
        let _ = self.seen_stacks.delete(&hash.to_ne_bytes());
    }

    /// True if the kernel side takes the process for a target.
    pub(crate) fn is_target(&self, pid: u32) -> bool {
        matches!(self.targets.lookup(&pid.to_ne_bytes(), MapFlags::ANY), Ok(Some(_)))
    }

    /// The processes that the kernel side takes for targets.
    pub(crate) fn targets(&self) -> Vec<u32> {
        self.targets.keys().filter_map(|k| Some(u32::from_ne_bytes(k.try_into().ok()?))).collect()
    }

    /// True if the process waits for its exec still, which means that nobody saw it.
    pub(crate) fn still_waits(&self, pid: u32) -> bool {
        let value = self.targets.lookup(&pid.to_ne_bytes(), MapFlags::ANY);
        matches!(value, Ok(Some(v)) if v.first().is_some_and(|f| u32::from(*f) & WAITS_FOR_EXEC != 0))
    }
}

/// `struct mt_target`.
fn target(image: u32, waits_for_exec: bool) -> Vec<u8> {
    let mut value = Vec::with_capacity(TARGET_BYTES as usize);
    value.extend((if waits_for_exec { WAITS_FOR_EXEC } else { 0 }).to_ne_bytes());
    value.extend(image.to_ne_bytes());
    value.resize(TARGET_BYTES as usize, 0);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_have_the_layout_of_wire_h() {
        let c = Config { off_cpu_min_ns: 1, slow_fault_ns: u64::MAX, io_calls_per_process: 2, next_image: 9 };
        let b = c.to_bytes(4096);
        assert_eq!(b.len(), CONFIG_BYTES as usize);
        assert_eq!(b[16], 0);
        assert_eq!(u64::from_ne_bytes([b[16], b[17], b[18], b[19], b[20], b[21], b[22], b[23]]), 1024);
        assert_eq!(&b[24..32], &0xffff_ffff_u64.to_ne_bytes());
        assert_eq!(&b[36..40], &9u32.to_ne_bytes());
        assert_eq!(1 << b[40], crate::host::page_bytes());
    }
}
