//! Reads one TOML table into the configuration, key by key, and notes every mistake instead of stopping at the first.
//!
//! The keys that are asked for are the keys that exist, so a key left over at the end is an unknown one.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use toml::{Table, Value};

/// One mistake in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands: a file, or the command line.
    pub source: String,
    /// The key with its sections (`network.conf_dir`); empty for a mistake of the whole file.
    pub key: String,
    /// What is wrong and what is allowed.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => write!(f, "{}: {}", self.source, self.text),
            key => write!(f, "{}: {key}: {}", self.source, self.text),
        }
    }
}

/// A table being read, with the place where its mistakes are collected.
pub(super) struct Reader<'a> {
    source: &'a str,
    section: String,
    table: Table,
    known: Vec<&'static str>,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: &'a str, table: Table, problems: &'a mut Vec<Problem>) -> Self {
        Self { source, section: String::new(), table, known: Vec::new(), problems }
    }

    /// An absolute path.
    pub(super) fn path(&mut self, key: &'static str, target: &mut PathBuf) {
        if let Some(path) = self.text(key).and_then(|text| self.absolute(key, &text)) {
            *target = path;
        }
    }

    /// An absolute path, or an empty text for none.
    pub(super) fn optional_path(&mut self, key: &'static str, target: &mut PathBuf) {
        match self.text(key) {
            Some(text) if text.is_empty() => *target = PathBuf::new(),
            Some(text) => {
                if let Some(path) = self.absolute(key, &text) {
                    *target = path;
                }
            }
            None => {}
        }
    }

    /// A list of absolute paths.
    pub(super) fn paths(&mut self, key: &'static str, target: &mut Vec<PathBuf>) {
        if let Some(texts) = self.list(key) {
            *target = texts.iter().filter_map(|text| self.absolute(key, text)).collect();
        }
    }

    /// A text of any content.
    pub(super) fn string(&mut self, key: &'static str, target: &mut String) {
        if let Some(text) = self.text(key) {
            *target = text;
        }
    }

    /// A text that stands for a value.
    pub(super) fn value<T: FromStr<Err = String>>(&mut self, key: &'static str, target: &mut T) {
        match self.text(key).map(|text| text.parse()) {
            Some(Ok(value)) => *target = value,
            Some(Err(why)) => self.problem(key, why),
            None => {}
        }
    }

    /// A list of texts.
    pub(super) fn strings(&mut self, key: &'static str, target: &mut Vec<String>) {
        if let Some(texts) = self.list(key) {
            *target = texts;
        }
    }

    /// A list of texts, each of which stands for a value.
    pub(super) fn parsed<T: FromStr<Err = String>>(&mut self, key: &'static str, target: &mut Vec<T>) {
        let Some(texts) = self.list(key) else { return };
        target.clear();
        for text in texts {
            match text.parse() {
                Ok(value) => target.push(value),
                Err(why) => self.problem(key, why),
            }
        }
    }

    /// Yes or no.
    pub(super) fn flag(&mut self, key: &'static str, target: &mut bool) {
        match self.take(key) {
            None => {}
            Some(Value::Boolean(value)) => *target = value,
            Some(other) => self.problem(key, format!("{other} is neither true nor false")),
        }
    }

    /// Texts by names that are free, as an inline table.
    pub(super) fn map(&mut self, key: &'static str, target: &mut BTreeMap<String, String>) {
        let Some(table) = self.table(key) else { return };
        target.clear();
        for (name, value) in table {
            match value {
                Value::String(text) => drop(target.insert(name, text)),
                other => self.problem(&format!("{key}.{name}"), format!("{other} is not a text in quotes")),
            }
        }
    }

    /// One of a closed set of words.
    pub(super) fn word<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)], target: &mut T) {
        let Some(text) = self.text(key) else { return };
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => *target = *value,
            None => {
                let allowed: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
                self.problem(key, format!("{text:?} is not one of {}", allowed.join(", ")));
            }
        }
    }

    /// A whole number within bounds.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        bounds: std::ops::RangeInclusive<u64>,
        target: &mut u64,
    ) {
        match self.take(key) {
            None => {}
            Some(Value::Integer(n)) if u64::try_from(n).is_ok_and(|n| bounds.contains(&n)) => {
                *target = n.unsigned_abs();
            }
            Some(other) => {
                let (low, high) = (bounds.start(), bounds.end());
                self.problem(key, format!("{other} is not a whole number from {low} to {high}"));
            }
        }
    }

    /// A whole number that is not below the least, or 0, which stands for none.
    pub(super) fn number_or_none(&mut self, key: &'static str, least: u64, target: &mut u64) {
        match self.take(key) {
            None => {}
            Some(Value::Integer(n)) if u64::try_from(n).is_ok_and(|n| n == 0 || n >= least) => {
                *target = n.unsigned_abs();
            }
            Some(other) => {
                self.problem(key, format!("{other} is neither 0 nor a whole number from {least} on"));
            }
        }
    }

    /// `host:port` with a numeric host, or an empty text for none.
    pub(super) fn address(&mut self, key: &'static str, target: &mut Option<SocketAddr>) {
        let Some(text) = self.text(key) else { return };
        match text.parse() {
            _ if text.is_empty() => *target = None,
            Ok(address) => *target = Some(address),
            Err(_) => {
                self.problem(key, format!("{text:?} is not an IP address and port such as \"127.0.0.1:0\""))
            }
        }
    }

    /// A section with keys of its own.
    pub(super) fn section(&mut self, key: &'static str, read: impl FnOnce(&mut Reader<'_>)) {
        if let Some(table) = self.table(key) {
            self.nested(key, table, read);
        }
    }

    /// A section of sections whose names are free, such as `runtimes`.
    pub(super) fn named_sections<T>(
        &mut self,
        key: &'static str,
        target: &mut BTreeMap<String, T>,
        new: impl Fn(&str) -> T,
        read: impl Fn(&mut Reader<'_>, &mut T),
    ) {
        let Some(table) = self.table(key) else { return };
        for (name, value) in table {
            let path = format!("{key}.{name}");
            match value {
                Value::Table(inner) => {
                    let entry = target.entry(name.clone()).or_insert_with(|| new(&name));
                    self.nested(&path, inner, |reader| read(reader, entry));
                }
                other => self.problem(&path, format!("{other} is not a section; write [{path}]")),
            }
        }
    }

    /// Reports what is left as unknown, with the keys that exist here.
    pub(super) fn finish(self) {
        let known = self.known.join(", ");
        for key in self.table.keys() {
            let key = self.qualified(key);
            let text = format!("unknown key; the keys here are {known}");
            self.problems.push(Problem { source: self.source.to_owned(), key, text });
        }
    }

    fn nested(&mut self, section: &str, table: Table, read: impl FnOnce(&mut Reader<'_>)) {
        let mut reader = Reader {
            source: self.source,
            section: format!("{}{section}.", self.section),
            table,
            known: Vec::new(),
            problems: self.problems,
        };
        read(&mut reader);
        reader.finish();
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    fn table(&mut self, key: &'static str) -> Option<Table> {
        match self.take(key)? {
            Value::Table(table) => Some(table),
            other => {
                self.problem(key, format!("{other} is not a section; write [{key}]"));
                None
            }
        }
    }

    fn text(&mut self, key: &'static str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) => Some(text),
            other => {
                self.problem(key, format!("{other} is not a text in quotes"));
                None
            }
        }
    }

    fn list(&mut self, key: &'static str) -> Option<Vec<String>> {
        let value = self.take(key)?;
        let texts = value.as_array().and_then(|items| {
            items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        if texts.is_none() {
            self.problem(key, format!("{value} is not a list of texts such as [\"a\", \"b\"]"));
        }
        texts
    }

    fn absolute(&mut self, key: &str, text: &str) -> Option<PathBuf> {
        if Path::new(text).is_absolute() && !text.contains('\0') {
            return Some(PathBuf::from(text));
        }
        self.problem(key, format!("{text:?} is not an absolute path"));
        None
    }

    fn problem(&mut self, key: &str, text: String) {
        let key = self.qualified(key);
        self.problems.push(Problem { source: self.source.to_owned(), key, text });
    }

    fn qualified(&self, key: &str) -> String {
        format!("{}{key}", self.section)
    }
}
