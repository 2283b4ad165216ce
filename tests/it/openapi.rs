//! The committed OpenAPI document is what the program makes.

use std::path::Path;

use crate::server::run;

#[test]
fn the_document_has_not_drifted() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../openapi/openapi.json");
    let committed = std::fs::read_to_string(&path).unwrap();
    let (_, made, _) = run(&["openapi"]);
    assert!(made == committed, "it has drifted: run `moesaic openapi > openapi/openapi.json`");
}
