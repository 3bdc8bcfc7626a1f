//! Who runs a container: what the CRI asks for, else what the image says, looked up in the image's own passwd and group.
//!
//! A number need not be in passwd; a name must. The primary group is always one of the additional ones too: a process
//! that lacks it there could shed it and pass a rule that shuts that group out.

use crate::api;

/// The longest passwd or group file that is read: a hostile image must not cost memory without bound.
pub const MAX_FILE: usize = 8 << 20;

/// The kernel's limit of groups per process.
const MAX_GROUPS: usize = 65_536;

/// What decides about the user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserRequest<'a> {
    /// CRI `run_as_user`; wins over the name.
    pub run_as_user: Option<i64>,
    /// CRI `run_as_username`; empty is none.
    pub run_as_username: &'a str,
    /// CRI `run_as_group`; needs a user.
    pub run_as_group: Option<i64>,
    /// CRI `supplemental_groups`.
    pub supplemental_groups: &'a [i64],
    /// Whether the image's own groups of the user are kept out (CRI policy `Strict`).
    pub strict: bool,
    /// The image's `User`: empty, or a user, or `user:group`, each by name or number.
    pub image_user: &'a str,
}

/// A user as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct ResolvedUser {
    /// The user ID.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// All groups, the primary one first.
    pub additional_gids: Vec<u32>,
    /// The home directory by passwd.
    pub home: Option<String>,
}

/// Why there is no such user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// A group without a user, which the CRI forbids.
    #[error("linux.security_context.run_as_group is set, but neither run_as_user nor run_as_username")]
    GroupWithoutUser,
    /// A number that is not an ID.
    #[error("{field}: {value} is not a user or group ID")]
    NotAnId {
        /// The field that holds it.
        field: &'static str,
        /// The number.
        value: i64,
    },
    /// A user name that passwd does not know.
    #[error("there is no user {0:?} in the image's /etc/passwd")]
    UnknownUser(String),
    /// A group name that the group file does not know.
    #[error("there is no group {0:?} in the image's /etc/group")]
    UnknownGroup(String),
    /// A home directory with control characters, which could forge lines elsewhere.
    #[error("the home directory of user {0} in the image's /etc/passwd contains control characters")]
    BadHome(u32),
    /// A file that is too long.
    #[error("the image's /etc/{0} is larger than 8 MiB")]
    TooLarge(&'static str),
    /// More groups than a process can have.
    #[error("the user would be in more than 65536 groups")]
    TooManyGroups,
}

impl<'a> UserRequest<'a> {
    /// What a container's security context and its image ask for.
    pub fn new(context: Option<&'a api::LinuxContainerSecurityContext>, image_user: &'a str) -> Self {
        let Some(context) = context else { return Self { image_user, ..Self::default() } };
        Self {
            run_as_user: context.run_as_user.as_ref().map(|user| user.value),
            run_as_username: &context.run_as_username,
            run_as_group: context.run_as_group.as_ref().map(|group| group.value),
            supplemental_groups: &context.supplemental_groups,
            strict: context.supplemental_groups_policy() == api::SupplementalGroupsPolicy::Strict,
            image_user,
        }
    }
}

/// A line of passwd.
struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// A line of the group file.
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Resolves the user against the contents of the image's passwd and group files; empty where the image has none.
pub fn resolve(request: &UserRequest<'_>, passwd: &[u8], group: &[u8]) -> Result<ResolvedUser, UserError> {
    for (name, file) in [("passwd", passwd), ("group", group)] {
        if file.len() > MAX_FILE {
            return Err(UserError::TooLarge(name));
        }
    }
    let (uid, entry, image_group) = find_user(request, passwd)?;
    let gid = match (request.run_as_group, image_group) {
        (Some(gid), _) => id("linux.security_context.run_as_group", gid)?,
        (None, Some(name)) => find_group(name, group)?,
        (None, None) => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    let mut gids = vec![gid];
    if let Some(entry) = entry.as_ref().filter(|_| !request.strict) {
        gids.extend(groups(group).filter(|group| is_member(group, entry.name)).map(|group| group.gid));
    }
    for value in request.supplemental_groups {
        gids.push(id("linux.security_context.supplemental_groups", *value)?);
    }
    let home = entry.map(|entry| entry.home).filter(|home| !home.is_empty());
    if home.is_some_and(|home| home.contains(char::is_control)) {
        return Err(UserError::BadHome(uid));
    }
    Ok(ResolvedUser { uid, gid, additional_gids: unique(gids)?, home: home.map(str::to_owned) })
}

/// What `api::Image` reports of the image's `User`: its number, or else its name.
pub fn image_user(user: &str) -> (Option<i64>, String) {
    let user = user.split(':').next().unwrap_or_default();
    match parse_id(user) {
        Some(uid) => (Some(i64::from(uid)), String::new()),
        None => (None, user.to_owned()),
    }
}

/// The user's number, its line in passwd if there is one, and the group that the image names with it.
#[allow(clippy::type_complexity)]
fn find_user<'a>(
    request: &UserRequest<'a>,
    passwd: &'a [u8],
) -> Result<(u32, Option<User<'a>>, Option<&'a str>), UserError> {
    if let Some(value) = request.run_as_user {
        let uid = id("linux.security_context.run_as_user", value)?;
        return Ok((uid, users(passwd).find(|user| user.uid == uid), None));
    }
    if !request.run_as_username.is_empty() {
        let (uid, entry) = by_name_or_number(request.run_as_username, passwd)?;
        return Ok((uid, entry, None));
    }
    if request.run_as_group.is_some() {
        return Err(UserError::GroupWithoutUser);
    }
    let (user, group) = request.image_user.split_once(':').unwrap_or((request.image_user, ""));
    let (uid, entry) = match user {
        "" => (0, users(passwd).find(|user| user.uid == 0)),
        user => by_name_or_number(user, passwd)?,
    };
    Ok((uid, entry, Some(group).filter(|group| !group.is_empty())))
}

