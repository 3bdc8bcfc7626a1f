//! Spec files of the Container Device Interface, as JSON and as YAML: whatever is accepted has devices that can be named.
#![no_main]

use libfuzzer_sys::fuzz_target;
use podd::cdi::{DeviceName, Form, parse};

fuzz_target!(|data: &[u8]| {
    for form in [Form::Json, Form::Yaml] {
        let Ok(document) = parse(data, form) else { continue };
        assert!(!document.devices.is_empty());
        for device in &document.devices {
            let text = format!("{}={}", document.kind, device.name);
            let name: DeviceName = text.parse().expect("a device of an accepted file has a name");
            assert_eq!(name.to_string(), text);
        }
    }
});
