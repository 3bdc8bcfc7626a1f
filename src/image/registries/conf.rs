//! containers-registries.conf(5), version 2: one file read, and files laid over each other.
//!
//! [`parse`] takes any text. What it gives is consistent in itself: locations are host names with an optional path,
//! prefixes match something, and every mirror knows for which pulls it is. Keys that podd does not know become warnings.

use std::collections::{BTreeMap, HashMap};

use toml::{Table, Value};

use super::error::{ConfError, shown};
use crate::image::reference::Reference;

/// The largest file that is read, in bytes.
pub const LARGEST_FILE: usize = 1024 * 1024;

/// One file, or several laid over each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistriesConf {
    /// Registries that a name without a registry may mean (`unqualified-search-registries`); `None` where not said.
    pub search: Option<Vec<String>>,
    /// What to do where a short name has several meanings; `None` where not said.
    pub short_name_mode: Option<ShortNameMode>,
    /// Short names that stand for a repository; `None` takes back one of an earlier file.
    pub aliases: BTreeMap<String, Option<String>>,
    /// The registries, in the order of the files.
    pub registries: Vec<Registry>,
    /// What was passed over, for the log.
    pub warnings: Vec<String>,
}

/// `short-name-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShortNameMode {
    /// An ambiguous name is refused, as there is nobody to ask.
    Enforcing,
    /// All search registries are tried.
    Permissive,
    /// As permissive; the two differ only where there is a terminal.
    Disabled,
}

/// A `[[registry]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// The names that it is about: `host[:port]`, with a path, a tag or a digest, or `*.host`.
    pub prefix: String,
    /// What replaces the prefix; empty (with a wildcard only): nothing does.
    pub location: String,
    /// Whether plain HTTP and certificates of unknown authorities are allowed.
    pub insecure: bool,
    /// Whether the location is never asked.
    pub blocked: bool,
    /// Its copies, the first to be asked first.
    pub mirrors: Vec<Mirror>,
    /// The file that it stands in; for messages.
    pub origin: String,
}

/// A `[[registry.mirror]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// What replaces the registry's prefix.
    pub location: String,
    /// As [`Registry::insecure`].
    pub insecure: bool,
    /// The pulls that it is for.
    pub pulls: Pulls,
}

/// `pull-from-mirror`, or `mirror-by-digest-only` of the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulls {
    /// All.
    All,
    /// Those by digest.
    DigestOnly,
    /// Those by tag.
    TagOnly,
}

/// Reads the text of one file.
pub fn parse(text: &str) -> Result<RegistriesConf, ConfError> {
    let mut table = table(text)?;
    if table.contains_key("registries") {
        return Err(ConfError::Version1);
    }
    let mut conf = RegistriesConf {
        search: search(&mut table)?,
        short_name_mode: short_name_mode(&mut table)?,
        aliases: aliases(&mut table)?,
        ..RegistriesConf::default()
    };
    for (at, mut entry) in tables(&mut table, "registry", "registry")?.into_iter().enumerate() {
        let registry = registry(&mut entry, &format!("registry {}", at + 1), &mut conf.warnings)?;
        conf.registries.push(registry);
    }
    for helpers in ["credential-helpers", "additional-layer-store-auth-helper"] {
        if table.remove(helpers).is_some() {
            conf.warnings.push(format!("{helpers} is not supported and ignored"));
        }
    }
    conf.warnings.extend(unknown(&table, ""));
    conf.check_conflicts()?;
    Ok(conf)
}

impl RegistriesConf {
    /// Lays a later file over this one, as containers-registries.conf.d(5) says: a registry replaces the one of the same
    /// prefix, an alias the one of the same name, and lists and modes that are given replace those that were.
    pub fn lay_over(&mut self, later: Self) -> Result<(), ConfError> {
        self.search = later.search.or(self.search.take());
        self.short_name_mode = later.short_name_mode.or(self.short_name_mode);
        self.aliases.extend(later.aliases);
        self.registries.retain(|own| later.registries.iter().all(|other| other.prefix != own.prefix));
        self.registries.extend(later.registries);
        self.warnings.extend(later.warnings);
        self.check_conflicts()
    }

    /// Registries that share a location must agree about it.
    fn check_conflicts(&self) -> Result<(), ConfError> {
        let mut seen: HashMap<&str, &Registry> = HashMap::new();
        for registry in self.registries.iter().filter(|registry| !registry.location.is_empty()) {
            let first = *seen.entry(&registry.location).or_insert(registry);
            let conflict = |key| Err(ConfError::Conflict { location: registry.location.clone(), key });
            if first.insecure != registry.insecure {
                return conflict("insecure");
            }
            if first.blocked != registry.blocked {
                return conflict("blocked");
            }
        }
        Ok(())
    }
}

