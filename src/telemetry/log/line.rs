//! One line of the log, before it has a form.

use std::fmt::{Debug, Write};

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Level, Metadata};

/// The longest value of a field, in bytes: what a program outside says may be long.
const VALUE_MAX: usize = 16 << 10;
/// How many fields a line has at most.
const FIELDS_MAX: usize = 64;
/// Fields that are for traces.
const OF_TRACES: &str = "otel.";

/// An event with the fields of the spans around it.
pub(super) struct Line<'a> {
    pub(super) level: Level,
    pub(super) target: &'a str,
    pub(super) message: String,
    pub(super) fields: Vec<(&'static str, Value)>,
}

impl<'a> Line<'a> {
    pub(super) fn new(metadata: &Metadata<'a>, fields: Fields) -> Self {
        let Fields { message, fields } = fields;
        Self { level: *metadata.level(), target: metadata.target(), message, fields }
    }
}

/// The fields of an event or of a span.
#[derive(Debug, Default)]
pub(super) struct Fields {
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl Fields {
    /// Takes over what is not there yet.
    pub(super) fn add_missing(&mut self, outer: &Self) {
        for (name, value) in &outer.fields {
            if !self.fields.iter().any(|(known, _)| known == name) {
                self.push(name, value.clone());
            }
        }
    }

    fn push(&mut self, name: &'static str, value: Value) {
        if self.fields.len() < FIELDS_MAX {
            self.fields.push((name, value));
        }
    }

    fn set(&mut self, field: &Field, value: Value) {
        let name = field.name();
        if name.starts_with(OF_TRACES) {
            return;
        }
        match self.fields.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.push(name, value),
        }
    }

    fn set_text(&mut self, field: &Field, mut text: String) {
        text.truncate(text.floor_char_boundary(VALUE_MAX));
        match field.name() {
            "message" => self.message = text,
            _ => self.set(field, Value::String(text)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        let _ = write!(text, "{value:?}");
        self.set_text(field, text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set_text(field, value.to_owned());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.set_text(field, crate::telemetry::chain(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value.into());
    }
}
