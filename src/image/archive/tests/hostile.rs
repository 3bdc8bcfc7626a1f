//! What is refused, and that nothing of it stays.

use proptest::prelude::*;

use super::*;
use crate::image::extract::Limits;

fn good() -> Layout {
    Layout::default().image("r.io/a:1", &[layer("x")], |_| {})
}

#[test]
fn what_is_no_archive_is_said_to_be_none() {
    let bench = Bench::new();
    assert!(bench.refusal(b"").contains("neither an index.json"));
    assert!(bench.refusal(b"not a tar at all").contains("ends in the middle"));
    assert!(bench.refusal(&[b'x'; 2048]).contains("not a valid tar"));
    assert!(bench.refusal(&layer("x")).contains("neither an index.json"));
    assert!(bench.refusal(b"\xfd7zXZ\0more").contains("xz"));
    assert!(bench.refusal(&gzip(b"")).contains("neither an index.json"));
    let missing = import(
        &bench.store,
        &bench.scratch.path().join("no-such"),
        &ImportOptions::default(),
        &Progress::default(),
    );
    let said = told(&missing.unwrap_err());
    assert!(said.contains("/no-such"), "{said}");
}

#[test]
fn truncated_archives_are_refused_at_every_block() {
    let bench = Bench::new();
    let tar = good().tar();
    // The two blocks of zeros at the end may be missing.
    for length in (512..tar.len() - 1024).step_by(512).chain([100, 700, 1500]) {
        bench.refusal(&tar[..length]);
    }
    let packed = gzip(&tar);
    assert!(bench.refusal(&packed[..packed.len() - 20]).contains("gzip"));
    let packed = zstd::bulk::compress(&tar, 1).unwrap();
    bench.refusal(&packed[..packed.len() - 20]);
}

