//! Numbers for people: with units, thousands separated, in the unit that a person would choose.
//!
//! All functions are pure and give the same text on every machine (no locale).

use crate::model::{CodeLocation, Confidence, LedgerCategory};

const NS_UNITS: [(i64, &str); 4] = [(1, "ns"), (1_000, "µs"), (1_000_000, "ms"), (1_000_000_000, "s")];
const BYTE_UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Last word about a quantity that does not change.
pub(crate) const LEVEL: &str = "throughout";

/// `54301` → `54,301`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A count with its noun: `1 fault`, `54,301 faults`.
pub(crate) fn counted(n: u64, singular: &str, plural: &str) -> String {
    format!("{} {}", count(n), if n == 1 { singular } else { plural })
}

/// Nanoseconds in the unit that leaves one to three digits before the point: `212 ms`, `1.9 µs`, `2 min 5 s`.
pub(crate) fn duration(ns: i64) -> String {
    if ns < 0 {
        return format!("−{}", duration(ns.saturating_neg()));
    }
    if ns >= 120_000_000_000 {
        return minutes(ns / 1_000_000_000);
    }
    let (divisor, unit) = duration_unit(ns);
    format!("{} {unit}", three_digits(ns as f64 / divisor as f64))
}

/// A range in one unit where that reads well: `190–230 ms`, `900 µs – 1.2 ms`.
pub(crate) fn duration_range(low_ns: i64, high_ns: i64) -> String {
    let (low, high) = (duration(low_ns), duration(high_ns));
    if low == high {
        return low;
    }
    match (low.rsplit_once(' '), high.rsplit_once(' ')) {
        (Some((a, unit_a)), Some((b, unit_b))) if unit_a == unit_b && !a.contains(' ') && !b.contains(' ') => {
            format!("{a}–{b} {unit_b}")
        }
        _ if low_ns == 0 => format!("0–{high}"),
        _ => format!("{low} – {high}"),
    }
}

/// A moment relative to another one, with its sign: `+212 ms`, `−3 ms`, `0`.
pub(crate) fn offset(ts: i64, zero: i64) -> String {
    match ts.saturating_sub(zero) {
        0 => "0".to_owned(),
        d if d > 0 => format!("+{}", duration(d)),
        d => duration(d),
    }
}

/// `268435456` → `256 MiB`.
pub(crate) fn bytes(n: u64) -> String {
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1023.5 && unit + 1 < BYTE_UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", three_digits(value), BYTE_UNITS[unit])
}

/// Part of a whole: `74 %`, `3.4 %`, `< 0.1 %`; `100 %` only for everything, `–` of nothing.
pub(crate) fn share(part: f64, whole: f64) -> String {
    if whole.is_nan() || whole <= 0.0 || !part.is_finite() {
        return "–".to_owned();
    }
    let percent = 100.0 * part / whole;
    match percent {
        0.0 => "0 %".to_owned(),
        p if p > 0.0 && p < 0.1 => "< 0.1 %".to_owned(),
        // Never round up to "all of it": one lost event in a million is not none.
        p if p > 99.0 && p < 100.0 => format!("{:.1} %", (p * 10.0).floor() / 10.0),
        p if p < 9.95 => format!("{} %", trim_zeros(format!("{p:.1}"))),
        p => format!("{p:.0} %"),
    }
}

/// [`share`] of counts.
pub(crate) fn share_of((part, whole): (u64, u64)) -> String {
    share(part as f64, whole as f64)
}

/// A value of a series in its unit.
pub(crate) fn quantity(value: f64, unit: &str) -> String {
    let whole = value.max(0.0).round() as u64;
    match unit {
        "bytes" => bytes(whole),
        "ns" => duration(value.round() as i64),
        "share" => share(value, 1.0),
        "" | "1" => plain(value),
        "1/s" => format!("{}/s", plain(value)),
        _ => format!("{} {unit}", plain(value)),
    }
}

