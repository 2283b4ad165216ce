//! The checkpoint inside the program: bytes, nothing else.

/// Its name.
pub const NAME: &str = "moesaic-demo";

/// Its files, as a checkpoint folder would hold them.
pub const FILES: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../data/config.json")),
    ("generation_config.json", include_bytes!("../data/generation_config.json")),
    ("tokenizer.json", include_bytes!("../data/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../data/tokenizer_config.json")),
    ("chat_template.jinja", include_bytes!("../data/chat_template.jinja")),
    ("model.safetensors", include_bytes!("../data/model.safetensors")),
];
