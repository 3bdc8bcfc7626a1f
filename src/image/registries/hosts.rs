//! containerd's `hosts.toml`: the mirrors of one registry, for nodes that move over from containerd.
//!
//! The file is one directory's, `<hosts_dir>/<host>/hosts.toml`; relative paths in it are relative to that. The hosts keep
//! the order of the file. A directory without the file may hold certificates for the registry itself.

use std::path::{Path, PathBuf};

use http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::Url;
use toml::{Table, Value};

use super::Scheme;
use super::conf::{flag, invalid, table, text, texts, unknown};
use super::error::{ConfError, shown};

/// One `hosts.toml`, or its directory where there is none.
#[derive(Debug, Clone, Default)]
pub struct HostsFile {
    /// The mirrors, the first to be asked first.
    pub hosts: Vec<HostEntry>,
    /// The registry itself, where the file says where it is.
    pub server: Option<HostEntry>,
    /// Certificate authorities for the registry itself where `server` is not given.
    pub ca: Vec<PathBuf>,
    /// Our certificates and keys for the same.
    pub client: Vec<(PathBuf, PathBuf)>,
    /// Whether the same may have any certificate.
    pub skip_verify: bool,
    /// Headers of every request to the same.
    pub headers: HeaderMap,
    /// What was passed over, for the log.
    pub warnings: Vec<String>,
}

/// One host of the file.
#[derive(Debug, Clone)]
pub struct HostEntry {
    /// `host` or `host:port`.
    pub authority: String,
    /// How it is spoken to.
    pub scheme: Scheme,
    /// The path before the repository; begins and ends with a slash.
    pub root: String,
    /// Whether it may say what a tag means.
    pub resolves: bool,
    /// Certificate authorities.
    pub ca: Vec<PathBuf>,
    /// Our certificates with their keys.
    pub client: Vec<(PathBuf, PathBuf)>,
    /// Whether its certificate counts.
    pub verify: bool,
    /// Headers of every request.
    pub headers: HeaderMap,
}

/// What the settings of a host say, without where it is.
struct Settings {
    pulls: bool,
    resolves: bool,
    override_path: bool,
    ca: Vec<PathBuf>,
    client: Vec<(PathBuf, PathBuf)>,
    verify: bool,
    headers: HeaderMap,
}

/// Reads the text of the `hosts.toml` of `directory`.
pub fn parse_hosts(content: &str, directory: &Path) -> Result<HostsFile, ConfError> {
    let mut table = table(content)?;
    let mut file = HostsFile::default();
    let server = text(&mut table, "server", "server")?.filter(|text| !text.is_empty());
    let settings = settings(&mut table, directory, "")?;
    let mut hosts = match table.remove("host") {
        None => Table::new(),
        Some(Value::Table(hosts)) => hosts,
        Some(_) => return Err(ConfError::Type { key: "host".to_owned(), wanted: "a table" }),
    };
    for name in order(content, &hosts) {
        let Some(Value::Table(mut entry)) = hosts.remove(&name) else {
            return Err(ConfError::Type { key: format!("host.{:?}", shown(&name)), wanted: "a table" });
        };
        let at = format!("host {:?}", shown(&name));
        let settings = self::settings(&mut entry, directory, &at)?;
        file.warnings.extend(unknown(&entry, &at));
        // A host that is for pushes alone is nothing to us.
        if settings.pulls {
            file.hosts.push(host(&name, &settings, &at)?);
        }
    }
    file.warnings.extend(unknown(&table, ""));
    file.server = server.map(|address| host(&address, &settings, "server")).transpose()?;
    (file.ca, file.client) = (settings.ca, settings.client);
    (file.skip_verify, file.headers) = (!settings.verify, settings.headers);
    Ok(file)
}

/// The names of the hosts in the order of the text, which a table does not keep.
fn order(content: &str, hosts: &Table) -> Vec<String> {
    let mut names: Vec<(usize, String)> = Vec::new();
    let document = toml::de::DeTable::parse(content).ok();
    let listed = document.as_ref().and_then(|document| document.get_ref().get("host")?.get_ref().as_table());
    for (key, _) in listed.into_iter().flat_map(|table| table.iter()) {
        names.push((key.span().start, key.get_ref().to_string()));
    }
    names.sort();
    let names: Vec<String> = names.into_iter().map(|(_, name)| name).collect();
    if names.len() == hosts.len() { names } else { hosts.keys().cloned().collect() }
}

