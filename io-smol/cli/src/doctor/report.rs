//! What the doctor tells: steps, findings, measurements, and the verdict.
//!
//! Knows: the output as text and as JSON. Does not know: how anything was found.
//!
//! The text is printed step by step, because a check can take minutes. JSON is one object at the end.

use core::time::Duration;
use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::findings::{Code, Level};
use super::secrets::Secrets;

/// The widths of the columns in the text output.
const MARK_WIDTH: usize = 4;
const NAME_WIDTH: usize = 16;

/// The result of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Good,
    Bad,
    Skipped,
}

impl Mark {
    const fn text(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Bad => "FAIL",
            Self::Skipped => "--",
        }
    }
}

/// A finding with its details.
#[derive(Clone, Debug)]
struct Finding {
    code: Code,
    level: Level,
    sentence: String,
    advice: String,
}

/// Collects, and prints as text while it collects.
pub(crate) struct Report {
    url: String,
    json: bool,
    secrets: Secrets,
    steps: Vec<Value>,
    findings: Vec<Finding>,
    measurements: Map<String, Value>,
}

impl Report {
    pub(crate) fn new(url: &str, json: bool, secrets: Secrets) -> Self {
        let url = secrets.scrub(url);
        if !json {
            print(&format!("mcp-sse doctor {url}\n\n"));
        }
        Self {
            url,
            json,
            secrets,
            steps: Vec::new(),
            findings: Vec::new(),
            measurements: Map::new(),
        }
    }

    /// Keeps a value that was received out of all further output.
    pub(crate) fn hide(&mut self, secret: &str) {
        self.secrets.add(secret);
    }

    /// Tells the result of a step, and how long it took.
    pub(crate) fn step(&mut self, name: &str, mark: Mark, text: &str, took: Option<Duration>) {
        let text = self.secrets.scrub(text);
        let mark = mark.text();
        if !self.json {
            let took = took.map_or(String::new(), |took| format!(" ({})", in_words(took)));
            print(&format!("{mark:<MARK_WIDTH$}  {name:<NAME_WIDTH$}  {text}{took}\n"));
        }
        let took = took.map(milliseconds);
        self.steps.push(json!({"name": name, "result": mark, "text": text, "ms": took}));
    }

    /// Adds a finding. A code is told once.
    pub(crate) fn find(&mut self, code: Code, sentence: &str) {
        self.find_with(code, sentence, "");
    }

    /// Adds a finding with advice for this case, in front of the general advice.
    pub(crate) fn find_with(&mut self, code: Code, sentence: &str, advice: &str) {
        self.push(code, code.level(), sentence, advice);
    }

    /// Adds a finding that the user has said is no problem.
    #[cfg(any(feature = "tls", test))]
    pub(crate) fn note(&mut self, code: Code, sentence: &str) {
        self.push(code, Level::Note, sentence, "");
    }

    fn push(&mut self, code: Code, level: Level, sentence: &str, advice: &str) {
        if self.findings.iter().any(|known| known.code == code) {
            return;
        }
        let sentence = self.secrets.scrub(sentence);
        let advice = self.secrets.scrub(format!("{advice} {}", code.advice()).trim());
        self.findings.push(Finding { code, level, sentence, advice });
    }

    /// Adds a time.
    pub(crate) fn measure(&mut self, name: &str, time: Duration) {
        self.record(name, milliseconds(time).into());
    }

    /// Adds a value that was measured or received.
    pub(crate) fn record(&mut self, name: &str, value: Value) {
        let value = match value.as_str() {
            Some(text) => Value::String(self.secrets.scrub(text)),
            None => value,
        };
        self.measurements.insert(name.into(), value);
    }

    /// The number of findings that are not notes.
    pub(crate) fn faults(&self) -> usize {
        self.findings.iter().filter(|finding| finding.level != Level::Note).count()
    }

    /// Prints the findings, or the whole as JSON.
    pub(crate) fn finish(&self) {
        if self.json {
            print(&format!("{}\n", self.to_json()));
        } else {
            print(&self.to_text());
        }
    }

    fn to_json(&self) -> Value {
        let finding = |finding: &Finding| {
            json!({
                "code": finding.code.text(),
                "level": finding.level.text(),
                "sentence": finding.sentence,
                "advice": finding.advice,
            })
        };
        json!({
            "url": self.url,
            "verdict": if self.faults() == 0 { "good" } else { "faulty" },
            "findings": self.findings.iter().map(finding).collect::<Vec<_>>(),
            "steps": self.steps,
            "measurements": self.measurements,
        })
    }

    fn to_text(&self) -> String {
        let mut text = String::from("\n");
        for finding in &self.findings {
            let Finding { code, level, sentence, advice } = finding;
            text += &format!("{} ({}): {sentence}\n", level.text(), code.text());
            if *level != Level::Note {
                text += &format!("  What to do: {advice}\n");
            }
        }
        text += &match self.faults() {
            0 => "Nothing wrong was found.\n".to_owned(),
            1 => "1 thing was found.\n".to_owned(),
            count => format!("{count} things were found.\n"),
        };
        text
    }
}

/// Prints on stdout. A reader that has gone does not matter.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// A time in words.
pub(crate) fn in_words(time: Duration) -> String {
    if time < Duration::from_secs(10) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

/// Milliseconds with three digits behind the point.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_has_verdict_findings_and_no_secrets() {
        let mut secrets = Secrets::default();
        secrets.add("hunter22");
        let mut report = Report::new("http://a/hunter22", true, secrets);
        report.note(Code::CertificateSelfSigned, "It says hunter22.");
        assert_eq!(report.to_json()["verdict"], "good");
        report.find_with(Code::NotFound, "It is 404.", "Try hunter22.");
        report.find(Code::NotFound, "It is told once.");
        report.step("stream", Mark::Bad, "hunter22", Some(Duration::from_micros(1500)));
        report.record("server", "hunter22".into());
        let json = report.to_json();
        assert_eq!((&json["verdict"], report.faults()), (&"faulty".into(), 1));
        assert_eq!(json["findings"][1]["code"], "not-found");
        assert_eq!(json["steps"][0]["ms"], 1.5);
        let all = format!("{json} {}", report.to_text());
        assert!(!all.contains("hunter22") && all.contains("Try …. Use the path"), "{all}");
    }
}
