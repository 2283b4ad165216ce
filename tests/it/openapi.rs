//! The committed OpenAPI document is what the program makes.

use std::path::Path;

use crate::server::run;

#[test]
fn the_document_has_not_drifted() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../openapi/openapi.json");
    let committed = std::fs::read_to_string(&path).unwrap();
    let (_, made, _) = run(&["openapi"]);
    // Whatever it refers to is in it.
    let document: serde_json::Value = serde_json::from_str(&made).unwrap();
    for name in made.split("\"#/components/schemas/").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(document["components"]["schemas"][name].is_object(), "{name} is missing");
    }
    assert!(made == committed, "it has drifted: run `moesaic openapi > openapi/openapi.json`");
}
