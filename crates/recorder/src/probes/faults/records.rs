//! The records of several faults: a run, added up, and a batch, one by one.

use mtrace_formats::tables::{FAULT_BUCKETS, Fault, FaultRun};

use super::super::wire::{Header, Reader, Undecodable};
use super::{kind, weight};

/// `MT_FAULT_BATCH`.
const BATCH: u64 = 32;

/// `struct mt_fault_run`.
pub(crate) struct Run {
    header: Header,
    pub(crate) stack: u64,
    pub(crate) count: u64,
    pub(crate) dur_sum: i64,
    span: i64,
    addr: u64,
    ip: u64,
    stride_pages: i32,
    dur_min: i64,
    dur_max: i64,
    histogram: [u32; FAULT_BUCKETS],
}

impl Run {
    pub(crate) fn decode(header: Header, r: &mut Reader<'_>) -> Result<Self, Undecodable> {
        let (span, addr, ip, stack) = (r.i64()?, r.u64()?, r.u64()?, r.u64()?);
        let stride_pages = i32::try_from(r.i64()?).map_err(|_| Undecodable)?;
        let (count, dur_sum, dur_min, dur_max) = (r.u64()?, r.i64()?, r.i64()?, r.i64()?);
        let mut histogram = [0; FAULT_BUCKETS];
        for bucket in &mut histogram {
            *bucket = r.u32()?;
        }
        // What the kernel side promises: anything else would put a wrong sum into the capture.
        if count < 2 || histogram.iter().map(|n| u64::from(*n)).sum::<u64>() != count {
            return Err(Undecodable);
        }
        Ok(Self { header, stack, count, dur_sum, span, addr, ip, stride_pages, dur_min, dur_max, histogram })
    }

    pub(crate) fn row(&self, stack_id: Option<u32>) -> FaultRun {
        let h = self.histogram;
        FaultRun {
            ts: self.header.ts,
            span: self.span,
            pid: self.header.pid,
            tid: self.header.tid,
            addr: self.addr,
            stride_pages: self.stride_pages,
            count: self.count,
            ip: self.ip,
            error_code: self.header.aux,
            kind: kind(self.header),
            stack_id,
            weight: Some(weight(self.header)),
            dur_sum: self.dur_sum,
            dur_min: self.dur_min,
            dur_max: self.dur_max,
            lt_2p8: h[0],
            lt_2p9: h[1],
            lt_2p10: h[2],
            lt_2p11: h[3],
            lt_2p12: h[4],
            lt_2p13: h[5],
            lt_2p14: h[6],
            lt_2p15: h[7],
            lt_2p16: h[8],
            lt_2p17: h[9],
            lt_2p18: h[10],
            lt_2p19: h[11],
            lt_2p20: h[12],
            lt_2p21: h[13],
            lt_2p22: h[14],
            ge_2p22: h[15],
        }
    }
}

/// `struct mt_fault_batch`.
pub(crate) struct Batch {
    header: Header,
    pub(crate) stack: u64,
    ip: u64,
    pub(crate) faults: Vec<Entry>,
}

/// `struct mt_fault_entry`.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    addr: u64,
    after: u32,
    pub(crate) dur: u32,
}

impl Batch {
    pub(crate) fn decode(header: Header, r: &mut Reader<'_>) -> Result<Self, Undecodable> {
        let (ip, stack, count) = (r.u64()?, r.u64()?, r.u64()?);
        if count > BATCH {
            return Err(Undecodable);
        }
        let mut entry = || Ok(Entry { addr: r.u64()?, after: r.u32()?, dur: r.u32()? });
        let faults = (0..count).map(|_| entry()).collect::<Result<_, _>>()?;
        Ok(Self { header, stack, ip, faults })
    }

    pub(crate) fn rows(&self, stack_id: Option<u32>) -> impl Iterator<Item = Fault> + '_ {
        let h = self.header;
        self.faults.iter().map(move |f| Fault {
            ts: h.ts + i64::from(f.after),
            dur: Some(i64::from(f.dur)),
            pid: h.pid,
            tid: h.tid,
            addr: f.addr,
            ip: self.ip,
            error_code: Some(h.aux),
            kind: kind(h),
            stack_id,
            weight: Some(weight(h)),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::super::wire::event;
    use super::super::super::wire::testing::{header, with};
    use super::super::count_and_sum;
    use super::*;

    fn run(count: u64, histogram: [u32; FAULT_BUCKETS]) -> Vec<u8> {
        let head = header(event::FAULT_RUN, 0, 5, 6, 6, 1000);
        let stride = (-1_i64).cast_unsigned();
        let mut b = with(head, &[5000, 0x7000, 0x400, 0xabc, stride, count, 2000, 300, 1200]);
        histogram.iter().for_each(|n| b.extend(n.to_le_bytes()));
        b
    }

    fn decode(bytes: &[u8]) -> Result<Run, Undecodable> {
        let mut r = Reader::new(bytes);
        let h = r.header()?;
        Run::decode(h, &mut r)
    }

    #[test]
    fn a_run_is_read_back() {
        let mut histogram = [0; FAULT_BUCKETS];
        (histogram[1], histogram[3]) = (2, 1);
        let bytes = run(3, histogram);
        let row = decode(&bytes).unwrap().row(Some(4));
        assert_eq!((row.ts, row.span, row.count, row.stride_pages), (1000, 5000, 3, -1));
        assert_eq!((row.dur_sum, row.dur_min, row.dur_max, row.error_code), (2000, 300, 1200, 6));
        assert_eq!(row.histogram(), histogram);
        assert_eq!(count_and_sum(&bytes), Some((3, 2000)));
        for n in 0..bytes.len() {
            assert!(decode(&bytes[..n]).is_err(), "{n} bytes");
        }
    }

    #[test]
    fn a_run_whose_histogram_has_another_sum_is_not_believed() {
        let mut histogram = [0; FAULT_BUCKETS];
        histogram[0] = 2;
        assert!(decode(&run(3, histogram)).is_err());
        histogram[0] = 1;
        assert!(decode(&run(1, histogram)).is_err());
    }

    #[test]
    fn a_batch_becomes_a_row_each() {
        let head = header(event::FAULT_BATCH, 1 | 6 << 8, 5, 6, 4, 1000);
        let entry = |after: u64, dur: u64| after | dur << 32;
        let bytes = with(head, &[0x400, 0xabc, 2, 0x7001, entry(0, 50), 0x9002, entry(70, 60)]);
        let mut r = Reader::new(&bytes);
        let h = r.header().unwrap();
        let rows: Vec<Fault> = Batch::decode(h, &mut r).unwrap().rows(None).collect();
        let found: Vec<_> = rows.iter().map(|f| (f.ts, f.dur, f.addr)).collect();
        assert_eq!(found, [(1000, Some(50), 0x7001), (1070, Some(60), 0x9002)]);
        assert!(rows.iter().all(|f| f.weight == Some(64) && f.kind == mtrace_formats::tables::FaultKind::Major));
        assert_eq!(count_and_sum(&bytes), Some((2, 110)));
        let bytes = with(header(event::FAULT_BATCH, 0, 5, 6, 4, 0), &[0, 0, 33]);
        let mut r = Reader::new(&bytes);
        let h = r.header().unwrap();
        assert!(Batch::decode(h, &mut r).is_err());
    }
}
