//! What a check has found, as text and as JSON.

use anstyle::{AnsiColor, Style};
use serde_json::{Value, json};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    /// As it should be.
    Ok,
    /// It works, with less than Lockstock promises or slower than it should.
    Warning,
    /// It does not work, or a guarantee does not hold.
    Error,
}

/// The result of one check.
#[derive(Debug)]
pub(super) struct Finding {
    /// What was checked: `store.eviction`. A stable name.
    check: &'static str,
    severity: Severity,
    what: String,
    /// Why it matters to this server. Empty if it is as it should be.
    why: String,
    /// The command or the setting that changes it. Empty if it is as it should be.
    change: String,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }

    fn style(self) -> Style {
        match self {
            Self::Ok => AnsiColor::Green.on_default(),
            Self::Warning => AnsiColor::Yellow.on_default(),
            Self::Error => AnsiColor::Red.on_default().bold(),
        }
    }

    /// Returns the exit code of the command if this is the worst finding.
    pub(super) fn exit_code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warning => 1,
            Self::Error => 2,
        }
    }
}

impl Finding {
    pub(super) fn ok(check: &'static str, what: impl Into<String>) -> Self {
        Self::new(check, Severity::Ok, what, "", "")
    }

    pub(super) fn warning(
        check: &'static str,
        what: impl Into<String>,
        why: impl Into<String>,
        change: impl Into<String>,
    ) -> Self {
        Self::new(check, Severity::Warning, what, why, change)
    }

    pub(super) fn error(
        check: &'static str,
        what: impl Into<String>,
        why: impl Into<String>,
        change: impl Into<String>,
    ) -> Self {
        Self::new(check, Severity::Error, what, why, change)
    }

    fn new(
        check: &'static str,
        severity: Severity,
        what: impl Into<String>,
        why: impl Into<String>,
        change: impl Into<String>,
    ) -> Self {
        Self {
            check,
            severity,
            what: what.into(),
            why: why.into(),
            change: change.into(),
        }
    }
}

/// Returns the severity of the worst finding.
pub(super) fn worst(findings: &[Finding]) -> Severity {
    let severities = findings.iter().map(|finding| finding.severity);
    severities.max().unwrap_or(Severity::Ok)
}

/// Returns the findings as aligned text with colours.
pub(super) fn to_text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max();
    let width = width.unwrap_or_default();
    let indent = " ".repeat("warning".len() + 2 + width + 2);
    let mut text = String::new();
    for finding in findings {
        let Finding {
            check,
            severity,
            what,
            why,
            change,
        } = finding;
        let (style, word) = (severity.style(), severity.as_str());
        text += &format!("{style}{word:<7}{style:#}  {check:<width$}  {what}\n");
        if !why.is_empty() {
            text += &format!("{indent}Why: {why}\n");
        }
        if !change.is_empty() {
            text += &format!("{indent}Change: {change}\n");
        }
    }
    let count = |severity| {
        let of_it = findings
            .iter()
            .filter(|finding| finding.severity == severity);
        of_it.count()
    };
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    text += &format!(
        "\n{errors} error{}, {warnings} warning{}, {} as it should be\n",
        plural(errors),
        plural(warnings),
        count(Severity::Ok),
    );
    text
}

/// Returns the findings as one JSON object.
pub(super) fn to_json(findings: &[Finding]) -> Value {
    let listed = findings.iter().map(|finding| {
        json!({
            "check": finding.check,
            "severity": finding.severity.as_str(),
            "what": finding.what,
            "why": finding.why,
            "change": finding.change,
        })
    });
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "severity": worst(findings).as_str(),
        "findings": listed.collect::<Vec<_>>(),
    })
}