/// A name that consists of digits is the name first: so do useradd and every other runtime.
fn by_name_or_number<'a>(user: &str, passwd: &'a [u8]) -> Result<(u32, Option<User<'a>>), UserError> {
    if let Some(entry) = users(passwd).find(|entry| entry.name == user) {
        return Ok((entry.uid, Some(entry)));
    }
    match parse_id(user) {
        Some(uid) => Ok((uid, users(passwd).find(|entry| entry.uid == uid))),
        None => Err(UserError::UnknownUser(user.to_owned())),
    }
}

fn find_group(name: &str, group: &[u8]) -> Result<u32, UserError> {
    let named = groups(group).find(|group| group.name == name).map(|group| group.gid);
    named.or_else(|| parse_id(name)).ok_or_else(|| UserError::UnknownGroup(name.to_owned()))
}

fn is_member(group: &Group<'_>, user: &str) -> bool {
    !user.is_empty() && group.members.split(',').any(|member| member.trim() == user)
}

fn unique(gids: Vec<u32>) -> Result<Vec<u32>, UserError> {
    let mut seen = std::collections::HashSet::new();
    let gids: Vec<_> = gids.into_iter().filter(|gid| seen.insert(*gid)).collect();
    if gids.len() > MAX_GROUPS { Err(UserError::TooManyGroups) } else { Ok(gids) }
}

fn id(field: &'static str, value: i64) -> Result<u32, UserError> {
    u32::try_from(value).ok().filter(|id| *id != u32::MAX).ok_or(UserError::NotAnId { field, value })
}

/// An ID in decimal digits; the highest number means "none" to the kernel.
fn parse_id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| digits && *id != u32::MAX)
}

fn users(passwd: &[u8]) -> impl Iterator<Item = User<'_>> {
    lines(passwd).filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = parse_id(fields.nth(1)?)?;
        let gid = parse_id(fields.next()?)?;
        Some(User { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    })
}

fn groups(group: &[u8]) -> impl Iterator<Item = Group<'_>> {
    lines(group).filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = parse_id(fields.nth(1)?)?;
        Some(Group { name, gid, members: fields.next().unwrap_or_default() })
    })
}