/// The table of a whole file of bounded size.
pub(super) fn table(text: &str) -> Result<Table, ConfError> {
    if text.len() > LARGEST_FILE {
        return Err(ConfError::TooLarge(LARGEST_FILE));
    }
    text.parse::<Table>().map_err(|e| {
        let before = e.span().map_or(0, |span| span.start.min(text.len()));
        let line = text.as_bytes()[..before].iter().filter(|byte| **byte == b'\n').count() + 1;
        ConfError::Syntax { line, reason: e.message().chars().take(200).collect() }
    })
}

fn search(table: &mut Table) -> Result<Option<Vec<String>>, ConfError> {
    let key = "unqualified-search-registries";
    let Some(hosts) = texts(table, key, key)? else { return Ok(None) };
    for host in &hosts {
        location(host, key)?;
        if host.contains('/') {
            return Err(invalid(key, host, "is not a host name with an optional port"));
        }
    }
    Ok(Some(hosts))
}

fn short_name_mode(table: &mut Table) -> Result<Option<ShortNameMode>, ConfError> {
    let key = "short-name-mode";
    Ok(match text(table, key, key)?.as_deref() {
        None | Some("") => None,
        Some("enforcing") => Some(ShortNameMode::Enforcing),
        Some("permissive") => Some(ShortNameMode::Permissive),
        Some("disabled") => Some(ShortNameMode::Disabled),
        Some(other) => return Err(invalid(key, other, "is not enforcing, permissive or disabled")),
    })
}

fn aliases(table: &mut Table) -> Result<BTreeMap<String, Option<String>>, ConfError> {
    let mut aliases = BTreeMap::new();
    let entries = match table.remove("aliases") {
        None => return Ok(aliases),
        Some(Value::Table(entries)) => entries,
        Some(_) => return Err(ConfError::Type { key: "aliases".to_owned(), wanted: "a table" }),
    };
    for (name, value) in entries {
        let key = format!("aliases.{}", shown(&name));
        let short = name.parse::<Reference>();
        if Reference::names_registry(&name) || name.contains([':', '@']) || short.is_err() {
            return Err(ConfError::Key { key, reason: "an alias has neither registry nor tag nor digest" });
        }
        let target = match value {
            Value::String(target) if target.is_empty() => None,
            Value::String(target) => Some(target),
            _ => return Err(ConfError::Type { key, wanted: "a text" }),
        };
        if let Some(target) = &target {
            let parsed: Result<Reference, _> = target.parse();
            let is_full = Reference::names_registry(target) && parsed.is_ok_and(|r| r.digest().is_none());
            let has_tag = target.rsplit('/').next().is_some_and(|last| last.contains(':'));
            if !is_full || has_tag {
                return Err(invalid(&key, target, "is not a repository with its registry and without a tag"));
            }
        }
        aliases.insert(name, target);
    }
    Ok(aliases)
}

fn registry(table: &mut Table, at: &str, warnings: &mut Vec<String>) -> Result<Registry, ConfError> {
    let key = |name: &str| format!("{at}: {name}");
    let given = |table: &mut Table, name: &str| -> Result<Option<String>, ConfError> {
        let value = text(table, name, &key(name))?.map(|text| text.trim_end_matches('/').to_owned());
        Ok(value.filter(|text| !text.is_empty()))
    };
    let target = given(table, "location")?;
    let prefix = given(table, "prefix")?;
    if let Some(target) = &target {
        location(target, &key("location"))?;
    }
    let prefix = match (prefix, &target) {
        (Some(prefix), target) => {
            check_prefix(&prefix, target.is_some(), &key("prefix"))?;
            prefix
        }
        (None, Some(target)) => target.clone(),
        (None, None) => {
            return Err(ConfError::Key { key: at.to_owned(), reason: "it has neither prefix nor location" });
        }
    };
    let by_digest = flag(table, "mirror-by-digest-only", &key("mirror-by-digest-only"))?;
    let mut mirrors = Vec::new();
    for (nth, mut entry) in tables(table, "mirror", &key("mirror"))?.into_iter().enumerate() {
        let at = format!("{at}: mirror {}", nth + 1);
        mirrors.push(mirror(&mut entry, &at, by_digest)?);
        warnings.extend(unknown(&entry, &at));
    }
    let registry = Registry {
        prefix,
        location: target.unwrap_or_default(),
        insecure: flag(table, "insecure", &key("insecure"))?,
        blocked: flag(table, "blocked", &key("blocked"))?,
        mirrors,
        origin: String::new(),
    };
    warnings.extend(unknown(table, at));
    Ok(registry)
}

