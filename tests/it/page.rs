//! The pages inside the program: complete, locked down, public.

use crate::server::Server;

#[tokio::test]
async fn pages_and_their_parts_are_served_to_anybody() {
    let server = Server::start(&["--api-key", "secret"]);
    for page in ["/", "/docs"] {
        let response = server.get(page).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'") && !policy.contains("unsafe"), "{policy}");
        let html = response.text().await.unwrap();
        // Whatever a page names exists here, and nothing comes from elsewhere.
        let parts: Vec<&str> = html.split(['"']).filter(|part| part.starts_with("/assets/")).collect();
        assert!(parts.len() >= 3, "{html}");
        for part in parts {
            let response = server.get(part).send().await.unwrap();
            assert_eq!(response.status(), 200, "{part}");
            assert_eq!(response.headers()["x-content-type-options"], "nosniff");
            let text = response.text().await.unwrap();
            for import in text.split("from \"./").skip(1) {
                let name = import.split('"').next().unwrap();
                assert_eq!(server.get(&format!("/assets/{name}")).send().await.unwrap().status(), 200, "{name}");
            }
        }
        assert!(!html.contains("https://") && !html.contains("<script>"), "{html}");
    }
    for missing in ["/assets/missing.js", "/assets/../Cargo.toml", "/assets/"] {
        assert_eq!(server.get(missing).send().await.unwrap().status(), 404, "{missing}");
    }
    assert_eq!(server.get("/v1/models").send().await.unwrap().status(), 401);
}