/// The lines that are text; what is not, or is no entry, is skipped as the C library does.
fn lines(file: &[u8]) -> impl Iterator<Item = &str> {
    file.split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .filter(|line| !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] =
        b"# users\nroot:x:0:0:root:/root:/bin/sh\nbroken\nwww-data:x:33:33::/var/www:/bin/false\n\
        \xff\xfe:x:5:5::/:\n1000:x:7:8::/seven:\nevil:x:66:66::/ho\rme:\n";
    const GROUP: &[u8] =
        b"root:x:0:\nwww-data:x:33:\naudio:x:29:www-data,other\nvideo:x:44: www-data\nbig:x:50000:1000\n";

    fn run(request: &UserRequest<'_>) -> Result<ResolvedUser, UserError> {
        resolve(request, PASSWD, GROUP)
    }

    fn image(user: &str) -> Result<(u32, u32, Vec<u32>), UserError> {
        let resolved = run(&UserRequest { image_user: user, ..UserRequest::default() })?;
        Ok((resolved.uid, resolved.gid, resolved.additional_gids))
    }

    #[test]
    fn the_images_user_may_be_a_name_or_a_number_with_or_without_a_group() {
        assert_eq!(image(""), Ok((0, 0, vec![0])));
        assert_eq!(image("www-data"), Ok((33, 33, vec![33, 29, 44])));
        assert_eq!(image("33"), Ok((33, 33, vec![33, 29, 44])));
        assert_eq!(image("1003:1004"), Ok((1003, 1004, vec![1004])));
        assert_eq!(image("www-data:audio"), Ok((33, 29, vec![29, 44])));
        assert_eq!(image("1002"), Ok((1002, 0, vec![0])));
        assert_eq!(image("1000"), Ok((7, 8, vec![8, 50000])), "a name of digits is a name first");
        assert_eq!(image("nobody"), Err(UserError::UnknownUser("nobody".into())));
        assert_eq!(image("33:nogroup"), Err(UserError::UnknownGroup("nogroup".into())));
        assert_eq!(image("4294967295"), Err(UserError::UnknownUser("4294967295".into())));
        assert_eq!(image("+5"), Err(UserError::UnknownUser("+5".into())));
    }

    #[test]
    fn what_the_cri_asks_for_goes_before_the_image() {
        let base = UserRequest { image_user: "1003:1004", ..UserRequest::default() };
        let by_number = run(&UserRequest { run_as_user: Some(33), ..base.clone() }).unwrap();
        assert_eq!((by_number.uid, by_number.gid), (33, 33), "the image's group goes with the image's user");
        assert_eq!(by_number.home.as_deref(), Some("/var/www"));
        let by_name =
            run(&UserRequest { run_as_username: "www-data", run_as_group: Some(5), ..base.clone() }).unwrap();
        assert_eq!((by_name.uid, by_name.gid, by_name.additional_gids), (33, 5, vec![5, 29, 44]));
        let unknown = run(&UserRequest { run_as_user: Some(4242), ..base.clone() }).unwrap();
        assert_eq!((unknown.uid, unknown.gid, unknown.home), (4242, 0, None));
        assert_eq!(
            run(&UserRequest { run_as_group: Some(5), ..base.clone() }),
            Err(UserError::GroupWithoutUser)
        );
        for user in [-1, 1 << 32, i64::from(u32::MAX)] {
            assert!(matches!(
                run(&UserRequest { run_as_user: Some(user), ..base.clone() }),
                Err(UserError::NotAnId { .. })
            ));
        }
    }

    #[test]
    fn b26_a_strict_policy_keeps_the_images_groups_out() {
        let request = UserRequest {
            run_as_user: Some(33),
            supplemental_groups: &[29, 700],
            image_user: "",
            ..UserRequest::default()
        };
        assert_eq!(run(&request).unwrap().additional_gids, [33, 29, 44, 700]);
        assert_eq!(run(&UserRequest { strict: true, ..request }).unwrap().additional_gids, [33, 29, 700]);
    }

    #[test]
    fn b26_a_home_with_control_characters_and_an_endless_file_are_refused() {
        assert_eq!(image("evil"), Err(UserError::BadHome(66)));
        let long = vec![b'\n'; MAX_FILE + 1];
        assert_eq!(resolve(&UserRequest::default(), &long, b""), Err(UserError::TooLarge("passwd")));
        assert_eq!(resolve(&UserRequest::default(), b"", &long), Err(UserError::TooLarge("group")));
        let many: String = (0..70_000).map(|gid| format!("g:x:{gid}:root\n")).collect();
        assert_eq!(resolve(&UserRequest::default(), PASSWD, many.as_bytes()), Err(UserError::TooManyGroups));
    }

    #[test]
    fn the_image_reports_its_user_by_number_or_by_name() {
        assert_eq!(image_user(""), (None, String::new()));
        assert_eq!(image_user("1002"), (Some(1002), String::new()));
        assert_eq!(image_user("1003:1004"), (Some(1003), String::new()));
        assert_eq!(image_user("www-data:1004"), (None, "www-data".into()));
    }

    proptest::proptest! {
        #[test]
        fn any_file_gives_a_user_or_an_error(
            user in ".{0,12}", passwd: Vec<u8>, group: Vec<u8>, uid: Option<i64>, groups: Vec<i64>, strict: bool,
        ) {
            let request = UserRequest {
                run_as_user: uid, image_user: &user, supplemental_groups: &groups, strict, ..UserRequest::default()
            };
            if let Ok(resolved) = resolve(&request, &passwd, &group) {
                assert_eq!(resolved.additional_gids[0], resolved.gid);
            }
        }
    }
}