fn settings(table: &mut Table, directory: &Path, at: &str) -> Result<Settings, ConfError> {
    let key = |name: &str| if at.is_empty() { name.to_owned() } else { format!("{at}: {name}") };
    let said = texts(table, "capabilities", &key("capabilities"))?.unwrap_or_default();
    if let Some(odd) =
        said.iter().find(|word| !matches!(word.as_str(), "pull" | "resolve" | "push" | "referrers"))
    {
        return Err(invalid(&key("capabilities"), odd, "is not pull, resolve or push"));
    }
    let can = |word: &str| said.is_empty() || said.iter().any(|other| other == word);
    // Time limits are podd's own.
    table.remove("dial_timeout");
    Ok(Settings {
        pulls: can("pull"),
        resolves: can("resolve"),
        override_path: flag(table, "override_path", &key("override_path"))?,
        ca: paths(table, directory, &key("ca"))?,
        client: client(table, directory, &key("client"))?,
        verify: !flag(table, "skip_verify", &key("skip_verify"))?,
        headers: headers(table, &key("header"))?,
    })
}

/// `ca`: a path or a list of paths.
fn paths(table: &mut Table, directory: &Path, key: &str) -> Result<Vec<PathBuf>, ConfError> {
    let wrong = || ConfError::Type { key: key.to_owned(), wanted: "a path or a list of paths" };
    let join = |value: &Value| value.as_str().map(|text| directory.join(text)).ok_or_else(wrong);
    match table.remove("ca") {
        None => Ok(Vec::new()),
        Some(Value::Array(items)) => items.iter().map(join).collect(),
        Some(one) => Ok(vec![join(&one)?]),
    }
}

/// `client`: a file with certificate and key, several of these, or pairs of certificate and key.
fn client(table: &mut Table, directory: &Path, key: &str) -> Result<Vec<(PathBuf, PathBuf)>, ConfError> {
    let wrong =
        || ConfError::Type { key: key.to_owned(), wanted: "a path, or a list of paths or of pairs of paths" };
    let both = |text: &str| (directory.join(text), directory.join(text));
    let one = |value: &Value| match value {
        Value::String(text) => Ok(both(text)),
        Value::Array(pair) => match pair.as_slice() {
            [Value::String(cert)] => Ok(both(cert)),
            [Value::String(cert), Value::String(key)] if key.is_empty() => Ok(both(cert)),
            [Value::String(cert), Value::String(key)] => Ok((directory.join(cert), directory.join(key))),
            _ => Err(wrong()),
        },
        _ => Err(wrong()),
    };
    match table.remove("client") {
        None => Ok(Vec::new()),
        Some(Value::Array(items)) => items.iter().map(one).collect(),
        Some(value) => Ok(vec![one(&value)?]),
    }
}

fn headers(table: &mut Table, key: &str) -> Result<HeaderMap, ConfError> {
    let mut headers = HeaderMap::new();
    let entries = match table.remove("header") {
        None => return Ok(headers),
        Some(Value::Table(entries)) => entries,
        Some(_) => return Err(ConfError::Type { key: key.to_owned(), wanted: "a table" }),
    };
    for (name, value) in entries {
        let values = match value {
            Value::Array(values) => values,
            one => vec![one],
        };
        for value in values {
            let header = name.parse::<HeaderName>().ok();
            let text = value.as_str().and_then(|text| HeaderValue::from_str(text).ok());
            let (Some(header), Some(mut text)) = (header, text) else {
                return Err(ConfError::Key { key: key.to_owned(), reason: "it has what is no HTTP header" });
            };
            text.set_sensitive(true);
            headers.append(header, text);
        }
    }
    Ok(headers)
}

