//! Advice for a command line that cannot be parsed: the equivalent line to type.
//!
//! Knows: the flags of supergateway and of the programs named mcp-proxy, and their equivalents here; how a command
//! looks that was quoted as one word. Does not know: what flags do.
//!
//! Decision: flags of other programs are answered with the line to type, and are not accepted as aliases. Several of
//! them have no equivalent here (`--header`, `--baseUrl`), and a line that works only in part is harder to correct
//! than one that is refused with its replacement.

use core::{iter, slice};
use std::ffi::{OsStr, OsString};

use clap::{Arg, Command};
use mcp_sse_bridge::command::word;

/// The number of values of a flag.
#[derive(Clone, Copy)]
enum Values {
    None,
    One,
    /// One value, if the next argument is not a flag.
    Optional,
    Two,
}

/// The equivalent of another program's flag.
#[derive(Clone, Copy)]
enum Meaning {
    /// This flag, with the same value.
    Flag(&'static str),
    /// These words. The value is dropped.
    Words(&'static [&'static str]),
    /// The value is the command to run, as a line for the shell.
    Line,
    /// `--log-level`.
    Level,
    /// `--cors-origin`.
    Origin,
    /// The value names a transport. Only HTTP+SSE is possible.
    Transport,
    /// The flag connects to another server, which is impossible here.
    Connect,
}

const NOTHING: Meaning = Meaning::Words(&[]);

/// Flags of supergateway, of mcp-proxy in Python and of mcp-proxy in TypeScript.
const FOREIGN: [(&str, Values, Meaning); 33] = [
    ("stdio", Values::One, Meaning::Line),
    ("sse", Values::One, Meaning::Connect),
    ("streamableHttp", Values::One, Meaning::Connect),
    ("oauth2Bearer", Values::One, Meaning::Connect),
    ("outputTransport", Values::One, Meaning::Transport),
    ("baseUrl", Values::One, NOTHING),
    ("ssePath", Values::One, Meaning::Flag("--sse-path")),
    ("messagePath", Values::One, Meaning::Flag("--message-path")),
    ("streamableHttpPath", Values::One, NOTHING),
    ("header", Values::One, NOTHING),
    ("logLevel", Values::One, Meaning::Level),
    ("cors", Values::Optional, Meaning::Origin),
    ("healthEndpoint", Values::One, NOTHING),
    ("stateful", Values::None, NOTHING),
    ("sessionTimeout", Values::One, NOTHING),
    ("protocolVersion", Values::One, NOTHING),
    ("sse-port", Values::One, Meaning::Flag("--port")),
    ("sse-host", Values::One, Meaning::Flag("--host")),
    ("transport", Values::One, Meaning::Transport),
    ("headers", Values::Two, NOTHING),
    ("named-server", Values::Two, Meaning::Words(&["--config", "FILE"])),
    ("named-server-config", Values::One, Meaning::Flag("--config")),
    ("pass-environment", Values::None, NOTHING),
    ("no-pass-environment", Values::None, Meaning::Words(&["--clean-env"])),
    ("debug", Values::None, Meaning::Words(&["--log-level", "debug"])),
    ("no-debug", Values::None, NOTHING),
    ("stateless", Values::None, NOTHING),
    ("no-stateless", Values::None, NOTHING),
    ("server", Values::One, Meaning::Transport),
    ("endpoint", Values::One, Meaning::Flag("--sse-path")),
    ("sseEndpoint", Values::One, Meaning::Flag("--sse-path")),
    ("streamEndpoint", Values::One, NOTHING),
    ("apiKey", Values::One, Meaning::Words(&["--auth-token-env", "NAME"])),
];

/// The arguments that were not read yet.
type Rest<'a> = iter::Peekable<iter::Skip<slice::Iter<'a, OsString>>>;

