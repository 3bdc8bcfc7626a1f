//! `policy.json`, up to the decision about an image. Lines after the document, told apart by a zero byte: the content of
//! every key's file, a signature's payload, the signature.
#![no_main]

use libfuzzer_sys::fuzz_target;
use podd::image::digest::Digest;
use podd::image::policy::{Demand, Policy, Signature};
use podd::image::reference::Reference;

fuzz_target!(|data: &[u8]| {
    let mut parts = data.split(|&byte| byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let (document, key) = (part(), part());
    let mut text = || String::from_utf8_lossy(part()).into_owned();
    let Ok(policy) = Policy::parse(document) else { return };
    let signature = Signature { of: Digest::of(b"manifest"), payload: text(), signature: text() };
    let named: Reference = "r.io/a/b:c".parse().expect("a reference");
    for image in [None, Some(&named)] {
        let ruling = policy.ruling(image);
        let unsigned = ruling.decide(&[], &|_| Ok(key.to_vec()));
        let signed = ruling.decide(std::slice::from_ref(&signature), &|_| Ok(key.to_vec()));
        match ruling.demand() {
            Demand::Nothing => assert_eq!(unsigned, signed),
            // Nobody has a key for the digest above.
            Demand::Signatures => assert!(unsigned.is_err() && signed.is_err()),
        }
    }
});