/// The values between two bounds: `20 MiB to 234 MiB`, `0 to 300 faults per ms`, `1.5 GiB throughout`.
pub(crate) fn quantity_range(min: f64, max: f64, unit: &str) -> String {
    let (low, high) = (quantity(min, unit), quantity(max, unit));
    if low == high {
        return format!("{low} {LEVEL}");
    }
    match unit {
        "bytes" | "ns" | "share" | "" | "1" | "1/s" => format!("{low} to {high}"),
        _ => format!("{} to {high}", plain(min)),
    }
}

/// Nanoseconds since 1970 as `2026-11-23 17:05:12.345 UTC`: to find it in a log.
pub(crate) fn utc_ms(ns: i64) -> String {
    let text = utc(ns);
    format!("{}.{:03} UTC", text.trim_end_matches(" UTC"), ns.rem_euclid(1_000_000_000) / 1_000_000)
}

/// Nanoseconds since 1970 as `2026-11-23 17:05:12 UTC` (proleptic Gregorian calendar).
pub(crate) fn utc(ns: i64) -> String {
    let seconds = ns.div_euclid(1_000_000_000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", second / 3600, second / 60 % 60, second % 60)
}

/// `github.com/acme/svc/cache.(*Store).Fill` → `cache.(*Store).Fill`.
pub(crate) fn short_function(name: &str) -> &str {
    let head = name.find(['(', '[', '{', '<', ' ']).unwrap_or(name.len());
    match name[..head].rfind('/') {
        Some(slash) if slash + 1 < name.len() => &name[slash + 1..],
        _ => name,
    }
}

/// Last component of a path, for both kinds of separators.
pub(crate) fn file_name(path: &str) -> &str {
    match path.trim_end_matches(['/', '\\']).rfind(['/', '\\']) {
        Some(i) => &path[i + 1..],
        None => path,
    }
}

/// `store.go:88`, or `store.go`; null without a file.
pub(crate) fn file_line(file: Option<&str>, line: Option<u32>) -> Option<String> {
    let name = file_name(file?);
    Some(line.map_or_else(|| name.to_owned(), |l| format!("{name}:{l}")))
}

/// `cache.(*Store).Fill (store.go:88)`.
pub(crate) fn location(loc: &CodeLocation) -> String {
    let function = short_function(&loc.function);
    match file_line(loc.file.as_deref(), loc.line) {
        Some(at) => format!("{function} ({at})"),
        None => function.to_owned(),
    }
}

/// Name of a confidence.
pub(crate) fn confidence(c: Confidence) -> &'static str {
    match c {
        Confidence::Low => "low",
        Confidence::Medium => "medium",
        Confidence::High => "high",
    }
}

/// Name of a ledger category.
pub(crate) fn category(c: LedgerCategory) -> &'static str {
    match c {
        LedgerCategory::GcStw => "GC stop-the-world",
        LedgerCategory::Faults => "page faults",
        LedgerCategory::MemoryCalls => "memory calls",
        LedgerCategory::FileIo => "file I/O",
        LedgerCategory::Network => "network",
        LedgerCategory::Throttled => "memory throttling",
        LedgerCategory::WaitingForClient => "waiting for a client",
        LedgerCategory::WaitingForCpu => "waiting for a CPU",
        LedgerCategory::Recorder => "being recorded",
        LedgerCategory::OnCpu => "on CPU, own code",
        LedgerCategory::Unexplained => "unexplained",
    }
}

fn duration_unit(ns: i64) -> (i64, &'static str) {
    // 999.5 and more would be shown as four digits: take the next unit.
    NS_UNITS.iter().copied().find(|(divisor, _)| (ns as f64) < *divisor as f64 * 999.5).unwrap_or(NS_UNITS[3])
}

fn minutes(seconds: i64) -> String {
    let pair = |big: i64, big_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big} {big_unit}"),
        _ => format!("{big} {big_unit} {small} {small_unit}"),
    };
    if seconds < 7200 {
        pair(seconds / 60, "min", seconds % 60, "s")
    } else {
        pair(seconds / 3600, "h", seconds / 60 % 60, "min")
    }
}

