//! `system_fingerprint`: changes whenever the bits of outputs may change.

use sha2::{Digest, Sha256};

/// Everything that the bits depend on besides the request.
#[derive(Debug)]
pub struct Parts<'a> {
    /// Digest of the checkpoint's files.
    pub checkpoint: &'a [u8],
    /// Compute type, or what weights are quantised to.
    pub weights: &'a str,
    /// Numeric mode, thresholds included.
    pub numerics: &'a str,
    /// Kind of device; of a CPU, which instructions add up.
    pub device: &'a str,
}

/// A short name for these parts, this build and this kind of machine.
pub fn fingerprint(parts: &Parts) -> String {
    let mut hasher = Sha256::new();
    for part in [
        env!("CARGO_PKG_VERSION").as_bytes(),
        std::env::consts::ARCH.as_bytes(),
        math_library().as_bytes(),
        parts.checkpoint,
        parts.weights.as_bytes(),
        parts.numerics.as_bytes(),
        parts.device.as_bytes(),
    ] {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let digest = hasher.finalize();
    let short = u64::from_be_bytes(digest[..8].try_into().expect("eight bytes")) >> 16;
    format!("fp_{short:012x}")
}

/// The system's exp and ln choose their form by the processor, which may show in a last bit.
fn math_library() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("fma") {
        return "fma";
    }
    "plain"
}