/// Where a host is, by its URL; without a scheme it is HTTPS.
fn host(address: &str, settings: &Settings, at: &str) -> Result<HostEntry, ConfError> {
    let wrong = |reason: &str| Err(invalid(at, address, reason));
    let full = if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
    let Ok(url) = Url::parse(&full) else { return wrong("is no URL") };
    let scheme = match url.scheme() {
        "https" => Scheme::Https,
        "http" => Scheme::Http,
        _ => return wrong("is no HTTP or HTTPS URL"),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return wrong("holds a user name or password: put these into the auth file");
    }
    let (Some(name), None, None) = (url.host_str(), url.query(), url.fragment()) else {
        return wrong("is more than scheme, host and path");
    };
    let authority = match url.port() {
        Some(port) => format!("{name}:{port}"),
        None => name.to_owned(),
    };
    let path = url.path().trim_matches('/');
    let root = match (path, settings.override_path) {
        ("", true) => "/".to_owned(),
        ("", false) => "/v2/".to_owned(),
        (path, false) if path != "v2" && !path.ends_with("/v2") => format!("/{path}/v2/"),
        (path, _) => format!("/{path}/"),
    };
    Ok(HostEntry {
        authority,
        scheme,
        root,
        resolves: settings.resolves,
        ca: settings.ca.clone(),
        client: settings.client.clone(),
        verify: settings.verify,
        headers: settings.headers.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<HostsFile, ConfError> {
        parse_hosts(text, Path::new("/h/docker.io"))
    }

    #[test]
    fn hosts_keep_their_order_and_settings() {
        let file = parse(
            "server = \"https://registry-1.docker.io\"\nca = \"root.pem\"\n\
             [host.\"https://z.mirror:5000\"]\ncapabilities = [\"pull\", \"resolve\"]\nskip_verify = true\n\
             ca = [\"/abs.pem\", \"rel.pem\"]\nclient = [[\"c.cert\", \"c.key\"]]\n\
             [host.\"https://z.mirror:5000\".header]\nx-custom = [\"a\", \"b\"]\n\
             [host.\"http://a.mirror/v2/proxy\"]\ncapabilities = [\"pull\"]\noverride_path = true\nclient = \"both.pem\"\n\
             [host.\"b.mirror/sub\"]\n[host.\"https://push.only\"]\ncapabilities = [\"push\"]\n",
        )
        .unwrap();
        let shown: Vec<_> =
            file.hosts.iter().map(|h| (h.authority.as_str(), h.scheme, h.root.as_str())).collect();
        assert_eq!(
            shown,
            [
                ("z.mirror:5000", Scheme::Https, "/v2/"),
                ("a.mirror", Scheme::Http, "/v2/proxy/"),
                ("b.mirror", Scheme::Https, "/sub/v2/")
            ]
        );
        let first = &file.hosts[0];
        assert_eq!(first.ca, [PathBuf::from("/abs.pem"), PathBuf::from("/h/docker.io/rel.pem")]);
        assert_eq!(first.client, [("/h/docker.io/c.cert".into(), "/h/docker.io/c.key".into())]);
        assert_eq!(
            (first.verify, first.resolves, first.headers.get_all("x-custom").iter().count()),
            (false, true, 2)
        );
        assert!(!file.hosts[1].resolves && file.hosts[1].client[0].0 == file.hosts[1].client[0].1);
        let server = file.server.unwrap();
        assert_eq!(
            (server.authority.as_str(), server.ca.len(), server.verify),
            ("registry-1.docker.io", 1, true)
        );
    }

    #[test]
    fn mistakes_are_named_and_secrets_are_not() {
        for (text, expected) in [
            ("server = 1", "server is not a text"),
            ("server = \"ftp://r.io\"", "no HTTP or HTTPS URL"),
            ("server = \"https://u:hush@r.io\"", "***@r.io"),
            ("[host.\"https://r.io?x=hush\"]", "more than scheme, host and path"),
            ("[host.\"r.io\"]\ncapabilities = [\"fly\"]", "\"fly\": is not pull"),
            ("[host.\"r.io\".header]\n\"a b\" = \"hush\"", "no HTTP header"),
            ("host = 3", "host is not a table"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("u:hush"), "{error}");
        }
        assert_eq!(parse("odd = 1\n[host.\"r.io\"]\nodder = 2").unwrap().warnings.len(), 2);
    }
}