fn three_digits(value: f64) -> String {
    if value >= 99.95 {
        count(value.round() as u64)
    } else if value >= 9.995 {
        trim_zeros(format!("{value:.1}"))
    } else {
        trim_zeros(format!("{value:.2}"))
    }
}

fn plain(value: f64) -> String {
    if value < 0.0 { format!("−{}", three_digits(-value)) } else { three_digits(value) }
}

fn trim_zeros(s: String) -> String {
    if s.contains('.') { s.trim_end_matches('0').trim_end_matches('.').to_owned() } else { s }
}

/// Days since 1970-01-01 to year, month, day: eras of 400 years that begin on a first of March.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn durations_take_the_unit_of_a_person() {
        for (ns, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1 µs"),
            (1_900, "1.9 µs"),
            (212_000_000, "212 ms"),
            (212_400_000, "212 ms"),
            (41_260_000, "41.3 ms"),
            (999_499_999, "999 ms"),
            (999_500_000, "1 s"),
            (1_460_000_000, "1.46 s"),
            (119_900_000_000, "120 s"),
            (125_000_000_000, "2 min 5 s"),
            (7_260_000_000_000, "2 h 1 min"),
            (-3_000_000, "−3 ms"),
        ] {
            assert_eq!(duration(ns), text, "{ns}");
        }
        assert!(duration(i64::MIN).starts_with('−'));
    }

    #[test]
    fn ranges_share_a_unit_where_they_can() {
        assert_eq!(duration_range(190_000_000, 230_000_000), "190–230 ms");
        assert_eq!(duration_range(900_000, 1_200_000), "900 µs – 1.2 ms");
        assert_eq!(duration_range(0, 1_200_000), "0–1.2 ms");
        assert_eq!(duration_range(5, 5), "5 ns");
    }

    #[test]
    fn bytes_and_counts() {
        assert_eq!(count(0), "0");
        assert_eq!(count(54_301), "54,301");
        assert_eq!(count(1_000_000), "1,000,000");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(4096), "4 KiB");
        assert_eq!(bytes(268_435_456), "256 MiB");
        assert_eq!(bytes(1_610_612_736), "1.5 GiB");
        assert_eq!(bytes(1_048_575), "1 MiB");
        assert_eq!(bytes(u64::MAX), "16 EiB");
        assert_eq!(counted(1, "fault", "faults"), "1 fault");
    }

    #[test]
    fn a_share_is_100_percent_only_if_it_is_everything() {
        assert_eq!(share(1.0, 1.0), "100 %");
        assert_eq!(share_of((999_999, 1_000_000)), "99.9 %");
        assert_eq!(share(212.0, 286.0), "74 %");
        assert_eq!(share(3.4, 100.0), "3.4 %");
        assert_eq!(share(1.0, 1e6), "< 0.1 %");
        assert_eq!(share(0.0, 5.0), "0 %");
        assert_eq!(share(1.0, 0.0), "–");
        assert_eq!(share(f64::NAN, 1.0), "–");
    }

    #[test]
    fn dates() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_400_000_000_000), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(1_795_453_512_000_000_000), "2026-11-23 17:05:12 UTC");
        assert_eq!(utc(-1), "1969-12-31 23:59:59 UTC");
        assert_eq!(utc_ms(1_795_453_512_045_999_999), "2026-11-23 17:05:12.045 UTC");
        assert_eq!(utc_ms(-1), "1969-12-31 23:59:59.999 UTC");
    }

    #[test]
    fn names() {
        assert_eq!(short_function("github.com/acme/svc/cache.(*Store).Fill"), "cache.(*Store).Fill");
        assert_eq!(short_function("main.Map[go.shape.string,a/b.T]"), "main.Map[go.shape.string,a/b.T]");
        assert_eq!(short_function("operator/"), "operator/");
        assert_eq!(short_function("std::ops::Div<T>::operator/"), "std::ops::Div<T>::operator/");
        assert_eq!(file_name("/src/cache/store.go"), "store.go");
        assert_eq!(file_name("C:\\src\\store.go"), "store.go");
        assert_eq!(file_line(Some("/a/store.go"), Some(88)).unwrap(), "store.go:88");
    }
}
