//! `mtrace doctor`: what this host can record.

use mtrace_recorder::doctor::{CheckStatus, check_jvms, diagnose, probes, worst};
use mtrace_recorder::host::HostFacts;

use crate::exit::{Code, Failure};
use crate::text;

pub(crate) fn run() -> Result<Code, Failure> {
    let facts = HostFacts::gather();
    let mut checks = diagnose(&facts);
    checks.extend(probes(&facts));
    checks.extend(check_jvms());
    for check in &checks {
        let mark = match check.status {
            CheckStatus::Ok => "ok      ",
            CheckStatus::Degraded => "degraded",
            CheckStatus::Missing => "MISSING ",
        };
        text::out(&text::clean(&format!("{mark}  {}: {}", check.name, check.found)))?;
        if check.status != CheckStatus::Ok {
            text::out(&text::clean(&format!("            means: {}", check.means)))?;
            if let Some(fix) = &check.fix {
                text::out(&text::clean(&format!("            fix:   {fix}")))?;
            }
        }
    }
    Ok(if worst(&checks) == CheckStatus::Missing { Code::Host } else { Code::Success })
}
