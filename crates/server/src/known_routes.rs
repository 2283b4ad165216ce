//! Which route a request that missed all of them meant: a slash too many, `/v1` missing or twice, something in front.
//!
//! It is only told, never followed: a request with a wrong path is never answered as if it were right.

use utoipa::openapi::OpenApi;

/// Most parts of a path that a hint is looked for.
const MAX_PARTS: usize = 16;

/// All routes of the server.
#[derive(Debug)]
pub struct KnownRoutes(Vec<KnownRoute>);

#[derive(Debug)]
struct KnownRoute {
    parts: Vec<String>,
    methods: Vec<&'static str>,
}

impl KnownRoute {
    fn new(path: &str, methods: Vec<&'static str>) -> Self {
        Self { parts: parts(path).map(str::to_owned).collect(), methods }
    }

    /// The path in the route's own spelling, with the request's parameters.
    fn path(&self, given: &[&str]) -> Option<String> {
        let fits = |(part, given): (&String, &&str)| is_parameter(part) || part.eq_ignore_ascii_case(given);
        if self.parts.len() != given.len() || !self.parts.iter().zip(given).all(fits) {
            return None;
        }
        let spelled =
            |(part, given): (&String, &&str)| format!("/{}", if is_parameter(part) { given } else { &**part });
        let path: String = self.parts.iter().zip(given).map(spelled).collect();
        Some(if path.is_empty() { "/".to_owned() } else { path })
    }
}

impl KnownRoutes {
    /// From the router's document, and paths of `GET` that are not in it.
    pub fn new<'p>(document: &OpenApi, pages: impl IntoIterator<Item = &'p str>) -> Self {
        let documented = document.paths.paths.iter().map(|(path, item)| {
            let methods = [("GET", &item.get), ("POST", &item.post), ("DELETE", &item.delete), ("PUT", &item.put)];
            KnownRoute::new(
                path,
                methods.into_iter().filter(|(_, known)| known.is_some()).map(|(name, _)| name).collect(),
            )
        });
        Self(documented.chain(pages.into_iter().map(|path| KnownRoute::new(path, vec!["GET"]))).collect())
    }

    /// Method and path of the route that was meant.
    pub fn hint(&self, method: &str, path: &str) -> Option<String> {
        let given: Vec<&str> = parts(path).take(MAX_PARTS + 1).collect();
        if given.len() > MAX_PARTS {
            return None;
        }
        // As little as possible is left out in front.
        let mut candidates = (0..given.len().max(1)).flat_map(|start| {
            let rest = &given[start..];
            [rest.to_vec(), [&["v1"], rest].concat()]
        });
        candidates.find_map(|candidate| {
            let mut fitting =
                self.0.iter().filter_map(|route| Some((route, route.path(&candidate)?))).collect::<Vec<_>>();
            fitting.sort_by_key(|(route, _)| !route.methods.contains(&method));
            let (route, path) = fitting.into_iter().next()?;
            let method = route.methods.iter().find(|known| **known == method).or(route.methods.first())?;
            Some(format!("{method} {path}"))
        })
    }
}

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty())
}

fn is_parameter(part: &str) -> bool {
    part.starts_with('{')
}

#[cfg(test)]
mod tests {
    use utoipa::openapi::path::Operation;
    use utoipa::openapi::{HttpMethod, Info, PathItem, Paths};

    use super::*;

    #[test]
    fn paths_that_miss_by_little_are_recognised() {
        let mut paths = Paths::new();
        for (path, method) in [
            ("/v1/chat/completions", HttpMethod::Post),
            ("/v1/models", HttpMethod::Get),
            ("/v1/responses/{id}", HttpMethod::Get),
            ("/v1/responses/{id}", HttpMethod::Delete),
            ("/tokenize", HttpMethod::Post),
        ] {
            let item = PathItem::new(method, Operation::new());
            match paths.paths.get_mut(path) {
                Some(known) => known.merge_operations(item),
                None => drop(paths.paths.insert(path.to_owned(), item)),
            }
        }
        let routes = KnownRoutes::new(&OpenApi::new(Info::new("", ""), paths), ["/", "/docs"]);
        let chat = Some("POST /v1/chat/completions");
        for (method, path, hint) in [
            ("POST", "//v1/chat/completions", chat),
            ("POST", "/v1/chat/completions/", chat),
            ("POST", "/v1//chat///completions", chat),
            ("POST", "/chat/completions", chat),
            ("POST", "/v1/v1/chat/completions", chat),
            ("POST", "/v1/v1/v1/chat/completions/", chat),
            ("POST", "/api/v1/chat/completions", chat),
            ("POST", "/V1/Chat/completions", chat),
            ("POST", "/v1/chat/completions/v1/chat/completions", chat),
            ("GET", "/chat/completions", chat),
            ("POST", "/v1/tokenize", Some("POST /tokenize")),
            ("GET", "/models", Some("GET /v1/models")),
            ("DELETE", "/responses/resp_1", Some("DELETE /v1/responses/resp_1")),
            ("GET", "//", Some("GET /")),
            ("GET", "/docs/", Some("GET /docs")),
            ("POST", "/v1/nothing", None),
            ("POST", "/v1", None),
        ] {
            assert_eq!(routes.hint(method, path).as_deref(), hint, "{method} {path}");
        }
        assert_eq!(routes.hint("POST", &"/v1".repeat(20_000)), None);
    }
}