fn mirror(table: &mut Table, at: &str, by_digest: bool) -> Result<Mirror, ConfError> {
    let key = |name: &str| format!("{at}: {name}");
    let target = text(table, "location", &key("location"))?.unwrap_or_default();
    let target = target.trim_end_matches('/').to_owned();
    location(&target, &key("location"))?;
    let name = "pull-from-mirror";
    let said = text(table, name, &key(name))?.filter(|text| !text.is_empty());
    let pulls = match (said.as_deref(), by_digest) {
        (Some(_), true) => {
            let reason = "cannot stand beside mirror-by-digest-only of the registry";
            return Err(ConfError::Key { key: key(name), reason });
        }
        (None, true) | (Some("digest-only"), false) => Pulls::DigestOnly,
        (None | Some("all"), false) => Pulls::All,
        (Some("tag-only"), false) => Pulls::TagOnly,
        (Some(other), false) => {
            return Err(invalid(&key(name), other, "is not all, digest-only or tag-only"));
        }
    };
    Ok(Mirror { location: target, insecure: flag(table, "insecure", &key("insecure"))?, pulls })
}

/// Checks `host[:port][/path][:tag|@digest]`.
fn location(text: &str, key: &str) -> Result<(), ConfError> {
    if text.contains("://") {
        return Err(invalid(key, text, "a location is a host with an optional path, without a scheme"));
    }
    let first = text.split('/').next().unwrap_or_default();
    let is_own = |candidate: &str| {
        candidate.parse::<Reference>().is_ok_and(|r| r.registry() == first || first == "index.docker.io")
    };
    if Reference::names_registry(&format!("{text}/x")) && (is_own(&format!("{text}/x")) || is_own(text)) {
        return Ok(());
    }
    Err(invalid(key, text, "is not a host (with a dot, a port, or localhost) with an optional path"))
}

/// Checks a prefix, which may be a wildcard; any other needs a location, which containers-registries.conf(5) demands.
fn check_prefix(prefix: &str, has_location: bool, key: &str) -> Result<(), ConfError> {
    match prefix.strip_prefix("*.") {
        Some(rest) if rest.contains(['/', ':', '@', '*']) => {
            Err(invalid(key, prefix, "a wildcard is *. and a host name, without port and path"))
        }
        Some(rest) => location(&format!("x.{rest}"), key),
        None if !has_location => Err(invalid(key, prefix, "needs a location, as it is no wildcard")),
        None => location(prefix, key),
    }
}

pub(super) fn text(table: &mut Table, name: &str, key: &str) -> Result<Option<String>, ConfError> {
    match table.remove(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(ConfError::Type { key: key.to_owned(), wanted: "a text" }),
    }
}

pub(super) fn texts(table: &mut Table, name: &str, key: &str) -> Result<Option<Vec<String>>, ConfError> {
    let Some(value) = table.remove(name) else { return Ok(None) };
    let items = value.as_array().and_then(|items| {
        items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
    });
    items.map(Some).ok_or(ConfError::Type { key: key.to_owned(), wanted: "a list of texts" })
}

pub(super) fn flag(table: &mut Table, name: &str, key: &str) -> Result<bool, ConfError> {
    match table.remove(name) {
        None => Ok(false),
        Some(Value::Boolean(value)) => Ok(value),
        Some(_) => Err(ConfError::Type { key: key.to_owned(), wanted: "true or false" }),
    }
}

fn tables(table: &mut Table, name: &str, key: &str) -> Result<Vec<Table>, ConfError> {
    let wanted = "a list of tables, written with double brackets";
    let wrong = || ConfError::Type { key: key.to_owned(), wanted };
    match table.remove(name) {
        None => Ok(Vec::new()),
        Some(Value::Array(items)) => {
            let tables = items.into_iter().map(|item| match item {
                Value::Table(table) => Ok(table),
                _ => Err(wrong()),
            });
            tables.collect()
        }
        Some(_) => Err(wrong()),
    }
}

pub(super) fn unknown(rest: &Table, at: &str) -> Vec<String> {
    let at = if at.is_empty() { String::new() } else { format!("{at}: ") };
    rest.keys().map(|key| format!("{at}unknown key {:?} is ignored", shown(key))).collect()
}

pub(super) fn invalid(key: &str, value: &str, reason: &str) -> ConfError {
    ConfError::Value { key: key.to_owned(), value: shown(value), reason: reason.to_owned() }
}