/// A command line that was parsed leniently.
#[derive(Default)]
struct ParsedLine {
    /// The words in front of the command to run, quoted for a shell.
    flags: Vec<String>,
    /// The command to run.
    command: Vec<OsString>,
    /// The command to run, as a line for the shell.
    line: Option<String>,
    /// The flags of other programs that were given.
    foreign: Vec<String>,
    /// A message about a flag of another program that has no equivalent.
    impossible: Option<String>,
    /// Whether the command `bridge` was given.
    names_bridge: bool,
    /// Whether the line to type has the command `bridge`.
    bridge: bool,
    /// The first word that is neither a flag nor a command of this program, if `bridge` was not given in front of it.
    stray: Option<String>,
}

/// The message about `args`, which `cli` could not parse: the line to type, or why there is none. `None` if the
/// message of the parser is better. `args` begins with the program's name.
#[must_use]
pub(crate) fn advice(args: &[OsString], cli: &Command) -> Option<String> {
    let read = ParsedLine::of(args, cli)?;
    if let Some(impossible) = read.impossible {
        return Some(impossible);
    }
    match (&*read.foreign, &read.stray) {
        ([], None) if read.bridge && !read.names_bridge => {
            Some(format!("a program is served by the command bridge: type {}", read.typed()))
        }
        ([], None) => None,
        ([], Some(stray)) => {
            let line = read.typed();
            Some(format!("there is no command {stray}; to serve that program, type {line}"))
        }
        ([one], _) => Some(format!("{one} is a flag of another program: type {}", read.typed())),
        ([all @ .., last], _) => {
            let all = all.join(", ");
            Some(format!("{all} and {last} are flags of another program: type {}", read.typed()))
        }
    }
}

/// The message if the whole command to run is one word that does not name a program: the line to type with separate
/// words, and the line to type with a shell. `None` if the word contains no white space.
#[must_use]
pub(crate) fn advice_on_one_word(args: &[OsString], cli: &Command) -> Option<String> {
    let mut read = ParsedLine::of(args, cli)?;
    let [one] = &*read.command else { return None };
    let one = one.to_str().filter(|one| one.contains(char::is_whitespace))?;
    read.line = Some(one.to_owned());
    let whole = read.typed_for_shell(one);
    Some(if splits(one) {
        let apart = read.typed();
        format!("and it is one word: type {apart}, or, for a shell to read it, {whole}")
    } else {
        format!("and it is one word: type {whole}")
    })
}

/// Whether a shell would only split `line` at white space.
fn splits(line: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || " \t/._-+,:@=%".contains(c);
    // A first word with "=" would set a variable.
    let first = line.split_whitespace().next();
    line.chars().all(plain) && first.is_some_and(|word| !word.contains('='))
}

impl ParsedLine {
    /// Parses a command line. `None` if it has a flag that no known program has.
    fn of(args: &[OsString], cli: &Command) -> Option<Self> {
        let mut read = Self::default();
        let mut rest = args.iter().skip(1).peekable();
        while let Some(arg) = rest.next() {
            if arg == "--" {
                read.command = rest.cloned().collect();
                break;
            }
            let text = arg.to_string_lossy();
            match text.strip_prefix("--") {
                Some(flag) => read.read_flag(arg, flag, &mut rest, cli)?,
                None if text.starts_with('-') => return None,
                None if !read.bridge && cli.find_subcommand(&*text).is_some() => {
                    if text != "bridge" {
                        return None;
                    }
                    (read.names_bridge, read.bridge) = (true, true);
                }
                None => {
                    read.stray = (!read.bridge).then(|| text.into_owned());
                    read.command = iter::once(arg).chain(rest).cloned().collect();
                    break;
                }
            }
        }
        read.bridge |= read.says_what_to_run();
        Some(read)
    }

    /// Reads the flag `arg` (`flag` is the text without dashes) and its values.
    fn read_flag(
        &mut self,
        arg: &OsString,
        flag: &str,
        rest: &mut Rest<'_>,
        cli: &Command,
    ) -> Option<()> {
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        match own_flag(cli, name) {
            None => self.read_foreign_flag(name, value, rest),
            Some(own) if own.get_action().takes_values() && value.is_none() => {
                self.read_own_value(name, rest)
            }
            Some(_) => {
                self.flags.push(word(arg));
                Some(())
            }
        }
    }