#[test]
fn names_and_links_stay_inside() {
    let bench = Bench::new();
    for name in ["../x", "a/../../x", "/../x"] {
        let tar = put(Tar::new(), name, b"");
        assert!(bench.refusal(&tar.finish()).contains(".."), "{name}");
    }
    // An absolute name is one from the archive's root.
    let tar = put(Tar::new(), "/index.json", br#"{"manifests":[]}"#);
    assert!(bench.refusal(&tar.finish()).contains("neither"));
    let secret = bench.scratch.path().join("secret");
    std::fs::write(&secret, "[]").unwrap();
    for target in [secret.to_str().unwrap(), "../../../../../../etc/passwd", "/etc/passwd", "manifest.json"] {
        for tar in
            [Tar::new().symlink("manifest.json", target), Tar::new().hard_link("manifest.json", target)]
        {
            let refused = bench.refusal(&tar.finish());
            let as_told = ["neither", "lead out", "too many links"].iter().any(|text| refused.contains(text));
            assert!(as_told, "{target}: {refused}");
        }
    }
    let directory = bench.scratch.path().join("layout");
    good().directory(&directory);
    std::fs::remove_file(directory.join("index.json")).unwrap();
    std::os::unix::fs::symlink(&secret, directory.join("index.json")).unwrap();
    let refused = import(&bench.store, &directory, &ImportOptions::default(), &Progress::default());
    assert!(told(&refused.unwrap_err()).contains("links are not followed"));
}

#[test]
fn a_name_that_is_there_twice_is_refused_unless_its_content_is_verified() {
    let bench = Bench::new();
    let tar = put(put(Tar::new(), "index.json", b"{}"), "./index.json", b"{}");
    assert!(bench.refusal(&tar.finish()).contains("twice"));
    let mut layout = good();
    let forged = (layout.files[0].0.clone(), b"other".to_vec());
    layout.files.push(forged);
    assert_eq!(bench.import(&layout.tar()).unwrap().len(), 1);
}

#[test]
fn missing_and_false_blobs_are_named() {
    for (index, what) in [(0, "layer"), (1, "config"), (2, "manifest")] {
        let mut layout = good();
        let (name, content) = layout.files[index].clone();
        layout.files.remove(index);
        assert!(Bench::new().refusal(&layout.tar()).contains(&format!("has no {name:?}")), "{what}");
        let mut longer = content.clone();
        longer.push(b' ');
        layout.files.push((name.clone(), longer));
        assert!(Bench::new().refusal(&layout.tar()).contains("were announced"), "{what}");
        layout.files.pop();
        let mut other = content;
        other[0] ^= 1;
        layout.files.push((name, other));
        let refused = Bench::new().refusal(&layout.tar());
        assert!(refused.contains("digest") || refused.contains("not a valid tar"), "{what}: {refused}");
    }
}

#[test]
fn docker_layers_and_configurations_are_verified() {
    let bench = Bench::new();
    let (honest, forged) = (layer("x"), layer("z"));
    let config = config(&[honest]);
    let archive = |name: &str, forged: &[u8]| {
        let item = json!([{ "Config": name, "RepoTags": ["a:1"], "Layers": ["l"] }]).to_string();
        put(put(put(Tar::new(), "l", forged), name, &config), "manifest.json", item.as_bytes()).finish()
    };
    assert!(bench.refusal(&archive("c.json", &forged)).contains("digest"));
    assert!(bench.refusal(&archive("c.json", &gzip(&forged))).contains("configuration says"));
    let other = format!("{}.json", Digest::of(b"other").hex());
    assert!(bench.refusal(&archive(&other, &forged)).contains("digest"));
    let none = json!([{ "Config": "c.json", "Layers": [] }]).to_string();
    let tar = put(put(Tar::new(), "c.json", &config), "manifest.json", none.as_bytes());
    assert!(bench.refusal(&tar.finish()).contains("0 layers but the configuration 1"));
}

#[test]
fn documents_have_bounds() {
    let bench = Bench::new();
    let huge = vec![b' '; 5 << 20];
    assert!(bench.refusal(&put(Tar::new(), "index.json", &huge).finish()).contains("more than 4194304"));
    let many = json!({ "manifests": vec![descriptor(OCI_MANIFEST, b""); 1001] }).to_string();
    assert!(bench.refusal(&put(Tar::new(), "index.json", many.as_bytes()).finish()).contains("1000 images"));
    for text in ["", "[]", "{\"manifests\":7}", "\u{0}"] {
        assert!(
            bench.refusal(&put(Tar::new(), "index.json", text.as_bytes()).finish()).contains("index.json")
        );
    }
    let version = put(good_tar(), "oci-layout", br#"{"imageLayoutVersion":"7"}"#);
    assert!(bench.refusal(&version.finish()).contains("version"));
    // An index that contains itself cannot be made; one that is deep can.
    let mut layout = good();
    for _ in 0..3 {
        let index = layout.index();
        layout.blob(&index);
        layout.entries = vec![descriptor("application/vnd.oci.image.index.v1+json", &index)];
    }
    assert!(bench.refusal(&layout.tar()).contains("too deep"));
}

fn good_tar() -> Tar {
    put(Tar::new(), "index.json", &good().index())
}

#[test]
fn bombs_are_stopped_by_the_limits() {
    let bench = Bench::new();
    let bomb = gzip(&vec![0; 8 << 20]);
    let options = ImportOptions { max_spooled_bytes: 1 << 20, ..ImportOptions::default() };
    let refused = import(&bench.store, &bench.write(&bomb), &options, &Progress::default());
    assert!(matches!(refused, Err(ArchiveError::SpoolLimit { limit: 1_048_576 })));
    let big = Tar::new().file("big", &"x".repeat(1 << 20)).finish();
    let limits = Limits { max_unpacked_bytes: 1 << 16, ..Limits::default() };
    let options = ImportOptions { limits, ..ImportOptions::default() };
    let tar = Layout::default().image("a:1", &[layer("x"), big], |_| {}).tar();
    let refused = import(&bench.store, &bench.write(&tar), &options, &Progress::default());
    assert!(told(&refused.unwrap_err()).contains("limit of 65536"));
    bench.nothing_is_left();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damage_anywhere_is_an_error_or_harmless(at in 0usize..8000, byte: u8) {
        let bench = Bench::new();
        let mut tar = good().tar();
        let at = at % tar.len();
        tar[at] = byte;
        if let Ok(imported) = bench.import(&tar) {
            let content = bench.read(&imported[0], "x");
            prop_assert_eq!(content.as_deref(), Some("x"));
        }
    }
}
