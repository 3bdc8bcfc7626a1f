//! What is imported: formats, compressions, names, platforms, several images.

use super::*;

#[test]
fn a_layout_keeps_its_manifest_and_its_names() {
    let bench = Bench::new();
    let layout = Layout::default().image("r.io/a:1", &[layer("x"), layer("y")], |_| {});
    let imported = bench.import(&layout.tar()).unwrap();
    let [one] = &imported[..] else { panic!("{imported:?}") };
    let manifest = &layout.files.last().unwrap().1;
    assert_eq!(one.image.raw_manifest, *manifest);
    assert_eq!(one.image.id, Digest::of(&config(&[layer("x"), layer("y")])));
    assert_eq!(one.names, ["r.io/a:1"]);
    assert!(one.image.tags.contains("r.io/a:1"));
    assert!(one.image.repo_digests.contains(&format!("r.io/a@{}", Digest::of(manifest))));
    assert_eq!((one.unpacked, bench.read(one, "x").as_deref()), (2, Some("x")));
}

#[test]
fn what_is_here_is_not_unpacked_again_and_may_be_missing_in_the_archive() {
    let bench = Bench::new();
    let first = Layout::default().image("r.io/a:1", &[layer("x")], |_| {});
    bench.import(&first.tar()).unwrap();
    let mut second = Layout::default().image("r.io/b:1", &[layer("x"), layer("y")], |_| {});
    second.files.remove(0);
    let imported = bench.import(&second.tar()).unwrap();
    assert_eq!(imported[0].unpacked, 1);
    assert_eq!(bench.read(&imported[0], "x").as_deref(), Some("x"));
}

#[test]
fn compressed_archives_and_directories_are_the_same() {
    let bench = Bench::new();
    let layout = Layout::default().image("r.io/a:1", &[layer("x")], |_| {});
    let tar = layout.tar();
    let id = bench.import(&tar).unwrap()[0].image.id.clone();
    let (half, rest) = tar.split_at(tar.len() / 2);
    for bytes in [gzip(&tar), [gzip(half), gzip(rest)].concat(), zstd::bulk::compress(&tar, 1).unwrap()] {
        let bench = Bench::new();
        assert_eq!(bench.import(&bytes).unwrap()[0].image.id, id);
        assert!(crate::sys::fs::names(&bench.scratch.path().join("root/staging")).unwrap().is_empty());
    }
    let bench = Bench::new();
    let directory = bench.scratch.path().join("layout");
    layout.directory(&directory);
    let imported = import(&bench.store, &directory, &ImportOptions::default(), &Progress::default()).unwrap();
    assert_eq!(imported[0].image.id, id);
}

#[test]
fn a_pipe_is_read() {
    let bench = Bench::new();
    let tar = docker(&["a:1"], &[layer("x")]).finish();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let imported = std::thread::scope(|scope| {
        scope.spawn(move || writer.write_all(&tar).unwrap());
        let input = std::os::fd::OwnedFd::from(reader).into();
        import_stream(&bench.store, input, &ImportOptions::default(), &Progress::default()).unwrap()
    });
    assert_eq!(imported[0].names, ["docker.io/library/a:1"]);
}

#[test]
fn docker_archives_get_one_manifest_and_all_their_names() {
    let layers = [layer("x"), layer("y")];
    let manifest = || {
        let bench = Bench::new();
        let imported = bench.import(&docker(&["a:1", "r.io/b:2"], &layers).finish()).unwrap();
        let image = &imported[0].image;
        assert_eq!(image.tags.iter().collect::<Vec<_>>(), ["docker.io/library/a:1", "r.io/b:2"]);
        assert_eq!(image.id, Digest::of(&config(&layers)));
        assert_eq!(bench.read(&imported[0], "y").as_deref(), Some("y"));
        image.raw_manifest.clone()
    };
    let made: Value = serde_json::from_slice(&manifest()).unwrap();
    assert_eq!(made["layers"][1]["digest"], Digest::of(&layers[1]).as_str());
    assert_eq!(made["config"]["digest"], Digest::of(&config(&layers)).as_str());
    assert_eq!(manifest(), manifest());
}

