//! Cache mounts that travel: which ones, and how large they may be.

/// Which cache mounts travel, and how much of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountLimit {
    /// Which ones.
    pub wanted: Wanted,
    /// Bytes that their files may have together.
    pub size_bytes_max: u64,
}

impl MountLimit {
    /// The limit if none was given.
    pub const SIZE_BYTES_MAX: u64 = 10 << 30;
}

/// Which cache mounts travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// None.
    None,
    /// All that steps use.
    All,
    /// Those with these ids.
    Ids(Vec<String>),
}

impl Wanted {
    /// `none`, `all`, or ids with `,` or `;` between them.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "none" => return Ok(Self::None),
            "all" => return Ok(Self::All),
            _ => {}
        }
        let ids: Vec<String> = text.split([',', ';']).map(str::to_owned).collect();
        if ids.iter().any(String::is_empty) {
            return Err(format!("`mounts={text}` is neither none nor all nor ids of cache mounts"));
        }
        Ok(Self::Ids(ids))
    }

    /// Whether a mount with this id travels.
    pub fn includes(&self, id: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Ids(ids) => ids.iter().any(|wanted| wanted == id),
        }
    }
}
