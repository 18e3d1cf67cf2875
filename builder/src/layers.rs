//! Layers of a chain, made while later steps still run.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::mpsc::Receiver;

use wharf_cache::diff::{DiffError, Variant, make_layer, remake_layer};
use wharf_cache::snapshot::Layer;
use wharf_cache::{Chain, ChainId, SnapshotId, Store};
use wharf_runtime::Cancel;

use crate::remote::imports::Imports;

/// What layers are to be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// What their bytes depend on besides the files.
    pub variant: Variant,
    /// Whether layers that came from elsewhere in another form are made again.
    pub force: bool,
}

/// Makes the layer blobs of chains, each snapshot's once.
#[derive(Debug)]
pub struct Layers<'a> {
    store: &'a Store,
    /// Has the files of lazy snapshots.
    imports: &'a Imports<'a>,
    cancel: Cancel,
    form: Form,
    made: Mutex<HashMap<SnapshotId, Layer>>,
}

impl<'a> Layers<'a> {
    /// Layers will be made in `form`.
    pub fn new(store: &'a Store, imports: &'a Imports<'a>, cancel: Cancel, form: Form) -> Self {
        Self { store, imports, cancel, form, made: Mutex::new(HashMap::new()) }
    }

    /// What they are made in.
    pub fn variant(&self) -> Variant {
        self.form.variant
    }

    /// Makes the layers of every chain that arrives until no more can, or the build is `cancelled`. A failure here is
    /// found again, and then told, by [`Self::of`].
    pub fn make_as_they_come(&self, chains: &Receiver<Chain>, cancelled: &dyn Fn() -> bool) {
        for chain in chains {
            if cancelled() || self.of(&chain).is_err() {
                return;
            }
        }
    }

    /// The layers of a chain, lowest first: those it was unpacked from, and new ones for what was built. The blobs of those
    /// that came from elsewhere need not be here.
    pub fn of(&self, chain: &Chain) -> Result<Vec<Layer>, LayerError> {
        // Held while a layer is made: making one uses all processors already.
        let mut made = self.made.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut parent: Option<ChainId> = None;
        let mut layers = Vec::with_capacity(chain.0.len());
        for (number, id) in chain.0.iter().enumerate() {
            let layer = match made.get(id) {
                Some(layer) => layer.clone(),
                None => {
                    let layer = self.make(chain, number, parent);
                    let layer = layer.map_err(|source| LayerError { number, source })?;
                    made.insert(*id, layer.clone());
                    layer
                }
            };
            parent = Some(ChainId::extend(parent, layer.diff_id));
            layers.push(layer);
        }
        Ok(layers)
    }

    fn make(&self, chain: &Chain, number: usize, parent: Option<ChainId>) -> Result<Layer, DiffError> {
        let id = chain.0[number];
        let variant = self.form.variant.key();
        let ready: &[&str] = if self.form.force { &[&variant] } else { &[Variant::PULLED, &variant] };
        for key in ready {
            if let Some(layer) = self.store.layer(id, key)?
                && (*key == Variant::PULLED
                    || self.store.blobs().size(&layer.digest)? == Some(layer.size)
                    || self.store.is_lazy(id)?)
            {
                return Ok(layer);
            }
        }
        let chain = Chain(chain.0[..=number].to_vec());
        // Of another form, or clamped to another time: made of the files.
        self.imports.bring_files(&chain, &self.cancel)?;
        match self.form.force {
            true => remake_layer(self.store, &chain, parent, self.form.variant),
            false => make_layer(self.store, &chain, parent, self.form.variant),
        }
    }
}

/// A layer could not be made.
#[derive(Debug, thiserror::Error)]
#[error("layer {}", number + 1)]
pub struct LayerError {
    /// Which of the chain's, counted from the lowest (0).
    pub number: usize,
    /// Why.
    pub source: DiffError,
}