#[test]
fn links_of_old_docker_archives_lead_to_their_layers() {
    let bench = Bench::new();
    let (one, two) = (layer("x"), layer("y"));
    let config = config(&[one.clone(), one.clone(), two.clone()]);
    let item = json!([{ "Config": "c.json", "Layers": ["1/layer.tar", "2/layer.tar", "3/layer.tar"] }]);
    let tar = Tar::new().symlink("2/layer.tar", "../1/layer.tar").hard_link("3/layer.tar", "4/layer.tar");
    let tar = put(put(tar, "1/layer.tar", &one), "4/layer.tar", &gzip(&two));
    let tar = put(put(tar, "manifest.json", item.to_string().as_bytes()), "c.json", &config);
    let imported = bench.import(&tar.finish()).unwrap();
    assert_eq!(imported[0].unpacked, 3);
    assert!(imported[0].names.is_empty() && imported[0].image.tags.is_empty());
    assert_eq!(bench.read(&imported[0], "y").as_deref(), Some("y"));
}

#[test]
fn names_choose_among_several_and_name_a_single_one() {
    let bench = Bench::new();
    let layout = Layout::default()
        .image("r.io/a:1", &[layer("a")], |_| {})
        .image("r.io/b:1", &[layer("b")], |_| {})
        .image("v3", &[layer("c")], |_| {});
    let imported = bench.import_as(&layout.tar(), &["r.io/b:1", "mine:v3"]).unwrap();
    let names: Vec<_> = imported.iter().map(|one| one.names.join(" ")).collect();
    assert_eq!(names, ["r.io/b:1", "docker.io/library/mine:v3"]);
    assert_eq!(bench.store.images().len(), 2);
    let error = told(&bench.import_as(&layout.tar(), &["r.io/z:1"]).unwrap_err());
    assert!(error.contains("r.io/z:1") && error.contains("r.io/a:1, r.io/b:1, v3"), "{error}");
    let single = Layout::default().image("v1", &[layer("x")], |_| {});
    assert!(bench.import(&single.tar()).unwrap()[0].image.tags.is_empty());
    let named = bench.import_as(&single.tar(), &["x:1", "y:2"]).unwrap();
    assert_eq!(named[0].image.tags.len(), 2);
    let digest = format!("x@{}", Digest::of(b""));
    assert!(matches!(bench.import_as(&single.tar(), &[&digest]), Err(ArchiveError::NameWithDigest(_))));
}

#[test]
fn of_several_platforms_the_nodes_own_is_taken() {
    let bench = Bench::new();
    let host = crate::image::registry::Platform::host();
    let for_platform = |architecture: String| {
        move |entry: &mut Value| entry["platform"] = json!({ "os": "linux", "architecture": architecture })
    };
    let layout = Layout::default()
        .image("r.io/a:1", &[layer("other")], for_platform("sparc".to_owned()))
        .image("r.io/a:1", &[layer("own")], for_platform(host.architecture));
    let imported = bench.import(&layout.tar()).unwrap();
    assert_eq!((imported.len(), bench.read(&imported[0], "own").is_some()), (1, true));
    let bench = Bench::new();
    let others = Layout::default().image("r.io/a:1", &[layer("x")], for_platform("sparc".to_owned()));
    assert!(bench.refusal(&others.tar()).contains("linux/sparc"));
    // The same through a nested index, as docker save writes.
    let mut nested = Layout { files: layout.files.clone(), entries: Vec::new() };
    let index = layout.index();
    nested.blob(&index);
    nested.entries.push(descriptor("application/vnd.oci.image.index.v1+json", &index));
    nested.entries[0]["annotations"] = json!({ "io.containerd.image.name": "r.io/n:1" });
    let imported = bench.import(&nested.tar()).unwrap();
    assert_eq!(imported[0].names, ["r.io/n:1"]);
    assert!(imported[0].image.repo_digests.contains(&format!("r.io/n@{}", Digest::of(&index))));
    assert!(bench.read(&imported[0], "own").is_some());
}

#[test]
fn artifacts_beside_images_are_left() {
    let bench = Bench::new();
    let mut layout = Layout::default().image("r.io/a:1", &[layer("x")], |_| {});
    let artifact = json!({ "schemaVersion": 2, "config": descriptor("application/x", b"{}"), "layers": [] });
    let artifact = artifact.to_string().into_bytes();
    layout.blob(&artifact);
    layout.entries.push(descriptor(OCI_MANIFEST, &artifact));
    assert_eq!(bench.import(&layout.tar()).unwrap().len(), 1);
    layout.entries.remove(0);
    assert!(Bench::new().refusal(&layout.tar()).contains("artifact"));
}

#[test]
fn pinned_images_stay_pinned() {
    let bench = Bench::new();
    let tar = docker(&["a:1"], &[layer("x")]).finish();
    let options = ImportOptions { pinned: true, ..ImportOptions::default() };
    assert!(
        import(&bench.store, &bench.write(&tar), &options, &Progress::default()).unwrap()[0].image.pinned
    );
    assert!(bench.import(&tar).unwrap()[0].image.pinned);
}