    /// Reads the value of a flag of this program.
    fn read_own_value(&mut self, name: &str, rest: &mut Rest<'_>) -> Option<()> {
        let mut value = next_value(rest)?;
        if name == "shell" {
            (self.line, self.bridge) = (Some(value), true);
            return Some(());
        }
        if name == "env" && !value.contains('=') {
            self.foreign.push(format!("--env {value}"));
            value = format!("{value}={}", next_value(rest)?);
        }
        self.flags.extend([format!("--{name}"), word(OsStr::new(&value))]);
        Some(())
    }

    /// Reads a flag of another program and its values, and adds its equivalent.
    fn read_foreign_flag(
        &mut self,
        name: &str,
        mut value: Option<String>,
        rest: &mut Rest<'_>,
    ) -> Option<()> {
        let &(_, values, meaning) = FOREIGN.iter().find(|(known, ..)| *known == name)?;
        match values {
            Values::None => {}
            Values::One | Values::Two if value.is_none() => value = Some(next_value(rest)?),
            Values::Optional
                if value.is_none() && rest.peek().is_some_and(|next| !is_flag(next)) =>
            {
                value = next_value(rest);
            }
            Values::One | Values::Two | Values::Optional => {}
        }
        if matches!(values, Values::Two) {
            next_value(rest)?;
        }
        self.foreign.push(format!("--{name}"));
        self.translate(name, meaning, value);
        Some(())
    }

    fn says_what_to_run(&self) -> bool {
        !self.command.is_empty()
            || self.line.is_some()
            || self.flags.iter().any(|flag| flag.starts_with("--config"))
    }

    fn translate(&mut self, name: &str, meaning: Meaning, value: Option<String>) {
        let mut say = |flag: &str, value: &str| {
            self.flags.extend([flag.to_owned(), word(OsStr::new(value))]);
        };
        let given = value.as_deref().unwrap_or_default();
        match meaning {
            Meaning::Flag(flag) => say(flag, given),
            Meaning::Words(words) => self.flags.extend(words.iter().map(|&word| word.to_owned())),
            Meaning::Level => say("--log-level", if given == "none" { "off" } else { given }),
            Meaning::Origin => say("--cors-origin", value.as_deref().unwrap_or("*")),
            Meaning::Transport if given.eq_ignore_ascii_case("sse") => {}
            Meaning::Line => self.line = value,
            Meaning::Transport => {
                let why = "mcp-sse serves HTTP+SSE and no other transport";
                self.impossible = Some(format!("--{name} {given}: {why}"));
            }
            Meaning::Connect => {
                let why = "mcp-sse serves a program on this machine, and does not connect to other servers";
                self.impossible = Some(format!("--{name}: {why}"));
            }
        }
    }

    /// The line to type.
    fn typed(&self) -> String {
        match &self.line {
            Some(line) if !splits(line) => self.typed_for_shell(line),
            Some(line) => self.typed_with(line.split_whitespace().map(str::to_owned)),
            // The command to run was not given, or not as a separate word.
            None if self.bridge && !self.says_what_to_run() => {
                self.typed_with(["COMMAND".to_owned()])
            }
            None => self.typed_with(self.command.iter().map(|arg| word(arg))),
        }
    }

    fn typed_for_shell(&self, line: &str) -> String {
        self.typed_with(["--shell".to_owned(), word(OsStr::new(line))])
    }

    fn typed_with(&self, command: impl IntoIterator<Item = String>) -> String {
        let own = iter::once("mcp-sse").chain(self.bridge.then_some("bridge")).map(str::to_owned);
        let words: Vec<String> = own.chain(self.flags.iter().cloned()).chain(command).collect();
        words.join(" ")
    }
}

fn next_value(rest: &mut Rest<'_>) -> Option<String> {
    rest.next().map(|value| value.to_string_lossy().into_owned())
}

fn is_flag(arg: &OsStr) -> bool {
    arg.as_encoded_bytes().starts_with(b"-")
}

/// The flag of this program or of one of its commands that has this name.
fn own_flag<'c>(cli: &'c Command, name: &str) -> Option<&'c Arg> {
    let all = iter::once(cli).chain(cli.get_subcommands());
    all.flat_map(Command::get_arguments).find(|arg| arg.get_long() == Some(name))
}
